"""From bytes to the head of an HTTP/1 request (RFC 9112 2 to 6): a verdict on each, no state.

The grammar stands in regular expressions that match a whole head at once, and leaves out what
llhttp forgives; llhttp then reads the fields. It knows most methods: 501 for others.
"""

from __future__ import annotations

import re

import attrs

from dwaarx.http.events import Field, RequestHead
from dwaarx.http.fields import (
    CONNECTION_SPECIFIC,
    FIELD_LINES,
    TARGET_CHAR,
    TCHAR,
    CodingError,
    FieldError,
    connection_options,
    is_target,
    is_token,
    parse_authority,
    parse_content_length,
    parse_transfer_encoding,
    strip_hop_by_hop,
)
from dwaarx.http.llhttp import UnknownMethodError, request_fields

# What Chromium, nginx and the CDNs take: cookies of a few KiB and URIs of 8 KB (RFC 9112 3 asks
# for 8000 octets at least). A connection that has not been served yet cannot hold more memory.
MAX_REQUEST_LINE = 8192
MAX_HEAD = 32 * 1024
MAX_FIELDS = 100

# RFC 9112 3: request-line = method SP request-target SP HTTP-version CRLF
#   2.3: HTTP-version = HTTP-name "/" DIGIT "." DIGIT ; the target is looked at afterwards
_REQUEST_LINE = rb"(" + TCHAR + rb"++) ([\x21-\x7e]++) HTTP/([0-9]\.[0-9])\r\n"
_request_line = re.compile(_REQUEST_LINE).fullmatch
_head = re.compile(_REQUEST_LINE + rb"(" + FIELD_LINES + rb")\r\n").match

# RFC 9112 3.2.2: absolute-form, of which the scheme is not looked at: the connection has it
_absolute_form = re.compile(
    rb"https?://([^/?#]++)([/?]" + TARGET_CHAR + rb"*+)?", re.IGNORECASE
).fullmatch

_bare_lf = re.compile(rb"(?<!\r)\n").search

# Never passed on; Host is the authority. TE and what else Connection names may have to go too.
_TAKEN_OUT = CONNECTION_SPECIFIC | {b"host"}
_WATCHED = _TAKEN_OUT | {b"content-length", b"te"}
_PLAIN_OPTIONS = frozenset((b"close", b"keep-alive", b"upgrade"))


class RejectedError(Exception):
    """A request that is answered with this status, after which the connection closes."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@attrs.frozen
class ParsedHead:
    """A request's head, with what the session must know beyond it; `end` is where it ends."""

    head: RequestHead
    end: int
    chunked: bool
    keep_alive: bool


@attrs.frozen
class _Line:
    method: bytes
    authority: bytes | None  # of an absolute-form
    target: bytes
    version: bytes


def read_head(data: bytes | bytearray, looked: int, scheme: bytes) -> ParsedHead | None:
    """Read the head at the start of `data`; None while it is not whole and may become right.

    `looked` is the length of `data` at the call before, if it only grew since then. The same
    bytes have the same verdict however they are split: what is wrong first, counts. Raises
    RejectedError with 400, 414, 431, 501 or 505.
    """
    # RFC 9112 2.2: ignore at least one empty line before the request-line; one it is.
    start = 2 if data.startswith(b"\r\n") else 0
    limit = start + MAX_HEAD
    end = data.find(b"\r\n\r\n", max(start, looked - 3), limit) + 4
    if end < 4:
        _refuse_early(data, start, looked, min(len(data), limit))
        if len(data) >= limit:
            raise RejectedError(431, "the head is too long")
        return None
    match = _head(data, start, end)
    if match is None or match.end(3) - start > MAX_REQUEST_LINE:
        _refuse_early(data, start, 0, end)
        raise RejectedError(400, "a header field is malformed")
    method, target, version, _ = match.groups()
    line = _check_line(method, target, version)
    try:
        fields = request_fields(bytes(data[start:end]))
        if len(fields) > MAX_FIELDS:
            raise RejectedError(431, "the head has too many fields")
        return _check_fields(line, fields, scheme, end)
    except (CodingError, UnknownMethodError) as error:
        raise RejectedError(501, str(error)) from error
    except FieldError as error:
        raise RejectedError(400, str(error)) from error


