"""Whether an OCSP response may be stapled to a certificate (RFC 6960, RFC 9919)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from dwaarx.certs.der import singles_with_critical_extensions, why_not_one_sequence
from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.matching import PARSE_ERRORS, issued_by
from dwaarx.words import utc

T = TypeVar("T", bound=x509.ExtensionType)

# How far the clocks of responder, server and clients may lie apart; curl and OpenSSL's own
# programs allow the same.
SKEW = timedelta(minutes=5)

# RFC 6960 section 4.2.1 fixes it: KeyHash is the SHA-1 of the responder's public key.
KEY_HASH = hashes.SHA1

# RFC 6960 section 2.2: "revoked" since this moment, on hold, is said of what was never issued.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

# SHA-1 signatures can be forged by collision. (In a CertID or KeyHash, which only names what is
# signed over, SHA-1 is what everyone uses, and does no harm.)
_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@attrs.frozen
class Staple:
    """A verified response: good, ours, signed by who may, and in its dates. Times are UTC.

    `end` is when it must no longer be sent: nextUpdate, or if sooner the end of the certificate
    or of the delegate that signed, after which no client takes it.
    """

    der: bytes = attrs.field(repr=False)
    this_update: datetime
    next_update: datetime
    end: datetime


def verify(
    response_der: bytes, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime
) -> Staple:
    """Check everything about a response; return it as a Staple.

    `issuer` is the certificate that issued `certificate`; `now` has a time zone.
    Raises OcspError with a kind and a reason of its own for each refusal, and nothing else,
    whatever the bytes are.
    """
    wrong = why_not_one_sequence(response_der)
    if wrong is not None:
        raise _malformed(f"it {wrong}")
    with _refusing_what_cryptography_refuses():
        response = ocsp.load_der_ocsp_response(response_der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            status = response.response_status.name.lower().replace("_", " ")
            raise OcspError(Refusal.UNSUCCESSFUL, f"the responder answered with an error: {status}")
        single = _find_single(response, certificate, issuer)
        _check_extensions(response)
        signer = _check_signature(response, issuer, now)
        # Only what is signed is believed; a revocation, once signed, does not grow old.
        _check_status(single)
        next_update = _check_dates(single, now)
        return Staple(
            response_der,
            single.this_update_utc,
            next_update,
            min(next_update, certificate.not_valid_after_utc, signer.not_valid_after_utc),
        )


@contextmanager
def _refusing_what_cryptography_refuses() -> Iterator[None]:
    """Turn whatever cryptography raises for bytes that are wrong into an OcspError."""
    try:
        yield
    except UnsupportedAlgorithm as error:
        raise OcspError(
            Refusal.UNSUPPORTED, f"the response uses an algorithm that is not supported: {error}"
        ) from error
    except PARSE_ERRORS as error:
        raise _malformed(error) from error


def _malformed(why: object) -> OcspError:
    return OcspError(
        Refusal.MALFORMED, f"the response cannot be read as an OCSP response in DER: {why}"
    )


# --- about which certificate ------------------------------------------------


def _find_single(
    response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse:
    """Return the SingleResponse with our CertID, in the hash that it uses itself.

    A response to a request for several certificates holds one for each; of those that are
    about ours the newest counts, and of two as new the one that is not "good".
    """
    if not issued_by(certificate, issuer):
        raise OcspError(Refusal.NO_ISSUER, "the issuer given did not issue the certificate")
    critical = singles_with_critical_extensions(response.tbs_response_bytes)
    ours = []
    unsupported: UnsupportedAlgorithm | None = None
    serials = set()
    for single, is_critical in zip(response.responses, critical, strict=True):
        serials.add(single.serial_number)
        try:
            algorithm = single.hash_algorithm
        except UnsupportedAlgorithm as error:
            unsupported = error
            continue
        # Built by cryptography because it hashes the names as they stand in the certificate.
        wanted = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, algorithm).build()
        if (
            single.serial_number == wanted.serial_number
            and single.issuer_name_hash == wanted.issuer_name_hash
            and single.issuer_key_hash == wanted.issuer_key_hash
        ):
            bad = single.certificate_status is not ocsp.OCSPCertStatus.GOOD
            ours.append((single.this_update_utc, bad, is_critical, single))
    if ours:
        _, _, is_critical, single = max(ours, key=lambda found: found[:2])
        if is_critical:
            raise OcspError(
                Refusal.UNSUPPORTED, "what it says has a critical extension that is not known here"
            )
        return single
    if unsupported is not None:
        raise unsupported
    if not serials:
        raise OcspError(Refusal.MISMATCH, "the response says nothing about any certificate")
    if certificate.serial_number in serials:
        raise OcspError(Refusal.MISMATCH, "the response is about a certificate of another issuer")
    about = ", ".join(sorted(f"{serial:x}" for serial in serials))
    raise OcspError(
        Refusal.MISMATCH,
        f"the response is about another certificate: serial {_short(about)}, "
        f"this one's is {certificate.serial_number:x}",
    )


def _short(text: str) -> str:
    """Cut a list that someone else made to what a log line can bear."""
    return text if len(text) <= 200 else f"{text[:200]}…"


def _check_extensions(response: ocsp.OCSPResponse) -> None:
    for extension in response.extensions:
        # A nonce only says that the response was made for someone's request.
        if extension.critical and not isinstance(extension.value, x509.OCSPNonce):
            raise OcspError(
                Refusal.UNSUPPORTED,
                f"the response has a critical extension that is not known here "
                f"({extension.oid.dotted_string})",
            )


# --- by whom ----------------------------------------------------------------


def _check_signature(
    response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime
) -> x509.Certificate:
    """Return who signed; RFC 6960 section 4.2.2.2: the issuer, or a delegate that it issued."""
    signers = [
        candidate
        for candidate in (issuer, *response.certificates)
        if _is_responder(response, candidate)
    ]
    if not signers:
        raise OcspError(
            Refusal.SIGNER,
            "the response is signed neither by the certificate's issuer nor by a delegate "
            "whose certificate it holds",
        )
    refusals = []
    for signer in signers:
        try:
            if signer != issuer:
                _check_delegate(signer, issuer, now)
            _verify_signature(response, signer)
        except OcspError as error:
            refusals.append(error)
        else:
            return signer
    # The last is about the embedded certificate, if there is one: the nearer to the signer.
    raise refusals[-1]


def _is_responder(response: ocsp.OCSPResponse, candidate: x509.Certificate) -> bool:
    if response.responder_key_hash is not None:
        return response.responder_key_hash == _key_hash(candidate)
    return response.responder_name == candidate.subject


def _key_hash(certificate: x509.Certificate) -> bytes:
    """Hash the public key's bits, as they stand in the certificate, into a KeyHash."""
    builder = ocsp.OCSPRequestBuilder()
    return builder.add_certificate(certificate, certificate, KEY_HASH()).build().issuer_key_hash


