"""A client's HTTP/1.1 connection: the session on a transport, deadlines, back-pressure."""

from __future__ import annotations

from enum import Enum
from typing import cast

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.config.model import Timeouts
from dwaarx.deadline import Deadline
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    RequestReceived,
)
from dwaarx.http.exchange import ConnectionInfo, Handler
from dwaarx.http.fields import FieldError
from dwaarx.http.h1 import H1Session, ResponseError
from dwaarx.http.h1_exchange import H1Exchange
from dwaarx.log import quiet_logger
from dwaarx.transport import Transport

_log = quiet_logger(__name__)
_handling = _log.failureHandler("while a handler began to answer a request:")

# Pipelined requests that wait for the one in progress; above it the client has to wait as well.
# It is about one read, so that a client which closes is heard for as long as possible.
MAX_BACKLOG = 64 * 1024

# Answers to pipelined requests are gathered up to this, then given to the transport: it says
# when it has enough.
FLUSH_MARK = 64 * 1024

# RFC 9112 9.6: a client that still sends must be read for a while, or the reset that its bytes
# cause takes our answer from it before it was read. The bytes are what socket buffers can hold.
LINGER_SECONDS = 5.0
LINGER_BYTES = 16 * 1024 * 1024


class _State(Enum):
    OPEN = "open"
    LINGERING = "lingering"  # all is said; what still comes is thrown away
    CLOSING = "closing"  # the transport flushes, then closes
    CLOSED = "closed"


class _Wait(Enum):
    """What the reading deadline stands for."""

    HEAD = "head"
    IDLE = "idle"
    BODY = "body"
    NOTHING = "nothing"


