"""A client's half of HTTP/2 by hand: frames to send, and what came back taken apart."""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Decoder, Encoder

from dwaarx.http import frames
from dwaarx.http.events import Event
from dwaarx.http.frames import PREFACE, FrameType
from dwaarx.http.h2 import H2Session

GET = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "example.com"),
    (":path", "/"),
]
POST = [(":method", "POST"), *GET[1:]]
SETTINGS = frames.encode_settings(())
END_STREAM = frames.END_STREAM
END_HEADERS = frames.END_HEADERS


def block(fields: Iterable[tuple[str | bytes, str | bytes]] = GET) -> bytes:
    """Return a field block that touches no dynamic table."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return b"".join(
        encoder.add((_bytes(name), _bytes(value)), True, False) for name, value in fields
    )


def _bytes(word: str | bytes) -> bytes:
    return word.encode() if isinstance(word, str) else word


def headers(stream_id: int, fields=GET, *, end: bool = True) -> bytes:
    return frames.encode_headers(stream_id, block(fields), end=end)


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    return frames.encode(FrameType.DATA, END_STREAM if end else 0, stream_id, payload)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frames.encode(kind, flags, stream_id, payload)


def parse(received: bytes) -> list[frames.Frame]:
    """Return the frames in what a session sent."""
    buffer = frames.FrameBuffer()
    out = list(buffer.feed(received))
    assert buffer.partial is None
    return out


class Peer:
    """A session that has been greeted, and the client's view of it."""

    def __init__(self, settings: bytes = SETTINGS, *, now=lambda: 0.0, split=False) -> None:
        self.session = H2Session(now)
        self.split = split
        self.decoder = Decoder()
        self.send(PREFACE + settings)
        self.frames()

    def send(self, received: bytes) -> list[Event]:
        """Give bytes to the session, one by one with `split`."""
        if not self.split:
            return self.session.receive_data(received)
        return [event for byte in received for event in self.session.receive_data(bytes((byte,)))]

    def frames(self) -> list[frames.Frame]:
        """Everything the session sends now, until it has no more."""
        out = b""
        while sent := self.session.data_to_send():
            out += sent
        return parse(out)

    def kinds(self) -> list[int]:
        return [kind for kind, _, _, _ in self.frames()]

    def fields(self, payload: bytes) -> list[tuple[bytes, bytes]]:
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(payload, True)]

    def goaway(self) -> frames.ErrorCode | None:
        """The error code of a GOAWAY among what the session sends now."""
        for kind, _, _, payload in self.frames():
            if kind == FrameType.GOAWAY:
                return frames.ErrorCode(int.from_bytes(payload[4:8]))
        return None

    def resets(self) -> dict[int, frames.ErrorCode]:
        """The streams that the session resets now."""
        return {
            stream_id: frames.ErrorCode(int.from_bytes(payload))
            for kind, _, stream_id, payload in self.frames()
            if kind == FrameType.RST_STREAM
        }
