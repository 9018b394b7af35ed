"""HTTP/2 frames on the wire (RFC 9113 sections 4 and 6): bytes to payloads and back, no state.

Nothing here depends on the role. PUSH_PROMISE has no decoder: a server must not get one, and a
client that sends ENABLE_PUSH=0 must not either, so that it is a connection error in both roles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from struct import Struct, iter_unpack

# What a client says first (section 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADER_LENGTH = 9

# SETTINGS_MAX_FRAME_SIZE of both sides until they say otherwise; we never do: frames of 16 KiB
# cost 0.05 % more bytes than large ones, and keep streams interleaving.
MAX_FRAME_SIZE = 16_384
LARGEST_FRAME_SIZE = 2**24 - 1

DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1

# Flags (section 6); END_STREAM of DATA and HEADERS is the same bit as ACK of SETTINGS and PING.
END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
PRIORITY = 0x20


class FrameType(IntEnum):
    """The frame types of RFC 9113 section 6; others are ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """The settings of RFC 9113 section 6.5.2 and RFC 9218; others are ignored."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    NO_RFC7540_PRIORITIES = 9


class ErrorCode(IntEnum):
    """The error codes of RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ProtocolError(Exception):
    """The peer broke a rule: the error code for it, and a sentence that says how."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class H2ConnectionError(ProtocolError):
    """The connection cannot go on (section 5.4.1)."""


class StreamError(ProtocolError):
    """One stream cannot go on; the connection can (section 5.4.2)."""


# The 24-bit length as its high byte and the 16 below, type, flags, stream id.
_header = Struct(">BHBBL")
_unpack_header = _header.unpack_from
_pack_header = _header.pack
_pack_long = Struct(">L").pack
_pack_frame_of_long = Struct(">BHBBLL").pack

Frame = tuple[int, int, int, bytes]  # type, flags, stream id, payload


class FrameBuffer:
    """Cuts a stream of bytes into frames, however it is split; holds one partial frame at most."""

    __slots__ = ("_needed", "_pending")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole now; to be exhausted before the next call.

        Raises H2ConnectionError for a frame over MAX_FRAME_SIZE, before its payload is read
        (section 4.2), whatever its type: no peer that heeds our settings sends one.
        """
        pending = self._pending
        if pending:
            pending += data
            if len(pending) < self._needed:
                return
            data = bytes(pending)
            pending.clear()
        at = 0
        end = len(data)
        while end - at >= HEADER_LENGTH:
            high, length, kind, flags, stream_id = _unpack_header(data, at)
            if high or length > MAX_FRAME_SIZE:
                raise H2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "a frame is over 16,384 bytes")
            start = at + HEADER_LENGTH
            after = start + length
            if after > end:
                self._needed = after - at
                pending += data[at:]
                return
            yield kind, flags, stream_id & MAX_STREAM_ID, data[start:after]
            at = after
        if at < end:
            self._needed = HEADER_LENGTH
            pending += data[at:]

    @property
    def partial(self) -> int | None:
        """The type of the frame that has begun to come, -1 if not yet known, None if none has."""
        if not self._pending:
            return None
        return self._pending[3] if len(self._pending) > 3 else -1


def header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return a frame's header (section 4.1)."""
    return _pack_header(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def encode(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return header(len(payload), kind, flags, stream_id) + payload


def encode_headers(
    stream_id: int, block: bytes, *, end: bool, limit: int = MAX_FRAME_SIZE
) -> bytes:
    """Return a field block as HEADERS and what CONTINUATION it needs; `limit`: of the receiver."""
    flags = END_STREAM if end else 0
    if len(block) <= limit:
        return encode(FrameType.HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [encode(FrameType.HEADERS, flags, stream_id, block[:limit])]
    for at in range(limit, len(block), limit):
        last = END_HEADERS if at + limit >= len(block) else 0
        parts.append(encode(FrameType.CONTINUATION, last, stream_id, block[at : at + limit]))
    return b"".join(parts)


def encode_settings(settings: Iterable[tuple[int, int]]) -> bytes:
    """Return SETTINGS with these identifiers and values (section 6.5)."""
    payload = b"".join(number.to_bytes(2) + value.to_bytes(4) for number, value in settings)
    return encode(FrameType.SETTINGS, 0, 0, payload)


SETTINGS_ACK = encode(FrameType.SETTINGS, ACK, 0)


def encode_ping(opaque: bytes, *, ack: bool) -> bytes:
    """Return PING with its eight bytes (section 6.7)."""
    return encode(FrameType.PING, ACK if ack else 0, 0, opaque)


def encode_priority(stream_id: int, depends_on: int, weight: int) -> bytes:
    """Return PRIORITY (section 6.3): deprecated, and never sent by us."""
    return encode(FrameType.PRIORITY, 0, stream_id, _pack_long(depends_on) + bytes((weight,)))


def encode_rst_stream(stream_id: int, code: int) -> bytes:
    """Return RST_STREAM (section 6.4)."""
    return _pack_frame_of_long(0, 4, FrameType.RST_STREAM, 0, stream_id, code)


def encode_window_update(stream_id: int, increment: int) -> bytes:
    """Return WINDOW_UPDATE, of the connection for stream 0 (section 6.9)."""
    return _pack_frame_of_long(0, 4, FrameType.WINDOW_UPDATE, 0, stream_id, increment)


def encode_goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """Return GOAWAY (section 6.8)."""
    payload = _pack_long(last_stream_id) + _pack_long(code) + debug
    return encode(FrameType.GOAWAY, 0, 0, payload)


def on_stream(stream_id: int, kind: str) -> None:
    """Check that a frame that belongs to a stream names one."""
    if not stream_id:
        raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"{kind} on stream 0")


def _on_connection(stream_id: int, kind: str) -> None:
    if stream_id:
        raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"{kind} on a stream")


def _of_length(payload: bytes, length: int, kind: str) -> None:
    if len(payload) != length:
        raise H2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, f"{kind} has not {length} bytes")


