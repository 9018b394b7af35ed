"""The session: messages, states and errors, with bytes whole and one by one."""

from __future__ import annotations

import pytest

from dwaarx.http import frames
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    RequestReceived,
    StreamReset,
)
from dwaarx.http.frames import PREFACE, ErrorCode, FrameType
from dwaarx.http.h2 import MAX_CONCURRENT_STREAMS, MAX_EARLY, H2Session
from dwaarx.http.h2_streams import REMEMBERED_CLOSED
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
    parse,
)


@pytest.fixture(params=[False, True], ids=["whole", "bytes"])
def peer(request) -> Peer:
    return Peer(split=request.param)


def respond(peer: Peer, stream_id: int) -> None:
    peer.session.send_response(stream_id, 200, (), b"")


# --- section 3.4: the preface


@pytest.mark.parametrize("split", [False, True])
def test_greeting(split):
    peer = Peer.__new__(Peer)
    peer.session, peer.split = H2Session(), split
    first, second = peer.frames()
    assert first[0] == FrameType.SETTINGS
    assert dict(frames.decode_settings(*first[1:]) or ()) == {
        3: 128,
        4: 262_144,
        6: 65_536,
        9: 1,
    }
    assert second == (FrameType.WINDOW_UPDATE, 0, 0, (1_048_576 - 65_535).to_bytes(4))
    assert not peer.session.greeted
    assert peer.send(PREFACE + SETTINGS) == []
    assert peer.session.greeted
    assert peer.frames() == [(FrameType.SETTINGS, frames.ACK, 0, b"")]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"GET / HTTP/1.1\r\n", ErrorCode.PROTOCOL_ERROR),
        (PREFACE[:-1] + b"x", ErrorCode.PROTOCOL_ERROR),
        (PREFACE + headers(1), ErrorCode.PROTOCOL_ERROR),
        (PREFACE + frames.SETTINGS_ACK, ErrorCode.PROTOCOL_ERROR),
        (PREFACE + frame(4, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (PREFACE + frames.encode_ping(bytes(8), ack=False), ErrorCode.PROTOCOL_ERROR),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_bad_prefaces(first, code, split):
    peer = Peer.__new__(Peer)
    peer.session, peer.split = H2Session(), split
    (event,) = peer.send(first)
    assert isinstance(event, ConnectionEnded)
    assert event.error
    assert peer.goaway() is code
    assert peer.send(PREFACE) == []


# --- messages


def test_a_request_without_a_body(peer):
    (event,) = peer.send(headers(1))
    assert isinstance(event, RequestReceived)
    assert (event.stream_id, event.ended, event.head.target) == (1, True, b"/")
    peer.session.send_head(1, 200, [(b"a", b"b")], False)
    assert peer.session.send_body(1, b"hel")
    assert peer.session.send_body(1, b"lo")
    peer.session.end_stream(1)
    head, body = peer.frames()
    assert head[:3] == (FrameType.HEADERS, END_HEADERS, 1)
    assert peer.fields(head[3]) == [(b":status", b"200"), (b"a", b"b")]
    assert body == (FrameType.DATA, END_STREAM, 1, b"hello")
    assert peer.session.streams == {}


def test_a_whole_response(peer):
    peer.send(headers(1) + headers(3))
    peer.session.send_response(1, 200, (), b"hello")
    peer.session.send_response(3, 404, (), b"")
    first, second, third = peer.frames()
    assert peer.fields(first[3]) == [(b":status", b"200")]
    assert second == (FrameType.DATA, END_STREAM, 1, b"hello")
    assert third[:3] == (FrameType.HEADERS, END_HEADERS | END_STREAM, 3)
    assert peer.session.streams == {}


def test_a_request_with_a_body_and_trailers(peer):
    events = peer.send(
        headers(1, [*POST, ("content-length", "5")], end=False)
        + data(1, b"he")
        + data(1, b"llo")
        + headers(1, [("x-sum", "7")])
    )
    assert events[0].head.content_length == 5
    assert not events[0].ended
    assert events[1:] == [
        BodyReceived(1, b"he"),
        BodyReceived(1, b"llo"),
        BodyEnded(1, ((b"x-sum", b"7"),)),
    ]


def test_the_end_may_be_an_empty_frame(peer):
    events = peer.send(headers(1, POST, end=False) + data(1, b"", end=True))
    assert events[1:] == [BodyEnded(1)]


def test_padding_is_no_body(peer):
    padded = frame(FrameType.DATA, frames.PADDED | END_STREAM, 1, b"\4hello" + bytes(4))
    events = peer.send(headers(1, POST, end=False) + padded)
    assert events[1:] == [BodyReceived(1, b"hello"), BodyEnded(1)]


def test_informational_heads_and_trailers_go_out(peer):
    peer.send(headers(1))
    peer.session.send_informational(1, 103, [(b"link", b"</a>")])
    peer.session.send_head(1, 200, (), False)
    peer.session.send_body(1, b"x")
    peer.session.end_stream(1, [(b"t", b"u")])
    hint, head, body, trailers = peer.frames()
    assert peer.fields(hint[3])[0] == (b":status", b"103")
    assert peer.fields(head[3])[0] == (b":status", b"200")
    assert body == (FrameType.DATA, 0, 1, b"x")
    assert trailers[:2] == (FrameType.HEADERS, END_HEADERS | END_STREAM)
    assert peer.fields(trailers[3]) == [(b"t", b"u")]


def test_trailers_after_nothing_queued(peer):
    peer.send(headers(1))
    peer.session.send_head(1, 200, (), False)
    peer.session.end_stream(1, [(b"t", b"u")])
    assert peer.kinds() == [FrameType.HEADERS, FrameType.HEADERS]
    assert peer.session.streams == {}


def test_a_long_head_goes_out_in_parts(peer):
    peer.send(headers(1))
    peer.session.send_head(1, 200, [(b"a", b"b" * 40_000)], True)
    got = peer.frames()
    assert [kind for kind, _, _, _ in got] == [1, 9, 9]
    assert peer.fields(b"".join(payload for _, _, _, payload in got))[1][1] == b"b" * 40_000


def test_a_field_block_in_parts(peer):
    raw = block([*GET, ("x", "y" * 50)])
    events = peer.send(
        frame(FrameType.HEADERS, END_STREAM, 1, raw[:10])
        + frame(FrameType.CONTINUATION, 0, 1, raw[10:20])
        + frame(FrameType.CONTINUATION, END_HEADERS, 1, raw[20:])
    )
    assert events[0].head.fields == ((b"x", b"y" * 50),)
    assert events[0].ended


def test_priority_in_headers_is_read_over(peer):
    raw = (3).to_bytes(4) + b"\x10" + block()
    flags = frames.PRIORITY | END_HEADERS | END_STREAM
    assert isinstance(peer.send(frame(1, flags, 1, raw))[0], RequestReceived)


def test_unknown_frames_settings_and_flags_are_ignored(peer):
    assert peer.send(frame(0xEE, 0xFF, 3, b"anything") + frame(0x10, 0, 0, b"\0\0\0\1u=1")) == []
    assert peer.send(frames.encode_settings([(0x99, 7), (1, 0), (3, 0), (6, 1)])) == []
    assert isinstance(peer.send(frame(1, 0xC0 | 5, 1, block()))[0], RequestReceived)
    assert peer.goaway() is None


def test_ping_is_answered(peer):
    assert peer.send(frames.encode_ping(b"12345678", ack=False)) == []
    assert peer.frames() == [(FrameType.PING, frames.ACK, 0, b"12345678")]
    assert peer.send(frames.encode_ping(b"12345678", ack=True)) == []
    assert peer.frames() == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*GET, *[("a", "b")] * 300], b"431"),
        ([(":method", "CONNECT"), (":authority", "example.com:443")], b"501"),
    ],
)
def test_requests_that_the_session_answers(peer, fields, status):
    assert peer.send(headers(1, fields)) == []
    (head,) = peer.frames()
    assert peer.fields(head[3])[0] == (b":status", status)
    assert head[1] & END_STREAM
    assert peer.send(headers(3, fields, end=False)) == []
    assert peer.kinds() == [1]
    assert isinstance(peer.send(headers(5))[0], RequestReceived)


