"""The connection on its transport: writes, back-pressure, deadlines, and handlers that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from dwaarx.config.model import Timeouts
from dwaarx.http import frames
from dwaarx.http.events import Fields
from dwaarx.http.exchange import ConnectionInfo, Exchange
from dwaarx.http.frames import PREFACE, ErrorCode, FrameType
from dwaarx.http.h2_connection import MAX_WAITING, H2Connection
from dwaarx.http.h2_output import HIGH_MARK
from dwaarx.http.h2_settings import STREAM_WINDOW
from tests.http.h2_wire import GET, POST, Peer, data, frame, headers, parse

INFO = ConnectionInfo("192.0.2.1", 4321, "192.0.2.2", 443, secure=True)
TIMEOUTS = Timeouts(handshake=1, read_header=10, read_body=30, idle=60, drain=20)


class Transport(StringTransport):
    """Counts writes, and pauses its producer after `room` bytes as a real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.room: int | None = None
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.disconnecting
        self.writes += 1
        super().write(data)
        if self.room is not None:
            self.room -= len(data)
            if self.room <= 0:
                self.producer.pauseProducing()

    def loseConnection(self) -> None:
        assert self.producer is None, "a transport does not close while it has a producer"
        super().loseConnection()

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnected = self.disconnecting = True


class Consumer:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.body = b""
        self.calls: list[object] = []
        self.on_body: Callable[[bytes], None] = lambda _: None

    def body_received(self, data: bytes) -> None:
        self.body += data
        self.on_body(data)

    def body_ended(self, trailers: Fields) -> None:
        self.calls.append(("ended", trailers))

    def client_lost(self, reason: str) -> None:
        self.calls.append(("lost", reason))

    def pause_response(self) -> None:
        self.calls.append("pause")

    def resume_response(self) -> None:
        self.calls.append("resume")

    @property
    def lost(self) -> bool:
        return any(call[0] == "lost" for call in self.calls)


class Bed:
    """A connection on a transport in memory, whose handler keeps exchanges and calls `act`."""

    def __init__(self, settings: bytes | None = None, *, greet: bool = True) -> None:
        self.clock = Clock()
        self.transport = Transport()
        self.exchanges: list[Exchange] = []
        self.act: Callable[[Exchange], None] = self.consume
        self.connection = H2Connection(INFO, self, TIMEOUTS, self.clock)
        self.connection.makeConnection(self.transport)
        self.view = Peer()
        if greet:
            self.send(PREFACE + (settings or frames.encode_settings(())))
            self.frames()

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.act(exchange)

    def consume(self, exchange: Exchange) -> None:
        exchange.consumer = Consumer()

    def send(self, raw: bytes) -> None:
        self.connection.dataReceived(raw)

    def turn(self, seconds: float = 0) -> None:
        self.clock.advance(seconds)

    def frames(self) -> list[frames.Frame]:
        raw = self.transport.value()
        self.transport.clear()
        self.transport.writes = 0
        return parse(raw)

    def goaway(self) -> ErrorCode | None:
        for kind, _, _, payload in self.frames():
            if kind == FrameType.GOAWAY:
                return ErrorCode(int.from_bytes(payload[4:8]))
        return None

    def fields(self, payload: bytes) -> dict[bytes, bytes]:
        return dict(self.view.fields(payload))

    def exchange(self, stream_id: int = 1, fields=GET, *, end: bool = True) -> Exchange:
        self.send(headers(stream_id, fields, end=end))
        return self.exchanges[-1]

    def lose(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))


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


def hello(exchange: Exchange) -> None:
    exchange.answer(200, [(b"content-type", b"text/plain")], b"hello")


# --- answers


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


def test_a_date_that_is_given_is_kept(bed):
    bed.exchange().send_head(200, [(b"date", b"then")], end=True)
    bed.turn()
    ((_, flags, _, payload),) = bed.frames()
    assert bed.fields(payload)[b"date"] == b"then"
    assert flags & frames.END_STREAM


def test_response_changes_are_made(bed):
    exchange = bed.exchange()
    exchange.response_changes.append(lambda status, fields: [*fields, (b"x", b"%d" % status)])
    exchange.send_head(204, [], end=True)
    bed.turn()
    assert bed.fields(bed.frames()[0][3])[b"x"] == b"204"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_responses_without_a_body(bed, method, status):
    fields = [(":method", method), *GET[1:]]
    exchange = bed.exchange(1, fields)
    exchange.send_head(status, [(b"content-length", b"5")] if status != 204 else [])
    exchange.send_body(b"hello")
    exchange.end()
    bed.act = lambda exchange: exchange.answer(status, [], b"hello")
    bed.exchange(3, fields)
    got = bed.frames()
    assert b"".join(payload for kind, _, _, payload in got if kind == 0) == b""
    assert {stream_id for _, flags, stream_id, _ in got if flags & 1} == {1, 3}


