from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from dwaarx.config.model import Timeouts
from dwaarx.http import h1_connection
from dwaarx.http.events import Fields
from dwaarx.http.exchange import ConnectionInfo, Exchange
from dwaarx.http.h1_connection import H1Connection

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
TIMEOUTS = Timeouts(read_header=10, read_body=30, idle=60)


def post(length: int, body: bytes = b"", *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in (b"Content-Length: %d" % length, *fields))
    return b"POST / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n" + body


class Transport(StringTransport):
    """Counts writes, and can close a half."""

    def __init__(self) -> None:
        StringTransport.__init__(self)
        self.writes = 0
        self.half_closed = False

    def write(self, data: bytes) -> None:
        self.writes += 1
        StringTransport.write(self, data)

    def writeSequence(self, data: list[bytes]) -> None:
        self.writes += 1
        StringTransport.writeSequence(self, data)

    def loseWriteConnection(self) -> None:
        assert self.producer is None, "a transport with a producer would not close"
        self.half_closed = True


class Consumer:
    """Writes down what it hears."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.heard: list[object] = []

    def body_received(self, data: bytes) -> None:
        self.heard.append(data)

    def body_ended(self, trailers: Fields) -> None:
        self.heard.append("ended")

    def client_lost(self, reason: str) -> None:
        self.heard.append(f"lost: {reason}")

    def pause_response(self) -> None:
        self.heard.append("pause")

    def resume_response(self) -> None:
        self.heard.append("resume")


class Bench:
    """A connection on a transport in memory, whose handler is given or leaves all to the test."""

    def __init__(
        self, handle: Callable[[Exchange], None] | None = None, *, secure: bool = False
    ) -> None:
        self.clock = Clock()
        self.transport = Transport()
        self.exchanges: list[Exchange] = []
        self.consumers: list[Consumer] = []
        self._handle = handle
        info = ConnectionInfo("192.0.2.1", 1, "192.0.2.2", 443, secure)
        self.connection = H1Connection(info, self, TIMEOUTS, self.clock)
        self.connection.makeConnection(self.transport)

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        if self._handle is not None:
            self._handle(exchange)
        else:
            consumer = Consumer(exchange)
            self.consumers.append(consumer)
            exchange.consumer = consumer

    def feed(self, *parts: bytes) -> "Bench":
        for part in parts:
            self.connection.dataReceived(part)
        return self

    @property
    def exchange(self) -> Exchange:
        return self.exchanges[-1]

    @property
    def heard(self) -> list[object]:
        return self.consumers[-1].heard

    @property
    def sent(self) -> bytes:
        return self.transport.value()

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting and not self.transport.disconnected

    @property
    def aborted(self) -> bool:
        return self.transport.disconnected

    @property
    def reading(self) -> bool:
        return self.transport.producerState == "producing"

    def lose(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The log's errors, as they are made."""
    lines: list[str] = []

    def observe(event: dict[str, object]) -> None:
        if event["log_level"] in (LogLevel.error, LogLevel.critical):
            lines.append(str(event.get("log_failure") or event.get("error")))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def hello(exchange: Exchange) -> None:
    exchange.answer(200, [(b"x", b"1")], b"hello")


# --- turns ---


def test_it_is_what_a_transport_asks_for() -> None:
    bench = Bench()
    assert verifyObject(IHalfCloseableProtocol, bench.connection)
    assert bench.transport.producer is bench.connection
    assert bench.transport.streaming


def test_a_synchronous_answer_is_one_write_in_the_same_turn() -> None:
    bench = Bench(hello).feed(GET)
    assert bench.transport.writes == 1
    assert bench.sent.startswith(b"HTTP/1.1 200 OK\r\nx: 1\r\ncontent-length: 5\r\ndate: ")
    assert bench.sent.endswith(b"\r\n\r\nhello")
    assert bench.exchange.ended
    bench.feed(GET)
    assert bench.transport.writes == 2


def test_pipelined_answers_are_one_write_too() -> None:
    bench = Bench(hello).feed(GET * 10)
    assert bench.sent.count(b"hello") == 10
    assert bench.transport.writes == 1


def test_large_pipelined_answers_are_written_as_they_grow() -> None:
    def large(exchange: Exchange) -> None:
        exchange.answer(200, [], b"x" * (h1_connection.FLUSH_MARK + 1))

    bench = Bench(large).feed(GET * 3)
    assert bench.transport.writes == 3


