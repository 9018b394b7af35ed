"""A client's HTTP/2 connection: the session on its transport, exchanges on their streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from twisted.internet.interfaces import IPushProducer, IReactorTime
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
    StreamReset,
    StreamWritable,
)
from dwaarx.http.exchange import ConnectionInfo, Handler
from dwaarx.http.frames import ErrorCode
from dwaarx.http.h2 import H2Session
from dwaarx.http.h2_exchange import H2Exchange
from dwaarx.log import quiet_logger
from dwaarx.transport import Transport

_log = quiet_logger(__name__)

# With this much made for a client that does not read, nothing more is read from it: heads and
# acknowledgements are no part of what a stream's queue bounds.
MAX_WAITING = 65_536

# How long a client may go on with a request that is answered, before it is told by a reset: the
# time to read the answer and stop by itself, or to send the rest, which is thrown away.
LINGER = 5.0


@implementer(IPushProducer)
class H2Connection(Protocol):
    """Serves one client over HTTP/2; `timeouts` are deadlines in seconds.

    What is sent while bytes that came are dealt with goes out in one write at the end of that;
    what is sent at other times, in one write on the reactor's next turn.
    """

    def __init__(
        self, info: ConnectionInfo, handler: Handler, timeouts: Timeouts, clock: IReactorTime
    ) -> None:
        self.info = info
        self.session = H2Session(clock.seconds)
        # The transport takes nothing just now.
        self.paused = False
        self._handler = handler
        self._timeouts = timeouts
        self._clock = clock
        self._exchanges: dict[int, H2Exchange] = {}
        # Those whose request's body is to come, the longest without a piece of it first.
        self._uploads: dict[int, H2Exchange] = {}
        # Those whose response waits for the request's end, and since when, the longest first.
        self._waiting: dict[int, tuple[H2Exchange, float]] = {}
        self._current = 0  # the stream whose event is being handled
        self._in_turn = False
        self._flush_due = False
        self._reading = True
        self._closing = False
        self._deadline = Deadline(clock, self._expired)
        self._now = self._opened_at = self._idle_at = clock.seconds()
        self._moved_at: float | None = None  # when a body went on last, while one waits
        self._begun: int | None = None  # the frame or field block that is not whole yet
        self._begun_at = 0.0
        self._idle_stream = 0  # the last stream when the connection was found idle
        self._sent = 0
        self._drain_at: float | None = None

    @property
    def _wire(self) -> Transport:
        return cast("Transport", self.transport)

    # --- the transport

    def connectionMade(self) -> None:
        """Say our settings, and wait for the client's."""
        self._wire.registerProducer(self, True)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client, and send what they gave rise to."""
        if self._closing:
            return
        self._now = self._clock.seconds()
        self._in_turn = True
        self._handle(self.session.receive_data(data))
        self._in_turn = False
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel what is in progress."""
        self._closing = True
        self._deadline.stop()
        self._lose_all("the client has closed the connection")

    def pauseProducing(self) -> None:
        """Hear that the transport is full."""
        self.paused = True
        self._tell_all()
        if not self._closing:
            self._now = self._clock.seconds()
            self._rearm()

    def resumeProducing(self) -> None:
        """Hear that the transport takes more."""
        self.paused = False
        if self._closing:
            return
        self._moved_at = None
        self._in_turn = True
        self._tell_all()
        self._in_turn = False
        self._flush()
        if not self._reading and not self.paused and not self._closing:
            self._reading = True
            self._wire.resumeProducing()

    def stopProducing(self) -> None:
        """Hear that the transport is gone; connectionLost follows."""

    # --- what has come

    def _handle(self, events: Iterable[Event]) -> None:
        """Handle events; one whose handler fails takes only its own exchange along."""
        rest = iter(events)
        done = False
        while not done:
            with _log.failuresHandled(
                "While handling an HTTP/2 request of {client}", client=self.info.client
            ) as operation:
                for event in rest:
                    self._handle_one(event)
            done = operation.succeeded
            if not done:
                self._broken(self._current)

    def _handle_one(self, event: Event) -> None:
        if isinstance(event, ConnectionEnded):
            self._end(event.error)
            return
        stream_id = self._current = event.stream_id
        if isinstance(event, RequestReceived):
            # A request that was ended in the same breath is not worth beginning.
            if stream_id in self.session.streams and not self.session.closed:
                self._begin(event)
            return
        exchange = self._exchanges.get(stream_id)
        if exchange is None:
            # The response is over: what comes of the request is thrown away.
            if isinstance(event, BodyReceived):
                self.session.acknowledge(stream_id, len(event.data))
        elif isinstance(event, BodyReceived):
            if self._uploads.pop(stream_id, None) is not None:
                exchange.body_at = self._now
                self._uploads[stream_id] = exchange
            exchange.take_body(event.data)
        elif isinstance(event, BodyEnded):
            self._uploads.pop(stream_id, None)
            exchange.take_end(event.trailers)
        elif isinstance(event, StreamWritable):
            exchange.set_full(False)
        elif isinstance(event, StreamReset):
            self.forget(exchange)
            exchange.lose(event.reason)

    def _begin(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        exchange = H2Exchange(event.head, self.info, self, stream_id, event.ended)
        self._exchanges[stream_id] = exchange
        if not event.ended:
            exchange.body_at = self._now
            self._uploads[stream_id] = exchange
        self._handler.handle(exchange)
        if self.paused:
            exchange.tell()

    def _broken(self, stream_id: int) -> None:
        """Answer for a handler that failed."""
        exchange = self._exchanges.get(stream_id)
        if exchange is None:
            self.session.reset_stream(stream_id, ErrorCode.INTERNAL_ERROR)
        else:
            exchange.fail(500)

    def _call(self, exchange: H2Exchange, function: Callable[[], None]) -> None:
        """Call what may end in a consumer outside of `_handle`, as safely."""
        with _log.failuresHandled(
            "While handling an HTTP/2 request of {client}", client=self.info.client
        ) as operation:
            function()
        if operation.failed:
            self._broken(exchange.stream_id)

    def _tell_all(self) -> None:
        for exchange in list(self._exchanges.values()):
            self._call(exchange, exchange.tell)

    def _lose_all(self, reason: str) -> None:
        exchanges = list(self._exchanges.values())
        self._exchanges.clear()
        self._uploads.clear()
        self._waiting.clear()
        for exchange in exchanges:
            self._call(exchange, partial(exchange.lose, reason))

    # --- for the exchanges

    def forget(self, exchange: H2Exchange) -> None:
        """Drop an exchange that is over; its stream may still have to send what is queued."""
        self._exchanges.pop(exchange.stream_id, None)
        self._uploads.pop(exchange.stream_id, None)
        self._waiting.pop(exchange.stream_id, None)

    def await_rest(self, exchange: H2Exchange) -> None:
        """Wait for the end of a request whose response is there, but not for long."""
        self._uploads.pop(exchange.stream_id, None)
        self._now = self._clock.seconds()
        self._waiting[exchange.stream_id] = exchange, self._now
        self._rearm()

    def hold_upload(self, exchange: H2Exchange) -> None:
        """Wait for no more of a request's body."""
        self._uploads.pop(exchange.stream_id, None)

    def await_upload(self, exchange: H2Exchange) -> None:
        """Wait for more of a request's body."""
        exchange.body_at = self._now = self._clock.seconds()
        self._uploads[exchange.stream_id] = exchange
        self._rearm()

    def flush_soon(self) -> None:
        """Send what the session has, at the end of this turn."""
        if not (self._in_turn or self._flush_due or self.paused or self._closing):
            self._flush_due = True
            self._clock.callLater(0, self._flush_late)

    # --- sending

    def _flush_late(self) -> None:
        self._flush_due = False
        if not self._closing:
            self._flush()

    def _flush(self) -> None:
        """Write what the session has, until it or the transport has enough."""
        session = self.session
        self._now = self._clock.seconds()
        while not self.paused and not self._closing:
            data = session.data_to_send()
            if not data:
                break
            self._wire.write(data)
            events = session.take_events()
            if events:
                # What the handlers send now is written in the next round.
                self._in_turn = True
                self._handle(events)
                self._in_turn = False
        if self._closing:
            return
        events = session.take_events()
        if events:
            self._handle(events)
            if self._closing:
                return
        if self.paused and self._reading and session.waiting > MAX_WAITING:
            self._reading = False
            self._wire.pauseProducing()
        self._rearm()

    def drain(self) -> None:
        """Finish the requests in progress, take no new ones, then close."""
        if not self._closing and self._drain_at is None:
            self._drain_at = self._clock.seconds() + self._timeouts.drain
            self.session.shutdown()
            self._flush()

    def _end(self, error: str | None) -> None:
        """Close: the session is over."""
        self._closing = True
        if error is not None:
            _log.debug(
                "HTTP/2 connection of {client} ended: {error}", client=self.info.client, error=error
            )
        wire = self._wire
        data = self.session.data_to_send()
        if data:
            wire.write(data)
        self._lose_all(error or "the connection is closed")
        wire.unregisterProducer()
        wire.loseConnection()
        self._deadline.set(self._timeouts.idle)

    # --- deadlines

    def _rearm(self) -> None:
        """Set the one deadline to the nearest of those that run now."""
        session = self.session
        timeouts = self._timeouts
        now = self._now
        nearest = self._drain_at if self._drain_at is not None else now + timeouts.idle
        begun = session.unfinished
        if begun != self._begun:
            self._begun = begun
            self._begun_at = now
        if not session.greeted:
            nearest = min(nearest, self._opened_at + timeouts.read_header)
        elif begun is not None:
            nearest = min(nearest, self._begun_at + timeouts.read_header)
        if self._uploads:
            first = next(iter(self._uploads.values()))
            nearest = min(nearest, first.body_at + timeouts.read_body)
        if self._waiting:
            nearest = min(nearest, next(iter(self._waiting.values()))[1] + LINGER)
        early = session.early_since
        if early is not None:
            nearest = min(nearest, early + LINGER)
        if not session.streams:
            if self._idle_stream != session.last_stream_id:
                self._idle_stream = session.last_stream_id
                self._idle_at = now
            nearest = min(nearest, self._idle_at + timeouts.idle)
        else:
            self._idle_stream = -1
        if not (self.paused or session.queued):
            self._moved_at = None
        else:
            if self._moved_at is None or session.sent != self._sent:
                self._moved_at = now
                self._sent = session.sent
            nearest = min(nearest, self._moved_at + timeouts.idle)
        self._deadline.set(max(0.0, nearest - now))

    def _expired(self) -> None:
        """Look which deadline it was, if any: the nearest may have moved since."""
        if self._closing:
            self._wire.abortConnection()
            return
        session = self.session
        timeouts = self._timeouts
        now = self._now = self._clock.seconds()
        if self._drain_at is not None and now >= self._drain_at:
            self._give_up(ErrorCode.NO_ERROR, "what was in progress took too long")
        elif not session.greeted and now >= self._opened_at + timeouts.read_header:
            self._give_up(ErrorCode.SETTINGS_TIMEOUT, "no preface and SETTINGS in time")
        elif self._begun is not None and now >= self._begun_at + timeouts.read_header:
            self._give_up(ErrorCode.ENHANCE_YOUR_CALM, "a field block did not come in time")
        elif self._moved_at is not None and now >= self._moved_at + timeouts.idle:
            self._give_up(ErrorCode.ENHANCE_YOUR_CALM, "the client did not read")
        elif not session.streams and now >= self._idle_at + timeouts.idle:
            self._give_up(ErrorCode.NO_ERROR, "idle")
        else:
            session.stop_uploads(now - LINGER)
            for stream_id, (exchange, since) in list(self._waiting.items()):
                if since <= now - LINGER:
                    exchange.go_on()
                    session.stop_upload(stream_id)
            late = now - timeouts.read_body
            for exchange in [each for each in self._uploads.values() if each.body_at <= late]:
                self.forget(exchange)
                self._call(exchange, exchange.time_out)
            self._flush()

    def _give_up(self, code: ErrorCode, reason: str) -> None:
        """End the connection from our side; at once if the client would not hear it."""
        self.session.goaway(code, reason)
        unheard = self.paused
        self._end(reason)
        if unheard:
            self._wire.abortConnection()
