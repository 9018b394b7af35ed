"""Whether a CRL may be relied on, and what it says of a certificate (RFC 5280 section 5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from dwaarx.certs.der import has_unknown_critical_entry, why_not_one_sequence
from dwaarx.certs.errors import CrlError
from dwaarx.certs.matching import PARSE_ERRORS
from dwaarx.words import utc

T = TypeVar("T", bound=x509.ExtensionType)

# As for OCSP responses: how far the clocks of the CA and of this machine may lie apart.
SKEW = timedelta(minutes=5)

_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

_KEYS = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)

# reasonCode and invalidityDate, as contents of OIDs. certificateIssuer is left out on purpose:
# it belongs to indirect CRLs, and the entries after it are about another CA's certificates.
_KNOWN_OF_ENTRIES = frozenset((b"\x55\x1d\x15", b"\x55\x1d\x18"))


@attrs.frozen
class Revoked:
    """An entry: since when (UTC) if that can be read, and why if the CA says it.

    The reason `certificate_hold` stands for a revocation that the CA may take back.
    """

    at: datetime | None
    reason: x509.ReasonFlags | None

    def __str__(self) -> str:
        since = f" since {utc(self.at)}" if self.at is not None else ""
        why = f" ({self.reason.value})" if self.reason is not None else ""
        return f"the certificate is listed as revoked{since}{why}"


@attrs.frozen(eq=False)
class Crl:
    """A verified CRL; times are UTC. It speaks of certificates of the issuer it was verified by."""

    this_update: datetime
    next_update: datetime
    _list: x509.CertificateRevocationList = attrs.field(repr=False)

    def revocation(self, serial: int) -> Revoked | None:
        """Return what is said of a serial number; None if the certificate is not revoked.

        A search through all entries, outside of Python: some 10 ms for 100,000 of them. An
        entry removeFromCRL is none. A negative number, which RFC 5280 forbids, is never found.
        """
        if serial < 0:
            return None
        entry = self._list.get_revoked_certificate_by_serial_number(serial)
        if entry is None:
            return None
        reason = _reason(entry)
        if reason is x509.ReasonFlags.remove_from_crl:
            return None
        return Revoked(_date(entry), reason)


def _date(entry: x509.RevokedCertificate) -> datetime | None:
    try:
        return entry.revocation_date_utc
    except PARSE_ERRORS:
        return None  # of the year 0, which a list may hold; revoked it is all the same


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except (x509.ExtensionNotFound, *PARSE_ERRORS):
        return None  # or a number that stands for no reason; revoked it is all the same


def distribution_points(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the URLs of CRLs that cover every reason and come from the certificate's issuer.

    In the certificate's order, each once, of every scheme; none if it cannot be read.
    """
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (x509.ExtensionNotFound, *PARSE_ERRORS):
        return ()
    urls = (
        name.value
        for point in points
        if point.reasons is None and point.crl_issuer is None
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
    )
    return tuple(dict.fromkeys(urls))


def verify(der: bytes, url: str, issuer: x509.Certificate, now: datetime) -> Crl:
    """Check everything about a CRL; return it ready to be asked.

    `der` may be PEM as well; `url` is the distribution point, as the certificate names it;
    `issuer` issued the certificates in question; `now` has a time zone. Raises CrlError with a
    reason of its own for each refusal, and nothing else, whatever the bytes are.
    """
    with _refusing_what_cryptography_refuses():
        der, revoked = _load(der)
        _check_signature(revoked, issuer)
        _check_extensions(revoked, url)
        if has_unknown_critical_entry(der, _KNOWN_OF_ENTRIES):
            raise CrlError("an entry of the CRL has a critical extension that is not known here")
        this_update = revoked.last_update_utc
        return Crl(this_update, _check_dates(this_update, revoked.next_update_utc, now), revoked)


@contextmanager
def _refusing_what_cryptography_refuses() -> Iterator[None]:
    try:
        yield
    except (*PARSE_ERRORS, x509.InvalidVersion) as error:
        raise CrlError(f"the CRL cannot be read: {error}") from error


def _load(data: bytes) -> tuple[bytes, x509.CertificateRevocationList]:
    """Parse a CRL; return it with its DER."""
    if data.lstrip().startswith(b"-----BEGIN"):
        revoked = x509.load_pem_x509_crl(data)
        return revoked.public_bytes(Encoding.DER), revoked
    wrong = why_not_one_sequence(data)
    if wrong is not None:
        raise CrlError(f"the CRL cannot be read: it {wrong}")
    return data, x509.load_der_x509_crl(data)


def _check_signature(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> None:
    if revoked.issuer != issuer.subject:
        raise CrlError(
            f"the CRL is of another CA: {revoked.issuer.rfc4514_string()!r}, "
            f"not {issuer.subject.rfc4514_string()!r}"
        )
    usage = _extension(issuer.extensions, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        raise CrlError("the issuer is not allowed to sign CRLs (its key usage lacks cRLSign)")
    algorithm = revoked.signature_hash_algorithm
    # None: Ed25519 and its like, which bring their own hash.
    if algorithm is not None and not isinstance(algorithm, _SIGNATURE_HASHES):
        raise CrlError(
            f"the CRL is signed with {algorithm.name.upper()}, which is not accepted "
            "(SHA-256 or better is)"
        )
    key = issuer.public_key()
    if not isinstance(key, _KEYS):
        raise CrlError("the issuer's key is neither RSA, ECDSA nor Ed25519")
    if not revoked.is_signature_valid(key):
        raise CrlError(f"the signature is not that of {issuer.subject.rfc4514_string()!r}")


def _extension(extensions: x509.Extensions, kind: type[T]) -> T | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_extensions(revoked: x509.CertificateRevocationList, url: str) -> None:
    extensions = revoked.extensions
    for extension in extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            raise CrlError("it is a delta CRL, which says only what has changed")
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            _check_scope(extension.value, url)
        elif extension.critical:
            raise CrlError(
                "the CRL has a critical extension that is not known here "
                f"({extension.oid.dotted_string})"
            )


def _check_scope(point: x509.IssuingDistributionPoint, url: str) -> None:
    """Make sure that the certificates of this distribution point are what the CRL is about."""
    if point.indirect_crl:
        raise CrlError("it is an indirect CRL, which may be about other CAs' certificates")
    if point.only_contains_ca_certs:
        raise CrlError("the CRL is only about CA certificates")
    if point.only_contains_attribute_certs:
        raise CrlError("the CRL is only about attribute certificates")
    if point.only_some_reasons is not None:
        raise CrlError("the CRL is only about some of the reasons for a revocation")
    if point.relative_name is not None:
        raise CrlError("the CRL names its distribution point relative to its issuer, not by URL")
    if point.full_name is not None and not any(
        isinstance(name, x509.UniformResourceIdentifier) and name.value == url
        for name in point.full_name
    ):
        raise CrlError(f"the CRL is that of another distribution point, not of {url}")


def _check_dates(this_update: datetime, next_update: datetime | None, now: datetime) -> datetime:
    """Return nextUpdate, which RFC 5280 section 5.1.2.5 demands."""
    if next_update is None:
        raise CrlError("the CRL does not say until when it holds")
    if this_update > next_update:
        raise CrlError(f"the CRL ends ({utc(next_update)}) before it begins ({utc(this_update)})")
    if this_update > now + SKEW:
        raise CrlError(f"the CRL is not valid before {utc(this_update)}")
    if next_update < now - SKEW:
        raise CrlError(f"the CRL expired at {utc(next_update)}")
    return next_update