def test_asynchronous_pieces_are_written_as_they_come() -> None:
    bench = Bench().feed(GET)
    assert bench.sent == b""
    bench.exchange.send_head(200, [])
    assert b"transfer-encoding: chunked\r\n" in bench.sent
    bench.exchange.send_body(b"ab")
    assert bench.sent.endswith(b"\r\n\r\n2\r\nab\r\n")
    bench.exchange.end([(b"x", b"1")])
    assert bench.sent.endswith(b"0\r\nx: 1\r\n\r\n")
    assert bench.transport.writes == 3


def test_a_request_waits_for_the_answer_before_it() -> None:
    bench = Bench().feed(GET + GET)
    assert len(bench.exchanges) == 1
    bench.exchange.send_head(204, [], end=True)
    assert len(bench.exchanges) == 2
    bench.exchange.answer(200, [], b"two")
    assert bench.sent.endswith(b"two")


def test_changes_are_made_to_the_final_head() -> None:
    def change(exchange: Exchange) -> None:
        exchange.response_changes.append(lambda _, fields: [*fields, (b"x-new", b"1")])
        hello(exchange)

    assert b"x-new: 1" in Bench(change).feed(GET).sent


def test_a_body_goes_to_the_consumer() -> None:
    bench = Bench().feed(post(5, b"he"), b"llo" + GET)
    assert bench.heard == [b"he", b"llo", "ended"]
    assert len(bench.exchanges) == 1


def test_a_body_without_a_consumer_is_thrown_away() -> None:
    bench = Bench().feed(post(5))
    bench.exchange.consumer = None
    bench.feed(b"hello")
    bench.exchange.answer(200, [], b"")
    assert b"connection: close" not in bench.sent
    assert len(bench.feed(GET).exchanges) == 2


def test_an_interim_response() -> None:
    def go_on(exchange: Exchange) -> None:
        exchange.consumer = Consumer(exchange)
        assert exchange.expects_continue()
        exchange.send_informational(100, [])

    bench = Bench(go_on).feed(post(2, b"", b"Expect: 100-continue"))
    assert bench.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    bench.feed(b"ab")
    hello(bench.exchange)
    assert b"connection: close" not in bench.sent


def test_after_the_end_every_call_is_ignored() -> None:
    bench = Bench(hello).feed(GET)
    sent = bench.sent
    exchange = bench.exchange
    exchange.send_informational(103, [])
    exchange.send_head(200, [])
    exchange.answer(200, [], b"x")
    exchange.send_body(b"x")
    exchange.end()
    exchange.pause_request()
    exchange.resume_request()
    exchange.reset("late")
    assert bench.sent == sent
    assert bench.reading
    assert not bench.aborted


# --- handlers that fail ---


def test_a_handler_that_raises_is_500(logged: list[str]) -> None:
    def fail(exchange: Exchange) -> None:
        raise RuntimeError("broken")

    bench = Bench(fail).feed(GET + GET)
    assert bench.sent.count(b"HTTP/1.1 500 ") == 2
    assert len(logged) == 2
    assert "broken" in logged[0]


def test_a_handler_that_raises_within_a_response_aborts(logged: list[str]) -> None:
    def fail(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        raise RuntimeError("broken")

    assert Bench(fail).feed(GET).aborted
    assert len(logged) == 1


def test_a_handler_that_raises_behind_its_answer_harms_no_one(logged: list[str]) -> None:
    def fail(exchange: Exchange) -> None:
        hello(exchange)
        raise RuntimeError("broken")

    bench = Bench(fail).feed(GET)
    assert bench.sent.endswith(b"hello")
    assert not bench.transport.disconnecting
    assert len(logged) == 1


BAD = [(b"x", b"1\r\nset-cookie: a")]


@pytest.mark.parametrize(
    "call",
    [
        lambda exchange: exchange.send_head(200, BAD),
        lambda exchange: exchange.answer(200, BAD, b"x"),
        lambda exchange: exchange.send_informational(103, BAD),
        lambda exchange: exchange.send_body(b"x"),
        lambda exchange: exchange.end(),
        lambda exchange: exchange.send_head(101, []),
    ],
)
def test_what_may_not_be_sent_is_500(logged: list[str], call: Callable[[Exchange], None]) -> None:
    bench = Bench().feed(GET)
    consumer = bench.consumers[0]
    call(bench.exchange)
    assert bench.sent.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in bench.sent
    assert len(logged) == 1
    assert str(consumer.heard[0]).startswith("lost: ")
    assert bench.exchange.ended
    bench.feed(GET)
    assert len(bench.exchanges) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda exchange: exchange.send_body(b"xyz"),
        lambda exchange: exchange.end(),
        lambda exchange: exchange.send_head(200, []),
    ],
)
def test_a_response_that_went_wrong_aborts(
    logged: list[str], call: Callable[[Exchange], None]
) -> None:
    bench = Bench().feed(GET)
    bench.exchange.send_head(200, [(b"content-length", b"2")])
    call(bench.exchange)
    assert bench.aborted
    assert bench.exchange.ended
    assert len(bench.heard) == len(logged) == 1