# --- malformed messages (section 8): the stream is reset, the connection goes on


@pytest.mark.parametrize(
    "sent",
    [
        headers(1, GET[:3]),
        headers(1, [*GET, ("A", "b")]),
        headers(1, [*POST, ("content-length", "5")]),
        headers(1, [*POST, ("content-length", "5")], end=False) + data(1, b"123456"),
        headers(1, [*POST, ("content-length", "5")], end=False) + data(1, b"1234", end=True),
        headers(1, [*POST, ("content-length", "5")], end=False) + headers(1, [("a", "b")]),
        headers(1, POST, end=False) + headers(1, [("a", "b")], end=False),
        headers(1, POST, end=False) + headers(1, [(":path", "b")]),
        frame(1, frames.PRIORITY | 5, 1, (1).to_bytes(4) + b"\0" + block()),
    ],
)
def test_malformed_messages_end_their_stream(peer, sent):
    events = peer.send(sent)
    announced = [event for event in events if isinstance(event, RequestReceived)]
    assert [type(event) for event in events if isinstance(event, StreamReset)] == [
        StreamReset
    ] * len(announced)
    assert peer.resets() == {1: ErrorCode.PROTOCOL_ERROR}
    assert isinstance(peer.send(headers(3))[0], RequestReceived)


def test_the_response_may_be_longer_than_what_was_asked(peer):
    # Content-Length of 0 with an empty body is no mismatch.
    assert peer.send(headers(1, [*POST, ("content-length", "0")]))[0].ended
    events = peer.send(
        headers(3, [*POST, ("content-length", "0")], end=False) + data(3, b"", end=1)
    )
    assert events[-1] == BodyEnded(3)


