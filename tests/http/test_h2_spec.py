"""What h2spec asks of a server, case by case under its numbers, with bytes whole and one by one.

Of its generic list all of 1 to 5, of http2 all of 3.5 to 8, of hpack all of 2 to 6. Where RFC 7540,
which it follows, leaves a choice, the test holds the session to the one that it has made.
"""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from dwaarx.http import frames
from dwaarx.http.events import BodyEnded, BodyReceived, ConnectionEnded, Event, RequestReceived
from dwaarx.http.frames import MAX_WINDOW, PADDED, PREFACE, PRIORITY, ErrorCode, FrameType
from dwaarx.http.h2 import MAX_CONCURRENT_STREAMS, H2Session
from tests.http.h2_wire import (
    END_HEADERS,
    END_STREAM,
    GET,
    POST,
    SETTINGS,
    Peer,
    block,
    data,
    frame,
    headers,
)

WHOLE = END_STREAM | END_HEADERS
PING = frames.encode_ping(b"h2spec!!", ack=False)
PONG = (FrameType.PING, frames.ACK, 0, b"h2spec!!")
WAITING = headers(1, POST, end=False)  # a request whose body is to come
ENDED = headers(1)
RESET = WAITING + frames.encode_rst_stream(1, ErrorCode.CANCEL)

PROTOCOL = ErrorCode.PROTOCOL_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
CLOSED = ErrorCode.STREAM_CLOSED
COMPRESSION = ErrorCode.COMPRESSION_ERROR


class Server(Peer):
    """Answers each request with "hello" when it is whole, and keeps what the session sends."""

    def __init__(self, split: bool) -> None:
        self.sent: list[frames.Frame] = []
        self.bodies: dict[int, bytes] = {}
        self.ended = False
        super().__init__(split=split)

    def send(self, received: bytes) -> list[Event]:
        if not self.split:
            return self.take(received)
        return [event for byte in received for event in self.take(bytes((byte,)))]

    def send_each(self, case: bytes | tuple[bytes, ...]) -> None:
        """Send a case; of several parts, each when the one before has been dealt with."""
        for part in (case,) if isinstance(case, bytes) else case:
            self.send(part)

    def take(self, received: bytes) -> list[Event]:
        events = self.session.receive_data(received)
        for event in events:
            if isinstance(event, ConnectionEnded):
                self.ended = True
            elif isinstance(event, BodyReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            elif isinstance(event, BodyEnded) or (
                isinstance(event, RequestReceived) and event.ended
            ):
                self.session.send_response(event.stream_id, 200, (), b"hello")
        self.sent += self.frames()
        return events

    def answered(self) -> set[int]:
        """The streams on which a whole response has gone out."""
        return {
            stream_id
            for kind, flags, stream_id, _ in self.sent
            if kind == FrameType.DATA and flags & END_STREAM
        }

    def errors(self) -> list[tuple[int, ErrorCode]]:
        """Streams that were reset, and 0 for GOAWAY, with their error codes."""
        return [
            (stream_id, ErrorCode(int.from_bytes(payload[-4:] if kind == 3 else payload[4:8])))
            for kind, _, stream_id, payload in self.sent
            if kind in (FrameType.RST_STREAM, FrameType.GOAWAY)
        ]


@pytest.fixture(params=[False, True], ids=["whole", "bytes"])
def server(request) -> Server:
    server = Server(request.param)
    server.sent.clear()
    return server


def dependence(on: int, weight: int = 15, *, exclusive: bool = False) -> bytes:
    return (on | exclusive << 31).to_bytes(4) + bytes((weight,))


def parts(stream_id: int, *sizes: int, fields=GET, end: bool = True) -> bytes:
    """A field block as HEADERS and CONTINUATION: these sizes first, then the rest."""
    raw = block([*fields, ("x-dummy", "x" * 50)])
    cut, at = [], 0
    for size in sizes:
        cut.append(raw[at : at + size])
        at += size
    cut.append(raw[at:])
    flags = [END_STREAM if end else 0, *[0] * len(sizes)]
    flags[-1] |= END_HEADERS
    kinds = [FrameType.HEADERS, *[FrameType.CONTINUATION] * len(sizes)]
    return b"".join(
        frame(kind, flag, stream_id, piece)
        for kind, flag, piece in zip(kinds, flags, cut, strict=True)
    )


def raw_block(extra: bytes, stream_id: int = 1) -> bytes:
    """A request whose field block has these bytes after a GET's."""
    return frame(FrameType.HEADERS, WHOLE, stream_id, block() + extra)


def huffman(value: bytes) -> bytes:
    coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value)
    return bytes((0x80 | len(coded),)) + coded