def test_bad_trailers_abort(logged: list[str]) -> None:
    bench = Bench().feed(GET)
    bench.exchange.send_head(200, [])
    bench.exchange.end(BAD)
    assert bench.aborted
    assert len(logged) == 1


def test_reset_before_the_head_aborts() -> None:
    bench = Bench().feed(GET)
    bench.exchange.reset("no reason")
    assert bench.aborted
    assert bench.sent == b""


def test_an_answer_from_within_a_pause_closes_once() -> None:
    class Hasty(Consumer):
        def pause_response(self) -> None:
            self.exchange.end()

    class Full(Transport):
        def write(self, data: bytes) -> None:
            Transport.write(self, data)
            if self.producer is not None:
                self.producer.pauseProducing()

    def begin(exchange: Exchange) -> None:
        exchange.consumer = Hasty(exchange)
        exchange.send_head(200, [])

    bench = Bench(begin)
    bench.connection.transport = bench.transport = Full()
    bench.connection.makeConnection(bench.transport)
    bench.feed(b"GET / HTTP/1.0\r\n\r\n")
    assert not bench.closed
    bench.connection.resumeProducing()
    assert bench.closed
    bench.clock.advance(TIMEOUTS.idle)
    assert bench.aborted


def test_reset_aborts_and_says_nothing_more() -> None:
    bench = Bench().feed(GET)
    bench.exchange.send_head(200, [])
    bench.exchange.reset("upstream died")
    assert bench.aborted
    bench.feed(GET)
    bench.lose()
    assert bench.heard == []


# --- back-pressure ---


def test_a_client_that_reads_slowly_pauses_the_response() -> None:
    bench = Bench().feed(GET)
    bench.connection.pauseProducing()
    bench.connection.pauseProducing()
    bench.connection.resumeProducing()
    assert bench.heard == ["pause", "resume"]


def test_a_request_that_begins_while_the_client_does_not_read_is_paused() -> None:
    bench = Bench()
    bench.connection.pauseProducing()
    bench.feed(GET)
    assert bench.heard == ["pause"]


def test_no_more_requests_are_answered_while_the_client_does_not_read() -> None:
    bench = Bench().feed(GET + GET + GET)
    bench.connection.pauseProducing()
    hello(bench.exchange)
    assert len(bench.exchanges) == 1
    bench.connection.resumeProducing()
    assert len(bench.exchanges) == 2


def test_a_paused_request_is_not_read() -> None:
    bench = Bench().feed(post(5))
    bench.exchange.pause_request()
    assert not bench.reading
    bench.clock.advance(TIMEOUTS.read_body + 1)
    assert not bench.transport.disconnecting
    bench.exchange.resume_request()
    assert bench.reading
    bench.clock.advance(TIMEOUTS.read_body + 1)
    assert bench.sent.startswith(b"HTTP/1.1 408 ")


def test_a_request_paused_at_once_is_not_read() -> None:
    bench = Bench(lambda exchange: exchange.pause_request()).feed(post(5))
    assert not bench.reading
    bench.exchange.answer(200, [], b"")
    assert bench.reading


def test_a_backlog_is_bounded() -> None:
    bench = Bench().feed(GET)
    while bench.reading:
        bench.feed(GET * 100)
    assert len(bench.exchanges) == 1
    for _ in range(5000):
        hello(bench.exchange)
    assert bench.reading
    assert len(bench.exchanges) > 2000


# --- deadlines ---


def test_a_connection_without_a_request_closes_silently() -> None:
    bench = Bench()
    bench.clock.advance(TIMEOUTS.read_header - 1)
    assert not bench.closed
    bench.clock.advance(1)
    assert bench.closed
    assert bench.sent == b""


