"""Asking an upstream over TCP: one connection that stays, many questions on it (RFC 7766)."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import IAddress, IConnector
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure

from dwaarx.config.model import Address
from dwaarx.deadline import Deadline
from dwaarx.dns.asking import matches_in_any_case
from dwaarx.dns.channel import Asker
from dwaarx.dns.randomness import random16
from dwaarx.dns.stream import MessageStream, framed
from dwaarx.reactor import Reactor
from dwaarx.transport import Transport

# A lookup gives up an attempt after 2 s; a connection that takes longer helps none of them.
CONNECT_TIMEOUT = 2.0

# Servers close idle connections after 10 s or so; to be first spares a query that is lost.
IDLE_TIMEOUT = 8.0


class TcpConnection(Protocol):
    """One connection to an upstream, and the questions that it carries."""

    def __init__(self, reactor: Reactor) -> None:
        self._waiting: dict[bytes, Asker] = {}
        self._stream = MessageStream()
        self._reactor = reactor
        self._idle = Deadline(reactor, self.retire)
        self._retired = False
        self._heard = 0.0  # when the upstream last answered something
        self.usable = True

    def ask(self, asker: Asker) -> None:
        """Send a question, now or as soon as the connection stands."""
        waiting = self._waiting
        number = random16()
        while number in waiting:
            number = random16()
        waiting[number] = asker
        asker.id = number
        asker.channel = self
        if self.transport is not None:
            self._idle.clear()
            self.transport.write(framed(number + asker.request))

    def forget(self, asker: Asker) -> None:
        """Carry this question no longer."""
        self._waiting.pop(asker.id, None)
        if not self._waiting:
            self._rest()

    def timed_out(self, asker: Asker) -> None:
        """Carry this question no longer; end a connection that has answered nothing since then."""
        self.forget(asker)
        if self.transport is not None and self._heard < asker.sent:
            self.usable = False
            cast("Transport", self.transport).abortConnection()

    def retire(self) -> None:
        """Take no more questions, and close when all are answered."""
        self.usable = False
        self._retired = True
        if not self._waiting:
            self._rest()

    def _rest(self) -> None:
        if self.transport is None:
            return
        if self._retired:
            self.transport.loseConnection()
        else:
            self._idle.set(IDLE_TIMEOUT)

    def connectionMade(self) -> None:
        """Send what has been asked so far."""
        assert self.transport is not None
        self._heard = self._reactor.seconds()
        if self._waiting:
            self.transport.write(
                b"".join(framed(number + asker.request) for number, asker in self._waiting.items())
            )
        else:
            self._rest()

    def dataReceived(self, data: bytes) -> None:
        """Hand each answer to its asker; what answers nothing is passed over."""
        stream, waiting = self._stream, self._waiting
        stream.receive(data)
        while (wire := stream.next()) is not None:
            asker = waiting.get(wire[:2])
            if asker is not None and matches_in_any_case(wire, asker.question):
                del waiting[wire[:2]]
                self._heard = self._reactor.seconds()
                asker.answered(wire)
        if not waiting:
            self._rest()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell all who still wait."""
        self._end(lost=True)

    def connection_failed(self) -> None:
        """Hear that the connection did not come to stand."""
        self._end(lost=False)

    def _end(self, *, lost: bool) -> None:
        self.usable = False
        self._idle.stop()
        waiting, self._waiting = self._waiting, {}
        for asker in waiting.values():
            asker.failed(lost=lost)


class _Connecting(ClientFactory):
    noisy = False

    def __init__(self, connection: TcpConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> TcpConnection:
        return self._connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._connection.connection_failed()


class TcpUpstream:
    """The connection to one upstream, opened when it is needed."""

    __slots__ = ("_address", "_connection", "_reactor")

    def __init__(self, reactor: Reactor, address: Address) -> None:
        self._reactor = reactor
        self._address = address
        self._connection: TcpConnection | None = None

    def ask(self, asker: Asker) -> None:
        """Send a question."""
        connection = self._connection
        if connection is None or not connection.usable:
            connection = self._connection = TcpConnection(self._reactor)
            connection.ask(asker)
            try:
                self._reactor.connectTCP(
                    self._address.host,
                    self._address.port,
                    _Connecting(connection),
                    timeout=CONNECT_TIMEOUT,
                )
            except OSError:  # the zone of an address (fe80::1%eth0) is no interface here
                self._reactor.callLater(0, connection.connection_failed)
        else:
            connection.ask(asker)

    def retire(self) -> None:
        """Close the connection once it carries no question; asking again opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.retire()