def _refuse_early(data: bytes | bytearray, start: int, looked: int, stop: int) -> None:
    """Raise RejectedError if data[start:stop] cannot begin a head.

    A client that ends its lines with LF alone would else wait for an answer, and we for CRLF.
    """
    line_end = data.find(b"\n", start, start + MAX_REQUEST_LINE + 2) + 1
    if not line_end:
        if stop - start >= MAX_REQUEST_LINE + 2:
            raise RejectedError(414, "the request line is too long")
        return
    if looked < line_end:
        line = _request_line(data, start, line_end)
        if line is None:
            raise RejectedError(400, "the request line is malformed")
        _check_line(*line.groups())
    if _bare_lf(data, max(line_end, looked), stop):
        raise RejectedError(400, "a line ends with a bare LF")


def _check_line(method: bytes, target: bytes, version: bytes) -> _Line:
    if version not in (b"1.1", b"1.0"):
        raise RejectedError(505, "the HTTP version is not 1.0 or 1.1")
    if method == b"CONNECT":
        raise RejectedError(501, "CONNECT is not served here")
    if is_target(target):
        if target == b"*" and method != b"OPTIONS":
            raise RejectedError(400, "the target * is for OPTIONS")
        return _Line(method, None, target, version)
    absolute = _absolute_form(target)
    if absolute is None:
        raise RejectedError(400, "the request target is malformed")
    try:
        authority = parse_authority(absolute[1])
    except FieldError as error:
        raise RejectedError(400, str(error)) from error
    # RFC 9112 3.2.1 and 3.2.4: an empty path is "/", or "*" for OPTIONS
    target = absolute[2]
    if not target:
        target = b"*" if method == b"OPTIONS" else b"/"
    elif target.startswith(b"?"):
        target = b"/" + target
    return _Line(method, authority, target, version)


def _check_fields(line: _Line, fields: list[Field], scheme: bytes, end: int) -> ParsedHead:
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    connections: list[bytes] = []
    upgrades: list[bytes] = []
    special = te = False
    for name, value in fields:
        if name in _WATCHED:
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                lengths.append(value)
            elif name == b"te":
                te = True
            else:
                special = True
                if name == b"connection":
                    connections.append(value)
                elif name == b"transfer-encoding":
                    codings.append(value)
                elif name == b"upgrade":
                    upgrades.append(value)
    version = line.version

    # RFC 9112 3.2: exactly one Host in 1.1, and a right one even where the target overrules it
    if len(hosts) != 1 and (hosts or version == b"1.1"):
        raise FieldError("Host is given twice" if hosts else "Host is missing")
    authority = parse_authority(hosts[0]) if hosts else b""
    if line.authority is not None:
        authority = line.authority

    # RFC 9112 6.1 to 6.3: whoever is unsure where a message ends can be made to smuggle one
    if codings and lengths:
        raise FieldError("both Content-Length and Transfer-Encoding are given")
    if codings and version == b"1.0":
        raise FieldError("HTTP/1.0 has no Transfer-Encoding")
    if len(lengths) > 1:
        raise FieldError("Content-Length is given twice")
    chunked = parse_transfer_encoding(codings)
    length = parse_content_length(lengths)

    keep_alive = version == b"1.1"
    upgrade = None
    if special or te:
        options = connection_options(connections)
        keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        if b"upgrade" in options and version == b"1.1" and not chunked and not length:
            upgrade = _upgrade(upgrades)
        if te or not options <= _PLAIN_OPTIONS:
            fields = strip_hop_by_hop(fields)
    fields = [field for field in fields if field[0] not in _TAKEN_OUT]
    head = RequestHead(
        line.method, scheme, authority, line.target, fields, version, length, upgrade
    )
    return ParsedHead(head, end, chunked, keep_alive)


def _upgrade(values: list[bytes]) -> bytes | None:
    """Return the protocol that is asked for; of several, the one the client likes best.

    HTTP itself is not one: h2c (RFC 9113 3.1 withdrew it) would tunnel past what a site checks.
    """
    protocol = values[0].split(b",")[0].strip(b" \t").lower() if values else b""
    name, _, version = protocol.partition(b"/")
    if not is_token(name) or (version and not is_token(version)) or name in (b"h2c", b"http"):
        return None
    return protocol
