"""Whether what a CA sent is the certificate that was asked for."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dwaarx.certs.acme.problems import CaError
from dwaarx.certs.matching import PARSE_ERRORS, issued_by, keys_match
from dwaarx.certs.pair import KeyPair
from dwaarx.words import utc

# Chains of the web hold two or three certificates; each goes out in every handshake.
_MAX_CHAIN = 10

# A clock that is late by so much takes a new certificate for one of the future.
_SKEW = timedelta(hours=1)


def check(pem: bytes, key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> KeyPair:
    """Return the pair of a key and the PEM chain that a CA sent for it; raises CaError."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except PARSE_ERRORS as error:
        raise CaError(f"it sent no usable certificate: {str(error)[:100]}") from error
    if len(certificates) > _MAX_CHAIN:
        raise CaError(f"it sent a chain of {len(certificates)} certificates")
    leaf, *chain = certificates
    if not keys_match(key, leaf):
        raise CaError("it sent a certificate for another key")
    pair = KeyPair(leaf, tuple(chain), key)
    try:
        # Read here, so that what is wrong in them is known before the certificate is served.
        names, _, _, _ = pair.names, pair.must_staple, leaf.subject, leaf.issuer
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except PARSE_ERRORS as error:
        raise CaError(f"it sent a certificate that is wrong: {str(error)[:100]}") from error
    if [each.lower() for each in names] != [name.lower()]:
        raise CaError(f"it sent a certificate for {', '.join(names) or 'no name'}")
    if not begin - _SKEW <= now < end:
        raise CaError(
            f"it sent a certificate that is valid from {utc(begin)} to {utc(end)}; "
            "is the clock right?"
        )
    if not all(issued_by(below, above) for below, above in pairwise(certificates)):
        raise CaError("it sent a chain whose certificates did not issue one another")
    return pair