def _check_delegate(delegate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> None:
    def refuse(reason: str, kind: Refusal = Refusal.SIGNER) -> OcspError:
        name = delegate.subject.rfc4514_string()
        return OcspError(kind, f"the signer {name!r} {reason}")

    if not issued_by(delegate, issuer):
        raise refuse("was not issued by the certificate's issuer")
    if not isinstance(delegate.signature_hash_algorithm, (*_SIGNATURE_HASHES, type(None))):
        raise refuse("has a certificate with a weak signature", Refusal.UNSUPPORTED)
    usages = _extension(delegate, x509.ExtendedKeyUsage)
    if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise refuse("is not allowed to sign OCSP responses (no extended key usage OCSPSigning)")
    usage = _extension(delegate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise refuse("is not allowed to sign (its key usage lacks digitalSignature)")
    for extension in delegate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            raise refuse("has a critical extension that is not known here", Refusal.UNSUPPORTED)
    if now + SKEW < delegate.not_valid_before_utc:
        raise refuse(f"is not valid before {utc(delegate.not_valid_before_utc)}")
    if now - SKEW > delegate.not_valid_after_utc:
        raise refuse(f"expired at {utc(delegate.not_valid_after_utc)}")


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _verify_signature(response: ocsp.OCSPResponse, signer: x509.Certificate) -> None:
    try:
        _verify_by_key(response, signer)
    except InvalidSignature as error:
        # With another hash it may be good; which one it is made with cannot be seen.
        is_pss = response.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS
        how = " by RSA-PSS with SHA-256 or better" if is_pss else ""
        raise OcspError(
            Refusal.SIGNATURE,
            f"the signature is not that of {signer.subject.rfc4514_string()!r}{how}",
        ) from error


def _verify_by_key(response: ocsp.OCSPResponse, signer: x509.Certificate) -> None:
    """Verify with the signer's key; raises InvalidSignature, OcspError, UnsupportedAlgorithm."""
    key = signer.public_key()
    signature, signed = response.signature, response.tbs_response_bytes
    if response.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
        if not isinstance(key, rsa.RSAPublicKey):
            raise InvalidSignature
        _verify_pss(key, signature, signed)
        return
    algorithm = response.signature_hash_algorithm
    if isinstance(key, ed25519.Ed25519PublicKey):
        if response.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
            raise InvalidSignature
        key.verify(signature, signed)
        return
    if not isinstance(algorithm, _SIGNATURE_HASHES):
        name = algorithm.name.upper() if algorithm is not None else "an unknown hash"
        raise OcspError(
            Refusal.UNSUPPORTED,
            f"the signature is made with {name}, which is not accepted (SHA-256 or better is)",
        )
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, signed, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, signed, ec.ECDSA(algorithm))
    else:
        raise UnsupportedAlgorithm("the signer's key is neither RSA, ECDSA nor Ed25519")


def _verify_pss(key: rsa.RSAPublicKey, signature: bytes, signed: bytes) -> None:
    """Try the accepted hashes: cryptography does not show which one the parameters name.

    What verifies under one of them was signed under it, so trying is no weaker than knowing.
    """
    for algorithm in _SIGNATURE_HASHES:
        scheme = padding.PSS(padding.MGF1(algorithm()), padding.PSS.AUTO)
        try:
            key.verify(signature, signed, scheme, algorithm())
        except InvalidSignature:
            continue
        return
    raise InvalidSignature


# --- saying what, and when --------------------------------------------------


def _check_status(single: ocsp.OCSPSingleResponse) -> None:
    status = single.certificate_status
    if status is ocsp.OCSPCertStatus.REVOKED:
        when = single.revocation_time_utc
        reason = _revocation_reason(single)
        if when == _NEVER and reason is x509.ReasonFlags.certificate_hold:
            # A responder that a new certificate has not reached yet; the CA took nothing back.
            raise OcspError(
                Refusal.UNKNOWN, "the responder says that the certificate was never issued"
            )
        since = f" since {utc(when)}" if when is not None else ""
        why = f" ({reason.value})" if reason is not None else ""
        raise OcspError(
            Refusal.REVOKED,
            f"the certificate is revoked{since}{why}",
            revoked_at=when,
            revocation_reason=reason,
        )
    if status is not ocsp.OCSPCertStatus.GOOD:
        raise OcspError(Refusal.UNKNOWN, "the responder does not know the certificate")


def _revocation_reason(single: ocsp.OCSPSingleResponse) -> x509.ReasonFlags | None:
    try:
        return single.revocation_reason
    except ValueError:
        return None  # a number that stands for no reason; revoked it is all the same


def _check_dates(single: ocsp.OCSPSingleResponse, now: datetime) -> datetime:
    """Return nextUpdate, which RFC 9919 demands of a response that is to be kept."""
    this_update, next_update = single.this_update_utc, single.next_update_utc
    if next_update is None:
        raise OcspError(Refusal.EXPIRED, "the response does not say until when it holds")
    if this_update > next_update:
        raise OcspError(
            Refusal.MALFORMED,
            f"the response ends ({utc(next_update)}) before it begins ({utc(this_update)})",
        )
    if this_update > now + SKEW:
        raise OcspError(Refusal.NOT_YET, f"the response is not valid before {utc(this_update)}")
    if next_update < now - SKEW:
        raise OcspError(Refusal.EXPIRED, f"the response expired at {utc(next_update)}")
    return next_update