def decode_data(flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return a DATA frame's data, without padding (section 6.1)."""
    on_stream(stream_id, "DATA")
    return _unpad(payload, 0, "DATA") if flags & PADDED else payload


def _unpad(payload: bytes, fixed: int, kind: str) -> bytes:
    """Cut off the padding and its length; `fixed`: how many bytes lie between them and the data."""
    if not payload:
        raise H2ConnectionError(
            ErrorCode.FRAME_SIZE_ERROR, f"padded {kind} has no length of padding"
        )
    if payload[0] + fixed >= len(payload):
        raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, f"the padding of {kind} is too long")
    return payload[1 : len(payload) - payload[0]]


def decode_headers(flags: int, stream_id: int, payload: bytes) -> tuple[bytes, int | None]:
    """Return the block fragment of HEADERS, and the stream it depends on (section 6.2)."""
    on_stream(stream_id, "HEADERS")
    fixed = 5 if flags & PRIORITY else 0
    if flags & PADDED:
        payload = _unpad(payload, fixed, "HEADERS")
    if not fixed:
        return payload, None
    if len(payload) < fixed:
        raise H2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS has not 5 bytes of priority")
    return payload[fixed:], int.from_bytes(payload[:4]) & MAX_STREAM_ID


def decode_priority(stream_id: int, payload: bytes) -> int:
    """Return the stream that this one depends on (section 6.3)."""
    on_stream(stream_id, "PRIORITY")
    if len(payload) != 5:
        raise StreamError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has not 5 bytes")
    return int.from_bytes(payload[:4]) & MAX_STREAM_ID


def decode_rst_stream(stream_id: int, payload: bytes) -> int:
    """Return the error code, which may be an unknown one (section 6.4)."""
    on_stream(stream_id, "RST_STREAM")
    _of_length(payload, 4, "RST_STREAM")
    return int.from_bytes(payload)


def decode_settings(flags: int, stream_id: int, payload: bytes) -> list[tuple[int, int]] | None:
    """Return identifiers and values in order, None for an acknowledgement (section 6.5)."""
    _on_connection(stream_id, "SETTINGS")
    if flags & ACK:
        _of_length(payload, 0, "SETTINGS with ACK")
        return None
    if len(payload) % 6:
        raise H2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS is no multiple of 6 bytes")
    return list(iter_unpack(">HL", payload))


def decode_ping(stream_id: int, payload: bytes) -> None:
    """Check a PING, whose payload is its eight bytes (section 6.7)."""
    _on_connection(stream_id, "PING")
    _of_length(payload, 8, "PING")


def decode_goaway(stream_id: int, payload: bytes) -> tuple[int, int]:
    """Return the last stream id and the error code (section 6.8)."""
    _on_connection(stream_id, "GOAWAY")
    if len(payload) < 8:
        raise H2ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is under 8 bytes")
    return int.from_bytes(payload[:4]) & MAX_STREAM_ID, int.from_bytes(payload[4:8])


def decode_window_update(payload: bytes) -> int:
    """Return the increment, which may be 0, an error of the stream or connection (section 6.9)."""
    _of_length(payload, 4, "WINDOW_UPDATE")
    return int.from_bytes(payload) & MAX_WINDOW


def error_name(code: int) -> str:
    """Return an error code's name, or its number when it is unknown."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code:#x}"