@implementer(IHalfCloseableProtocol, IPushProducer)
class H1Connection(Protocol):
    """Serves one client's requests with `handler`, one after the other, until either closes.

    All answers of one turn of the reactor go out in one write. The deadlines are those of
    `timeouts`, in seconds: `read_header` from the first byte of a head (and from the beginning
    of the connection), `idle` between requests and for a client that does not read,
    `read_body` between two reads of a body.
    """

    def __init__(
        self, info: ConnectionInfo, handler: Handler, timeouts: Timeouts, clock: IReactorTime
    ) -> None:
        self.info = info
        self._handler = handler
        self._timeouts = timeouts
        self._session = H1Session(b"https" if info.secure else b"http")
        self._exchange: H1Exchange | None = None
        self._state = _State.OPEN
        self._wait = _Wait.HEAD
        self._read_deadline = Deadline(clock, self._read_expired)
        self._write_deadline = Deadline(clock, self._write_expired)
        self._served = False  # at least one request
        self._registered = True  # as the transport's producer
        self._in_turn = False
        self._write_paused = False  # by the transport: the client does not read
        self._request_paused = False  # by the handler: whoever takes the body does not
        self._reading_paused = False  # what the transport was told
        self._client_ended = False  # it half-closed
        self._linger_left = LINGER_BYTES

    # --- from the transport ---

    def connectionMade(self) -> None:
        """Wait for the first request."""
        self._tcp = cast("Transport", self.transport)
        self._tcp.registerProducer(self, True)
        self._read_deadline.set(self._timeouts.read_header)

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._state is _State.OPEN:
            self._turn(self._session.receive_data(data))
        elif self._state is _State.LINGERING:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hear that the connection is gone."""
        self._over(reason.getErrorMessage())

    def readConnectionLost(self) -> None:
        """Hear that the client has closed its half.

        In a tunnel that is a message. Else it has gone: one that waits for its answer does not
        do this, and for one that has gone, work would go on upstream until something is written.
        """
        session = self._session
        if self._client_ended or self._state in (_State.CLOSING, _State.CLOSED):
            return
        self._client_ended = True
        exchange = self._exchange
        if self._state is _State.LINGERING or exchange is None:
            self._close()
        elif not session.is_tunnel:
            self.abort("the client closed the connection")
        elif exchange.ended:
            self._exchange = None  # both halves have ended: nothing is lost
            self._close()
        elif exchange.consumer is not None:
            exchange.consumer.body_ended(())

    def writeConnectionLost(self) -> None:
        """Hear that our half is closed, as we asked."""

    def pauseProducing(self) -> None:
        """Hear from the transport that it holds enough: the client reads slowly."""
        if not self._write_paused:
            self._write_paused = True
            self._write_deadline.set(self._timeouts.idle)
        self._tell_paused()

    def resumeProducing(self) -> None:
        """Hear from the transport that the client has caught up."""
        self._write_paused = False
        if self._state is not _State.OPEN:
            return
        self._write_deadline.clear()
        exchange = self._exchange
        if exchange is not None and exchange.paused:
            exchange.paused = False
            if exchange.consumer is not None:
                exchange.consumer.resume_response()
        if not self._in_turn and self._state is _State.OPEN and self._exchange is None:
            self._turn([])  # requests that waited for this

    def stopProducing(self) -> None:
        """Hear from the transport that it is gone; connectionLost says so as well."""

    # --- from the listener ---

    def drain(self) -> None:
        """Finish the request in progress, accept nothing new, then close."""
        session = self._session
        session.close_after()
        if self._state is _State.OPEN and session.at_head and not session.head_begun:
            self._close()

    # --- from the exchange ---

    def written(self) -> None:
        """Something is to be sent: now, or at the end of the turn."""
        if not self._in_turn:
            self._flush()

    def tunnel_begun(self) -> None:
        """Both ways are raw; what the client sent behind its request belongs to it."""
        if not self._in_turn:
            self._turn([])

    def response_ended(self) -> None:
        """The response is whole: on to the next request, or close our half of the tunnel."""
        if self._session.is_tunnel:
            self._flush()
            if self._client_ended:
                self._exchange = None  # both halves have ended: nothing is lost
                self._close()
            elif self.info.secure:
                self._close()  # TLS cannot close one half in Twisted
            else:
                self._unregister()
                self._tcp.loseWriteConnection()
            return
        self._exchange = None
        self._request_paused = False
        if not self._in_turn:
            self._turn([])

    def response_failed(self, error: FieldError | ResponseError) -> None:
        """The handler broke a rule: 500 if nothing was sent, else the connection must go."""
        _log.error("a handler's response cannot be sent: {error}", error=error)
        self._fail(str(error))

    def pause_request(self, exchange: H1Exchange, *, pause: bool) -> None:
        """Read no more for this exchange, or go on."""
        if exchange is self._exchange and self._state is _State.OPEN:
            self._request_paused = pause
            if not self._in_turn:
                self._balance()
                self._arm()

    def abort(self, reason: str | None = None) -> None:
        """Close at once, and tell whoever is still at work why."""
        if self._state is not _State.CLOSED:
            self._over(reason)
            self._tcp.abortConnection()

    # --- a turn ---

    def _turn(self, events: list[Event]) -> None:
        """Deal with events, and with the pipelined requests behind them; then write, once."""
        session = self._session
        self._in_turn = True
        while self._state is _State.OPEN:
            for event in events:
                self._take(event)
            if self._state is not _State.OPEN:
                break
            if session.queued > FLUSH_MARK:
                self._flush()
            if self._write_paused and self._exchange is None:
                break  # the next answers would only pile up
            events = session.next_request()
            if not events:
                break
        self._in_turn = False
        if self._state is _State.OPEN:
            self._flush()
        if self._state is _State.OPEN:  # the transport may have called back
            self._balance()
            self._arm()

    def _take(self, event: Event) -> None:
        exchange = self._exchange
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, BodyReceived):
            if exchange is not None and exchange.consumer is not None:
                exchange.consumer.body_received(event.data)
        elif isinstance(event, BodyEnded):
            if exchange is not None and exchange.consumer is not None:
                exchange.consumer.body_ended(event.trailers)
        elif isinstance(event, ConnectionEnded):
            self._end(event)

    def _begin(self, event: RequestReceived) -> None:
        exchange = H1Exchange(event.head, self.info, self, self._session, request_ended=event.ended)
        self._exchange = exchange
        self._served = True
        self._wait = _Wait.NOTHING  # a head behind this one has its own time
        returned = False
        with _handling:
            self._handler.handle(exchange)
            returned = True
        if not returned:
            self._fail("the handler failed")
        elif self._write_paused:
            self._tell_paused()

    def _fail(self, reason: str) -> None:
        """Answer 500 for a handler that cannot, or abort if it is too late for that."""
        exchange, session = self._exchange, self._session
        if exchange is None:
            return
        if session.head_sent:
            self.abort(reason)
            return
        exchange.lose(reason)
        session.send_head(500, ((b"content-length", b"0"),), end=True)
        self.response_ended()

    def _end(self, event: ConnectionEnded) -> None:
        """The session is over: say the last words, and close as it fits."""
        session = self._session
        if event.error is not None:
            _log.debug("{client}: {error}", client=self.info.client, error=event.error)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lose(event.error or "the connection ended")
        if session.broken:
            self.abort()
            return
        self._flush()
        if self._state is _State.OPEN:
            if session.unread:
                self._linger()
            else:
                self._close()

    def _flush(self) -> None:
        out = self._session.data_to_send()
        if not out:
            return
        if len(out) == 1:
            self._tcp.write(out[0])
        else:
            self._tcp.writeSequence(out)

    def _tell_paused(self) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.consumer is not None and not exchange.paused:
            exchange.paused = True
            exchange.consumer.pause_response()

    def _balance(self) -> None:
        """Read, or do not, as the handler and the backlog ask."""
        if self._client_ended:
            return
        session = self._session
        pause = self._request_paused or (not session.at_head and session.backlog > MAX_BACKLOG)
        if pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                self._tcp.pauseProducing()
            else:
                self._tcp.resumeProducing()

    # --- deadlines, and the end ---

    def _arm(self) -> None:
        """Set the reading deadline for what is waited for now."""
        session, timeouts = self._session, self._timeouts
        if session.head_begun:
            if self._wait is not _Wait.HEAD:
                self._wait = _Wait.HEAD
                self._read_deadline.set(timeouts.read_header)
        elif session.at_head:
            if self._served:
                self._wait = _Wait.IDLE
                self._read_deadline.set(timeouts.idle)
        elif session.in_body and not self._request_paused:
            self._wait = _Wait.BODY
            self._read_deadline.set(timeouts.read_body)
        else:
            self._wait = _Wait.NOTHING
            self._read_deadline.clear()

    def _read_expired(self) -> None:
        session = self._session
        if self._state is not _State.OPEN:
            self._close()
        elif self._wait is _Wait.BODY:
            self._turn([session.reject(408, "the request's body came too slowly")])
        elif session.head_begun:
            self._turn([session.reject(408, "the request's head came too slowly")])
        else:
            self._close()

    def _write_expired(self) -> None:
        self.abort("the client does not read")

    def _linger(self) -> None:
        """Close our half, and read on for a while so that the client can read the answer."""
        self._state = _State.LINGERING
        self._read_deadline.set(LINGER_SECONDS)
        if self._reading_paused:
            self._reading_paused = False
            self._tcp.resumeProducing()
        self._unregister()
        # TLS cannot close one half in Twisted: the client closes, having read the whole answer
        if not self.info.secure:
            self._tcp.loseWriteConnection()

    def _unregister(self) -> None:
        # a transport with a paused producer does not close, not even one half
        if self._registered:
            self._registered = False
            self._tcp.unregisterProducer()

    def _close(self) -> None:
        """Close when all is flushed, in time."""
        self._unregister()
        self._state = _State.CLOSING
        self._read_deadline.clear()
        self._write_deadline.set(self._timeouts.idle)
        self._tcp.loseConnection()

    def _over(self, reason: str | None) -> None:
        self._state = _State.CLOSED
        self._read_deadline.stop()
        self._write_deadline.stop()
        exchange, self._exchange = self._exchange, None
        if exchange is not None and reason is not None:
            exchange.lose(reason)
