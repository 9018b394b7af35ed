"""URLs of responders: which of them may be asked at all, and their one spelling."""

from __future__ import annotations

import re
from ipaddress import ip_address

from hyperlink import EncodedURL

from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.config.model import IPAddress

# Longer ones are not met: what is asked by GET has 255 octets.
MAX_URL = 4096

_PRINTABLE = re.compile(r"[!-~]+")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_PORTS = range(1, 65536)


class Url(EncodedURL):
    """A URI, which treq leaves as it is: IDNA would take an IPv6 literal for a wrong name."""

    def to_uri(self) -> Url:
        """Return itself."""
        return self


def parse(text: str) -> EncodedURL:
    """Return a URL as it will be asked for, an instance of Url; raises FetchError (REFUSED)."""
    shown = f"{text[:100]!r}"
    try:
        if not text.isascii():
            text = EncodedURL.from_text(text).to_uri().to_text()
        url = Url.from_text(text)
        url = url.replace(scheme=url.scheme.lower(), host=url.host.lower())
    except ValueError:
        raise FetchError(FetchFailure.REFUSED, f"{shown} is no URL") from None
    wrong = None
    if url.scheme not in {"http", "https"}:
        wrong = "is not fetched: only http and https are"
    elif not url.host:
        wrong = "names no host"
    elif url.userinfo:
        wrong = "is not fetched: it holds credentials"
    elif len(text) > MAX_URL:
        wrong = f"is too long ({len(text)} octets)"
    elif not _PRINTABLE.fullmatch(text) or url.port not in _PORTS or not _is_host(url.host):
        wrong = "is no URL"
    if wrong is not None:
        raise FetchError(FetchFailure.REFUSED, f"{shown} {wrong}")
    return url


def _is_host(host: str) -> bool:
    return literal_of(host) is not None or _NAME.fullmatch(host) is not None


def literal_of(host: str) -> IPAddress | None:
    """Return the address that a host is written as; None for a name.

    What only getaddrinfo takes for an address ("127.1", "0x7f.1") is a name here: it is judged by
    what it resolves to.
    """
    try:
        return ip_address(host)
    except ValueError:
        return None
