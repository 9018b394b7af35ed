"""Path matchers, with Caddy's meaning, on a path that cannot be spelt around them.

What is compared is the path as an upstream is likely to understand it, not as it is spelt:
percent-encoding undone once, backslashes read as slashes, slashes merged, `.` segments dropped,
letters in lower case (as Caddy does; else `/ADMIN` passes a rule for `/admin` on its way to an
upstream that does not care for case).

What upstreams disagree about is refused instead (UnclearPathError, answered with 400): a `..`
segment, however it is spelt (`..`, `%2e%2e`, `..%2f`, `..\\`, Tomcat's `..;`), an encoded NUL, and
`;parameters` of a segment (which Java's servers cut off) where a matcher would decide otherwise
without them: `/admin;x/y` for `/admin/*`, `/admin;.css` for `*.css`.
One reading of such a path is let through by rules that stop another, whichever way round the
rules are; and browsers and curl resolve `..` before they send, so no honest client is hurt.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes

Match = Callable[[bytes], bool]

# A path without any of these is clean but for the case of its letters.
_needs_cleaning = re.compile(rb"[%\\]|//|/\.").search
_slashes = re.compile(rb"/{2,}")

# RFC 3986 3.3: pchar without what is unreserved anyway.
_PATH_SAFE = "/:@!$&'()*+,;=~"


class UnclearPathError(ValueError):
    """A path that has more than one reading."""


def path_of(target: bytes) -> bytes:
    """Return the path that matchers look at, in lower case; raises UnclearPathError."""
    return clean_path(target.partition(b"?")[0]).lower()


def clean_path(path: bytes) -> bytes:
    """Return the path decoded once and without empty and `.` segments; raises UnclearPathError."""
    if _needs_cleaning(path) is None:
        return path
    path = unquote_to_bytes(path).replace(b"\\", b"/")
    if b"\0" in path:
        raise UnclearPathError("the path holds a NUL")
    segments = path.split(b"/")
    if any(segment.partition(b";")[0] == b".." for segment in segments):
        raise UnclearPathError("the path holds a .. segment")
    return _join(segments)


def _without_parameters(path: bytes) -> bytes:
    """Return a clean path as servers read it that cut `;parameters` off its segments."""
    return _join([segment.partition(b";")[0] for segment in path.split(b"/")])


def _join(segments: list[bytes]) -> bytes:
    if segments[-1] == b".":
        segments[-1] = b""
    kept = [segment for segment in segments if segment != b"."]
    return _slashes.sub(b"/", b"/".join(kept))


def compile_matcher(pattern: str) -> Match:
    """Return a test of `path_of`'s result: exact, `/prefix*`, `*suffix`, `*part*` or `*`.

    The test raises UnclearPathError where `;parameters` decide, unless the pattern holds a `;`.
    """
    wanted = pattern.encode("utf-8").lower()
    if wanted == b"*":
        return lambda _path: True
    test = _compile_test(wanted)
    if b";" in wanted:
        return test

    def match(path: bytes) -> bool:
        matched = test(path)
        if b";" in path and test(_without_parameters(path)) != matched:
            raise UnclearPathError("the path matches or not, as its ;parameters are read")
        return matched

    return match


def _compile_test(wanted: bytes) -> Match:
    open_end = wanted.endswith(b"*")
    open_start = wanted.startswith(b"*")
    part = wanted[1 if open_start else 0 : -1 if open_end else None]
    if open_start and open_end:
        return lambda path: part in path
    if open_end:
        return lambda path: path.startswith(part)
    if open_start:
        return lambda path: path.endswith(part)
    return lambda path: path == part


def compile_strip(pattern: str) -> Callable[[bytes], bytes]:
    r"""Return what cuts a `handle_path` matcher's prefix (without its `*`) off a target.

    The target has matched. Where the prefix stands in it as written, the rest goes on as it is;
    else, spelt around, what goes on is the cleaned path, encoded anew: what was matched. The
    result begins with exactly one slash, so that it never reads as `//host` (or `/\host`).
    """
    prefix = pattern.encode("utf-8").lower().removesuffix(b"*").removesuffix(b"/")
    if pattern.startswith("*"):
        prefix = b""  # a suffix or a part names no prefix
    size = len(prefix)

    def strip(target: bytes) -> bytes:
        path, mark, query = target.partition(b"?")
        if path[:size].lower() == prefix:
            rest = path[size:]
        else:
            rest = quote(clean_path(path)[size:], safe=_PATH_SAFE).encode("ascii")
        return b"/" + rest.lstrip(b"/\\") + mark + query

    return strip
