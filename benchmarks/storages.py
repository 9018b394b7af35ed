"""Storages as dwaarx would have filled them: certificates by a CA of their own, with staples.

All certificates share one key, for making keys would take most of the time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing import Pool
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

# What is in the storages; another number has those made anew that an earlier version made.
VERSION = 1

# Nobody answers there, and dwaarx asks nobody at such an address: `allow_responder` is not given.
RESPONDER = "http://127.0.0.1:9/ocsp"

# The staples' ages: fresh, so that none is due while something is measured.
LIFETIME = timedelta(days=90)
VALIDITY = timedelta(days=7)
# A storage that is older is made anew.
KEPT = timedelta(hours=2)

_HEAD = 100


def server_name(number: int) -> str:
    """Return the name of the certificate with this number."""
    return f"host{number:06}.bench.test"


def storage(folder: Path, names: int) -> Path:
    """Return a folder to be dwaarx's `storage` with this many names; made if it is not there."""
    root = folder / f"storage-{names}"
    note = root / "made.json"
    wanted = {"version": VERSION, "names": names}
    if note.exists():
        made = json.loads(note.read_text())
        if made["at"] > time.time() - KEPT.total_seconds() and wanted.items() <= made.items():
            return root
    for part in ("certificates", "ocsp"):
        (root / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in (root / part).iterdir():
            old.unlink()
    ca = _Ca()
    (root / "root.pem").write_bytes(ca.root.public_bytes(Encoding.PEM))
    chunk = 500
    starts = range(0, names, chunk)
    work = [(root, ca.pem(), range(at, min(at + chunk, names))) for at in starts]
    if len(work) == 1:
        _write(*work[0])
    else:
        with Pool() as pool:
            pool.starmap(_write, work, chunksize=1)
    note.write_text(json.dumps(wanted | {"at": time.time()}))
    return root


def twin(root: Path) -> Path:
    """Return a second storage with the certificates and staples of one, for a second server."""
    second = root.with_name(f"{root.name}-twin")
    second.mkdir(mode=0o700, exist_ok=True)
    for part in ("certificates", "ocsp"):
        link = second / part
        if not link.exists():
            link.symlink_to(root / part)
    return second


class _Ca:
    """A root and the intermediate that issues; and the one key of all certificates."""

    def __init__(self) -> None:
        root_key = ec.generate_private_key(ec.SECP256R1())
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.leaf_key = ec.generate_private_key(ec.SECP256R1())
        root_name, name = _name("Benchmark Root"), _name("Benchmark Intermediate")
        self.root = _authority(root_name, root_key, root_name, root_key)
        self.certificate = _authority(name, self.key, root_name, root_key)

    def pem(self) -> tuple[bytes, bytes, bytes]:
        """Return certificate, key, and the leaves' key, for another process."""
        return (
            self.certificate.public_bytes(Encoding.PEM),
            _key_pem(self.key),
            _key_pem(self.leaf_key),
        )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "EU"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Benchmarks"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _authority(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_issued_by(issuer_key), critical=False)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .sign(issuer_key, hashes.SHA256())
    )


def _issued_by(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)


def _write(root: Path, ca: tuple[bytes, bytes, bytes], numbers: range) -> None:
    """Write the certificates with these numbers, and their staples, as public CAs make them."""
    issuer = x509.load_pem_x509_certificate(ca[0])
    key, leaf_key = (load_pem_private_key(each, None) for each in ca[1:])
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(leaf_key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC).replace(microsecond=0)
    begin = now - timedelta(hours=1)
    for number, leaf in zip(numbers, _leaves(issuer, key, leaf_key, begin, numbers), strict=True):
        response = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=leaf,
                issuer=issuer,
                algorithm=hashes.SHA1(),
                cert_status=ocsp.OCSPCertStatus.GOOD,
                this_update=now - timedelta(minutes=10),
                next_update=now + VALIDITY,
                revocation_time=None,
                revocation_reason=None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
            .sign(key, hashes.SHA256())
        )
        pem = root / "certificates" / f"{server_name(number)}.pem"
        pem.write_bytes(ca[2] + leaf.public_bytes(Encoding.PEM) + ca[0])
        pem.chmod(0o600)
        digest = hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()
        (root / "ocsp" / f"{digest}.der").write_bytes(response.public_bytes(Encoding.DER))


def _leaves(
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    leaf_key: ec.EllipticCurvePrivateKey,
    begin: datetime,
    numbers: range,
) -> Iterator[x509.Certificate]:
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(RESPONDER)
            ),
            x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS,
                x509.UniformResourceIdentifier("http://127.0.0.1:9/issuer.der"),
            ),
        ]
    )
    policy = x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    common = (
        x509.CertificateBuilder()
        .issuer_name(issuer.subject)
        .public_key(leaf_key.public_key())
        .not_valid_before(begin)
        .not_valid_after(begin + LIFETIME)
        .add_extension(usage, critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(leaf_key.public_key()), critical=False
        )
        .add_extension(_issued_by(key), critical=False)
        .add_extension(access, critical=False)
        .add_extension(x509.CertificatePolicies([policy]), critical=False)
    )
    for number in numbers:
        name = server_name(number)
        yield (
            common.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .serial_number(x509.random_serial_number())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
