"""What a responder's header fields say of time: when to ask again, how long an answer is fresh."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from time import gmtime

# A responder that asks for more has gone wrong; a staple ends long before.
MAX_RETRY_AFTER = 7 * 86400.0
# No response lives longer than the longest validity that is met in practice.
MAX_FRESHNESS = 30 * 86400.0

# Delta-seconds beyond 2^31 mean "long" (RFC 9111 section 1.2.2); more digits say no more.
_SECONDS = re.compile(r"[0-9]{1,10}")
_DIGITS = re.compile(r"[0-9]+")
_LONG = 2.0**31

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
# The three forms of RFC 9110 section 5.6.7. The day of the week is not needed.
_DATES = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)

# RFC 9110 section 5.6.7: a year of two digits is at most this far in the future.
_CENTURY_AHEAD = 50

# One directive of Cache-Control: a token and, maybe, a token or a quoted string.
_DIRECTIVE = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(?:"([^"]*)"|([^\s,;"]*)))?""")


def retry_after(value: str | None, now: float) -> float | None:
    """Return when a Retry-After field wants the next request, as POSIX time.

    Seconds or a date (RFC 9110 section 10.2.3); None if there is none, or what is no value of it.
    Never before `now`, and never later than MAX_RETRY_AFTER from now.
    """
    if value is None:
        return None
    value = value.strip()
    seconds = _seconds(value)
    moment = http_date(value, now) if seconds is None else now + seconds
    return None if moment is None else min(max(moment, now), now + MAX_RETRY_AFTER)


def fresh_until(headers: Mapping[str, str], now: float) -> float | None:
    """Return until when a response just received stays fresh, as POSIX time; names in lower case.

    RFC 9111 section 4.2: max-age, else s-maxage, else Expires less Date; less its Age. The staple
    is for this server alone, so what is meant for shared caches comes second. None: nothing says
    that it is fresh from now on, or no-store or no-cache says that it is not. Bounded by
    MAX_FRESHNESS.
    """
    directives = dict[str, str]()
    for name, argument in _directives(headers.get("cache-control", "")):
        known = directives.get(name)
        # Of two that differ the shorter one counts (RFC 9111 section 4.2.1).
        if known is None or (_seconds(argument) or 0.0) < (_seconds(known) or 0.0):
            directives[name] = argument
    if "no-store" in directives or "no-cache" in directives:
        return None
    limit = directives.get("max-age", directives.get("s-maxage"))
    lifetime = _expiry(headers, now) if limit is None else _seconds(limit)
    if lifetime is None:
        return None
    left = min(lifetime - (_seconds(headers.get("age", "").strip()) or 0.0), MAX_FRESHNESS)
    return now + left if left > 0 else None


def _expiry(headers: Mapping[str, str], now: float) -> float | None:
    expires = http_date(headers.get("expires", "").strip(), now)
    if expires is None:
        return None
    date = http_date(headers.get("date", "").strip(), now)
    return expires - (now if date is None else date)


def _directives(field: str) -> Iterator[tuple[str, str]]:
    for match in _DIRECTIVE.finditer(field):
        name, quoted, token = match.groups()
        yield name.lower(), quoted if quoted is not None else token or ""


def _seconds(text: str) -> float | None:
    if _SECONDS.fullmatch(text):
        return min(float(text), _LONG)
    return _LONG if _DIGITS.fullmatch(text) else None


def http_date(text: str, now: float) -> float | None:
    """Return the POSIX time of an HTTP-date in any of its three forms; None for anything else.

    `now` tells the century of the form that has two digits for the year.
    """
    for form in _DATES:
        match = form.fullmatch(text)
        if match is not None:
            break
    else:
        return None
    year = int(match["year"])
    if len(match["year"]) == len("94"):
        this_year = gmtime(now).tm_year
        year += this_year - this_year % 100
        if year > this_year + _CENTURY_AHEAD:
            year -= 100
    second = min(int(match["second"]), 59)  # 60 is a leap second, which POSIX time has not
    try:
        moment = datetime(
            year,
            _MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return moment.timestamp()
