"""How a connection ends: deadlines, and drain."""

from __future__ import annotations

import pytest

from dwaarx.http import frames
from dwaarx.http.frames import PREFACE, ErrorCode, FrameType
from dwaarx.http.h2_connection import LINGER
from tests.http.h2_bed import Bed, hello
from tests.http.h2_wire import POST, data, frame, headers


@pytest.fixture
def bed() -> Bed:
    return Bed()


# --- deadlines


def test_a_client_that_says_nothing():
    bed = Bed(greet=False)
    bed.turn(9)
    bed.send(PREFACE)
    assert not bed.transport.disconnecting
    bed.turn(1)
    assert bed.transport.disconnecting
    assert bed.goaway() is ErrorCode.SETTINGS_TIMEOUT


def test_a_field_block_that_does_not_end(bed):
    bed.turn(5)
    bed.send(frame(1, 0, 1, b"\x82"))
    bed.turn(6)
    bed.send(frame(9, 0, 1, b"\x82"))
    bed.turn(3)
    assert not bed.transport.disconnecting
    bed.turn(1)
    assert bed.goaway() is ErrorCode.ENHANCE_YOUR_CALM
    assert bed.transport.disconnecting


def test_frames_that_come_in_halves_are_not_late(bed):
    bed.act = hello
    raw = b"".join(headers(stream_id) for stream_id in range(1, 41, 2))
    size = len(headers(1))
    for at in range(0, len(raw), size):
        bed.send(raw[at : at + 5])
        bed.turn(9)
        bed.send(raw[at + 5 : at + size])
    assert len(bed.exchanges) == 20
    assert not bed.transport.disconnecting


def test_an_idle_connection_is_closed(bed):
    bed.turn(30)
    bed.act = hello
    bed.exchange(1)
    bed.turn(59)
    bed.send(frames.encode_ping(bytes(8), ack=False))
    assert not bed.transport.disconnecting
    bed.frames()
    bed.turn(1)
    assert bed.goaway() is ErrorCode.NO_ERROR
    assert bed.transport.disconnecting


def test_a_connection_with_a_request_in_progress_is_not_idle(bed):
    exchange = bed.exchange()
    bed.turn(1000)
    assert not bed.transport.disconnecting
    exchange.answer(200, [], b"")
    bed.turn()
    bed.turn(59)
    assert not bed.transport.disconnecting
    bed.turn(1)
    assert bed.transport.disconnecting


def test_a_body_that_does_not_come(bed):
    first = bed.exchange(1, POST, end=False)
    second = bed.exchange(3, POST, end=False)
    second.send_head(200, [])
    third = bed.exchange(5, POST, end=False)
    third.pause_request()
    for _ in range(3):
        bed.turn(20)
        bed.send(data(1, b"x"))
    got = bed.frames()
    assert [stream_id for kind, _, stream_id, _ in got if kind == 3] == [3]
    assert second.consumer.lost
    bed.turn(29)
    assert not first.consumer.lost
    bed.turn(1)
    assert first.consumer.lost
    assert first.ended
    (head,) = bed.frames()
    assert bed.fields(head[3])[b":status"] == b"408"
    bed.turn(LINGER)
    assert bed.frames() == [(3, 0, 1, bytes(4))]
    third.resume_request()
    bed.turn(29)
    assert not third.consumer.lost
    bed.turn(1)
    assert third.consumer.lost
    assert not bed.transport.disconnecting


def test_a_body_that_is_whole_is_waited_for_no_more(bed):
    exchange = bed.exchange(1, POST, end=False)
    bed.send(data(1, b"x", end=True))
    bed.turn(500)
    assert not exchange.consumer.lost


def test_a_client_that_opens_no_window():
    bed = Bed(frames.encode_settings([(4, 0)]))
    exchange = bed.exchange()
    bed.turn(50)
    exchange.send_head(200, [])
    exchange.send_body(b"x")
    bed.turn()
    bed.turn(59)
    bed.send(frames.encode_ping(bytes(8), ack=False))
    assert not bed.transport.disconnecting
    bed.turn(1)
    assert exchange.consumer.lost
    assert bed.goaway() is ErrorCode.ENHANCE_YOUR_CALM
    assert bed.transport.disconnecting
    assert not bed.transport.aborted


