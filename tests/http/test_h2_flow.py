"""Windows both ways, queues and turns, floods, and bounds of memory."""

from __future__ import annotations

import pytest

from dwaarx.http import frames, h2_flood
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    RequestReceived,
    StreamReset,
    StreamWritable,
)
from dwaarx.http.frames import DEFAULT_WINDOW, MAX_WINDOW, ErrorCode, FrameType
from dwaarx.http.h2 import MAX_EARLY
from dwaarx.http.h2_core import MAX_WAITING_CONTROL
from dwaarx.http.h2_output import HIGH_MARK, LOW_MARK, SEND_BUDGET
from dwaarx.http.h2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from tests.http.h2_wire import GET, POST, Peer, block, data, frame, headers, parse


def body_of(got: list[frames.Frame], stream_id: int) -> bytes:
    return b"".join(
        payload
        for kind, _, stream, payload in got
        if kind == FrameType.DATA and stream == stream_id
    )


def begin(peer: Peer, *stream_ids: int) -> None:
    for stream_id in stream_ids:
        peer.send(headers(stream_id))
        peer.session.send_head(stream_id, 200, (), False)
    peer.frames()


# --- what we send


def test_a_body_stops_at_the_streams_window():
    peer = Peer(frames.encode_settings([(4, 10)]))
    begin(peer, 1)
    peer.session.send_body(1, b"0123456789abcdef")
    peer.session.end_stream(1)
    assert peer.frames() == [(0, 0, 1, b"0123456789")]
    assert (peer.session.queued, peer.session.sent) == (6, 10)
    peer.send(frames.encode_window_update(1, 5))
    assert peer.frames() == [(0, 0, 1, b"abcde")]
    peer.send(frames.encode_window_update(1, 5))
    assert peer.frames() == [(0, frames.END_STREAM, 1, b"f")]
    assert peer.session.streams == {}


def test_bodies_stop_at_the_connections_window():
    peer = Peer(frames.encode_settings([(4, 1_000_000)]))
    begin(peer, 1, 3)
    peer.session.send_body(1, bytes(60_000))
    peer.session.send_body(3, bytes(60_000))
    got = peer.frames()
    assert len(body_of(got, 1)) + len(body_of(got, 3)) == DEFAULT_WINDOW
    # An end without data needs no window.
    begin(peer, 5)
    peer.session.end_stream(5)
    assert peer.frames() == [(0, frames.END_STREAM, 5, b"")]
    peer.send(frames.encode_window_update(0, 10))
    assert sum(len(payload) for _, _, _, payload in peer.frames()) == 10


def test_a_whole_response_goes_through_the_queue_when_the_windows_are_small():
    peer = Peer(frames.encode_settings([(4, 10)]))
    peer.send(headers(1))
    peer.session.send_response(1, 200, (), b"x" * 11)
    assert body_of(peer.frames(), 1) == b"x" * 10
    peer.send(frames.encode_window_update(1, 1))
    assert peer.frames() == [(0, frames.END_STREAM, 1, b"x")]


def test_a_lowered_initial_window_makes_windows_negative():
    peer = Peer(frames.encode_settings([(4, 100)]))
    begin(peer, 1, 3)
    peer.session.send_body(1, bytes(150))
    assert len(body_of(peer.frames(), 1)) == 100
    peer.session.send_body(3, bytes(10))  # ready, when the window shuts
    peer.send(frames.encode_settings([(4, 50)]))
    assert peer.session.streams[1].window == -50
    peer.send(frames.encode_settings([(4, 0)]))
    assert peer.session.streams[1].window == -100
    assert [kind for kind, _, _, _ in peer.frames()] == [4, 4]
    peer.send(frames.encode_window_update(1, 100))
    assert peer.frames() == []
    peer.send(frames.encode_window_update(1, 20))
    assert len(body_of(peer.frames(), 1)) == 20
    peer.send(frames.encode_settings([(4, 5), (4, 40)]))
    got = peer.frames()
    assert (len(body_of(got, 1)), len(body_of(got, 3))) == (30, 10)


