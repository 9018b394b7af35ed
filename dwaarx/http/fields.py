"""The grammar of HTTP fields: what the HTTP/1.1 and HTTP/2 sessions of both roles share.

Nothing here repairs: what does not match its expression is refused. Every expression is linear
in its input (possessive where two parts could match the same byte).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

from dwaarx.http.events import Field, Fields

# RFC 9110 5.6.2: tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_"
#                        / "`" / "|" / "~" / DIGIT / ALPHA ; token = 1*tchar
TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_is_token = re.compile(TCHAR + rb"+").fullmatch

# RFC 9110 5.5: field-vchar = VCHAR / obs-text ; VCHAR = %x21-7E ; obs-text = %x80-FF
#   field-content = field-vchar [ 1*( SP / HTAB / field-vchar ) field-vchar ]
VCHAR = rb"[\x21-\x7e\x80-\xff]"
VALUE_CHAR = rb"[\t\x20-\x7e\x80-\xff]"
# The same as a table, for bytes.translate: what is left after these are deleted is forbidden.
VALUE_CHARS = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
_is_value = re.compile(rb"(?:" + VCHAR + rb"(?:" + VALUE_CHAR + rb"*" + VCHAR + rb")?)?").fullmatch

# RFC 9112 3.2.1: origin-form = absolute-path [ "?" query ] ; 3.2.4: asterisk-form = "*"
# RFC 3986 is narrower, but browsers send | [ ] { } ^ " as they are; "#" never belongs here.
TARGET_CHAR = rb"[!\"$-~]"
_is_target = re.compile(rb"/" + TARGET_CHAR + rb"*|\*").fullmatch

# RFC 9112 5: field-line = field-name ":" OWS field-value OWS ; each ended by CRLF (2.1).
# No white space before the colon, no obs-fold, no bare CR or LF, no other control: refused.
FIELD_LINES = rb"(?:" + TCHAR + rb"++:" + VALUE_CHAR + rb"*+\r\n)*+"
_is_field_lines = re.compile(FIELD_LINES).fullmatch
# Of lines that match the above: the names and the values, these still with white space after.
_split_fields = re.compile(rb"([^:]++):[\t ]*+([^\r]*+)\r\n").findall

# RFC 9110 8.6: Content-Length = 1*DIGIT. 18 digits hold an exabyte and fit into 63 bits.
_is_length = re.compile(rb"[0-9]{1,18}").fullmatch

# RFC 9110 7.2: Host = uri-host [ ":" port ] ; RFC 3986 3.2.2: host = IP-literal / reg-name,
#   reg-name = *( unreserved / pct-encoded / sub-delims ) ; 3.2.3: port = *DIGIT
_split_authority = re.compile(
    rb"(?:(?:[a-z0-9._~!$&'()*+,;=-]|%[0-9a-f]{2})++|\[([0-9a-f:.]{2,45})\])(?::([0-9]{0,5}))?"
).fullmatch

MAX_PORT = 0xFFFF

# A DNS name has 253 bytes; the rest is for a port and for escapes. What is longer names no site.
MAX_AUTHORITY = 1024

# RFC 9110 7.6.1, RFC 9113 8.2.2: they speak of one connection, and are never passed on.
CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)

# Connection must not name these (RFC 9110 7.6.1); a peer that does loses neither.
_NEVER_AN_OPTION = frozenset((b"content-length", b"host"))


class FieldError(ValueError):
    """A field that breaks its grammar; the text is a sentence that names the field."""


class CodingError(FieldError):
    """A transfer coding that exists, but not here (RFC 9112 6.1: 501)."""


def is_token(name: bytes) -> bool:
    """Whether this is a token of RFC 9110 5.6.2 (a field name, a method), in any case."""
    return _is_token(name) is not None


def is_value(value: bytes) -> bool:
    """Whether this is a field value of RFC 9110 5.5: no control but HTAB, no outer white space."""
    return _is_value(value) is not None


def is_target(value: bytes) -> bool:
    """Whether this is a request target in origin-form or `*`: visible ASCII without `#`."""
    return _is_target(value) is not None


def check_fields(data: bytes | bytearray, start: int, end: int) -> None:
    """Check the field lines data[start:end], each ended by CRLF (RFC 9112 5).

    Raises FieldError if any breaks the grammar (the empty line is not part of them).
    """
    if _is_field_lines(data, start, end) is None:
        raise FieldError("a header field is malformed")


def parse_fields(data: bytes | bytearray, start: int, end: int) -> list[Field]:
    """Return the fields of lines that `check_fields` would take, names in lower case.

    Raises FieldError as it does.
    """
    check_fields(data, start, end)
    return [(name.lower(), value.rstrip(b"\t ")) for name, value in _split_fields(data, start, end)]


def parse_content_length(values: Iterable[bytes]) -> int | None:
    """Return the length that all of these Content-Length values give, None if there are none.

    Raises FieldError unless each is 1 to 18 digits and all are the same (RFC 9110 8.6).
    """
    length: bytes | None = None
    for value in values:
        if _is_length(value) is None:
            raise FieldError("Content-Length is not plain digits")
        if length is not None and value != length:
            raise FieldError("Content-Length is given twice, differently")
        length = value
    return None if length is None else int(length)


def parse_transfer_encoding(values: Iterable[bytes]) -> bool:
    """Return whether the body is chunked; no values: it is not.

    Raises FieldError for anything but one `chunked`, and CodingError where that was another
    coding applied before a final `chunked` (RFC 9112 6.1).
    """
    codings = [coding.strip(b" \t").lower() for value in values for coding in value.split(b",")]
    if not codings:
        return False
    if codings == [b"chunked"]:
        return True
    if codings[-1] == b"chunked" and codings.count(b"chunked") == 1 and all(map(is_token, codings)):
        raise CodingError("Transfer-Encoding has a coding other than chunked")
    raise FieldError("Transfer-Encoding is not a single chunked")


@lru_cache(maxsize=256)  # a client says the same with each request
def parse_authority(value: bytes) -> bytes:
    """Return an authority (Host, :authority) in lower case; an empty port is left out.

    Raises FieldError unless it is a name, an IPv4 address or a bracketed IPv6 address, with
    an optional port of 0 to 65535 (RFC 9110 7.2, RFC 3986 3.2). User info is refused.
    """
    if len(value) > MAX_AUTHORITY:
        raise FieldError("the host is too long")
    value = value.lower()
    parts = _split_authority(value)
    if parts is None:
        raise FieldError("the host is malformed")
    literal, port = parts.groups()
    if port is not None:
        if not port:
            value = value[:-1]
        elif int(port) > MAX_PORT:
            raise FieldError("the host's port is over 65535")
    if literal is not None:
        try:
            IPv6Address(literal.decode("ascii"))
        except AddressValueError as error:
            raise FieldError("the host's IPv6 address is malformed") from error
    return value


def connection_options(values: Iterable[bytes]) -> frozenset[bytes]:
    """Return the options that Connection's values list, in lower case (RFC 9110 7.6.1).

    Raises FieldError for one that is not a token; empty elements are no options (5.6.1).
    """
    options = set()
    for value in values:
        for element in value.split(b","):
            option = element.strip(b" \t")
            if option:
                if _is_token(option) is None:
                    raise FieldError("Connection has an option that is not a token")
                options.add(option.lower())
    return frozenset(options)


def strip_hop_by_hop(fields: Fields) -> list[Field]:
    """Return the fields (names in lower case) without those that speak of one connection.

    Dropped are CONNECTION_SPECIFIC and what Connection names (RFC 9110 7.6.1). TE stays as
    `trailers` where it holds that, since the next connection may say it again (10.1.4).
    Raises FieldError as `connection_options` does.
    """
    dropped = CONNECTION_SPECIFIC
    options = connection_options([value for name, value in fields if name == b"connection"])
    if options:
        dropped = dropped | (options - _NEVER_AN_OPTION)
    kept: list[Field] = []
    for field in fields:
        name = field[0]
        if name == b"te":
            codings = [coding.strip(b" \t").lower() for coding in field[1].split(b",")]
            if b"trailers" in codings:
                kept.append((b"te", b"trailers"))
        elif name not in dropped:
            kept.append(field)
    return kept
