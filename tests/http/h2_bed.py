"""A connection on a transport in memory, with a client's view of what it sends."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from dwaarx.config.model import Timeouts
from dwaarx.http import frames
from dwaarx.http.events import Fields
from dwaarx.http.exchange import ConnectionInfo, Exchange
from dwaarx.http.frames import PREFACE, ErrorCode, FrameType
from dwaarx.http.h2_connection import H2Connection
from tests.http.h2_wire import GET, Peer, headers, parse

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


def hello(exchange: Exchange) -> None:
    exchange.answer(200, [(b"content-type", b"text/plain")], b"hello")