def test_windows_that_grow_too_large():
    peer = Peer(frames.encode_settings([(4, 100)]))
    begin(peer, 1, 3)
    peer.send(frames.encode_window_update(1, MAX_WINDOW - 100))
    assert isinstance(peer.send(frames.encode_window_update(1, 1))[0], StreamReset)
    assert peer.resets() == {1: ErrorCode.FLOW_CONTROL_ERROR}
    assert isinstance(peer.send(frames.encode_window_update(3, 0))[0], StreamReset)
    assert peer.resets() == {3: ErrorCode.PROTOCOL_ERROR}
    begin(peer, 5)
    peer.send(frames.encode_window_update(5, MAX_WINDOW - 100))
    assert isinstance(peer.send(frames.encode_settings([(4, 101)]))[0], ConnectionEnded)
    assert peer.goaway() is ErrorCode.FLOW_CONTROL_ERROR


def test_streams_take_turns():
    peer = Peer(frames.encode_settings([(4, 1_000_000)]))
    peer.send(frames.encode_window_update(0, 1_000_000))
    begin(peer, 1, 3, 5)
    for stream_id in (1, 3, 5):
        peer.session.send_body(stream_id, bytes(40_000))
        peer.session.end_stream(stream_id)
    turns = [stream_id for _, _, stream_id, _ in peer.frames()]
    assert turns == [1, 3, 5, 1, 3, 5, 1, 3, 5]


def test_small_pieces_share_a_frame_and_large_ones_are_cut_without_loss():
    peer = Peer(frames.encode_settings([(4, 1_000_000)]))
    peer.send(frames.encode_window_update(0, 1_000_000))
    begin(peer, 1)
    pieces = [bytes((number,)) * size for number, size in enumerate((1, 0, 5, 30_000, 7, 20_000))]
    for piece in pieces:
        peer.session.send_body(1, piece)
    got = peer.frames()
    assert body_of(got, 1) == b"".join(pieces)
    assert [len(payload) for _, _, _, payload in got] == [16_384, 16_384, 16_384, 861]


def test_one_turn_takes_no_more_than_its_budget():
    peer = Peer(frames.encode_settings([(4, 1_000_000)]))
    peer.send(frames.encode_window_update(0, 1_000_000))
    begin(peer, 1)
    peer.session.send_body(1, bytes(300_000))
    first = peer.session.data_to_send()
    assert SEND_BUDGET <= len(first) <= SEND_BUDGET + 16_384
    assert peer.session.queued == 300_000 - len(body_of(parse(first), 1))
    assert len(body_of(peer.frames(), 1)) == peer.session.sent - len(body_of(parse(first), 1))


def test_a_full_stream_says_so_and_when_it_has_drained():
    peer = Peer(frames.encode_settings([(4, 1_000_000)]))
    begin(peer, 1)
    session = peer.session
    assert session.send_body(1, bytes(HIGH_MARK))
    assert not session.send_body(1, b"x")
    assert not session.send_body(1, b"y")
    # The connection's window is used up just when two bytes are left.
    peer.frames()
    assert session.take_events() == [StreamWritable(1)]
    assert session.queued == HIGH_MARK + 2 - DEFAULT_WINDOW <= LOW_MARK
    assert session.send_body(1, b"z")
    assert session.take_events() == []


def test_a_stream_that_is_reset_is_not_said_to_be_writable():
    peer = Peer()
    begin(peer, 1)
    assert not peer.session.send_body(1, bytes(HIGH_MARK + 1))
    peer.frames()
    assert peer.send(frames.encode_rst_stream(1, 8)) == [StreamReset(1, "the peer sent CANCEL")]


def test_waiting_counts_what_is_made():
    peer = Peer()
    peer.send(headers(1) + headers(3) + headers(5))
    session = peer.session
    session.send_response(1, 200, [(b"a", b"b")], b"hello")
    session.send_head(3, 200, (), False)
    session.end_stream(3)
    session.send_head(5, 200, (), False)
    session.send_body(5, b"later")
    session.end_stream(5, [(b"c", b"d")])
    before = session.waiting
    assert len(session.data_to_send()) > before > 0
    assert session.waiting == 0


# --- what we receive


def upload(peer: Peer, stream_id: int) -> None:
    peer.send(headers(stream_id, POST, end=False))


