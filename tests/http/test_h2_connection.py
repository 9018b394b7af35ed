"""The connection on its transport: writes, back-pressure, and handlers that fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.interfaces import IPushProducer
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from dwaarx.http import frames
from dwaarx.http.exchange import Exchange
from dwaarx.http.frames import ErrorCode
from dwaarx.http.h2_connection import MAX_WAITING
from dwaarx.http.h2_output import HIGH_MARK
from tests.http.h2_bed import Bed, hello
from tests.http.h2_wire import GET, POST, data, frame, headers


@pytest.fixture
def bed() -> Bed:
    return Bed()


@pytest.fixture
def failures() -> Iterator[list[Failure]]:
    """The failures that were logged."""
    logged: list[Failure] = []

    def observe(event) -> None:
        if "log_failure" in event:
            logged.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)


def test_it_is_a_producer(bed):
    assert verifyObject(IPushProducer, bed.connection)
    assert bed.transport.streaming
    bed.connection.stopProducing()


def test_it_greets_first():
    bed = Bed(greet=False)
    assert [kind for kind, _, _, _ in bed.frames()] == [4, 8]


def test_an_answer_goes_out_in_the_turn_of_its_request_in_one_write(bed):
    bed.act = hello
    bed.send(headers(1) + headers(3) + frames.encode_ping(b"12345678", ack=False))
    assert bed.transport.writes == 1
    got = bed.frames()
    assert [(kind, stream_id) for kind, _, stream_id, _ in got] == [
        (6, 0),
        (1, 1),
        (0, 1),
        (1, 3),
        (0, 3),
    ]
    fields = bed.fields(got[1][3])
    assert fields.pop(b"date").endswith(b" GMT")
    assert fields == {b":status": b"200", b"content-type": b"text/plain", b"content-length": b"5"}
    assert got[2] == (0, frames.END_STREAM, 1, b"hello")
    assert all(exchange.ended for exchange in bed.exchanges)


def test_answers_of_one_turn_go_out_in_one_write_and_one_call(bed):
    bed.send(headers(1) + headers(3))
    before = len(bed.clock.getDelayedCalls())
    for exchange in bed.exchanges:
        exchange.send_head(200, [])
        exchange.send_body(b"a")
        exchange.send_body(b"b")
        exchange.end()
    assert len(bed.clock.getDelayedCalls()) == before + 1
    assert bed.transport.writes == 0
    bed.turn()
    assert bed.transport.writes == 1
    assert [(kind, payload) for kind, _, _, payload in bed.frames() if kind == 0] == [
        (0, b"ab"),
        (0, b"ab"),
    ]


def test_an_error_of_the_connection_loses_every_exchange(bed):
    exchange = bed.exchange()
    bed.send(frame(9, 0, 1))
    assert exchange.consumer.lost
    assert bed.goaway() is ErrorCode.PROTOCOL_ERROR
    assert bed.transport.disconnecting
    bed.send(headers(3))
    assert len(bed.exchanges) == 1


# --- back-pressure of the response


def test_a_slow_window_pauses_the_consumer(bed):
    exchange = bed.exchange()
    exchange.send_head(200, [])
    exchange.send_body(bytes(65_535))
    bed.turn()  # the client's windows are used up
    exchange.send_body(bytes(HIGH_MARK))
    assert exchange.consumer.calls == []
    exchange.send_body(b"x")
    assert exchange.consumer.calls == ["pause"]
    bed.send(frames.encode_window_update(0, 20_000) + frames.encode_window_update(1, 20_000))
    assert exchange.consumer.calls == ["pause"]
    bed.send(frames.encode_window_update(0, 20_000) + frames.encode_window_update(1, 20_000))
    assert exchange.consumer.calls == ["pause", "resume"]


def test_what_a_resumed_consumer_sends_goes_out_in_the_same_turn():
    bed = Bed(
        frames.encode_settings([(4, 10_000_000)]) + frames.encode_window_update(0, 10_000_000)
    )
    exchange = bed.exchange()
    left = [300_000]

    def go_on() -> None:
        while left[0] and exchange.consumer.calls[-1:] != ["pause"]:
            left[0] -= 10_000
            exchange.send_body(bytes(10_000))

    resumed = exchange.consumer.resume_response
    exchange.consumer.resume_response = lambda: (resumed(), go_on())
    exchange.send_head(200, [])
    go_on()
    assert left[0]
    bed.turn()
    assert left[0] == 0
    assert sum(len(payload) for kind, _, _, payload in bed.frames() if kind == 0) == 300_000


def test_a_slow_transport_pauses_every_consumer():
    bed = Bed(
        frames.encode_settings([(4, 10_000_000)]) + frames.encode_window_update(0, 10_000_000)
    )
    first, second = bed.exchange(1), bed.exchange(3)
    for exchange in (first, second):
        exchange.send_head(200, [])
        exchange.send_body(bytes(HIGH_MARK))
    bed.transport.room = 50_000
    bed.turn()
    assert bed.transport.writes == 1
    assert first.consumer.calls == second.consumer.calls == ["pause"]
    queued = bed.connection.session.queued
    assert queued > 0
    # Nothing is taken from the queues meanwhile, and a new exchange learns of it.
    third = bed.exchange(5)
    assert third.consumer.calls == ["pause"]
    first.send_body(b"more")
    bed.turn(1)
    assert bed.transport.writes == 1
    bed.transport.room = None
    bed.connection.resumeProducing()
    assert bed.connection.session.queued == 0
    assert first.consumer.calls == second.consumer.calls == ["pause", "resume"]
    assert third.consumer.calls == ["pause", "resume"]


def test_a_client_that_does_not_read_is_not_read_from(bed):
    bed.act = lambda exchange: exchange.answer(200, [(b"x", b"y" * 5000)], b"")
    bed.connection.pauseProducing()
    for stream_id in range(1, 41, 2):
        bed.send(headers(stream_id))
        if bed.transport.producerState == "paused":
            break
    assert stream_id < 39
    assert MAX_WAITING < bed.connection.session.waiting < MAX_WAITING + 10_000
    assert bed.transport.writes == 0
    bed.connection.resumeProducing()
    assert bed.transport.producerState == "producing"
    assert bed.transport.writes == 1
    assert bed.connection.session.waiting == 0


# --- handlers that fail


def test_a_handler_that_raises_is_answered_for(bed, failures):
    def fail(exchange: Exchange) -> None:
        if exchange.request.target == b"/bad":
            raise ZeroDivisionError
        hello(exchange)

    bed.act = fail
    bad = [*GET[:3], (":path", "/bad")]
    bed.send(headers(1) + headers(3, bad) + headers(5))
    got = bed.frames()
    statuses = [bed.fields(payload)[b":status"] for kind, _, _, payload in got if kind == 1]
    assert statuses == [b"200", b"500", b"200"]
    assert [failure.type for failure in failures] == [ZeroDivisionError]
    assert not bed.transport.disconnecting


def test_a_handler_that_raises_after_its_head_is_reset(bed, failures):
    def fail(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        raise ZeroDivisionError

    bed.act = fail
    bed.send(headers(1))
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 3]

    def fail_later(exchange: Exchange) -> None:
        exchange.answer(200, [], b"x")
        raise ZeroDivisionError

    bed.act = fail_later
    bed.send(headers(3))
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 0]
    assert len(failures) == 2


def raises(*_: object) -> None:
    raise ZeroDivisionError


def test_a_consumer_that_raises_takes_only_its_exchange_along(bed, failures):
    first, second = bed.exchange(1, POST, end=False), bed.exchange(3, POST, end=False)
    first.consumer.body_received = raises
    bed.send(data(1, b"x") + data(3, b"y"))
    assert second.consumer.body == b"y"
    assert [kind for kind, _, _, _ in bed.frames()] == [1]
    assert len(failures) == 1
    second.consumer.pause_response = raises
    third = bed.exchange(5)
    bed.connection.pauseProducing()
    assert third.consumer.calls == ["pause"]
    assert second.ended
    third.consumer.client_lost = raises
    fourth = bed.exchange(7)
    bed.lose()
    assert fourth.consumer.lost
    assert len(failures) == 3
