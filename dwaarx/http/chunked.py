"""The chunked coding (RFC 9112 7.1) of both roles: bytes in, pieces of the body out."""

from __future__ import annotations

import re

from dwaarx.http.events import Field
from dwaarx.http.fields import (
    CONNECTION_SPECIFIC,
    TCHAR,
    VALUE_CHAR,
    FieldError,
    parse_fields,
)

# A line with a chunk's size: 15 digits, and extensions, which nobody uses. They are thrown away,
# so there is a limit for each and one for all of a message (else they carry a body of nothing).
MAX_CHUNK_LINE = 256
MAX_EXTENSIONS = 8192

# Trailers are a checksum or a status; a head's limits would be generous.
MAX_TRAILERS = 8192
MAX_TRAILER_FIELDS = 32

# RFC 9112 7.1: chunk-size = 1*HEXDIG. 15 digits hold an exabyte and fit into 63 bits.
# 7.1.1: chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ),
#   chunk-ext-val = token / quoted-string. The "bad" white space (BWS) is what attacks use, and
#   no client sends it: refused.
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\' + VALUE_CHAR + rb')*+"'
_EXTENSION = rb";" + TCHAR + rb"++(?:=(?:" + TCHAR + rb"++|" + _QUOTED + rb"))?+"
_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})((?:" + _EXTENSION + rb")*+)\r\n").fullmatch

# RFC 9110 6.5.1: a trailer must not frame, route or authenticate the message that it ends.
_FORBIDDEN = CONNECTION_SPECIFIC | {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"proxy-authorization",
    b"set-cookie",
    b"te",
    b"trailer",
}

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedDecoder:
    """Takes one message's chunked body apart, however it was split on its way.

    `trailers` holds the trailer fields, names in lower case, once `decode` has returned bytes.
    """

    __slots__ = ("_extensions", "_held", "_left", "_state", "_trailer_bytes", "trailers")

    def __init__(self) -> None:
        self.trailers: list[Field] = []
        self._state = _SIZE
        self._left = 0  # of the chunk's data
        self._held = b""  # the beginning of a line
        self._extensions = 0
        self._trailer_bytes = 0

    def decode(self, data: bytes, pieces: list[bytes]) -> bytes | None:
        """Append the body's pieces in `data` to `pieces`.

        Returns None while the body goes on, else the bytes that follow it. Raises FieldError
        for anything that RFC 9112 7.1 does not allow; pieces found before it are appended.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        at = 0
        size = len(data)
        while at < size:
            if self._state == _DATA:
                end = at + self._left
                if end > size:
                    pieces.append(data[at:])
                    self._left = end - size
                    return None
                pieces.append(data[at:end])
                at = end
                self._state = _DATA_END
            elif self._state == _DATA_END:
                if size - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise FieldError("a chunk is longer than its size")
                at += 2
                self._state = _SIZE
            else:
                limit = MAX_CHUNK_LINE if self._state == _SIZE else MAX_TRAILERS
                end = data.find(b"\n", at, at + limit) + 1
                if not end:
                    if size - at >= limit:
                        raise FieldError("a line of the chunked coding is too long")
                    break
                if self._state == _SIZE:
                    self._size(data, at, end)
                elif self._trailer(data, at, end):
                    return data[end:]
                at = end
        self._held = data[at:]
        return None

    def _size(self, data: bytes, start: int, end: int) -> None:
        line = _chunk_line(data, start, end)
        if line is None:
            raise FieldError("a chunk's size is malformed")
        digits, extensions = line.groups()
        self._extensions += len(extensions)
        if self._extensions > MAX_EXTENSIONS:
            raise FieldError("the chunk extensions are too long")
        self._left = int(digits, 16)
        self._state = _DATA if self._left else _TRAILERS

    def _trailer(self, data: bytes, start: int, end: int) -> bool:
        """Take one line of the trailer section; return whether it was the empty one."""
        if data[start:end] == b"\r\n":
            return True
        self._trailer_bytes += end - start
        if self._trailer_bytes > MAX_TRAILERS or len(self.trailers) == MAX_TRAILER_FIELDS:
            raise FieldError("the trailers are too long")
        (field,) = parse_fields(data, start, end)
        if field[0] in _FORBIDDEN:
            raise FieldError("a trailer field may stand in a head only")
        self.trailers.append(field)
        return False
