"""A PKI for tests: CAs, leaves, delegated responders, and OCSP responses good and bad.

Everything is P-256 unless asked otherwise, and in memory until `write` puts it into a folder.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
YEAR = timedelta(days=365)
DAY = timedelta(days=1)


def utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@cache
def _rsa_key(bits: int, which: int) -> rsa.RSAPrivateKey:
    """RSA keys cost up to a second: a handful is made and used again."""
    return rsa.generate_private_key(65537, bits)


_taken = {"n": 0}


def make_key(key_type: str = "p256") -> PrivateKey:
    """A key: p256, p384, p521, secp256k1, ed25519, rsa1024, rsa2048, rsa3072."""
    if key_type.startswith("rsa"):
        _taken["n"] += 1
        return _rsa_key(int(key_type[3:]), _taken["n"] % 3)
    if key_type == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {
        "p256": ec.SECP256R1,
        "p384": ec.SECP384R1,
        "p521": ec.SECP521R1,
        "secp256k1": ec.SECP256K1,
    }
    return ec.generate_private_key(curves[key_type]())


@attrs.frozen
class Written:
    """Where a leaf was put: chain and key, and the root that clients are to trust."""

    certificate: Path
    key: Path
    root: Path


@attrs.frozen
class Entity:
    """A certificate with its key; a CA, a leaf or a responder. Without parent it is a root."""

    certificate: x509.Certificate
    key: PrivateKey
    parent: Entity | None = None

    @property
    def issuer(self) -> Entity:
        return self.parent if self.parent is not None else self

    @property
    def root(self) -> Entity:
        return self if self.parent is None else self.parent.root

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """From this certificate up to the root, the root included."""
        above = self.parent.chain if self.parent is not None else ()
        return (self.certificate, *above)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, stem: str = "leaf", *, chain: bool = True) -> Written:
        """Write STEM.pem (the chain with the root, or only this), STEM.key and STEM-root.pem."""
        folder.mkdir(parents=True, exist_ok=True)
        written = Written(
            folder / f"{stem}.pem", folder / f"{stem}.key", folder / f"{stem}-root.pem"
        )
        written.certificate.write_bytes(pem_of(self.chain if chain else self.chain[:1]))
        written.key.write_bytes(self.key_pem)
        written.root.write_bytes(self.root.pem)
        return written


def pem_of(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _hash_for(key: PrivateKey, algorithm: hashes.HashAlgorithm) -> hashes.HashAlgorithm | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else algorithm


def _make(
    subject: str,
    parent: Entity | None,
    key: PrivateKey,
    not_before: datetime | None,
    lifetime: timedelta,
    serial: int | None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    sign_hash: hashes.HashAlgorithm,
) -> Entity:
    begin = not_before if not_before is not None else utc_now() - timedelta(hours=1)
    issuer_name = parent.certificate.subject if parent is not None else name(subject)
    signing_key = parent.key if parent is not None else key
    issuer_ski = x509.SubjectKeyIdentifier.from_public_key(signing_key.public_key())
    aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_ski)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(serial if serial is not None else x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(aki, critical=False)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return Entity(builder.sign(signing_key, _hash_for(signing_key, sign_hash)), key, parent)


def key_usage(**usages: bool) -> x509.KeyUsage:
    none = dict.fromkeys(
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
    return x509.KeyUsage(**none | usages)


def make_ca(
    common_name: str = "Test Root",
    parent: Entity | None = None,
    *,
    key_type: str = "p256",
    key: PrivateKey | None = None,
    lifetime: timedelta = 10 * YEAR,
    not_before: datetime | None = None,
) -> Entity:
    """A root, or with a parent an intermediate."""
    usage = key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True)
    extensions = [(x509.BasicConstraints(ca=True, path_length=None), True), (usage, True)]
    chosen = key if key is not None else make_key(key_type)
    return _make(
        common_name, parent, chosen, not_before, lifetime, None, extensions, hashes.SHA256()
    )


def general_name(value: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(value))
    except ValueError:
        return x509.DNSName(value)


def make_leaf(
    ca: Entity,
    names: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
    *,
    key_type: str = "p256",
    key: PrivateKey | None = None,
    lifetime: timedelta = 30 * DAY,
    not_before: datetime | None = None,
    serial: int | None = None,
    ocsp_url: str | None = None,
    must_staple: bool = False,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Entity:
    """A server's certificate for DNS names and IP addresses."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        *extra,
    ]
    if names:
        san = x509.SubjectAlternativeName([general_name(each) for each in names])
        extensions.append((san, False))
    if ocsp_url is not None:
        access = x509.AccessDescription(
            AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url)
        )
        extensions.append((x509.AuthorityInformationAccess([access]), False))
    if must_staple:
        feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
        extensions.append((feature, False))
    subject = names[0] if names else "nameless"
    chosen = key if key is not None else make_key(key_type)
    return _make(subject, ca, chosen, not_before, lifetime, serial, extensions, hashes.SHA256())


