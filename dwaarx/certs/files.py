"""Reading what `tls CERT KEY { ocsp FILE }` names: the pairs of a source and their staples."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.ocsp import Staple
from dwaarx.certs.pair import KeyPair, load_pair
from dwaarx.certs.staple_store import verified
from dwaarx.certs.storage import read_file
from dwaarx.config.model import CertificateFiles
from dwaarx.words import reason_of

# A response by a delegate with an RSA 4096 certificate is about 4 KiB; every handshake carries it.
MAX_STAPLE = 1 << 16

NO_FILE = "no staple file is given (`ocsp FILE`)"


def load_pairs(source: tuple[CertificateFiles, ...]) -> tuple[KeyPair, ...]:
    """Read the pairs of a source; raises CertificateErrors naming each file that is wrong.

    Several pairs must have keys of different types, for OpenSSL keeps one of each.
    """
    pairs: list[KeyPair] = []
    errors: list[CertificateError] = []
    if not source:
        errors.append(CertificateError(Path(), "no certificate is given"))
    types: dict[str, Path] = {}
    for files in source:
        try:
            pair = load_pair(files.certificate, files.key)
        except CertificateError as error:
            errors.append(error)
            continue
        first = types.setdefault(pair.key_type, files.certificate)
        if first is not files.certificate:
            errors.append(
                CertificateError(
                    files.certificate,
                    f"its key is {pair.key_type}, as that of {first} is: certificates side by side "
                    "must have keys of different types",
                )
            )
        pairs.append(pair)
    if errors:
        raise CertificateErrors(errors)
    return tuple(pairs)


def read_staple(files: CertificateFiles, pair: KeyPair, now: datetime) -> Staple:
    """Read and verify the OCSP response (DER) for a pair; raises OcspError naming the file."""
    path = files.ocsp
    if path is None:
        raise OcspError(Refusal.NONE, NO_FILE)
    if pair.issuer is None:
        raise OcspError(
            Refusal.NO_ISSUER,
            f"{path}: cannot be verified: no issuer in {files.certificate}: append the CA "
            "certificate",
        )
    try:
        return verified(_read(path), pair, now)
    except OcspError as error:
        raise OcspError(error.kind, f"{path}: {error.reason}") from error


def _read(path: Path) -> bytes:
    try:
        data = read_file(path, MAX_STAPLE)
    except OSError as error:
        raise OcspError(Refusal.UNREADABLE, f"cannot be read: {reason_of(error)}") from error
    if not data:
        raise OcspError(Refusal.UNREADABLE, "is empty")
    return data
