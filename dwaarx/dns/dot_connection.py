"""A DoT client's connection (RFC 7858): the session at its transport, with its deadlines."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.config.model import Timeouts
from dwaarx.deadline import Deadline
from dwaarx.dns.dot import DotSession, Wait
from dwaarx.dns.message import Query
from dwaarx.dns.query import parse
from dwaarx.dns.resolver import Resolver
from dwaarx.http.exchange import ConnectionInfo
from dwaarx.transport import Transport

# RFC 7828 counts in units of 100 ms, in 16 bits.
_MAX_KEEPALIVE = 65_535

# How long a transport may take over its orderly end before it is cut.
_CLOSE_TIMEOUT = 5.0


@implementer(IPushProducer)
class DotConnection(Protocol):
    """Reads queries, has them resolved, and writes each answer as it comes.

    Deadlines: `idle` without any query, `read_header` for a message that has begun, `idle` for a
    client that does not read its answers.
    """

    def __init__(
        self, info: ConnectionInfo, resolver: Resolver, timeouts: Timeouts, clock: IReactorTime
    ) -> None:
        self._client = info.client
        self._resolve = resolver.resolve
        self._timeouts = timeouts
        self._clock = clock
        self._session = DotSession()
        self._deadline = Deadline(clock, self._expired)
        self._keepalive = min(int(timeouts.idle * 10), _MAX_KEEPALIVE)
        self._wait: Wait | None = None
        self._flush_call: IDelayedCall | None = None
        self._working = False  # inside _work: answers are written at its end
        self._reading = True
        self._draining = False
        self._closing = False

    @property
    def _to(self) -> Transport:
        return cast("Transport", self.transport)

    def connectionMade(self) -> None:
        """Begin to wait for a query."""
        self._to.registerProducer(self, True)
        self._work(b"")

    def dataReceived(self, data: bytes) -> None:
        """Resolve the queries that are whole now."""
        if not self._closing:
            self._work(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stop; answers that are still to come are dropped."""
        self._closing = True
        self._deadline.stop()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None

    def drain(self) -> None:
        """Read no more, answer what has been asked, then close."""
        if self._closing or self._draining:
            return
        self._draining = True
        self._keepalive = 0  # RFC 7828 section 3.3.2: the client shall close
        if self._reading:
            self._reading = False
            self._to.pauseProducing()
        self._work(b"")

    def pauseProducing(self) -> None:
        """Hear from the transport that the client does not read: take no more queries."""
        self._session.choked = True
        if not self._working:
            self._settle(progress=False)

    def resumeProducing(self) -> None:
        """Hear from the transport that the client has caught up."""
        self._session.choked = False
        if not self._closing and not self._working:
            self._work(b"")

    def stopProducing(self) -> None:
        """Hear from the transport that it ends; connectionLost follows."""

    def _work(self, data: bytes) -> None:
        session = self._session
        if data:
            session.receive(data)
        self._working = True
        progress = False
        while (message := session.next_message()) is not None:
            progress = True
            query = parse(message, self._client, self._keepalive)
            if isinstance(query, Query):
                self._resolve(query, self._answer)
            elif query is not None:
                session.answer(query)
            else:
                # What it says next can be trusted as little.
                self._working = False
                self._close()
                return
            if session.full:
                self._to.write(session.data_to_send())
        self._working = False
        answers = session.data_to_send()
        if answers:
            self._to.write(answers)
        self._settle(progress=progress)

    def _answer(self, message: bytes) -> None:
        if self._closing:
            return
        self._session.answer(message)
        if not self._working and self._flush_call is None:
            # Answers of one turn leave together.
            self._flush_call = self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flush_call = None
        if not self._closing:
            # What the limits held back goes on, and is written together with these answers.
            self._work(b"")

    def _settle(self, *, progress: bool) -> None:
        """Let the transport read or not, and the right deadline run."""
        session = self._session
        if self._closing:
            return
        if self._draining:
            if not session.outstanding and not session.choked:
                self._close()
                return
        elif session.must_pause == self._reading:
            self._reading = not self._reading
            if self._reading:
                self._to.resumeProducing()
            else:
                self._to.pauseProducing()
        wait = session.waits_for
        if wait is self._wait and not progress:
            return
        self._wait = wait
        if wait is Wait.ANSWER:
            self._deadline.clear()  # the resolver has its own
        elif wait is Wait.REST:
            self._deadline.set(self._timeouts.read_header)
        else:
            self._deadline.set(self._timeouts.idle)

    def _expired(self) -> None:
        if self._closing or self._wait is Wait.PEER:
            self._to.abortConnection()
        else:
            self._close()

    def _close(self) -> None:
        """Close once all is written that has been answered."""
        self._closing = True
        answers = self._session.data_to_send()
        if answers:
            self._to.write(answers)
        self._to.unregisterProducer()
        if not self._reading:
            self._reading = True
            self._to.resumeProducing()  # or the peer's close_notify would not be heard
        self._to.loseConnection()
        self._deadline.set(_CLOSE_TIMEOUT)