def test_windows_are_given_back_at_the_half():
    peer = Peer()
    upload(peer, 1)
    piece = bytes(16_384)
    for _ in range(7):
        peer.send(data(1, piece))
        peer.session.acknowledge(1, len(piece))
    assert peer.frames() == []
    peer.send(data(1, piece))
    assert peer.frames() == []
    peer.session.acknowledge(1, len(piece))
    assert peer.frames() == [(8, 0, 1, (STREAM_WINDOW // 2).to_bytes(4))]
    for _ in range(24):
        peer.send(data(1, piece))
        peer.session.acknowledge(1, len(piece))
    got = [(stream_id, int.from_bytes(payload)) for _, _, stream_id, payload in peer.frames()]
    assert got.count((1, STREAM_WINDOW // 2)) == 3
    assert got.count((0, CONNECTION_WINDOW // 2)) == 1


def test_more_than_the_streams_window_is_an_error():
    peer = Peer()
    upload(peer, 1)
    for _ in range(16):
        peer.send(data(1, bytes(16_384)))
    assert isinstance(peer.send(data(1, b"x"))[0], StreamReset)
    assert peer.resets() == {1: ErrorCode.FLOW_CONTROL_ERROR}


def test_more_than_the_connections_window_is_an_error():
    peer = Peer()
    for stream_id in (1, 3, 5, 7):
        upload(peer, stream_id)
        for _ in range(16):
            peer.send(data(stream_id, bytes(16_384)))
    upload(peer, 9)
    assert isinstance(peer.send(data(9, b"x"))[0], ConnectionEnded)
    assert peer.goaway() is ErrorCode.FLOW_CONTROL_ERROR


def test_padding_counts_and_is_given_back_at_once():
    peer = Peer()
    upload(peer, 1)
    padded = frame(0, frames.PADDED, 1, b"\xff" + b"x" + bytes(255))
    for _ in range(-(-STREAM_WINDOW // 2 // 256)):
        peer.send(padded)
    ((kind, _, stream_id, _),) = peer.frames()
    assert (kind, stream_id) == (8, 1)


@pytest.mark.parametrize("how", ["reset by us", "reset by the peer", "error", "answered"])
def test_what_a_closed_stream_held_is_given_back_to_the_connection(how):
    peer = Peer()
    now_free = CONNECTION_WINDOW // 2
    for stream_id in (1, 3, 5, 7):
        upload(peer, stream_id)
        for _ in range(8):
            peer.send(data(stream_id, bytes(16_384)))
        if how == "reset by us":
            peer.session.reset_stream(stream_id, ErrorCode.CANCEL)
        elif how == "reset by the peer":
            peer.send(frames.encode_rst_stream(stream_id, 8))
        elif how == "error":
            peer.send(headers(stream_id, [(":bad", "x")]))
        else:
            peer.session.send_response(stream_id, 200, (), b"")
            peer.session.stop_upload(stream_id)
        peer.session.acknowledge(stream_id, 8 * 16_384)  # too late: nothing is counted twice
    updates = [(stream_id, payload) for kind, _, stream_id, payload in peer.frames() if kind == 8]
    assert updates == [(0, now_free.to_bytes(4))]


def test_data_that_is_ignored_is_given_back_to_the_connection():
    peer = Peer()
    upload(peer, 1)
    peer.session.reset_stream(1, ErrorCode.CANCEL)
    peer.frames()
    for _ in range(32):
        peer.send(data(1, bytes(16_384)))
    assert peer.frames() == [(8, 0, 0, (CONNECTION_WINDOW // 2).to_bytes(4))]


def test_after_the_end_only_the_connections_window_is_given_back():
    peer = Peer()
    upload(peer, 1)
    for _ in range(15):
        peer.send(data(1, bytes(16_384)))
    peer.send(data(1, bytes(16_384), end=True))
    peer.session.acknowledge(1, STREAM_WINDOW)
    assert peer.frames() == []
    assert peer.session._consumed == STREAM_WINDOW


# --- floods


def endless(kind: str):
    """Frames that do nothing, and need no stream but 1, which is open."""
    number = 1
    while True:
        number += 2
        yield {
            "settings": frames.encode_settings(()),
            "settings ack": frames.SETTINGS_ACK,
            "ping": frames.encode_ping(bytes(8), ack=False),
            "ping ack": frames.encode_ping(bytes(8), ack=True),
            "empty data": data(1, b""),
            "empty padded data": frame(0, frames.PADDED, 1, b"\1\0"),
            "empty headers": frame(1, 0, number) + frame(9, 5, number, block(GET)),
            "priority": frames.encode_priority(number, 0, 0),
            "window": frames.encode_window_update(1, 1),
            "window of the connection": frames.encode_window_update(0, 1),
            "unknown": frame(0x10, 0, 0),
            "rapid reset": headers(number) + frames.encode_rst_stream(number, 8),
            "made you reset": headers(number) + frames.encode_window_update(number, 0),
            "malformed": headers(number, GET[:3]),
            "mixed": frames.encode_ping(bytes(8), ack=False) + frames.encode_priority(number, 0, 0),
            "goaway": frames.encode_goaway(0, 0),
        }[kind]


FLOODS = (
    "settings",
    "settings ack",
    "ping",
    "ping ack",
    "empty data",
    "empty padded data",
    "empty headers",
    "priority",
    "window",
    "window of the connection",
    "unknown",
    "rapid reset",
    "made you reset",
    "malformed",
    "mixed",
    "goaway",
)


@pytest.mark.parametrize("kind", FLOODS)
def test_floods_end_the_connection(kind):
    peer = Peer()
    upload(peer, 1)
    events = []
    for count, raw in enumerate(endless(kind)):
        assert count < 2 * h2_flood.CAPACITY, "the flood goes on"
        for event in peer.send(raw):
            if isinstance(event, RequestReceived):
                peer.session.send_response(event.stream_id, 200, (), b"")
            events.append(event)
        peer.session.data_to_send()
        if peer.session.closed:
            break
    assert count > 300  # honest bursts are smaller
    assert isinstance(events[-1], ConnectionEnded)
    assert "flood" in events[-1].error


# Whatever a client can do to a request so that we reset it (CVE-2025-8671).
PROVOKED = {
    "window by 0": lambda n: headers(n) + frames.encode_window_update(n, 0),
    "window over 2^31-1": lambda n: headers(n) + frames.encode_window_update(n, MAX_WINDOW),
    "headers after the end": lambda n: headers(n) * 2,
    "data after the end": lambda n: headers(n) + data(n, b"x"),
    "priority of 4 bytes": lambda n: headers(n) + frame(2, 0, n, bytes(4)),
    "dependence on itself": lambda n: headers(n) + frames.encode_priority(n, n, 0),
    "longer than its length": lambda n: (
        headers(n, [*POST, ("content-length", "1")], end=False) + data(n, b"xy")
    ),
    "shorter than its length": lambda n: (
        headers(n, [*POST, ("content-length", "2")], end=False) + data(n, b"x", end=True)
    ),
    "malformed trailers": lambda n: headers(n, POST, end=False) + headers(n, [("A", "b")]),
    "trailers without an end": lambda n: headers(n, POST, end=False) + headers(n, [], end=False),
    "too many trailers": lambda n: headers(n, POST, end=False) + headers(n, [("a", "b")] * 201),
    "over the stream's window": lambda n: (
        headers(n, POST, end=False) + data(n, bytes(16_384)) * 16 + data(n, b"x")
    ),
    "after its own reset": lambda n: (
        headers(n, POST, end=False) + frames.encode_rst_stream(n, 8) + data(n, b"x")
    ),
    "too many at once": lambda n: headers(n, POST, end=False),
}


@pytest.mark.parametrize("kind", PROVOKED)
def test_resets_that_the_peer_provokes_end_the_connection(kind):
    peer = Peer()
    begun = 0
    for number in range(1, 4 * h2_flood.CAPACITY, 2):
        for event in peer.send(PROVOKED[kind](number)):
            begun += isinstance(event, RequestReceived)
        peer.session.data_to_send()
        if peer.session.closed:
            break
    assert peer.session.closed
    assert begun <= h2_flood.CAPACITY // h2_flood.RESET + 1


@pytest.mark.parametrize("kind", ["431", "501", "trailers of a reset stream"])
def test_field_blocks_for_nothing_end_the_connection(kind):
    """Each may be thousands of fields: nothing else counts what decoding them costs."""
    bomb = block(GET) + b"\x82" * 300
    connect = block([(":method", "CONNECT"), (":authority", "a:1")])
    peer = Peer()
    upload(peer, 1)
    peer.session.reset_stream(1, ErrorCode.CANCEL)
    count = 0
    while not peer.session.closed:
        count += 1
        stream_id = 1 if kind.startswith("trailers") else 2 * count + 1
        peer.send(frame(1, 5, stream_id, connect if kind == "501" else bomb))
        peer.session.data_to_send()
    assert count <= h2_flood.CAPACITY // h2_flood.UNSERVED


@pytest.mark.parametrize("kind", FLOODS)
def test_what_comes_slowly_is_no_flood(kind):
    now = 0.0
    peer = Peer(now=lambda: now)
    upload(peer, 1)
    for count, raw in enumerate(endless(kind)):
        now += 0.05
        for event in peer.send(raw):
            if isinstance(event, RequestReceived):
                peer.session.send_response(event.stream_id, 200, (), b"")
        peer.session.data_to_send()
        if count == 3000:
            break
    assert not peer.session.closed


def test_window_updates_for_data_are_free():
    peer = Peer(frames.encode_settings([(4, 1_000_000)]))
    peer.send(frames.encode_window_update(0, 1_000_000))
    begin(peer, 1)
    for _ in range(2000):
        peer.session.send_body(1, bytes(4096))
        assert peer.frames()
        peer.send(frames.encode_window_update(1, 4096) + frames.encode_window_update(0, 4096))
    assert not peer.session.closed


def test_many_requests_are_no_flood():
    peer = Peer()
    for stream_id in range(1, 10_001, 2):
        peer.send(headers(stream_id, POST, end=False) + data(stream_id, b"", end=True))
        peer.session.send_response(stream_id, 200, (), b"x")
        peer.session.data_to_send()
    assert not peer.session.closed


def test_early_responses_are_no_flood():
    peer = Peer()
    for stream_id in range(1, 4001, 2):
        upload(peer, stream_id)
        peer.session.send_response(stream_id, 413, (), b"")
        peer.session.data_to_send()
    assert not peer.session.closed
    assert len(peer.session.streams) <= MAX_EARLY


def test_a_peer_that_asks_and_does_not_read():
    now = 0.0
    peer = Peer(now=lambda: now)
    events = []
    for _ in range(MAX_WAITING_CONTROL + 1):
        now += 1.0
        events += peer.send(frames.encode_ping(bytes(8), ack=False))
    assert isinstance(events[-1], ConnectionEnded)
    assert "read" in events[-1].error
    assert peer.session.waiting < 20_000


def test_a_field_block_that_never_ends_takes_no_memory():
    peer = Peer()
    peer.send(frame(1, 0, 1, b"\0"))
    for _ in range(20):
        peer.send(frame(9, 0, 1, bytes(16_384)))
    assert peer.session.closed
    assert len(peer.session._block.data) <= 5 * 16_384


def test_bodies_held_are_bounded_by_the_window():
    peer = Peer()
    held = 0
    for stream_id in range(1, 20, 2):
        for event in peer.send(headers(stream_id, POST, end=False)):
            assert isinstance(event, RequestReceived)
        for _ in range(16):
            for event in peer.send(data(stream_id, bytes(16_384))):
                if isinstance(event, BodyReceived):
                    held += len(event.data)
    assert held == CONNECTION_WINDOW


def test_events_of_a_body_keep_their_order():
    peer = Peer()
    sent = headers(1, POST, end=False) + headers(3, POST, end=False)
    sent += data(1, b"a") + data(3, b"b") + data(1, b"c", end=True) + data(3, b"d", end=True)
    assert peer.send(sent)[2:] == [
        BodyReceived(1, b"a"),
        BodyReceived(3, b"b"),
        BodyReceived(1, b"c"),
        BodyEnded(1),
        BodyReceived(3, b"d"),
        BodyEnded(3),
    ]