def make_delegate(
    ca: Entity,
    common_name: str = "Test OCSP Responder",
    *,
    key_type: str = "p256",
    ocsp_signing: bool = True,
    usage: x509.KeyUsage | None = None,
    lifetime: timedelta = 30 * DAY,
    not_before: datetime | None = None,
    sign_hash: hashes.HashAlgorithm | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Entity:
    """A delegated responder; without ocsp_signing it has a server's extended key usage."""
    purpose = ExtendedKeyUsageOID.OCSP_SIGNING if ocsp_signing else ExtendedKeyUsageOID.SERVER_AUTH
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.ExtendedKeyUsage([purpose]), False),
        *extra,
    ]
    if usage is not None:
        extensions.append((usage, True))
    return _make(
        common_name,
        ca,
        make_key(key_type),
        not_before,
        lifetime,
        None,
        extensions,
        sign_hash if sign_hash is not None else hashes.SHA256(),
    )


def make_response(
    leaf: Entity,
    signer: Entity | None = None,
    *,
    issuer: Entity | None = None,
    status: str = "good",
    this_update: datetime | None = None,
    validity: timedelta | None = 3 * DAY,
    cert_id_hash: hashes.HashAlgorithm | None = None,
    sign_hash: hashes.HashAlgorithm | None = None,
    by_name: bool = False,
    embed: Sequence[Entity] | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    key: PrivateKey | None = None,
    pss: str | None = None,
) -> bytes:
    """An OCSP response for a leaf, in DER.

    Signed by its issuer unless a `signer` is given, whose certificate is then embedded; `embed`
    overrides what is embedded. status: good, revoked, unknown. validity None: no nextUpdate.
    `key` signs in the signer's place, for a signature that is not good. `pss` names the hash of
    a signature by RSA-PSS.
    """
    signer = signer if signer is not None else leaf.issuer
    issuer = issuer if issuer is not None else leaf.issuer
    begin = this_update if this_update is not None else utc_now() - timedelta(hours=1)
    revoked = status == "revoked"
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=leaf.certificate,
            issuer=issuer.certificate,
            algorithm=cert_id_hash if cert_id_hash is not None else hashes.SHA1(),
            cert_status=ocsp.OCSPCertStatus[status.upper()],
            this_update=begin,
            next_update=begin + validity if validity is not None else None,
            revocation_time=begin - DAY if revoked else None,
            revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
        )
        .responder_id(
            ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH,
            signer.certificate,
        )
    )
    if embed is None:
        embed = () if signer is issuer else (signer,)
    if embed:
        builder = builder.certificates([each.certificate for each in embed])
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    algorithm = sign_hash if sign_hash is not None else hashes.SHA256()
    response = builder.sign(signer.key, _hash_for(signer.key, algorithm))
    if key is not None or pss is not None:
        return _signed(
            response.tbs_response_bytes, key if key is not None else signer.key, embed, pss=pss
        )
    return response.public_bytes(Encoding.DER)


def error_response(status: str = "TRY_LATER") -> bytes:
    """A response that is only an error."""
    response = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus[status])
    return response.public_bytes(Encoding.DER)


# --- responses that no builder makes ----------------------------------------


def tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def time_of(moment: datetime) -> bytes:
    """A GeneralizedTime."""
    return tlv(0x18, f"{moment:%Y%m%d%H%M%S}Z".encode())


SEQUENCE, OCTETS, BITS, OID, ENUM, BOOLEAN = 0x30, 0x04, 0x03, 0x06, 0x0A, 0x01
_BASIC = bytes.fromhex("2b0601050507300101")
_ECDSA_SHA256 = tlv(SEQUENCE, tlv(OID, bytes.fromhex("2a8648ce3d040302")))
_RSA_SHA1 = tlv(SEQUENCE, tlv(OID, bytes.fromhex("2a864886f70d010105")), b"\x05\x00")
_RSA_SHA256 = tlv(SEQUENCE, tlv(OID, bytes.fromhex("2a864886f70d01010b")), b"\x05\x00")
_ED25519 = tlv(SEQUENCE, tlv(OID, bytes.fromhex("2b6570")))
_SHA1_ID = tlv(SEQUENCE, tlv(OID, bytes.fromhex("2b0e03021a")), b"\x05\x00")


def extension(oid: bytes, value: bytes, *, critical: bool) -> bytes:
    flag = tlv(BOOLEAN, b"\xff") if critical else b""
    return tlv(SEQUENCE, tlv(OID, oid), flag, tlv(OCTETS, value))


