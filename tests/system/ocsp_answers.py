"""What the tests' responder says: OCSP responses and CRLs, good ones and bad ones.

Nothing here knows of HTTP; see responder.py for how it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from tests.certs import pki
from tests.certs.pki import DAY, OCTETS, OID, SEQUENCE, tlv

# How long an answer holds unless `validity` says otherwise.
VALIDITY = 3 * DAY

_ALGORITHMS = {
    "sha1": "2b0e03021a",
    "sha256": "608648016503040201",
    "sha384": "608648016503040202",
    "sha512": "608648016503040203",
}

# Errors of the responder itself (RFC 6960 section 4.2.1), by what a behaviour calls them.
ERRORS = {
    "try_later": "TRY_LATER",
    "internal_error": "INTERNAL_ERROR",
    "malformed_request": "MALFORMED_REQUEST",
    "sig_required": "SIG_REQUIRED",
    "unauthorized": "UNAUTHORIZED",
}
ANSWERS = {
    *ERRORS,
    "good",
    "revoked",
    "unknown",
    "expired",
    "not_yet",
    "no_next_update",
    "wrong_certificate",
    "wrong_order",
    "empty_list",
    "bad_signature",
    "stranger",
    "delegate",
    "delegate_expired",
    "delegate_without_eku",
    "garbage",
    "nothing",
}
CRLS = {"good", "expired", "not_yet", "bad_signature", "stranger", "garbage", "nothing"}


class Authority:
    """A CA that answers, with delegates of all kinds, made when first used."""

    def __init__(self, entity: pki.Entity) -> None:
        self.entity = entity

    @cached_property
    def delegate(self) -> pki.Entity:
        return pki.make_delegate(self.entity)

    @cached_property
    def delegate_expired(self) -> pki.Entity:
        return pki.make_delegate(self.entity, not_before=pki.utc_now() - 30 * DAY, lifetime=DAY)

    @cached_property
    def delegate_without_eku(self) -> pki.Entity:
        return pki.make_delegate(self.entity, ocsp_signing=False)

    @cached_property
    def stranger(self) -> pki.Entity:
        """Another CA of the same name."""
        [name] = self.entity.certificate.subject
        assert isinstance(name.value, str)
        return pki.make_ca(name.value)

    def is_meant(self, request: ocsp.OCSPRequest) -> bool:
        """Whether the CertID names this CA, by its hashes of name and key."""
        name = self.entity.certificate.subject.public_bytes()
        key = _key_bits(self.entity.certificate)
        algorithm = request.hash_algorithm
        return (
            _digest(name, algorithm) == request.issuer_name_hash
            and _digest(key, algorithm) == request.issuer_key_hash
        )


@attrs.frozen
class Span:
    """From when until when an answer holds; without `end` it does not say."""

    begin: datetime
    end: datetime | None

    @classmethod
    def of(cls, kind: str, options: Mapping[str, Any]) -> Span:
        now = pki.utc_now()
        if kind == "expired":
            return cls(now - 4 * DAY, now - DAY)
        if kind == "not_yet":
            return cls(now + DAY, now + 4 * DAY)
        begin = now - timedelta(seconds=options.get("age", 0))
        validity = options.get("validity", VALIDITY.total_seconds())
        return cls(begin, None if kind == "no_next_update" else now + timedelta(seconds=validity))


def answer(
    kind: str, der: bytes, authorities: list[Authority], options: Mapping[str, Any]
) -> bytes:
    """Answer a request in DER; of a CA that is not ours we say "unauthorized", as others do."""
    if kind == "garbage":
        return b"<html><body>It works!</body></html>"
    if kind == "nothing":
        return b""
    if kind in ERRORS:
        return pki.error_response(ERRORS[kind])
    try:
        request = ocsp.load_der_ocsp_request(der)
    except ValueError:
        return pki.error_response("MALFORMED_REQUEST")
    authority = next((each for each in authorities if each.is_meant(request)), None)
    if authority is None:
        return pki.error_response("UNAUTHORIZED")
    span = Span.of(kind, options)
    if kind == "empty_list":
        return pki.assemble(authority.entity, [])
    if kind == "wrong_order":
        serial = request.serial_number
        return pki.assemble(
            authority.entity,
            [_single(request, each, span) for each in (serial + 1, serial + 2, serial)],
        )
    return _sign(kind, request, authority, span, options)


def _sign(
    kind: str,
    request: ocsp.OCSPRequest,
    authority: Authority,
    span: Span,
    options: Mapping[str, Any],
) -> bytes:
    signer = authority.entity
    if kind in ("stranger", "delegate", "delegate_expired", "delegate_without_eku"):
        signer = getattr(authority, kind)
    revoked = kind == "revoked"
    status = kind.upper() if kind in ("revoked", "unknown") else "GOOD"
    since = span.begin - timedelta(seconds=options.get("since", 3600))
    encoding = ocsp.OCSPResponderEncoding
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            issuer_name_hash=request.issuer_name_hash,
            issuer_key_hash=request.issuer_key_hash,
            serial_number=request.serial_number + (kind == "wrong_certificate"),
            algorithm=request.hash_algorithm,
            cert_status=ocsp.OCSPCertStatus[status],
            this_update=span.begin,
            next_update=span.end,
            revocation_time=since if revoked else None,
            revocation_reason=_reason(options) if revoked else None,
        )
        .responder_id(
            encoding.NAME if options.get("by_name") else encoding.HASH, signer.certificate
        )
    )
    if signer is not authority.entity:
        builder = builder.certificates([signer.certificate])
    response = builder.sign(signer.key, _hash_for(signer.key)).public_bytes(Encoding.DER)
    return _spoil(response) if kind == "bad_signature" else response


def crl(kind: str, authority: Authority, options: Mapping[str, Any]) -> bytes:
    """Make a CRL; `revoked` lists serial numbers in hex, `entries` is how many others it has."""
    if kind == "garbage":
        return b"<html><body>It works!</body></html>"
    if kind == "nothing":
        return b""
    span = Span.of(kind, options)
    signer = authority.stranger if kind == "stranger" else authority.entity
    assert span.end is not None
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(span.begin)
        .next_update(span.end)
        .add_extension(key_id, critical=False)
        .add_extension(x509.CRLNumber(int(span.begin.timestamp())), critical=False)
    )
    others = [x509.random_serial_number() for _ in range(options.get("entries", 0))]
    named = [int(each, 16) for each in options.get("revoked", ())]
    reason = _reason(options)
    for serial in (*others, *named):
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(span.begin - timedelta(seconds=options.get("since", 3600)))
        )
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    made = builder.sign(signer.key, _hash_for(signer.key)).public_bytes(Encoding.DER)
    return _spoil(made) if kind == "bad_signature" else made


def _reason(options: Mapping[str, Any]) -> x509.ReasonFlags | None:
    """Return the reason by its name in cryptography: key_compromise, superseded and so on."""
    name = options.get("reason")
    return x509.ReasonFlags[name] if name is not None else None


def _spoil(der: bytes) -> bytes:
    """Change the signature: it comes last, as no certificate is embedded."""
    return der[:-1] + bytes([der[-1] ^ 1])


def _single(request: ocsp.OCSPRequest, serial: int, span: Span) -> bytes:
    """Make a SingleResponse that says "good", with the request's own kind of CertID."""
    assert span.end is not None
    cert_id = tlv(
        SEQUENCE,
        tlv(SEQUENCE, tlv(OID, bytes.fromhex(_ALGORITHMS[request.hash_algorithm.name]))),
        tlv(OCTETS, request.issuer_name_hash),
        tlv(OCTETS, request.issuer_key_hash),
        tlv(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
    )
    begin, end = (tlv(0x18, f"{each:%Y%m%d%H%M%S}Z".encode()) for each in (span.begin, span.end))
    return tlv(SEQUENCE, cert_id, b"\x80\x00", begin, tlv(0xA0, end))


def _digest(data: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _key_bits(certificate: x509.Certificate) -> bytes:
    """Return what of the public key a CertID hashes: the BIT STRING, without its tag."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert isinstance(key, ed25519.Ed25519PublicKey)
    return key.public_bytes_raw()


def _hash_for(key: pki.PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
