"""Words that are durations, statuses, files, header fields, path matchers and texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from dwaarx.config.errors import WrongError, likely, quoted
from dwaarx.config.model import PathMatcher
from dwaarx.config.placeholders import PLACEHOLDERS, unknown_placeholder
from dwaarx.config.syntax import Word

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")
# A timer that is set further ahead than this was not meant.
MAX_DURATION: Final = 3650 * 86400.0
_MAX_WORD: Final = 60

_ENCODED: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_UNCLEAN: Final = re.compile(r"//|/\.{1,2}(?:/|$)|\\")

# RFC 9110 section 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN_IN_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What frames a message or belongs to one connection is the sessions' business, not the user's.
FRAMING_FIELDS: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def duration(word: Word, *, zero: bool = False) -> float:
    """Return the seconds of `500ms`, `10s`, `5m`, `12h`, `7d` or a sum such as `1h30m`.

    With `zero` also of `0` (or `0s`).
    """
    text = word.text
    seconds = None
    if text == "0":
        seconds = 0.0
    elif len(text) <= _MAX_WORD and _DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds is None:
        message = f"{quoted(text)} is not a duration: expected one such as 500ms, 10s, 5m, 12h, 7d"
        raise WrongError(word.location, message)
    if seconds == 0 and not zero:
        raise WrongError(word.location, "expected a duration greater than 0")
    if seconds > MAX_DURATION:
        raise WrongError(word.location, f"{quoted(text)} is too long: at most 3650d")
    return seconds


def is_status(text: str) -> bool:
    """Whether the text is three digits."""
    return re.fullmatch(r"[0-9]{3}", text) is not None


def status(word: Word) -> int:
    """Return the status code of a final response."""
    if is_status(word.text) and 200 <= int(word.text) <= 599:
        return int(word.text)
    message = f"{quoted(word.text)} is not a status code: expected a number from 200 to 599"
    raise WrongError(word.location, message)


def file_path(word: Word, folder: Path) -> Path:
    """Return the path; a relative one is taken from `folder`, that of the Dwaarfile."""
    if not word.text:
        raise WrongError(word.location, "expected the path of a file")
    return folder / word.text


def field_name(word: Word, text: str, *, protected: frozenset[str] = FRAMING_FIELDS) -> str:
    """Return a field's name in lower case."""
    name = text.lower()
    if not _TOKEN.fullmatch(name):
        raise WrongError(word.location, f"{quoted(text)} is not the name of a header field")
    if name in protected:
        raise WrongError(word.location, f"the field {quoted(text)} cannot be changed")
    return name


def field_value(word: Word) -> str:
    """Return a field's value; its placeholders are known ones."""
    text = word.text
    if _FORBIDDEN_IN_VALUE.search(text):
        raise WrongError(word.location, "the value of a header field holds a control character")
    if text != text.strip(" \t"):
        raise WrongError(word.location, "the value of a header field begins or ends with a space")
    return with_placeholders(word)


def with_placeholders(word: Word) -> str:
    """Return the text; its placeholders are known ones."""
    unknown = unknown_placeholder(word.text)
    if unknown is not None:
        message = f"there is no placeholder {quoted('{' + unknown + '}')}"
        raise WrongError(word.location, message + _likely_placeholder(unknown))
    return word.text


def _likely_placeholder(name: str) -> str:
    known = sorted(PLACEHOLDERS)
    return likely(name, known) or f": there are {{{'}, {'.join(known)}}}"


def is_matcher(word: Word, *, quoted_too: bool = False) -> bool:
    """Whether a directive's first argument is a path matcher.

    A quoted word is one only where nothing else could stand: in `respond` it is the body.
    """
    return (quoted_too or not word.quote) and (word.text.startswith("/") or word.text == "*")


def matcher(word: Word) -> PathMatcher | None:
    """Return the path matcher; `*` matches all, as no matcher does.

    Paths are compared decoded and without `.` and empty segments (dwaarx.http.matchers), so a
    pattern that has them would never match: it is refused.
    """
    text = word.text
    if text == "*":
        return None
    if "*" in text[:-1]:
        raise WrongError(word.location, f"a `*` stands only at the end of a path: {quoted(text)}")
    if "?" in text or "#" in text:
        raise WrongError(word.location, f"a path holds neither `?` nor `#`: {quoted(text)}")
    if "{" in text:
        raise WrongError(word.location, f"a path matcher holds no placeholder: {quoted(text)}")
    if _ENCODED.search(text):
        message = f"paths are compared decoded: write the characters themselves in {quoted(text)}"
        raise WrongError(word.location, message)
    if _UNCLEAN.search(text):
        message = f"no path matches {quoted(text)}: they are compared without `//`, `/./`, `/../`"
        raise WrongError(word.location, message)
    return PathMatcher(text)
