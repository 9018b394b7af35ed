"""A private key with its certificate and chain, as read from PEM."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dwaarx.certs.errors import CertificateError
from dwaarx.certs.matching import PARSE_ERRORS, issued_by, keys_match
from dwaarx.certs.storage import read_file
from dwaarx.tls.policy import PrivateKey
from dwaarx.words import reason_of

# Shorter keys are refused by browsers, and by OpenSSL at its default security level 2 (112 bits).
MIN_RSA_BITS = 2048
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_ACCEPTED = f"RSA of at least {MIN_RSA_BITS} bits, ECDSA P-256, P-384 or P-521, or Ed25519"

_PEM_END = re.compile(rb"-----END [A-Z0-9 ]+-----")


@attrs.frozen(slots=False)  # slots would leave no room for the cached properties
class KeyPair:
    """A key, its certificate, and the chain above it: each issued the one before.

    The chain is without the leaf, and ends where the file that it was read from ends it: at a
    root, or below.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey

    @property
    def issuer(self) -> x509.Certificate | None:
        """The certificate that issued the leaf; None if the chain does not hold it."""
        return self.chain[0] if self.chain else None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The DNS names and IP addresses of the subjectAltName, in its order."""
        try:
            extension = self.certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
        except x509.ExtensionNotFound:
            return ()
        return tuple(
            str(name.value)
            for name in extension.value
            if isinstance(name, x509.DNSName | x509.IPAddress)
        )

    @cached_property
    def must_staple(self) -> bool:
        """Whether the certificate demands a staple (RFC 7633, status_request)."""
        try:
            extension = self.certificate.extensions.get_extension_for_class(x509.TLSFeature)
        except x509.ExtensionNotFound:
            return False
        return x509.TLSFeatureType.status_request in extension.value

    @property
    def key_type(self) -> str:
        """RSA, ECDSA or Ed25519: OpenSSL keeps one certificate of each in a context."""
        return key_name(self.key).partition(" ")[0]

    def lean(self) -> KeyPair:
        """Return the same without what was worked out of it, and with the chain of all others.

        cryptography keeps all that was ever asked of a certificate with it: 11 kB of 14.
        """
        leaf = x509.load_der_x509_certificate(self.certificate.public_bytes(Encoding.DER))
        return KeyPair(leaf, tuple(_shared(each) for each in self.chain), self.key)

    def pem(self) -> bytes:
        """Return key and chain in one file, so that they can never mismatch."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        certificates = (self.certificate, *self.chain)
        return key + b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


@lru_cache(maxsize=64)
def _shared(certificate: x509.Certificate) -> x509.Certificate:
    """Return the one object for equal certificates: those that a CA issues by are few."""
    return certificate


def key_name(key: PrivateKey) -> str:
    """Return the key's kind for people: "RSA 2048", "ECDSA P-256", "Ed25519"."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"ECDSA {_CURVES[key.curve.name]}"
    return "Ed25519"


def load_pair(certificate: Path, key: Path) -> KeyPair:
    """Read a chain (PEM, leaf first) and its key (PEM: PKCS #8, PKCS #1 or SEC 1).

    Both may be in one file. The certificates above the leaf may stand in any order; those that
    are not on its path are left out. Raises CertificateError with the path of the file at fault.
    """
    return _pair(load_certificates(certificate), load_key(key), certificate, key)


def parse_pair(data: bytes, path: Path) -> KeyPair:
    """Read a chain and its key from the contents of one file; as `load_pair` does otherwise."""
    _check_pem(data, "certificate", path)
    return _pair(_certificates(data, path), _key(data, path), path, path)


def _pair(
    certificates: list[x509.Certificate], private: PrivateKey, certificate: Path, key: Path
) -> KeyPair:
    leaf, *others = certificates
    if not keys_match(private, leaf):
        if any(keys_match(private, other) for other in others):
            raise CertificateError(
                certificate, f"the certificate of {key} is not the first one: put it first"
            )
        raise CertificateError(key, f"is not the key of the certificate in {certificate}")
    pair = KeyPair(leaf, _path(leaf, others), private)
    try:
        # Read here, so that what is wrong in them is known before the certificate is served.
        _ = pair.names, pair.must_staple, leaf.subject, leaf.issuer
    except PARSE_ERRORS as error:
        raise CertificateError(
            certificate, f"has a name or an extension that is wrong: {error}"
        ) from error
    return pair


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates of a PEM file, at least one; raises CertificateError."""
    return _certificates(_read_pem(path, "certificate"), path)


def _certificates(data: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except PARSE_ERRORS as error:
        raise CertificateError(
            path, f"holds no usable PEM certificate: {_first_sentence(error)}"
        ) from error


def _is_cut_off(data: bytes) -> bool:
    """Whether the last block has no end; the parser would pass over it, and its chain shrink."""
    last_line = data.rstrip().rpartition(b"\n")[2]
    if last_line.startswith(b"-") and not _PEM_END.fullmatch(last_line):
        return True
    return data.count(b"-----BEGIN ") != len(_PEM_END.findall(data))


def load_key(path: Path) -> PrivateKey:
    """Read the first private key of a PEM file; raises CertificateError."""
    return _key(_read_pem(path, "key"), path)


def _key(data: bytes, path: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CertificateError(
            path, "is encrypted: write it without a passphrase (openssl pkey -in KEY -out NEW)"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            path, f"holds no usable PEM key: {_first_sentence(error)}"
        ) from error
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise CertificateError(
                path, f"is an RSA key of {key.key_size} bits, accepted is {_ACCEPTED}"
            )
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in _CURVES:
            raise CertificateError(
                path, f"is a key on the curve {key.curve.name}, accepted is {_ACCEPTED}"
            )
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    raise CertificateError(path, f"is a key of another type, accepted is {_ACCEPTED}")


def _path(leaf: x509.Certificate, others: list[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Follow the issuers upwards; each certificate is used once, so cross-signs end too."""
    path: list[x509.Certificate] = []
    left = [other for other in others if other != leaf]
    below = leaf
    while not issued_by(below, below):
        above = next((other for other in left if issued_by(below, other)), None)
        if above is None:
            break
        left.remove(above)
        path.append(above)
        below = above
    return tuple(path)


def _read_pem(path: Path, what: str) -> bytes:
    try:
        data = read_file(path)
    except OSError as error:
        raise CertificateError(path, f"cannot be read: {reason_of(error)}") from error
    _check_pem(data, what, path)
    return data


def _check_pem(data: bytes, what: str, path: Path) -> None:
    if b"-----BEGIN " not in data:
        raise CertificateError(path, f"holds no PEM {what}" if data else "is empty")
    if _is_cut_off(data):
        raise CertificateError(path, "is cut off: it has a PEM block without an end")


def _first_sentence(error: Exception) -> str:
    """Return what is wrong: the errors go on for lines, with advice for programmers."""
    return re.split(r"\n|\(|\. ", str(error), maxsplit=1)[0].strip().rstrip(".")
