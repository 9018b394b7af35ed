"""ACME Renewal Information (RFC 9773): when the CA wants a certificate to be renewed."""

from __future__ import annotations

import base64
import json
import random
import re
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509

from dwaarx.certs.errors import AcmeError
from dwaarx.certs.matching import PARSE_ERRORS

# RFC 3339; a leap second is not one that Python knows.
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:[0-5]\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)

# What a CA explains is read by people, in a table and in the log.
_MAX_EXPLANATION = 500


@attrs.frozen
class Window:
    """When to renew, at a moment of the certificate holder's choice; `explanation` is a URL."""

    start: datetime
    end: datetime
    explanation: str | None = None


def certificate_id(certificate: x509.Certificate) -> str:
    """Return the name by which renewal information is asked for (section 4.1).

    Raises AcmeError for a certificate without the key identifier of its issuer.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        issuer_key = extension.value.key_identifier
    except (x509.ExtensionNotFound, *PARSE_ERRORS):
        issuer_key = None
    if issuer_key is None:
        raise AcmeError("the certificate does not name its issuer's key (authorityKeyIdentifier)")
    serial = certificate.serial_number
    # As in DER: with a leading zero byte where the first bit would read as a sign.
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    return f"{_base64url(issuer_key)}.{_base64url(number)}"


def parse(body: bytes) -> Window:
    """Return the window of a RenewalInfo object (section 4.2); raises AcmeError."""
    try:
        document = json.loads(body)
        window = document["suggestedWindow"]
        start, end = _moment(window["start"]), _moment(window["end"])
        explanation = document.get("explanationURL")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise AcmeError(f"the renewal information holds no window: {error!r:.100}") from error
    if end <= start:
        raise AcmeError(f"the renewal information's window ends ({end}) before it starts ({start})")
    if not isinstance(explanation, str) or not explanation.isprintable():
        return Window(start, end)
    return Window(start, end, explanation[:_MAX_EXPLANATION])


def choose(window: Window, rng: random.Random, now: datetime) -> datetime:
    """Return the moment of renewal: a random one in the window, and now if that has passed."""
    length = (window.end - window.start).total_seconds()
    return max(now, window.start + timedelta(seconds=rng.uniform(0, length)))


def _moment(text: str) -> datetime:
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"{text[:50]!r} is no RFC 3339 time")
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