NAME, VALUE = b"\x07x-dummy", b"\x05value"
HUFFMAN_NAME, HUFFMAN_VALUE = huffman(b"x-dummy"), huffman(b"value")
USER_AGENT = 58  # in the static table

# Literals, by what they do with the table: the first byte with a name of their own, and with one
# of the static table.
LITERALS = {
    "incremental": (b"\x40", bytes((0x40 | USER_AGENT,))),
    "without": (b"\x00", bytes((0x0F, USER_AGENT - 15))),
    "never": (b"\x10", bytes((0x1F, USER_AGENT - 15))),
}

SERVED = {
    "generic/2/1 priority of an idle stream": frame(2, 0, 1, dependence(0)) + ENDED,
    "generic/2/3 priority of a half-closed stream": ENDED + frame(2, 0, 1, dependence(0)),
    "generic/2/4 reset of a half-closed stream": (ENDED, frames.encode_rst_stream(1, 8)),
    "generic/2/5 priority of a closed stream": (ENDED, frame(2, 0, 1, dependence(0))),
    "generic/3.1/1 data": WAITING + data(1, b"test", end=True),
    "generic/3.1/2 data in several frames": WAITING + data(1, b"te") + data(1, b"st", end=True),
    "generic/3.1/3 padded data": WAITING + frame(0, PADDED | END_STREAM, 1, b"\x06test" + bytes(6)),
    "generic/3.2/1 headers": ENDED,
    "generic/3.2/2 padded headers": frame(1, WHOLE | PADDED, 1, b"\x06" + block() + bytes(6)),
    "generic/3.2/3 headers with priority": (
        frame(1, WHOLE | PRIORITY, 1, dependence(0, 255) + block())
    ),
    "generic/3.3/1 weight 1": frame(2, 0, 1, dependence(0, 0)) + ENDED,
    "generic/3.3/2 weight 256": frame(2, 0, 1, dependence(0, 255)) + ENDED,
    "generic/3.3/3 dependence": frame(2, 0, 3, dependence(1)) + ENDED,
    "generic/3.3/4 exclusive dependence": frame(2, 0, 3, dependence(1, exclusive=True)) + ENDED,
    "generic/3.3/5 priority, then a lower stream": frame(2, 0, 99, dependence(0)) + ENDED,
    "generic/3.5/1 settings": frames.encode_settings([(3, 100)]) + ENDED,
    "generic/3.9/1 window of the connection": frames.encode_window_update(0, 1) + ENDED,
    "generic/3.9/2 window of a stream": ENDED + frames.encode_window_update(1, 1),
    "generic/3.10/1 continuation": parts(1, 10),
    "generic/3.10/2 continuations": parts(1, 10, 10, 10),
    "generic/4/1 GET": ENDED,
    "generic/4/3 POST": WAITING + data(1, b"test", end=True),
    "generic/4/4 POST with trailers": WAITING + data(1, b"test") + headers(1, [("x-test", "ok")]),
    "generic/5/1 indexed field": raw_block(bytes((0x80 | 16,))),
    **{
        f"generic/5 literal, {what}, {how}": raw_block(first + name + value)
        for what, (new, known) in LITERALS.items()
        for how, first, name, value in (
            ("known name", known, b"", VALUE),
            ("known name, Huffman", known, b"", HUFFMAN_VALUE),
            ("new name", new, NAME, VALUE),
            ("new name, Huffman", new, HUFFMAN_NAME, HUFFMAN_VALUE),
        )
    },
    "generic/5/14 table size update": frame(1, WHOLE, 1, b"\x20" + block()),
    "generic/5/15 table size updates": frame(1, WHOLE, 1, b"\x20\x3f\xe1\x1f" + block()),
    "http2/4.1/1 unknown frame": frame(22, 0, 0, b"\0" * 4) + PING + ENDED,
    "http2/4.1/2 undefined flags": frame(6, 0x16, 0, bytes(8)) + ENDED,
    "http2/4.1/3 reserved bit": frame(6, 0, 1 << 31, bytes(8)) + ENDED,
    "http2/4.2/1 data of 2^14": WAITING + data(1, bytes(16_384), end=True),
    "http2/5.5/1 unknown frame": frame(22, 0, 0, bytes(8)) + ENDED,
    "http2/6.5.2/6 unknown setting": frames.encode_settings([(0xFF, 1)]) + ENDED,
    "http2/6.7/2 ping with ack": frames.encode_ping(b"invalid!", ack=True) + PING + ENDED,
    "http2/6.10/1 continuations": parts(1, 1, 1, 1),
}


