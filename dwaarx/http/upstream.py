"""Connections to upstreams: dialled, used by one request at a time, kept alive between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.config.model import Address
from dwaarx.deadline import Deadline
from dwaarx.http.dialling import Dial, Dialler
from dwaarx.http.events import BodyEnded, BodyReceived, Event, ResponseHead, ResponseReceived
from dwaarx.http.h1_client import H1ClientSession
from dwaarx.reactor import Reactor

# Seconds that a connection without a request is kept. Node, uvicorn and Apache hang up after 5 s:
# a request that crosses their FIN fails, and one with a body cannot be sent again. A busy
# upstream is asked more often than that; for another, a new connection is cheap.
IDLE_TIMEOUT = 4.0

# Kept connections of one upstream. They serve bursts; what a burst leaves above this is closed.
MAX_IDLE = 64


class UpstreamUser(Interface):
    """The request that uses a connection; nothing is called once it is `user` no more."""

    def upstream_event(self, event: Event) -> None:
        """The session says something."""

    def upstream_answer(self, head: ResponseHead, body: bytes) -> None:
        """A whole response came in one read, and the connection may be used again."""

    def upstream_lost(self, reason: str) -> None:
        """The connection broke, or was closed before all was said."""

    def upstream_full(self) -> None:
        """The upstream reads slowly: send no more until `upstream_drained`."""

    def upstream_drained(self) -> None:
        """It has caught up."""

    def upstream_overdue(self) -> None:
        """The deadline that the user set has passed."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class UpstreamConnection(Protocol):
    """One connection to an upstream, and the session on it.

    Whoever sets `user` has it until they give it back to the pools, `close` or `abort` it.
    `deadline` is the user's. `read_closed`: the upstream has closed its side. Of the push
    producer's methods, which the transport calls to slow down those who write, `user` hears.
    """

    transport: Any  # an ITCPTransport that is also an IConsumer and an IPushProducer

    def __init__(self, pools: UpstreamPools, address: Address, dial: Dial, reactor: Reactor):
        self.address = address
        self.session = H1ClientSession()
        self.user: UpstreamUser | None = None
        self.deadline = Deadline(reactor, self._overdue)
        self._pools = pools
        self._dial: Dial | None = dial
        self.read_closed = False
        self._write_stopped = False
        self._writes_watched = False
        self._paused = False

    # --- for the user -------------------------------------------------------

    def flush(self) -> None:
        """Write what the session has put out. The transport gathers the writes of one turn."""
        out = self.session.data_to_send()
        if out and not self._write_stopped:
            self.transport.writeSequence(out)

    def flush_head(self) -> None:
        """Write what begins a request: straight to the socket, since nothing is queued before it.

        The transport would write in the reactor's next turn, having asked epoll twice: a tenth
        of what a small request costs.
        """
        write_some = getattr(self.transport, "writeSomeData", None)
        if write_some is None:
            self.flush()
            return
        data = b"".join(self.session.data_to_send())
        sent: int | BaseException = write_some(data)
        if isinstance(sent, BaseException):
            sent = 0  # the transport finds out for itself, and closes
        if sent < len(data):
            self.transport.write(data[sent:])

    def watch_writes(self) -> None:
        """Let a failing write not end the connection while the upstream may have answered.

        An upstream that refuses an upload early answers and closes: its answer is in our
        socket's buffer, but Twisted drops the connection when a write fails, unread. So such a
        failure only stops the writing here; reading goes on to the end that comes by itself.
        """
        transport = self.transport
        write_some = getattr(transport, "writeSomeData", None)
        if write_some is None or self._writes_watched:
            return
        self._writes_watched = True

        def write_some_data(data: bytes) -> int | BaseException:
            sent: int | BaseException = write_some(data)
            if not isinstance(sent, BaseException) or self.read_closed:
                return sent
            self.stop_writing()
            return 0

        transport.writeSomeData = write_some_data

    def stop_writing(self) -> None:
        """Send nothing more, nor what the transport still holds."""
        self._write_stopped = True
        self.transport.stopWriting()

    def half_close(self) -> None:
        """Close our side of a tunnel once all is sent."""
        self.transport.loseWriteConnection()

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            # Reading on at the end of the stream would only find the end again.
            if not self.read_closed:
                self.transport.resumeProducing()

    def close(self) -> None:
        """Close the connection in an orderly way; the user hears nothing more."""
        self.user = None
        # What is still to be written, and an upstream that does not take it.
        self.deadline.set(IDLE_TIMEOUT)
        # The transport does not close while it waits for a producer that it has paused.
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection now; the user hears nothing more."""
        self.user = None
        self.deadline.stop()
        self.transport.abortConnection()

    # --- from the transport -------------------------------------------------

    def connectionMade(self) -> None:
        """Hand the connection to whoever dialled."""
        transport = self.transport
        transport.setTcpNoDelay(True)
        # Tunnels have no deadline of their own: a dead peer is found out by this.
        transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.connected(self)
        if self.user is None:
            self.abort()

    def dataReceived(self, data: bytes) -> None:
        """Tell the user what the session makes of it."""
        events = self.session.receive_data(data)
        if self.user is None:
            # Between two requests nothing may come.
            self._pools.forget(self)
            self.abort()
            return
        if len(events) == 3 and self.session.reusable:
            # Most responses are small and come whole: told at once, they are written at once.
            first, body, end = events
            if (
                isinstance(first, ResponseReceived)
                and isinstance(body, BodyReceived)
                and isinstance(end, BodyEnded)
                and not end.trailers
            ):
                self.user.upstream_answer(first.head, body.data)
                return
        for event in events:
            user = self.user
            if user is None:
                break
            user.upstream_event(event)

    def readConnectionLost(self) -> None:
        """Tell the user what the upstream's end of the stream means."""
        self.read_closed = True
        if self.user is None:
            self._pools.forget(self)
            self.abort()
            return
        for event in self.session.eof():
            user = self.user
            if user is None:
                break
            user.upstream_event(event)

    def writeConnectionLost(self) -> None:
        """Our half is closed, as we asked; theirs goes on."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the user, if there is one, that the connection is no more."""
        self.deadline.stop()
        user, self.user = self.user, None
        if user is None:
            self._pools.forget(self)
        elif reason.check(ConnectionDone):
            user.upstream_lost("closed the connection")
        else:
            user.upstream_lost("lost the connection: " + reason.getErrorMessage().rstrip("."))

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if self.user is not None:
            self.user.upstream_full()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        if self.user is not None:
            self.user.upstream_drained()

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost follows."""

    def _overdue(self) -> None:
        if self.user is not None:
            self.user.upstream_overdue()
        elif self._pools.forget(self):
            self.close()
        else:
            self.abort()


class UpstreamPools:
    """The connections to every upstream that are kept between requests, by address.

    They live as long as the service, so that a reload costs no connection; `retain` closes
    those of upstreams that the Dwaarfile names no more.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self._idle: dict[Address, list[UpstreamConnection]] = {}
        self._retained: frozenset[Address] | None = None

    def take(self, address: Address) -> UpstreamConnection | None:
        """Return the kept connection that was used last, if there is one; set its `user`."""
        idle = self._idle.get(address)
        if not idle:
            return None
        connection = idle.pop()
        connection.deadline.clear()
        return connection

    def dial(self, address: Address, timeout: float, dialler: Dialler) -> Dial:
        """Prepare a connection; once started, the dialler gets it and must set its `user`."""

        def make(dial: Dial) -> UpstreamConnection:
            return UpstreamConnection(self, address, dial, self.reactor)

        return Dial(self.reactor, address, timeout, dialler, make)

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose response is whole if it may be used again, else close it."""
        connection.user = None
        address = connection.address
        retained = self._retained
        if connection.session.reusable and (retained is None or address in retained):
            idle = self._idle.setdefault(address, [])
            if len(idle) < MAX_IDLE:
                idle.append(connection)
                connection.deadline.set(IDLE_TIMEOUT)
                connection.resume()
                return
        connection.close()

    def forget(self, connection: UpstreamConnection) -> bool:
        """Take a connection that has ended off the kept ones; return whether it was there."""
        idle = self._idle.get(connection.address)
        if idle is None or connection not in idle:
            return False
        idle.remove(connection)
        return True

    def idle(self, address: Address) -> int:
        """Say how many connections of an upstream are kept."""
        return len(self._idle.get(address, ()))

    def retain(self, addresses: Iterable[Address]) -> None:
        """Keep connections of these upstreams only; those in use end with their request."""
        retained = self._retained = frozenset(addresses)
        for address in [known for known in self._idle if known not in retained]:
            for connection in self._idle.pop(address):
                connection.close()

    def close(self) -> None:
        """Keep nothing any more."""
        self.retain(())
