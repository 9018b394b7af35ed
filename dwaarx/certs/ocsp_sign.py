"""Signing OCSP responses with the CA's own key: for `tls internal` and generateOCSPResponse."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from dwaarx.certs.errors import CertificateError, OcspError, Refusal
from dwaarx.certs.matching import issued_by, keys_match
from dwaarx.certs.ocsp import SKEW, Staple, verify
from dwaarx.certs.pair import load_certificates, load_key
from dwaarx.certs.storage import write_atomic
from dwaarx.tls.policy import PrivateKey
from dwaarx.words import reason_of, utc

# curl up to 8, and others, look their certificate up by a SHA-1 CertID only; those who accept
# another hash accept this one too. It only names the certificate; the signature is SHA-256.
_CERT_ID_HASH = hashes.SHA1

# Ten years: as long as the internal root lives. More is a slip of the finger.
MAX_DAYS = 3650
_MINUTES_PER_DAY = 24 * 60


def generate(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    now: datetime,
    validity: timedelta,
) -> bytes:
    """Sign that `certificate` is good from `now` on for `validity`; return the response in DER.

    thisUpdate lies 5 minutes back, for the clients whose clocks are late. nextUpdate is cut to
    the certificate's end, after which nobody would look at the response. No certificate is
    embedded: the signer is the issuer, whose certificate the handshake carries.
    Raises OcspError for a certificate that the issuer did not issue, a key that is not the
    issuer's, a validity that is not positive, or a certificate that has expired.
    """
    if validity <= timedelta(0):
        raise OcspError(Refusal.EXPIRED, "a response must hold for longer than no time")
    if not keys_match(issuer_key, issuer):
        raise OcspError(Refusal.SIGNER, f"the key is not that of the CA {_name(issuer)}")
    if not issued_by(certificate, issuer):
        by_name = certificate.issuer == issuer.subject
        detail = (
            "it has that CA's name, but another key signed it"
            if by_name
            else f"its issuer is {certificate.issuer.rfc4514_string()!r}"
        )
        raise OcspError(
            Refusal.NO_ISSUER, f"the certificate was not issued by the CA {_name(issuer)}: {detail}"
        )
    now = now.replace(microsecond=0)
    next_update = min(now + validity, certificate.not_valid_after_utc)
    if next_update <= now:
        raise OcspError(
            Refusal.EXPIRED,
            f"the certificate expired at {utc(certificate.not_valid_after_utc)}",
        )
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=certificate,
            issuer=issuer,
            algorithm=_CERT_ID_HASH(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=now - SKEW,
            next_update=next_update,
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    )
    try:
        return builder.sign(issuer_key, signature_hash(issuer_key)).public_bytes(Encoding.DER)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OcspError(Refusal.UNSUPPORTED, f"the response cannot be signed: {error}") from error


def signature_hash(key: PrivateKey) -> hashes.SHA256 | None:
    """Return what a CA's key signs with; Ed25519 has a hash of its own."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def generate_to_file(
    certificate_path: Path,
    ca_path: Path,
    ca_key_path: Path,
    output_path: Path,
    days: int,
    minutes: int,
    now: datetime,
) -> Staple:
    """Write a response for a certificate, valid for days and minutes; return what was written.

    The certificate file may hold a chain (the first is meant), the CA's too. The output is
    written atomically with mode 0644: it is public. Raises CertificateError with the file that
    cannot be read or written, OcspError if the files do not belong together, and ValueError or
    TypeError for days and minutes that are no sensible numbers.
    """
    validity = _validity(days, minutes)
    certificate = load_certificates(certificate_path)[0]
    issuer = load_certificates(ca_path)[0]
    key = load_key(ca_key_path)
    response = generate(certificate, issuer, key, now, validity)
    # What is written is what reloadAllCertificates will accept.
    staple = verify(response, certificate, issuer, now)
    try:
        write_atomic(output_path, response, 0o644)
    except OSError as error:
        raise CertificateError(output_path, f"cannot be written: {reason_of(error)}") from error
    return staple


def _validity(days: int, minutes: int) -> timedelta:
    for name, value in (("days", days), ("minutes", minutes)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
        if value < 0:
            raise ValueError(f"{name} must not be negative, as {value} is")
    if days * _MINUTES_PER_DAY + minutes > MAX_DAYS * _MINUTES_PER_DAY:
        raise ValueError(f"a response may hold for at most {MAX_DAYS} days")
    if days + minutes == 0:
        raise ValueError("days and minutes are both 0: a response must hold for some time")
    return timedelta(days=days, minutes=minutes)


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())