def single(
    leaf: Entity,
    *,
    this_update: datetime | None = None,
    algorithm: bytes = _SHA1_ID,
    status: bytes = b"\x80\x00",
    extensions: Sequence[bytes] = (),
) -> bytes:
    """A SingleResponse of three days, a good one unless told otherwise, with its extensions."""
    begin = this_update if this_update is not None else utc_now() - timedelta(hours=1)
    wanted = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(leaf.certificate, leaf.issuer.certificate, hashes.SHA1())
        .build()
    )
    serial = wanted.serial_number
    cert_id = tlv(
        SEQUENCE,
        algorithm,
        tlv(OCTETS, wanted.issuer_name_hash),
        tlv(OCTETS, wanted.issuer_key_hash),
        tlv(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
    )
    times = [time_of(each) for each in (begin, begin + 3 * DAY)]
    own = tlv(0xA1, tlv(SEQUENCE, *extensions)) if extensions else b""
    return tlv(SEQUENCE, cert_id, status, times[0], tlv(0xA0, times[1]), own)


def revoked(reason: int, at: datetime | None = None) -> bytes:
    """A CertStatus for `single`, with any number as the reason; a day old if `at` is not given."""
    since = time_of(at if at is not None else utc_now() - DAY)
    return tlv(0xA1, since, tlv(0xA0, tlv(ENUM, bytes([reason]))))


def assemble(signer: Entity, singles: Sequence[bytes], *, version: bool = False) -> bytes:
    """A response of any number of singles: by ECDSA with SHA-256, or RSA with SHA-1."""
    key_hash = x509.SubjectKeyIdentifier.from_public_key(signer.key.public_key()).digest
    signed = tlv(
        SEQUENCE,
        tlv(0xA0, tlv(0x02, b"\x00")) if version else b"",
        tlv(0xA2, tlv(OCTETS, key_hash)),
        time_of(utc_now()),
        tlv(SEQUENCE, *singles),
    )
    return _signed(signed, signer.key, sha1=isinstance(signer.key, rsa.RSAPrivateKey))


_PSS_HASHES = {
    "sha1": (hashes.SHA1(), "2b0e03021a"),
    "sha256": (hashes.SHA256(), "608648016503040201"),
    "sha384": (hashes.SHA384(), "608648016503040202"),
    "sha512": (hashes.SHA512(), "608648016503040203"),
}


def _pss_algorithm(digest: hashes.HashAlgorithm, oid: str) -> bytes:
    if isinstance(digest, hashes.SHA1):  # the default of everything, which DER leaves out
        return tlv(SEQUENCE, tlv(OID, bytes.fromhex("2a864886f70d01010a")), tlv(SEQUENCE))
    hashed = tlv(SEQUENCE, tlv(OID, bytes.fromhex(oid)), b"\x05\x00")
    mask = tlv(SEQUENCE, tlv(OID, bytes.fromhex("2a864886f70d010108")), hashed)
    salt = tlv(0x02, bytes([digest.digest_size]))
    parameters = tlv(SEQUENCE, tlv(0xA0, hashed), tlv(0xA1, mask), tlv(0xA2, salt))
    return tlv(SEQUENCE, tlv(OID, bytes.fromhex("2a864886f70d01010a")), parameters)


def sign(
    signed: bytes, key: PrivateKey, *, sha1: bool = False, pss: str | None = None
) -> tuple[bytes, bytes]:
    """The AlgorithmIdentifier and the signature; sha1 and pss (a hash) are for RSA keys."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _ECDSA_SHA256, key.sign(signed, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _ED25519, key.sign(signed)
    if pss is not None:
        digest, oid = _PSS_HASHES[pss]
        scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
        return _pss_algorithm(digest, oid), key.sign(signed, scheme, digest)
    if sha1:
        return _RSA_SHA1, key.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    return _RSA_SHA256, key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


def _signed(
    signed: bytes,
    key: PrivateKey,
    embed: Sequence[Entity] = (),
    *,
    sha1: bool = False,
    pss: str | None = None,
) -> bytes:
    """A successful response around response data, by any key."""
    algorithm, signature = sign(signed, key, sha1=sha1, pss=pss)
    certificates = [each.certificate.public_bytes(Encoding.DER) for each in embed]
    embedded = tlv(0xA0, tlv(SEQUENCE, *certificates)) if certificates else b""
    basic = tlv(SEQUENCE, signed, algorithm, tlv(BITS, b"\x00", signature), embedded)
    body = tlv(SEQUENCE, tlv(OID, _BASIC), tlv(OCTETS, basic))
    return tlv(SEQUENCE, tlv(ENUM, b"\x00"), tlv(0xA0, body))
