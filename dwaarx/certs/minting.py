"""What the certificates of the internal CA look like: root, intermediate and leaf."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dwaarx.certs import schedule
from dwaarx.certs.ocsp_sign import signature_hash
from dwaarx.certs.pair import KeyPair
from dwaarx.tls.policy import PrivateKey

# A year: the root's key, which it spares, is then needed every eight months; and a copied key
# of the intermediate is worth nothing in the end.
INTERMEDIATE_LIFETIME = timedelta(days=365)

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
# digitalSignature, because these sign OCSP responses themselves.
_CA_USAGE = x509.KeyUsage(
    **_NO_USAGE | {"key_cert_sign": True, "crl_sign": True, "digital_signature": True}
)
_LEAF_USAGE = x509.KeyUsage(**_NO_USAGE | {"digital_signature": True})


def make_root(now: datetime) -> KeyPair:
    """Make a self-signed root that one intermediate may stand below."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _common_name(f"dwaarx internal CA {now:%Y-%m-%d}")
    certificate = (
        _builder(subject, subject, key, now, now + schedule.ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .sign(key, signature_hash(key))
    )
    return KeyPair(certificate, (), key)


def make_intermediate(root: x509.Certificate, root_key: PrivateKey, now: datetime) -> KeyPair:
    """Make a CA below the root that issues leaves only; it ends with the root at the latest."""
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + INTERMEDIATE_LIFETIME, root.not_valid_after_utc)
    subject = _common_name(f"dwaarx internal intermediate {now:%Y-%m-%d}")
    certificate = (
        _builder(subject, root.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(_authority_key_identifier(root), critical=False)
        .sign(root_key, signature_hash(root_key))
    )
    return KeyPair(certificate, (root,), key)


def make_leaf(names: Sequence[str], issuer: KeyPair, now: datetime) -> KeyPair:
    """Make a server's pair for DNS names, wildcards and IP literals; its chain is the issuer.

    Raises ValueError for no names, and for one that is neither a DNS name nor an IP address.
    """
    alternatives = [_general_name(name) for name in names]
    if not alternatives:
        raise ValueError("there are none")
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + schedule.LEAF_LIFETIME, issuer.certificate.not_valid_after_utc)
    subject = _common_name(names[0]) if len(names[0]) <= _MAX_COMMON_NAME else x509.Name([])
    certificate = (
        _builder(subject, issuer.certificate.subject, key, now, end)
        # RFC 5280 section 4.2.1.6: critical if it is all that names the subject.
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=not list(subject))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_authority_key_identifier(issuer.certificate), critical=False)
        .sign(issuer.key, signature_hash(issuer.key))
    )
    return KeyPair(certificate, (issuer.certificate,), key)


def normal(name: str) -> str:
    """Return a name as a certificate gives it back: IPv6 in its shortest form."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def file_name(names: Sequence[str]) -> str:
    """Return a file's name for people, made unique by a hash of all the names."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    first = re.sub(r"[^a-z0-9.-]", "_", (names[0] if names else "").lower())[:100]
    return f"{first}-{digest}.pem"


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


def _general_name(name: str) -> x509.GeneralName:
    """Return the subjectAltName of a name; raises ValueError for what is neither name nor IP."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _DNS_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is neither a DNS name nor an IP address") from None
        return x509.DNSName(name)