def test_a_head_that_dribbles_is_408() -> None:
    bench = Bench()
    for _ in range(9):
        bench.clock.advance(1)
        bench.feed(b"G")
    bench.clock.advance(1)
    assert bench.sent.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in bench.sent
    assert bench.transport.half_closed


def test_a_later_head_has_its_time_from_its_first_byte() -> None:
    bench = Bench(hello).feed(GET)
    bench.clock.advance(50)
    bench.feed(b"G")
    bench.clock.advance(9)
    bench.feed(b"E")
    assert b"408" not in bench.sent
    bench.clock.advance(1)
    assert b"HTTP/1.1 408 " in bench.sent


def test_a_head_behind_a_request_in_the_same_read_has_its_own_time() -> None:
    bench = Bench(hello).feed(b"GET /")
    for _ in range(10):  # a client that pipelines, and whose reads end within a head
        bench.clock.advance(9)
        bench.feed(GET[5:] + GET[:5])
    assert b"408" not in bench.sent
    assert len(bench.exchanges) == 10
    bench.clock.advance(10)
    assert b"HTTP/1.1 408 " in bench.sent


def test_idle_from_the_last_answer() -> None:
    bench = Bench(hello).feed(GET)
    bench.clock.advance(59)
    bench.feed(GET)
    bench.clock.advance(59)
    assert not bench.closed
    bench.clock.advance(1)
    assert bench.closed


def test_a_handler_has_all_the_time_it_takes() -> None:
    bench = Bench().feed(GET)
    bench.clock.advance(10_000)
    assert not bench.transport.disconnecting
    bench.exchange.answer(200, [], b"")
    bench.clock.advance(TIMEOUTS.idle)
    assert bench.closed


def test_a_body_has_its_time_between_two_reads() -> None:
    bench = Bench().feed(post(9))
    for _ in range(3):
        bench.clock.advance(29)
        bench.feed(b"a")
    bench.clock.advance(30)
    assert bench.sent.startswith(b"HTTP/1.1 408 ")
    assert bench.heard[-1] == "lost: the request's body came too slowly"
    assert bench.exchange.ended


def test_a_body_too_slow_for_a_response_that_has_begun_aborts() -> None:
    bench = Bench().feed(post(9))
    bench.exchange.send_head(200, [])
    bench.clock.advance(30)
    assert bench.aborted


def test_a_rest_to_discard_has_its_time_too() -> None:
    bench = Bench(hello).feed(post(9))
    bench.clock.advance(29)
    assert not bench.transport.half_closed
    bench.clock.advance(1)
    assert bench.transport.half_closed
    assert b"408" not in bench.sent


def test_a_client_that_does_not_read_is_dropped() -> None:
    bench = Bench().feed(GET)
    bench.exchange.send_head(200, [])
    bench.connection.pauseProducing()
    bench.clock.advance(30)
    bench.connection.pauseProducing()
    bench.clock.advance(29)
    assert not bench.aborted
    bench.clock.advance(1)
    assert bench.aborted
    assert bench.heard == ["pause", "lost: the client does not read"]


def test_a_client_that_reads_on_is_kept() -> None:
    bench = Bench().feed(GET)
    bench.connection.pauseProducing()
    bench.clock.advance(59)
    bench.connection.resumeProducing()
    bench.clock.advance(59)
    assert not bench.aborted


def test_a_close_that_does_not_flush_is_forced() -> None:
    bench = Bench(hello).feed(b"GET / HTTP/1.0\r\n\r\n")
    assert bench.closed
    bench.clock.advance(TIMEOUTS.idle)
    assert bench.aborted


# --- the end ---


def test_the_client_is_gone() -> None:
    bench = Bench().feed(GET)
    bench.lose()
    assert bench.heard == ["lost: Connection was closed cleanly."]
    assert bench.exchange.ended
    bench.exchange.answer(200, [], b"")
    assert bench.sent == b""


def test_a_connection_lost_without_a_request() -> None:
    Bench().lose()
    Bench(hello).feed(GET).lose()


def test_http_1_0_is_closed_behind_its_answer() -> None:
    bench = Bench(hello).feed(b"GET / HTTP/1.0\r\n\r\n")
    assert bench.closed
    assert bench.transport.producer is None
    bench.feed(GET)
    assert len(bench.exchanges) == 1


def test_a_rejected_request_lingers() -> None:
    bench = Bench().feed(b"BAD\r\n")
    assert bench.sent.startswith(b"HTTP/1.1 400 ")
    assert bench.transport.half_closed
    assert not bench.closed
    bench.feed(GET)
    assert bench.exchanges == []
    bench.clock.advance(h1_connection.LINGER_SECONDS)
    assert bench.closed