def test_informational_responses(bed):
    exchange = bed.exchange(1, [*POST, ("expect", "100-continue")], end=False)
    assert exchange.expects_continue()
    exchange.send_informational(100, [])
    bed.turn()
    ((kind, flags, _, payload),) = bed.frames()
    assert (kind, flags) == (1, frames.END_HEADERS)
    assert bed.fields(payload) == {b":status": b"100"}
    exchange.send_head(200, [])
    exchange.send_informational(103, [])
    bed.turn()
    assert len(bed.frames()) == 1


def test_trailers_go_out(bed):
    exchange = bed.exchange()
    exchange.send_head(200, [])
    exchange.end([(b"t", b"u")])
    bed.turn()
    assert bed.fields(bed.frames()[-1][3]) == {b"t": b"u"}


def test_more_than_the_content_length_resets(bed):
    exchange = bed.exchange()
    exchange.send_head(200, [(b"content-length", b"3")])
    exchange.send_body(b"ab")
    exchange.send_body(b"cd")
    assert exchange.ended
    bed.turn()
    got = bed.frames()
    assert got[-1] == (3, 0, 1, ErrorCode.INTERNAL_ERROR.to_bytes(4))
    assert [kind for kind, _, _, _ in got] == [1, 3]


@pytest.mark.parametrize("end", [True, False])
def test_less_than_the_content_length_resets(bed, end):
    exchange = bed.exchange()
    exchange.send_head(200, [(b"content-length", b"3")], end=end)
    if not end:
        exchange.send_body(b"ab")
        exchange.end()
    assert exchange.ended
    bed.turn()
    assert bed.frames()[-1][0] == FrameType.RST_STREAM


def test_once_over_calls_are_ignored(bed):
    exchange = bed.exchange(1, POST, end=False)
    exchange.answer(200, [], b"x")
    bed.turn()
    bed.frames()
    exchange.send_informational(100, [])
    exchange.send_head(200, [])
    exchange.answer(200, [], b"x")
    exchange.send_body(b"x")
    exchange.end()
    exchange.pause_request()
    exchange.resume_request()
    exchange.reset("why not")
    bed.turn()
    assert bed.frames() == []


def test_a_second_head_and_an_end_without_one(bed):
    exchange = bed.exchange()
    exchange.send_body(b"too early")
    exchange.send_head(200, [])
    exchange.send_head(404, [])
    exchange.answer(404, [], b"")
    exchange.end()
    bed.exchange(3).end()
    bed.turn()
    got = bed.frames()
    assert [kind for kind, _, stream_id, _ in got if stream_id == 1] == [1, 0]
    assert [kind for kind, _, stream_id, _ in got if stream_id == 3] == [3]


def test_reset(bed):
    exchange = bed.exchange()
    exchange.send_head(200, [])
    exchange.reset("the upstream broke off")
    assert exchange.ended
    bed.turn()
    assert bed.frames()[-1][0] == FrameType.RST_STREAM
    assert exchange.consumer.calls == []


# --- the request's body


