"""The local CA behind `tls internal`: a root trusted by hand, and short-lived leaves."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.logger import Logger

from dwaarx.certs import ocsp_sign, schedule
from dwaarx.certs.errors import CertificateError
from dwaarx.certs.matching import issued_by
from dwaarx.certs.pair import KeyPair, load_pair
from dwaarx.certs.storage import Storage
from dwaarx.words import reason_of

_log = Logger()

_ROOT = "internal/root.pem"
_FORMER_ROOT = "internal/root.old.pem"
_ROOT_CERTIFICATE = "internal/root.crt"

# Certificates begin a little in the past, for clients whose clocks are late.
_BACKDATING = timedelta(minutes=5)

# A name, or a wildcard for one label; underscores are no host names, but are in use.
_DNS_NAME = re.compile(r"(\*\.)?([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}", re.IGNORECASE)

# X.520's upper bound of a common name.
_MAX_COMMON_NAME = 64

_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


class InternalCA:
    """Issues certificates from a root that is kept in the storage.

    The root is `internal/root.pem` (key and certificate in one file, 0600); its certificate
    alone is `internal/root.crt` (0644), for clients. The root is read, or made, when it is first
    needed; a damaged one is never overwritten, because people trust it by hand.
    """

    def __init__(self, storage: Storage, now: Callable[[], datetime]) -> None:
        self._storage = storage
        self._now = now
        self._root: KeyPair | None = None

    @property
    def root_path(self) -> Path:
        """The PEM file of the root's certificate, which clients are to trust."""
        return self._storage.path(_ROOT_CERTIFICATE)

    def root(self) -> KeyPair:
        """Return the root, made anew if there is none or it ends soon; raises CertificateError."""
        if self._root is None:
            self._root = self._load_root()
        ends = self._root.certificate.not_valid_after_utc
        if self._now() >= schedule.root_renewal(ends):
            _log.warn(
                "the internal root ends at {ends}, so a new one is made: "
                "clients must be given the new {path}",
                ends=ends,
                path=str(self.root_path),
            )
            # Should it be someone's own, its key is not lost.
            self._write(_FORMER_ROOT, self._root.pem(), 0o600)
            self._root = self._make_root()
        return self._root

    def reload_root(self) -> None:
        """Read the root again; raises CertificateError, and then goes on with the present one."""
        self._root = self._load_root()

    def issue(self, names: Sequence[str]) -> KeyPair:
        """Return a pair for these DNS names, wildcards and IP literals; its chain is the root.

        The one in the storage is taken again if it is for these names, of the present root and
        not due for renewal; else a new one is made and kept. Raises CertificateError.
        """
        root = self.root()
        name = f"certificates/{_file_name(names)}"
        kept = self._load_leaf(name)
        if kept is not None and self.is_fresh(kept, names):
            return kept
        pair = self._make_leaf(names, root, self._storage.path(name))
        self._write(name, pair.pem(), 0o600)
        return pair

    def is_fresh(self, pair: KeyPair, names: Sequence[str]) -> bool:
        """Whether a pair fits the names and the present root, and is not due for renewal."""
        certificate = pair.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return (
            sorted(pair.names) == sorted(_normal(name) for name in names)
            and pair.issuer == self.root().certificate
            and begin <= self._now() < schedule.leaf_renewal(begin, end)
        )

    def sign_staple(self, pair: KeyPair) -> bytes:
        """Sign an OCSP response for a leaf of the present root; raises OcspError."""
        root = self.root()
        return ocsp_sign.generate(
            pair.certificate, root.certificate, root.key, self._now(), schedule.STAPLE_VALIDITY
        )

    def _write(self, name: str, data: bytes, mode: int) -> None:
        try:
            self._storage.write(name, data, mode)
        except OSError as error:
            raise CertificateError(
                self._storage.path(name), f"cannot be written: {reason_of(error)}"
            ) from error

    # --- the root -----------------------------------------------------------

    def _load_root(self) -> KeyPair:
        path = self._storage.path(_ROOT)
        if not _exists(path):
            return self._make_root()
        advice = (
            "restore the file from a backup; or remove it, then a new root is made, "
            "which clients have to be told to trust"
        )
        try:
            root = load_pair(path, path)
        except CertificateError as error:
            raise CertificateError(
                path, f"the internal root is damaged: {error.reason}; {advice}"
            ) from error
        if not _is_root(root.certificate):
            raise CertificateError(path, f"holds no self-signed CA certificate; {advice}")
        self._publish(root)
        return root

    def _make_root(self) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._now()
        subject = _common_name(f"dwaarx internal CA {now:%Y-%m-%d}")
        # digitalSignature, because the root signs OCSP responses itself.
        usage = x509.KeyUsage(
            **_NO_USAGE | {"key_cert_sign": True, "crl_sign": True, "digital_signature": True}
        )
        certificate = (
            _builder(subject, subject, key, now, now + schedule.ROOT_LIFETIME)
            # One intermediate may come between root and leaves without a new root to trust.
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        root = KeyPair(certificate, (), key)
        self._write(_ROOT, root.pem(), 0o600)
        self._publish(root)
        _log.info(
            "made a new internal root; clients have to trust {path}", path=str(self.root_path)
        )
        return root

    def _publish(self, root: KeyPair) -> None:
        """See that root.crt holds the root's certificate."""
        data = root.certificate.public_bytes(Encoding.PEM)
        try:
            if self._storage.read(_ROOT_CERTIFICATE) == data:
                return
        except OSError:
            pass  # missing or unreadable: written again below, which says what is wrong
        self._write(_ROOT_CERTIFICATE, data, 0o644)

    # --- the leaves ---------------------------------------------------------

    def _load_leaf(self, name: str) -> KeyPair | None:
        path = self._storage.path(name)
        if not _exists(path):
            return None
        try:
            return load_pair(path, path)
        except CertificateError as error:
            _log.warn(
                "an internal certificate is damaged, a new one is made: {path}: {reason}",
                path=str(path),
                reason=error.reason,
            )
            return None

    def _make_leaf(self, names: Sequence[str], root: KeyPair, path: Path) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._now()
        end = min(now + schedule.LEAF_LIFETIME, root.certificate.not_valid_after_utc)
        try:
            alternatives = [_general_name(name) for name in names]
        except ValueError as error:
            raise CertificateError(path, f"cannot be made for these names: {error}") from error
        if not alternatives:
            raise CertificateError(path, "there are no names to make a certificate for")
        subject = _common_name(names[0]) if len(names[0]) <= _MAX_COMMON_NAME else x509.Name([])
        usage = x509.KeyUsage(**_NO_USAGE | {"digital_signature": True})
        certificate = (
            _builder(subject, root.certificate.subject, key, now, end)
            # RFC 5280 section 4.2.1.6: critical if it is all that names the subject.
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=not list(subject))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_authority_key_identifier(root.certificate), critical=False)
            .sign(root.key, ocsp_sign.signature_hash(root.key))
        )
        return KeyPair(certificate, (root.certificate,), key)


def _exists(path: Path) -> bool:
    """Whether there is such a file; raises CertificateError if that cannot be known."""
    try:
        return path.exists()
    except OSError as error:
        raise CertificateError(path, f"cannot be read: {reason_of(error)}") from error


def _common_name(value: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    public_key = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Name the issuer's key as the issuer does itself, or else clients see a mismatch."""
    try:
        extension = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        # A root that was not made here; any identifier will do for it.
        digest = hashlib.sha256(issuer.public_bytes(Encoding.DER)).digest()[:20]
        return x509.AuthorityKeyIdentifier(digest, None, None)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca and issued_by(certificate, certificate)


def _general_name(name: str) -> x509.GeneralName:
    """Return the subjectAltName of a name; raises ValueError for what is neither name nor IP."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _DNS_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is neither a DNS name nor an IP address") from None
        return x509.DNSName(name)


def _normal(name: str) -> str:
    """Return a name as a certificate gives it back: IPv6 in its shortest form."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _file_name(names: Sequence[str]) -> str:
    """Return a name for people, made unique by a hash of all the names."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    first = re.sub(r"[^a-z0-9.-]", "_", (names[0] if names else "").lower())[:100]
    return f"{first}-{digest}.pem"
