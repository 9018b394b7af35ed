"""The Date field's value, formatted once a second."""

from __future__ import annotations

from email.utils import formatdate
from time import time

_second = -1
_value = b""


def http_date() -> bytes:
    """Return the time of day as an IMF-fixdate (RFC 9110 section 5.6.7)."""
    global _second, _value
    now = int(time())
    if now != _second:
        _value = formatdate(now, usegmt=True).encode("ascii")
        _second = now
    return _value