def test_a_client_that_reads_slowly_is_served():
    bed = Bed(frames.encode_settings([(4, 0)]))
    exchange = bed.exchange()
    exchange.send_head(200, [])
    exchange.send_body(b"x" * 10)
    for _ in range(9):
        bed.turn(50)
        bed.send(frames.encode_window_update(1, 1))
    assert not bed.transport.disconnecting


def test_a_client_that_does_not_read_is_cut_off(bed):
    exchange = bed.exchange()
    bed.turn(30)
    bed.connection.pauseProducing()
    bed.turn(59)
    assert not bed.transport.aborted
    bed.turn(1)
    assert bed.transport.aborted
    assert exchange.consumer.lost


def test_a_close_that_does_not_end_is_forced(bed):
    bed.send(frame(9, 0, 1))
    assert bed.transport.disconnecting
    bed.turn(59)
    assert not bed.transport.aborted
    bed.turn(1)
    assert bed.transport.aborted


def test_a_slow_field_block_is_known_from_its_first_bytes(bed):
    bed.send(headers(1)[:4])
    bed.turn(10)
    assert bed.goaway() is ErrorCode.ENHANCE_YOUR_CALM
    assert bed.transport.disconnecting


# --- drain


def test_drain_finishes_what_is_in_progress(bed):
    exchange = bed.exchange()
    bed.connection.drain()
    bed.connection.drain()
    _, ping = bed.frames()
    bed.send(frames.encode_ping(ping[3], ack=True))
    assert not bed.transport.disconnecting
    exchange.send_head(200, [])
    exchange.send_body(b"x" * 70_000)
    exchange.end()
    bed.turn()
    assert not bed.transport.disconnecting
    bed.send(frames.encode_window_update(0, 10_000) + frames.encode_window_update(1, 10_000))
    assert bed.transport.disconnecting
    got = bed.frames()
    assert sum(len(payload) for kind, _, _, payload in got if kind == 0) == 70_000
    assert FrameType.GOAWAY in [kind for kind, _, _, _ in got]


def test_drain_of_an_idle_connection_closes_it(bed):
    bed.connection.drain()
    assert bed.transport.disconnecting
    assert bed.goaway() is ErrorCode.NO_ERROR


def test_drain_does_not_wait_for_ever(bed):
    exchange = bed.exchange()
    bed.connection.drain()
    bed.turn(19)
    assert not bed.transport.disconnecting
    bed.turn(1)
    assert bed.transport.disconnecting
    assert exchange.consumer.lost


def test_drain_while_the_transport_is_full(bed):
    exchange = bed.exchange()
    bed.connection.pauseProducing()
    bed.connection.drain()
    exchange.answer(200, [], b"x")
    bed.turn()
    assert bed.transport.writes == 0
    bed.connection.resumeProducing()
    got = bed.frames()
    assert [kind for kind, _, _, _ in got] == [7, 6, 1, 0]
    bed.send(frames.encode_ping(got[1][3], ack=True))
    assert bed.transport.disconnecting


def test_drain_of_an_idle_connection_whose_transport_is_full(bed):
    bed.connection.pauseProducing()
    bed.connection.drain()
    assert bed.transport.disconnecting
    assert bed.goaway() is ErrorCode.NO_ERROR


def test_drain_ends_with_a_reset_while_the_transport_is_full(bed):
    exchange = bed.exchange()
    bed.connection.drain()
    bed.send(frames.encode_ping(bed.frames()[1][3], ack=True))
    bed.connection.pauseProducing()
    bed.send(frames.encode_rst_stream(1, ErrorCode.CANCEL))
    assert exchange.consumer.lost
    assert bed.transport.disconnecting