@pytest.mark.parametrize("name", SERVED)
def test_what_is_served(server, name):
    server.send_each(SERVED[name])
    server.send(PING)
    assert server.errors() == []
    assert server.answered() == {1}
    assert PONG in server.sent
    assert not server.ended


@pytest.mark.parametrize("code", [8, 0xFF], ids=["generic/3.4/1", "http2/7/2 unknown code"])
def test_the_clients_reset(server, code):
    server.send(WAITING + frames.encode_rst_stream(1, code) + headers(3))
    assert server.errors() == []
    assert server.answered() == {3}


def connection(code: ErrorCode) -> tuple[bool, ErrorCode]:
    return True, code


def stream(code: ErrorCode) -> tuple[bool, ErrorCode]:
    return False, code


def without(name: str, *more: tuple[str, str]) -> bytes:
    return headers(1, [*(field for field in GET if field[0] != name), *more])


REFUSED = {
    # 4: frames and field blocks
    "http2/4.2/2 data over 2^14": (WAITING + data(1, bytes(16_385)), connection(SIZE)),
    "http2/4.2/3 headers over 2^14": (frame(1, WHOLE, 1, bytes(16_385)), connection(SIZE)),
    "http2/4.3/1 invalid block": (
        frame(1, WHOLE, 1, b"\x00\xff\xff\xff\xff\xff"),
        connection(COMPRESSION),
    ),
    "http2/4.3/2 priority inside of a block": (
        parts(1, 10)[: 9 + 10] + frame(2, 0, 1, dependence(0)),
        connection(PROTOCOL),
    ),
    "http2/4.3/3 headers of another stream inside of a block": (
        parts(1, 10)[: 9 + 10] + headers(3),
        connection(PROTOCOL),
    ),
    # 5.1: states
    "http2/5.1/1 idle: data": (data(1, b"test", end=True), connection(PROTOCOL)),
    "http2/5.1/2 idle: reset": (frames.encode_rst_stream(1, 8), connection(PROTOCOL)),
    "http2/5.1/3 idle: window": (frames.encode_window_update(1, 100), connection(PROTOCOL)),
    "http2/5.1/4 idle: continuation": (frame(9, END_HEADERS, 1, block()), connection(PROTOCOL)),
    "http2/5.1/7 half-closed: continuation": (
        ENDED + frame(9, END_HEADERS, 1, block()),
        connection(PROTOCOL),
    ),
    "http2/5.1/8 reset: data": (RESET + data(1, b"test"), stream(CLOSED)),
    "http2/5.1/9 reset: headers": (RESET + headers(1, [("x", "y")]), stream(CLOSED)),
    "http2/5.1/10 reset: continuation": (RESET + frame(9, END_HEADERS, 1), connection(PROTOCOL)),
    "http2/5.1/11 closed: data": ((ENDED, data(1, b"test")), connection(CLOSED)),
    "http2/5.1/12 closed: headers": ((ENDED, headers(1)), connection(CLOSED)),
    "http2/5.1/13 closed: continuation": (
        WAITING + data(1, b"", end=True) + frame(9, END_HEADERS, 1),
        connection(PROTOCOL),
    ),
    "http2/5.1.1/1 even stream": (headers(2), connection(PROTOCOL)),
    "http2/5.1.1/2 lower stream": (headers(5) + headers(3), connection(PROTOCOL)),
    # 5.3.1: dependencies
    "http2/5.3.1/1 headers that depend on themselves": (
        frame(1, WHOLE | PRIORITY, 1, dependence(1) + block()),
        stream(PROTOCOL),
    ),
    "http2/5.3.1/2 priority that depends on itself": (
        WAITING + frame(2, 0, 1, dependence(1)),
        stream(PROTOCOL),
    ),
    # 5.4.1, 5.5
    "http2/5.4.1/1 invalid ping": (frame(6, 0, 3, bytes(8)), connection(PROTOCOL)),
    "http2/5.5/2 unknown frame inside of a block": (
        parts(1, 10)[: 9 + 10] + frame(22, 0, 0),
        connection(PROTOCOL),
    ),
    # 6: frame types
    # 6.1/2, data on a stream that is not open, is 5.1/5.
    "http2/6.1/1 data on stream 0": (data(0, b"test"), connection(PROTOCOL)),
    "http2/6.1/3 data padded too long": (
        WAITING + frame(0, PADDED | END_STREAM, 1, b"\x06test"),
        connection(PROTOCOL),
    ),
    "http2/6.2/1 priority instead of continuation": (
        frame(1, END_STREAM, 1, block()) + frame(2, 0, 1, dependence(0)),
        connection(PROTOCOL),
    ),
    "http2/6.2/2 headers instead of continuation": (
        frame(1, END_STREAM, 1, block()) + headers(3),
        connection(PROTOCOL),
    ),
    "http2/6.2/3 headers on stream 0": (frame(1, WHOLE, 0, block()), connection(PROTOCOL)),
    "http2/6.2/4 headers padded too long": (
        frame(1, WHOLE | PADDED, 1, bytes((len(block()) + 1,)) + block()),
        connection(PROTOCOL),
    ),
    "http2/6.3/1 priority on stream 0": (frame(2, 0, 0, dependence(1)), connection(PROTOCOL)),
    "http2/6.3/2 priority of 4 bytes": (WAITING + frame(2, 0, 1, bytes(4)), stream(SIZE)),
    "http2/6.4/1 reset on stream 0": (frame(3, 0, 0, bytes(4)), connection(PROTOCOL)),
    "http2/6.4/2 reset of an idle stream": (frame(3, 0, 1, bytes(4)), connection(PROTOCOL)),
    "http2/6.4/3 reset of 3 bytes": (WAITING + frame(3, 0, 1, bytes(3)), connection(SIZE)),
    "http2/6.5/1 settings ack with a payload": (frame(4, 1, 0, bytes(1)), connection(SIZE)),
    "http2/6.5/2 settings on a stream": (frame(4, 0, 1), connection(PROTOCOL)),
    "http2/6.5/3 settings of 3 bytes": (frame(4, 0, 0, bytes(3)), connection(SIZE)),
    "http2/6.5.2/1 push 2": (frames.encode_settings([(2, 2)]), connection(PROTOCOL)),
    "http2/6.5.2/2 window 2^31": (frames.encode_settings([(4, 1 << 31)]), connection(FLOW)),
    "http2/6.5.2/3 frame size low": (frames.encode_settings([(5, 16_383)]), connection(PROTOCOL)),
    "http2/6.5.2/4 frame size high": (frames.encode_settings([(5, 1 << 24)]), connection(PROTOCOL)),
    "http2/6.7/3 ping on a stream": (frame(6, 0, 1, bytes(8)), connection(PROTOCOL)),
    "http2/6.7/4 ping of 6 bytes": (frame(6, 0, 0, bytes(6)), connection(SIZE)),
    "http2/6.8/1 goaway on a stream": (frame(7, 0, 1, bytes(8)), connection(PROTOCOL)),
    "http2/6.9/1 window by 0": (frames.encode_window_update(0, 0), connection(PROTOCOL)),
    "http2/6.9/2 window of a stream by 0": (
        WAITING + frames.encode_window_update(1, 0),
        stream(PROTOCOL),
    ),
    "http2/6.9/3 window of 3 bytes": (frame(8, 0, 0, bytes(3)), connection(SIZE)),
    "http2/6.9.1/2 windows over 2^31-1": (
        frames.encode_window_update(0, MAX_WINDOW) * 2,
        connection(FLOW),
    ),
    "http2/6.9.1/3 windows of a stream over 2^31-1": (
        WAITING + frames.encode_window_update(1, MAX_WINDOW) * 2,
        stream(FLOW),
    ),
    "http2/6.9.2/3 initial window over 2^31-1": (
        frames.encode_settings([(4, 1 << 31)]),
        connection(FLOW),
    ),
    "http2/6.10/2 data instead of continuation": (
        frame(1, 0, 1, block()) + data(1, b"test"),
        connection(PROTOCOL),
    ),
    "http2/6.10/3 continuation on stream 0": (
        frame(1, 0, 1, block()) + frame(9, END_HEADERS, 0),
        connection(PROTOCOL),
    ),
    "http2/6.10/4 continuation after a whole block": (
        WAITING + frame(9, END_HEADERS, 1, block()),
        connection(PROTOCOL),
    ),
    "http2/6.10/5 continuation after continuations": (
        parts(1, 10, end=False) + frame(9, END_HEADERS, 1),
        connection(PROTOCOL),
    ),
    "http2/6.10/6 continuation after data": (
        WAITING + data(1, b"test") + frame(9, END_HEADERS, 1),
        connection(PROTOCOL),
    ),
    # 8: messages
    "http2/8.1/1 second headers without an end": (
        WAITING + headers(1, [("x", "y")], end=False),
        stream(PROTOCOL),
    ),
    "http2/8.1.2/1 upper case": (headers(1, [*GET, ("X-TEST", "ok")]), stream(PROTOCOL)),
    "http2/8.1.2.1/1 unknown pseudo-field": (
        headers(1, [*GET, (":test", "ok")]),
        stream(PROTOCOL),
    ),
    "http2/8.1.2.1/2 a response's": (headers(1, [*GET, (":status", "200")]), stream(PROTOCOL)),
    "http2/8.1.2.1/3 in trailers": (
        WAITING + headers(1, [(":method", "200")]),
        stream(PROTOCOL),
    ),
    "http2/8.1.2.1/4 after a regular field": (
        headers(1, [("x-test", "ok"), *GET]),
        stream(PROTOCOL),
    ),
    "http2/8.1.2.2/1 connection": (
        headers(1, [*GET, ("connection", "keep-alive")]),
        stream(PROTOCOL),
    ),
    "http2/8.1.2.2/2 te": (headers(1, [*GET, ("te", "trailers, deflate")]), stream(PROTOCOL)),
    "http2/8.1.2.3/1 empty path": (without(":path", (":path", "")), stream(PROTOCOL)),
    **{
        f"http2/8.1.2.3 no {name}": (without(name), stream(PROTOCOL))
        for name in (":method", ":scheme", ":path")
    },
    **{
        f"http2/8.1.2.3 {name} twice": (headers(1, [field, *GET]), stream(PROTOCOL))
        for field in GET
        for name in field[:1]
    },
    "http2/8.1.2.6/1 content-length": (
        headers(1, [*POST, ("content-length", "1")], end=False) + data(1, b"test", end=True),
        stream(PROTOCOL),
    ),
    "http2/8.1.2.6/2 content-length, several frames": (
        headers(1, [*POST, ("content-length", "1")], end=False)
        + data(1, b"t")
        + data(1, b"est", end=True),
        stream(PROTOCOL),
    ),
    "http2/8.2/1 push": (WAITING + frame(5, END_HEADERS, 1, (2).to_bytes(4)), connection(PROTOCOL)),
    # hpack
    "hpack/2.3.3/1 indexed field out of the table": (
        raw_block(b"\xff\x00"),
        connection(COMPRESSION),
    ),
    "hpack/2.3.3/2 literal's name out of the table": (
        raw_block(b"\x7f\x00" + VALUE),
        connection(COMPRESSION),
    ),
    "hpack/4.2/1 table size update at the end": (raw_block(b"\x21"), connection(COMPRESSION)),
    "hpack/5.2/1 padding of over 7 bits": (
        raw_block(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
        connection(COMPRESSION),
    ),
    "hpack/5.2/2 padding of zeros": (
        raw_block(b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
        connection(COMPRESSION),
    ),
    "hpack/5.2/3 the end of a string in it": (
        raw_block(b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"),
        connection(COMPRESSION),
    ),
    "hpack/6.1/1 index 0": (raw_block(b"\x80"), connection(COMPRESSION)),
    "hpack/6.3/1 a table over the limit": (
        frame(1, WHOLE, 1, b"\x3f\xe2\x1f" + block()),
        connection(COMPRESSION),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(server, name):
    sent, (ends, code) = REFUSED[name]
    server.send_each(sent)
    server.send(PING)
    assert server.ended is ends
    assert [found for _, found in server.errors()] == [code]
    assert [stream_id for stream_id, _ in server.errors()] == [0 if ends else 1]
    assert (PONG in server.sent) is not ends


@pytest.mark.parametrize(
    "more", [data(1, b"test"), headers(1, [("x", "y")])], ids=["5.1/5 data", "5.1/6 headers"]
)
def test_more_of_a_request_that_is_whole_and_not_answered(more):
    for split in (False, True):
        peer = Peer(split=split)
        peer.send(ENDED + more)
        assert peer.resets() == {1: CLOSED}


def test_the_preface(server):
    """http2/3.5."""
    fresh = Server.__new__(Server)
    for first, code in (
        (PREFACE + SETTINGS, None),
        (b"INVALID CONNECTION PREFACE\r\n\r\n", PROTOCOL),
    ):
        fresh.session, fresh.split = H2Session(), server.split
        fresh.sent, fresh.bodies, fresh.ended = [], {}, False
        fresh.send(first)
        assert [found for _, found in fresh.errors()] == ([code] if code else [])
        assert fresh.sent[0][0] == FrameType.SETTINGS


def test_more_streams_than_are_allowed(server):
    """http2/5.1.2."""
    count = MAX_CONCURRENT_STREAMS + 1
    for stream_id in range(1, 2 * count, 2):
        server.send(headers(stream_id, POST, end=False))
    assert server.errors() == [(2 * count - 1, ErrorCode.REFUSED_STREAM)]


def test_window_updates_of_a_half_closed_stream_let_it_go_on(server):
    """generic/2/2, http2/6.9.1/1, 6.5.3/1: the last of two values counts."""
    server.send(frames.encode_settings([(4, 100), (4, 1)]) + ENDED)
    assert server.sent[0] == (FrameType.SETTINGS, frames.ACK, 0, b"")  # 6.5.3/2
    assert server.sent[-1] == (FrameType.DATA, 0, 1, b"h")
    server.send(frames.encode_window_update(1, 1))
    assert server.sent[-1] == (FrameType.DATA, 0, 1, b"e")
    server.send(frames.encode_window_update(1, 3))
    assert server.sent[-1] == (FrameType.DATA, END_STREAM, 1, b"llo")


def test_the_initial_window_changes_open_streams(server):
    """http2/6.9.2/1 and 2: opened by SETTINGS; and negative, then opened."""
    server.send(frames.encode_settings([(4, 0)]) + ENDED)
    assert server.sent[-1][0] == FrameType.HEADERS
    server.send(frames.encode_settings([(4, 1)]))
    assert server.sent[-1] == (FrameType.DATA, 0, 1, b"h")
    server.send(frames.encode_settings([(4, 3)]))
    assert server.sent[-1] == (FrameType.DATA, 0, 1, b"el")
    server.send(frames.encode_settings([(4, 2)]) + frames.encode_window_update(1, 1))
    assert server.sent[-1][0] == FrameType.SETTINGS
    server.send(frames.encode_window_update(1, 1))
    assert server.sent[-1] == (FrameType.DATA, 0, 1, b"l")


def test_a_head_request(server):
    """generic/4/2."""
    (event,) = server.send(frame(1, END_HEADERS, 1, block([(":method", "HEAD"), *GET[1:]])))
    assert isinstance(event, RequestReceived)
    server.session.send_head(1, 200, [(b"content-length", b"5")], True)
    ((kind, flags, stream_id, _),) = server.frames()
    assert (kind, flags, stream_id) == (FrameType.HEADERS, WHOLE, 1)


@pytest.mark.parametrize("code", [0, 0xFF], ids=["3.8/1", "7/1 unknown code"])
def test_the_clients_goaway(server, code):
    """generic/3.8/1, http2/7/1: no error; what is open is finished."""
    server.send(WAITING + frames.encode_goaway(0, code, b"h2spec") + PING)
    assert not server.ended
    assert PONG in server.sent
    server.send(data(1, b"", end=True))
    assert server.answered() == {1}
    assert server.errors() == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("generic/3.1/1 data", b"test"),
        ("generic/3.1/2 data in several frames", b"test"),
        ("generic/3.1/3 padded data", b"test"),
        ("generic/4/4 POST with trailers", b"test"),
        ("http2/4.2/1 data of 2^14", bytes(16_384)),
    ],
)
def test_bodies_come_whole(server, name, body):
    server.send_each(SERVED[name])
    assert server.bodies == {1: body}