def test_a_bad_body_is_told_to_the_consumer() -> None:
    bench = Bench().feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
    assert bench.heard == ["lost: a chunk's size is malformed"]
    assert bench.sent.startswith(b"HTTP/1.1 400 ")


def test_a_bad_body_within_a_response_aborts() -> None:
    bench = Bench().feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    bench.exchange.send_head(200, [])
    bench.feed(b"x\r\n")
    assert bench.aborted
    assert bench.heard == ["lost: a chunk's size is malformed"]


def test_an_early_answer_lingers_behind_a_long_upload() -> None:
    bench = Bench(hello).feed(post(100_000_000, b"x" * 1000))
    assert b"connection: close" in bench.sent
    assert bench.transport.half_closed
    bench.feed(b"x" * 1_000_000)
    assert not bench.closed
    bench.connection.readConnectionLost()
    assert bench.closed


def test_lingering_is_bounded_in_bytes() -> None:
    bench = Bench(hello).feed(post(100_000_000))
    piece = b"x" * 1_000_000
    for _ in range(h1_connection.LINGER_BYTES // len(piece)):
        bench.feed(piece)
    assert not bench.closed
    bench.feed(piece)
    assert bench.closed
    bench.feed(piece)


def test_lingering_reads_what_was_paused() -> None:
    bench = Bench().feed(post(100_000_000))
    bench.exchange.pause_request()
    hello(bench.exchange)
    assert bench.transport.half_closed
    assert bench.reading


def test_lingering_over_tls_closes_no_half() -> None:
    bench = Bench(hello, secure=True).feed(post(100_000_000))
    assert not bench.transport.half_closed
    assert not bench.closed
    bench.clock.advance(h1_connection.LINGER_SECONDS)
    assert bench.closed


def test_a_client_that_closes_its_half_is_gone() -> None:
    bench = Bench().feed(GET)
    bench.connection.readConnectionLost()
    assert bench.heard == ["lost: the client closed the connection"]
    assert bench.aborted
    bench.connection.readConnectionLost()


@pytest.mark.parametrize("data", [b"", b"GET ", GET])
def test_a_client_that_closes_its_half_between_requests(data: bytes) -> None:
    bench = Bench(hello).feed(data)
    bench.connection.readConnectionLost()
    assert bench.closed


# --- drain ---


def test_drain_closes_an_idle_connection_at_once() -> None:
    for data in (b"", GET):
        bench = Bench(hello).feed(data)
        bench.connection.drain()
        assert bench.closed


def test_drain_lets_the_request_in_progress_finish() -> None:
    bench = Bench().feed(GET + GET)
    bench.connection.drain()
    assert not bench.transport.disconnecting
    hello(bench.exchange)
    assert b"connection: close" in bench.sent
    assert len(bench.exchanges) == 1
    assert bench.transport.half_closed


def test_drain_says_nothing_more_to_a_connection_that_ends() -> None:
    bench = Bench().feed(b"BAD\r\n")
    sent = bench.sent
    bench.connection.drain()
    assert bench.sent == sent
    assert not bench.closed


def test_drain_behind_the_head_closes_behind_the_body() -> None:
    bench = Bench().feed(GET)
    bench.exchange.send_head(200, [])
    bench.connection.drain()
    bench.exchange.send_body(b"x")
    assert not bench.closed
    bench.exchange.end()
    assert bench.closed


def test_drain_serves_a_head_that_has_begun() -> None:
    bench = Bench(hello).feed(GET[:5])
    bench.connection.drain()
    assert not bench.closed
    bench.feed(GET[5:])
    assert b"connection: close" in bench.sent
    assert bench.closed


# --- tunnels ---


def tunnel(*, secure: bool = False, more: bytes = b"") -> Bench:
    bench = Bench(secure=secure).feed(UPGRADE + more)
    assert bench.exchange.request.upgrade == b"websocket"
    assert bench.heard == []
    bench.exchange.send_head(101, [])
    bench.transport.clear()
    return bench


def test_a_tunnel_is_raw_both_ways() -> None:
    bench = tunnel().feed(b"\x81\x00", GET)
    assert bench.heard == [b"\x81\x00", GET]
    bench.exchange.send_body(b"\x82")
    assert bench.sent == b"\x82"


def test_bytes_behind_the_upgrade_go_into_the_tunnel() -> None:
    bench = tunnel(more=b"early")
    assert bench.heard == [b"early"]
    assert bench.feed(b"late").heard == [b"early", b"late"]


def test_a_synchronous_tunnel() -> None:
    def accept(exchange: Exchange) -> None:
        bench.consumers.append(Consumer(exchange))
        exchange.consumer = bench.consumers[-1]
        exchange.send_head(101, [])

    bench = Bench(accept)
    bench.feed(UPGRADE + b"early")
    assert bench.heard == [b"early"]
    assert bench.transport.writes == 1


def test_a_tunnel_has_no_idle_limit_but_a_peer_that_does_not_read_has() -> None:
    bench = tunnel()
    bench.clock.advance(100_000)
    assert not bench.transport.disconnecting
    bench.connection.pauseProducing()
    bench.clock.advance(TIMEOUTS.idle)
    assert bench.aborted
    assert bench.heard == ["pause", "lost: the client does not read"]


def test_a_tunnel_is_paused() -> None:
    bench = tunnel()
    bench.exchange.pause_request()
    assert not bench.reading
    bench.exchange.resume_request()
    assert bench.reading


def test_a_tunnel_closes_half_by_half() -> None:
    bench = tunnel()
    bench.connection.readConnectionLost()
    assert bench.heard == ["ended"]
    assert not bench.closed
    bench.exchange.send_body(b"last")
    bench.exchange.end()
    assert bench.sent == b"last"
    assert bench.closed
    bench.lose()
    assert bench.heard == ["ended"]


def test_a_tunnel_closes_half_by_half_from_the_other_side() -> None:
    bench = tunnel()
    bench.exchange.end()
    bench.connection.writeConnectionLost()
    assert bench.transport.half_closed
    assert bench.exchange.ended
    bench.feed(b"more")
    assert bench.heard == [b"more"]
    bench.connection.readConnectionLost()
    assert bench.closed
    bench.lose()
    assert bench.heard == [b"more"]


def test_a_tunnel_whose_client_never_closes_can_be_reset() -> None:
    bench = tunnel()
    bench.exchange.end()
    assert not bench.aborted
    bench.exchange.reset("the tunnel is over")
    assert bench.aborted


def test_a_tunnel_over_tls_closes_whole() -> None:
    bench = tunnel(secure=True)
    bench.exchange.end()
    assert bench.closed
    bench.lose()
    assert bench.heard == ["lost: Connection was closed cleanly."]


def test_a_drained_tunnel_goes_on() -> None:
    bench = tunnel()
    bench.connection.drain()
    bench.feed(b"x")
    assert bench.heard == [b"x"]
    assert not bench.transport.disconnecting


def test_a_refused_upgrade_goes_on_as_http() -> None:
    bench = Bench(hello).feed(UPGRADE + GET)
    assert bench.sent.count(b"hello") == 2


def test_the_transport_may_say_that_it_stops() -> None:
    bench = Bench().feed(GET)
    bench.connection.stopProducing()
    assert bench.heard == []


def test_the_transport_may_resume_a_connection_that_closes() -> None:
    bench = Bench(hello).feed(b"GET / HTTP/1.0\r\n\r\n")
    bench.connection.resumeProducing()
    bench.clock.advance(TIMEOUTS.idle)
    assert bench.aborted


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=6),
            st.sampled_from([GET, UPGRADE, post(3, b"abc"), post(9), GET[:9], b"\r\n", b"0\r\n"]),
        ),
        max_size=8,
    ),
    st.lists(
        st.sampled_from(["end", "answer", "reset", "pause", "write", "tunnel", "tick", "lose"])
    ),
)
def test_nothing_escapes(parts: list[bytes], calls: list[str]) -> None:
    bench = Bench()
    acts: dict[str, Callable[[], None]] = {
        "end": lambda: bench.exchange.end(),
        "answer": lambda: hello(bench.exchange),
        "reset": lambda: bench.exchange.reset("test"),
        "pause": bench.connection.pauseProducing,
        "write": lambda: bench.exchange.send_body(b"x"),
        "tunnel": lambda: bench.exchange.send_head(101, []),
        "tick": lambda: bench.clock.advance(31),
        "lose": bench.connection.readConnectionLost,
    }
    for index, part in enumerate(parts):
        bench.feed(part)
        if bench.exchanges and index < len(calls):
            acts[calls[index]]()
    bench.clock.advance(0)
    bench.lose()
