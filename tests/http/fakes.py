"""An Exchange that writes down what a handler does with it, and what else handlers need."""

from __future__ import annotations

from twisted.internet import error
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from dwaarx.http.events import Fields, RequestHead
from dwaarx.http.exchange import ConnectionInfo, Exchange

INFO = ConnectionInfo("192.0.2.7", 50000, "192.0.2.1", 443, secure=True, server_name="example.com")


class FakeExchange(Exchange):
    """`said` holds every call in order: (name, *arguments); pieces of body stand in `body`."""

    __slots__ = ("_ended", "body", "said")

    def __init__(self, request, info=INFO, *, request_ended=True):
        super().__init__(request, info, request_ended=request_ended)
        self.said = []
        self.body = b""
        self._ended = False

    @property
    def ended(self):
        return self._ended

    @property
    def status(self):
        return next((entry[1] for entry in self.said if entry[0] in ("head", "answer")), None)

    @property
    def fields(self):
        return dict(next(entry[2] for entry in self.said if entry[0] in ("head", "answer")))

    @property
    def names(self):
        """What was called, in order, with `body` once for pieces in a row."""
        names = [entry[0] for entry in self.said]
        return [n for at, n in enumerate(names) if n != "body" or names[at - 1 : at] != ["body"]]

    def _say(self, *entry):
        if not self._ended:
            self.said.append(entry)

    def send_informational(self, status, fields):
        self._say("informational", status, list(fields))

    def _send_head(self, status: int, fields: Fields, end: bool) -> None:
        self._say("head", status, list(fields), end)
        self._ended = self._ended or end

    def _send_answer(self, status: int, fields: Fields, body: bytes) -> None:
        self._say("answer", status, list(fields), body)
        self.body += body
        self._ended = True

    def send_body(self, data):
        self._say("body", data)
        self.body += data

    def end(self, trailers=()):
        self._say("end", tuple(trailers))
        self._ended = True

    def reset(self, reason):
        self.said.append(("reset", reason))
        self._ended = True

    def pause_request(self):
        self._say("pause_request")

    def resume_request(self):
        self._say("resume_request")


def make_request(target=b"/", method=b"GET", **changes):
    values = {
        "scheme": b"https",
        "authority": b"example.com",
        "fields": [],
        "version": b"1.1",
        **changes,
    }
    return RequestHead(method, values.pop("scheme"), values.pop("authority"), target, **values)


def make_exchange(target=b"/", method=b"GET", info=INFO, request_ended=None, **changes):
    """An exchange for a request; it has a body if `content_length` or `request_ended` say so."""
    if request_ended is None:
        request_ended = not changes.get("content_length")
    return FakeExchange(make_request(target, method, **changes), info, request_ended=request_ended)


class NamedHandler:
    """Answers 200 with its name."""

    def __init__(self, name):
        self.name = name
        self.seen = []

    def handle(self, exchange):
        self.seen.append(exchange)
        exchange.answer(200, (), self.name.encode())


class FakeTransport(StringTransport):
    """A StringTransport with what TCP has besides; `events` holds what was done to it."""

    def __init__(self):
        super().__init__()
        self.events = []
        self.no_delay = self.keep_alive = False

    def setTcpNoDelay(self, enabled):
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled):
        self.keep_alive = enabled

    def loseConnection(self):
        self.events.append("lose")
        super().loseConnection()

    def abortConnection(self):
        self.events.append("abort")

    def loseWriteConnection(self):
        self.events.append("lose-write")

    def stopWriting(self):
        self.events.append("stop-writing")

    def pauseProducing(self):
        self.events.append("pause")
        super().pauseProducing()

    def resumeProducing(self):
        self.events.append("resume")
        super().resumeProducing()


class FakeUpstream:
    """The other end of one connection that a MemoryReactorClock was asked for."""

    def __init__(self, reactor, at=-1):
        self.host, self.port, self.factory, self.timeout, _ = reactor.tcpClients[at]
        self.connector = reactor.connectors[at]
        self.transport = FakeTransport()
        self.protocol = None

    def accept(self):
        self.protocol = self.factory.buildProtocol(None)
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)
        return self

    def refuse(self):
        self.factory.clientConnectionFailed(self.connector, Failure(error.ConnectionRefusedError()))

    def taken(self):
        """What dwaarx has sent since the last look."""
        data = self.transport.value()
        self.transport.clear()
        return data

    def says(self, *pieces):
        for piece in pieces:
            self.protocol.dataReceived(piece)

    def ends(self):
        self.protocol.readConnectionLost()

    def breaks(self):
        self.protocol.connectionLost(Failure(error.ConnectionLost()))

    @property
    def gone(self):
        return "abort" in self.transport.events or "lose" in self.transport.events