def test_a_body_is_delivered_and_acknowledged(bed):
    exchange = bed.exchange(1, POST, end=False)
    for _ in range(8):
        bed.send(data(1, bytes(16_384)))
    assert len(exchange.consumer.body) == STREAM_WINDOW // 2
    assert bed.frames() == [(8, 0, 1, (STREAM_WINDOW // 2).to_bytes(4))]
    bed.send(headers(1, [("t", "u")]))
    assert exchange.consumer.calls == [("ended", ((b"t", b"u"),))]


def test_a_body_that_nobody_wants_is_thrown_away(bed):
    bed.act = lambda _: None
    bed.exchange(1, POST, end=False)
    for _ in range(8):
        bed.send(data(1, bytes(16_384)))
    assert bed.frames() == [(8, 0, 1, (STREAM_WINDOW // 2).to_bytes(4))]
    bed.send(data(1, b"", end=True))
    bed.exchanges[0].answer(200, [], b"")
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1]


def test_a_paused_request_holds_the_client_back(bed):
    exchange = bed.exchange(1, POST, end=False)
    consumer = exchange.consumer
    exchange.pause_request()
    for number in range(16):
        bed.send(data(1, bytes((number,)) * 16_384))
    bed.send(data(1, b"", end=True))
    assert consumer.body == b""
    assert consumer.calls == []
    assert bed.frames() == []
    exchange.resume_request()
    assert consumer.body == b"".join(bytes((number,)) * 16_384 for number in range(16))
    assert consumer.calls == [("ended", ())]


def test_windows_are_given_back_on_resumption(bed):
    exchange = bed.exchange(1, POST, end=False)
    exchange.consumer.on_body = lambda _: exchange.pause_request()
    bed.send(data(1, b"a" * 16_384))
    for _ in range(15):
        bed.send(data(1, b"b" * 16_384))
    assert len(exchange.consumer.body) == 16_384
    exchange.resume_request()  # what was held is delivered, and it pauses again
    assert len(exchange.consumer.body) == STREAM_WINDOW
    bed.turn()
    assert bed.frames() == []
    exchange.resume_request()
    bed.turn()
    assert bed.frames() == [(8, 0, 1, STREAM_WINDOW.to_bytes(4))]
    exchange.resume_request()


def test_a_response_that_ends_first_frees_what_was_held(bed):
    exchange = bed.exchange(1, POST, end=False)
    exchange.pause_request()
    bed.send(data(1, bytes(16_384)))
    exchange.answer(413, [], b"")
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 3]
    assert bed.connection.session._consumed == 16_384
    bed.send(data(1, b"late"))
    assert exchange.consumer.body == b""


def test_body_that_comes_while_the_response_is_still_queued_is_thrown_away():
    bed = Bed(frames.encode_settings([(4, 1)]))
    exchange = bed.exchange(1, POST, end=False)
    exchange.answer(200, [], b"xy")
    bed.turn()
    bed.send(data(1, b"late"))
    assert exchange.consumer.body == b""
    assert bed.connection.session._consumed == 4
    bed.send(frames.encode_window_update(1, 1))
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 0, 0, 3]


def test_a_client_that_resets_is_lost(bed):
    exchange = bed.exchange()
    bed.send(frames.encode_rst_stream(1, ErrorCode.CANCEL))
    assert exchange.consumer.calls == [("lost", "the peer sent CANCEL")]
    assert exchange.ended
    exchange.answer(200, [], b"x")
    bed.turn()
    assert bed.frames() == []


def test_a_request_reset_in_the_same_breath_is_not_begun(bed):
    bed.send(headers(1, POST, end=False) + data(1, b"x") + frames.encode_rst_stream(1, 8))
    assert bed.exchanges == []


def test_a_lost_connection_loses_every_exchange(bed):
    first, second = bed.exchange(1), bed.exchange(3)
    third = bed.exchange(5)
    third.answer(200, [], b"")
    bed.lose()
    assert [exchange.consumer.lost for exchange in (first, second, third)] == [True, True, False]
    first.answer(200, [], b"x")
    first.reset("too late")
    bed.turn(100)
    bed.connection.resumeProducing()
    bed.send(b"more")
    bed.connection.drain()
    assert bed.clock.getDelayedCalls() == []


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
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 3]
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
    head, reset = bed.frames()
    assert bed.fields(head[3])[b":status"] == b"408"
    assert reset == (3, 0, 1, bytes(4))
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


def test_a_slow_field_block_is_known_from_its_first_bytes(bed):
    bed.send(headers(1)[:4])
    bed.turn(10)
    assert bed.goaway() is ErrorCode.ENHANCE_YOUR_CALM
    assert bed.transport.disconnecting


def test_requests_without_a_body_say_so(bed):
    assert bed.exchange(1).request_ended
    assert not bed.exchange(3, POST, end=False).request_ended


def test_a_body_for_nobody_is_held_and_dropped_while_paused(bed):
    bed.act = lambda _: None
    exchange = bed.exchange(1, POST, end=False)
    exchange.pause_request()
    bed.send(data(1, bytes(16_384)) * 8 + data(1, b"", end=True))
    assert bed.frames() == []
    exchange.resume_request()
    exchange.answer(200, [], b"")
    bed.turn()
    assert bed.connection.session.streams == {}
    bed.exchange(3).reset("nobody listens here either")
    bed.exchange(5)
    bed.send(frames.encode_rst_stream(5, 8))
    bed.exchange(7, POST, end=False)
    bed.turn(30)
    assert bed.exchanges[-1].ended
    bed.lose()