# --- errors of the connection


CONNECTION_ERRORS = {
    "interleaved frame": (
        frame(1, END_STREAM, 1, block()) + frames.encode_ping(bytes(8), ack=False),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "interleaved unknown frame": (
        frame(1, END_STREAM, 1, block()) + frame(0xEE, 0, 1),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "continuation of another stream": (
        frame(1, END_STREAM, 1, block()) + frame(9, END_HEADERS, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "continuation alone": (frame(9, END_HEADERS, 1, block()), ErrorCode.PROTOCOL_ERROR),
    "continuation after the end": (
        headers(1) + frame(9, END_HEADERS, 1),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "block of over 64 KiB": (
        frame(1, 0, 1, bytes(16_384)) + frame(9, 0, 1, bytes(16_384)) * 4,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "17 continuations": (
        frame(1, 0, 1) + frame(9, 0, 1, b"\x82") * 17,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "undecodable block": (frame(1, 5, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
    "headers on stream 0": (frame(1, 5, 0, block()), ErrorCode.PROTOCOL_ERROR),
    "headers on an even stream": (headers(2), ErrorCode.PROTOCOL_ERROR),
    "a lower stream that was skipped": (headers(5) + headers(3), ErrorCode.PROTOCOL_ERROR),
    "data on stream 0": (data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on an idle stream": (data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on an even stream": (headers(5) + data(2, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on a skipped stream": (headers(5) + data(3, b"x"), ErrorCode.STREAM_CLOSED),
    "reset of an idle stream": (frames.encode_rst_stream(1, 8), ErrorCode.PROTOCOL_ERROR),
    "window of an idle stream": (frames.encode_window_update(1, 8), ErrorCode.PROTOCOL_ERROR),
    "window by 0": (frames.encode_window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "window over 2^31-1": (
        frames.encode_window_update(0, frames.MAX_WINDOW),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "short window update": (frame(8, 0, 0, b"123"), ErrorCode.FRAME_SIZE_ERROR),
    "short reset": (headers(1) + frame(3, 0, 1, b"123"), ErrorCode.FRAME_SIZE_ERROR),
    "short ping": (frame(6, 0, 0, b"123"), ErrorCode.FRAME_SIZE_ERROR),
    "ping on a stream": (frame(6, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "settings on a stream": (frame(4, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "settings of 5 bytes": (frame(4, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "settings ack with a payload": (frame(4, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "push of 2": (frames.encode_settings([(2, 2)]), ErrorCode.PROTOCOL_ERROR),
    "initial window of 2^31": (
        frames.encode_settings([(4, 2**31)]),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "frame size too small": (frames.encode_settings([(5, 16_383)]), ErrorCode.PROTOCOL_ERROR),
    "frame size too large": (frames.encode_settings([(5, 2**24)]), ErrorCode.PROTOCOL_ERROR),
    "priorities of 2": (frames.encode_settings([(9, 2)]), ErrorCode.PROTOCOL_ERROR),
    "priorities changed": (frames.encode_settings([(9, 1)]), ErrorCode.PROTOCOL_ERROR),
    "push promise": (frame(5, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "short goaway": (frame(7, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "goaway on a stream": (frame(7, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "priority on stream 0": (frame(2, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "short priority of an idle stream": (frame(2, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "idle stream depends on itself": (
        frames.encode_priority(1, 1, 0),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "frame of 16,385 bytes": (
        headers(1, POST, end=False) + data(1, bytes(16_385)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "padding as long as the frame": (
        headers(1, POST, end=False) + frame(0, frames.PADDED, 1, b"\1"),
        ErrorCode.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_errors_of_the_connection(peer, name):
    sent, code = CONNECTION_ERRORS[name]
    events = peer.send(sent)
    assert isinstance(events[-1], ConnectionEnded)
    assert events[-1].error
    assert peer.goaway() is code
    assert peer.send(headers(7)) == []
    assert peer.frames() == []


def test_settings_that_are_allowed(peer):
    assert peer.send(frames.encode_settings([(2, 1), (5, 2**24 - 1), (9, 0), (4, 2**31 - 1)])) == []
    assert peer.kinds() == [FrameType.SETTINGS]
    peer = Peer(frames.encode_settings([(9, 1)]))
    assert peer.send(frames.encode_settings([(9, 1)])) == []
    assert isinstance(peer.send(frames.encode_settings([(9, 0)]))[0], ConnectionEnded)


# --- states of streams (section 5.1)


def test_after_the_requests_end_more_of_it_is_an_error(peer):
    for stream_id, more in ((1, data(1, b"x")), (3, headers(3, [("a", "b")]))):
        peer.send(headers(stream_id))
        assert isinstance(peer.send(more)[0], StreamReset)
        assert peer.resets() == {stream_id: ErrorCode.STREAM_CLOSED}


@pytest.mark.parametrize("kind", ["data", "headers"])
def test_after_both_ends_more_of_a_request_ends_the_connection(peer, kind):
    peer.send(headers(1))
    respond(peer, 1)
    peer.frames()
    # These may have been on their way.
    assert peer.send(frames.encode_window_update(1, 10) + frames.encode_rst_stream(1, 8)) == []
    assert peer.send(frames.encode_priority(1, 3, 0)) == []
    more = data(1, b"x") if kind == "data" else headers(1)
    assert isinstance(peer.send(more)[0], ConnectionEnded)
    assert peer.goaway() is ErrorCode.STREAM_CLOSED


def test_after_the_peers_reset_more_of_the_request_is_an_error(peer):
    peer.send(headers(1, POST, end=False))
    assert peer.send(frames.encode_rst_stream(1, 8)) == [StreamReset(1, "the peer sent CANCEL")]
    assert peer.send(frames.encode_window_update(1, 1) + frames.encode_rst_stream(1, 8)) == []
    assert peer.send(data(1, b"x")) == []
    assert peer.resets() == {1: ErrorCode.STREAM_CLOSED}
    # Once is enough: it is our reset now that the rest may have crossed.
    assert peer.send(data(1, b"x") + headers(1, [("a", "b")])) == []
    assert peer.resets() == {}


def test_after_our_reset_what_was_on_its_way_is_ignored_but_decoded(peer):
    peer.send(headers(1, POST, end=False))
    peer.session.reset_stream(1, ErrorCode.CANCEL)
    assert peer.resets() == {1: ErrorCode.CANCEL}
    assert peer.send(data(1, b"x") + frames.encode_window_update(1, 1)) == []
    # A field that goes into the table here is meant by the next block.
    add = b"\x40\x01x\x01y"
    assert peer.send(frame(1, 5, 1, add)) == []
    (event,) = peer.send(frame(1, 5, 3, block() + b"\xbe"))
    assert event.head.fields == ((b"x", b"y"),)


def test_blocks_of_streams_in_error_are_decoded_as_well(peer):
    peer.send(headers(1))
    assert isinstance(peer.send(frame(1, 5, 1, b"\x40\x01x\x01y"))[0], StreamReset)
    assert peer.send(frame(1, 5, 3, block() + b"\xbe"))[0].head.fields == ((b"x", b"y"),)


def test_a_reset_discards_what_is_queued(peer):
    peer.send(headers(1))
    peer.session.send_head(1, 200, (), False)
    peer.session.send_body(1, b"x" * 1000)
    peer.session.end_stream(1)
    assert peer.session.queued == 1000
    assert isinstance(peer.send(frames.encode_rst_stream(1, 8))[0], StreamReset)
    assert peer.session.queued == 0
    assert peer.kinds() == [FrameType.HEADERS]


def test_calls_for_streams_that_are_gone_do_nothing(peer):
    session = peer.session
    peer.send(headers(1))
    respond(peer, 1)
    peer.frames()
    for stream_id in (1, 3):
        session.send_informational(stream_id, 100, ())
        session.send_head(stream_id, 200, (), False)
        assert session.send_body(stream_id, b"x" * 100_000)
        session.end_stream(stream_id)
        session.send_response(stream_id, 200, (), b"x")
        session.reset_stream(stream_id, ErrorCode.CANCEL)
        session.acknowledge(stream_id, 1)
    assert peer.frames() == []
    assert peer.send(headers(3)) != []


def test_a_response_before_its_requests_end():
    # Complete; what still comes is thrown away, and in the end reset with NO_ERROR (section 8.1).
    # At once, clients that still send would take the reset for a failure.
    now = 100.0
    peer = Peer(now=lambda: now)
    peer.send(headers(1, POST, end=False) + data(1, b"x"))
    assert peer.session.early_since is None
    peer.session.send_response(1, 200, (), b"early")
    got = peer.frames()
    assert [kind for kind, _, _, _ in got] == [1, 0]
    assert got[1][1] == END_STREAM
    assert peer.session.early_since == 100
    assert peer.send(data(1, b"yz")) == [BodyReceived(1, b"yz")]
    peer.session.stop_uploads(99)
    assert peer.frames() == []
    peer.session.stop_uploads(100)
    assert peer.frames() == [(FrameType.RST_STREAM, 0, 1, bytes(4))]
    assert peer.session.early_since is None
    assert peer.send(data(1, b"late", end=True)) == []
    assert peer.frames() == []


def test_a_request_that_ends_after_its_response_is_not_reset():
    peer = Peer(now=lambda: 100.0)
    peer.send(headers(1, POST, end=False) + headers(3, POST, end=False))
    peer.session.send_response(1, 200, (), b"early")
    peer.session.send_response(3, 200, (), b"early")
    peer.frames()
    peer.send(data(1, b"", end=True) + frames.encode_rst_stream(3, ErrorCode.CANCEL))
    peer.session.stop_uploads(200)
    assert peer.frames() == []
    assert not peer.session.streams


def test_only_so_many_uploads_go_on_after_their_responses():
    peer = Peer(now=lambda: 100.0)
    for stream_id in range(1, 2 * MAX_EARLY, 2):
        peer.send(headers(stream_id, POST, end=False))
        peer.session.send_response(stream_id, 200, (), b"")
    assert set(peer.kinds()) == {1}
    peer.send(headers(2 * MAX_EARLY + 1, POST, end=False))
    peer.session.send_response(2 * MAX_EARLY + 1, 200, (), b"")
    assert peer.resets() == {1: ErrorCode.NO_ERROR}
    assert len(peer.session.streams) == MAX_EARLY


def test_uploads_that_have_ended_take_no_place_of_those_that_go_on():
    peer = Peer(now=lambda: 100.0)
    for stream_id in range(1, 4 * MAX_EARLY, 2):
        peer.send(headers(stream_id, POST, end=False))
        peer.session.send_response(stream_id, 200, (), b"")
        if stream_id > 1:
            peer.send(data(stream_id, b"", end=True))
    assert peer.resets() == {}
    assert list(peer.session.streams) == [1]


def test_a_request_that_ends_in_the_same_turn_is_not_reset():
    peer = Peer()
    peer.send(headers(1, POST, end=False))
    peer.session.send_head(1, 200, (), True)
    assert peer.send(data(1, b"x", end=True)) == [BodyReceived(1, b"x"), BodyEnded(1)]
    assert peer.kinds() == [FrameType.HEADERS]
    assert peer.session.streams == {}


def test_more_streams_than_allowed_are_refused(peer):
    last = 2 * MAX_CONCURRENT_STREAMS + 1
    events = peer.send(b"".join(headers(stream_id) for stream_id in range(1, last + 1, 2)))
    assert len(events) == MAX_CONCURRENT_STREAMS
    assert peer.resets() == {last: ErrorCode.REFUSED_STREAM}
    respond(peer, 1)
    assert isinstance(peer.send(headers(last + 2))[0], RequestReceived)


def test_closed_streams_are_forgotten():
    now = 0.0
    peer = Peer(now=lambda: now)
    for stream_id in range(1, 4 * REMEMBERED_CLOSED, 2):
        now += 1.0
        peer.send(headers(stream_id, POST, end=False) + frames.encode_rst_stream(stream_id, 8))
    assert peer.session.streams == {}
    assert len(peer.session._closed_streams) == REMEMBERED_CLOSED
    assert isinstance(peer.send(data(1, b""))[0], ConnectionEnded)


def test_priority_of_any_stream_is_read_over(peer):
    peer.send(headers(1))
    for stream_id in (1, 3, 99):
        assert peer.send(frames.encode_priority(stream_id, 0, 5)) == []
    assert isinstance(peer.send(frames.encode_priority(1, 1, 5))[0], StreamReset)
    assert peer.resets() == {1: ErrorCode.PROTOCOL_ERROR}
    peer.send(headers(3))
    assert isinstance(peer.send(frame(2, 0, 3, bytes(4)))[0], StreamReset)
    assert peer.resets() == {3: ErrorCode.FRAME_SIZE_ERROR}


# --- the end of the connection (sections 5.4.1 and 6.8)


def test_shutdown_serves_what_is_on_its_way(peer):
    peer.send(headers(1))
    peer.session.shutdown()
    peer.session.shutdown()
    goaway, ping = peer.frames()
    assert goaway == (FrameType.GOAWAY, 0, 0, frames.MAX_STREAM_ID.to_bytes(4) + bytes(4))
    assert ping[:2] == (FrameType.PING, 0)
    assert isinstance(peer.send(headers(3))[0], RequestReceived)
    assert peer.send(frames.encode_ping(ping[3], ack=True)) == []
    assert peer.frames() == [(FrameType.GOAWAY, 0, 0, (3).to_bytes(4) + bytes(4))]
    assert peer.send(headers(5)) == []
    assert peer.resets() == {5: ErrorCode.REFUSED_STREAM}
    respond(peer, 1)
    assert peer.session.take_events() == []
    respond(peer, 3)
    assert peer.kinds() == [FrameType.HEADERS, FrameType.HEADERS]
    assert peer.session.take_events() == [ConnectionEnded()]
    assert peer.session.take_events() == []


def test_shutdown_of_an_idle_connection_is_its_end(peer):
    peer.session.shutdown()
    assert peer.session.take_events() == [ConnectionEnded()]
    assert peer.goaway() is ErrorCode.NO_ERROR


def test_shutdown_when_the_streams_end_before_the_ping_is_answered(peer):
    peer.send(headers(1))
    peer.session.shutdown()
    (_, ping) = peer.frames()
    respond(peer, 1)
    peer.frames()
    assert peer.session.take_events() == []
    assert peer.send(frames.encode_ping(bytes(8), ack=True)) == []
    assert peer.send(frames.encode_ping(ping[3], ack=True)) == [ConnectionEnded()]
    assert peer.goaway() is ErrorCode.NO_ERROR


def test_the_peers_goaway_is_followed_when_its_streams_have_ended(peer):
    peer.send(headers(1))
    assert peer.send(frames.encode_goaway(0, 0, b"bye")) == []
    respond(peer, 1)
    assert peer.session.take_events() == [ConnectionEnded()]
    assert Peer().send(frames.encode_goaway(0, 0)) == [ConnectionEnded()]


@pytest.mark.parametrize("last", [frames.encode_rst_stream(1, 8), headers(1)])
def test_the_end_is_the_last_event(peer, last):
    peer.send(headers(1) + frames.encode_goaway(0, 0))
    reset, end = peer.send(last)
    assert isinstance(reset, StreamReset)
    assert end == ConnectionEnded()


def test_nothing_is_taken_after_the_end(peer):
    assert peer.send(frames.encode_goaway(0, 0) + data(1, b"x")) == [ConnectionEnded()]
    assert peer.goaway() is None


def test_goaway_ends_everything(peer):
    peer.send(headers(1))
    peer.session.send_head(1, 200, (), False)
    peer.session.send_body(1, b"x")
    peer.session.goaway(ErrorCode.NO_ERROR)
    peer.session.goaway(ErrorCode.INTERNAL_ERROR)
    assert peer.kinds() == [FrameType.HEADERS, FrameType.GOAWAY]
    assert peer.send(headers(3)) == []


def test_unfinished_tells_frames_and_blocks_apart():
    peer = Peer()
    session = peer.session
    assert session.unfinished is None
    raw = block()
    peer.send(frame(1, 1, 1, raw)[:5])
    first = session.unfinished
    assert first is not None
    peer.send(frame(1, 1, 1, raw)[5:])
    assert session.unfinished == first
    peer.send(frame(9, 4, 1)[:3])
    assert session.unfinished == first
    peer.send(frame(9, 4, 1)[3:] + b"\0")
    assert session.unfinished not in (None, first)
    peer = Peer()
    peer.send(headers(1, POST, end=False) + data(1, b"abc")[:-1])
    assert peer.session.unfinished is None


def test_goaway_tells_the_last_stream():
    peer = Peer()
    peer.send(headers(1) + headers(7) + frame(9, 0, 7))
    assert parse(peer.session.data_to_send())[-1][3][:4] == (7).to_bytes(4)
