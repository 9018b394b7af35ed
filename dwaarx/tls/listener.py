"""One listener per address: what it serves for which name, and the connections it accepted."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, cast
from typing import Protocol as Interface

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IListeningPort,
    ILoggingContext,
    IReactorSocket,
    IReactorTime,
    ISystemHandle,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.log import quiet_logger
from dwaarx.tls import descriptors
from dwaarx.tls.accepted import LOG_PREFIX, Accepted, Drainable, Maker, textual
from dwaarx.tls.connection import Challenges, TlsFactory, TlsTransport
from dwaarx.tls.names import NameTable

_log = quiet_logger(__name__)

# How often it is told that clients are refused, in seconds.
REFUSALS_TOLD = 60.0


class HasContext(Interface):
    """A certificate as the listener sees it: the context of the moment."""

    @property
    def context(self) -> SSL.Context | None:
        """The context for the next handshake, None if there is none; it must not raise."""


@attrs.frozen
class Endpoint:
    """What a server name gets: a certificate, and its ALPN names, the most wanted first."""

    certificate: HasContext
    protocols: tuple[bytes, ...]


class Listener:
    """One listening address, with TLS or plain, and the connections accepted on it.

    `make` makes the protocol of each connection; `handshake` and `idle` are its deadlines in
    seconds. With TLS, `set_endpoints` must be called before `listen`; it may be called again at
    any time, for the handshakes that come after. `challenges` are answered there, too.
    """

    def __init__(
        self,
        make: Maker,
        reactor: IReactorTime,
        *,
        base: SSL.Context | None = None,
        challenges: Challenges | None = None,
        handshake: float = 10.0,
        idle: float = 60.0,
    ) -> None:
        self.make = make
        self.clock = reactor
        self.base = base
        self.challenges = challenges
        self.handshake = handshake
        self.idle = idle
        self.accepted = 0
        self.tls_failures = 0
        self.connections: set[Drainable] = set()
        self.transports: set[TlsTransport] = set()
        self.plain: set[_Plain] = set()
        self.protocols: tuple[bytes, ...] = ()
        self._endpoints: NameTable[Endpoint] | None = None
        self._port: IListeningPort | None = None
        self._socket: socket.socket | None = None
        self._refused = 0
        self._refusals_told: float | None = None

    def set_endpoints(self, entries: Iterable[tuple[str, Endpoint]]) -> None:
        """Serve these names from now on; see `NameTable` for how a name finds its entry."""
        entries = list(entries)
        self._endpoints = NameTable(entries)
        # A client without SNI, or with a name that is nobody's, may speak whatever is spoken here.
        self.protocols = tuple(
            dict.fromkeys(name for _, endpoint in entries for name in endpoint.protocols)
        )

    def endpoint(self, name: str | None) -> tuple[Endpoint, tuple[bytes, ...]]:
        """Return what serves a name, and the ALPN names that it may choose from."""
        assert self._endpoints is not None
        found = self._endpoints.find(name)
        if found is not None:
            return found, found.protocols
        return self._endpoints.default, self.protocols

    def listen(self, reactor: IReactorSocket, sock: socket.socket) -> None:
        """Accept on a listening socket, which this takes over."""
        self._socket = sock  # the reactor holds a duplicate
        self._port = reactor.adoptStreamPort(
            sock.fileno(), sock.family, cast("ServerFactory[Any]", self.factory())
        )

    def factory(self) -> Factory[Any] | TlsFactory:
        """Make the factory of its connections."""
        return _PlainFactory(self) if self.base is None else TlsFactory(self, self.base)

    @property
    def local(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        assert self._port is not None
        return textual(self._port.getHost())

    def yield_address(self) -> None:
        """Listen no more at once, so that another socket can take the address in this very turn.

        (`stop` closes the socket in a later turn of the reactor.) What is accepted goes on; to
        accept again, call `listen` with a new socket.
        """
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
        self.stop()

    def admits(self, transport: object) -> bool:
        """Whether there are descriptors to spare for a connection that was accepted."""
        if not ISystemHandle.providedBy(transport):
            return True  # one in memory
        handle = cast("socket.socket", transport.getHandle())
        if not descriptors.is_kept(handle.fileno()):
            return True
        most = descriptors.limit()
        self._refused += 1
        now = self.clock.seconds()
        if self._refusals_told is None or now - self._refusals_told >= REFUSALS_TOLD:
            _log.warn(
                "connections refused: {count}; of {limit} file descriptors the last {kept} are "
                "kept for upstreams, the console and files (LimitNOFILE, ulimit -n)",
                count=self._refused,
                limit=most,
                kept=most - descriptors.for_clients(most),
            )
            self._refused, self._refusals_told = 0, now
        return False

    @property
    def open(self) -> int:
        """How many connections are open, those still shaking hands included."""
        return len(self.transports) + len(self.plain)

    def stop(self) -> Deferred[None]:
        """Accept no more; what has been accepted goes on. Fires when the socket is closed."""
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        if self._socket is not None:
            self._socket.close()
        stopped = port.stopListening()
        return succeed(None) if stopped is None else stopped

    def drain(self) -> None:
        """Ask every connection to finish, and drop those that are still shaking hands."""
        for connection in list(self.connections):
            connection.drain()
        for transport in list(self.transports):
            if not transport.established:
                transport.abortConnection()

    def abort(self) -> None:
        """Drop every connection."""
        for transport in list(self.transports):
            transport.abortConnection()
        for plain in list(self.plain):
            plain.abort()


@implementer(ILoggingContext)
class _PlainFactory(Factory):
    """Makes the protocols of a plain listener."""

    noisy = False

    def logPrefix(self) -> str:
        return LOG_PREFIX

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Plain(self.listener)


@implementer(IHalfCloseableProtocol)
class _Plain(Protocol):
    """A plain connection: keeps the listener's books, and passes everything on."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connectionMade(self) -> None:
        transport = self.transport
        assert transport is not None
        self._listener.accepted += 1
        self._listener.plain.add(self)
        client, client_port = textual(transport.getPeer())
        local, local_port = textual(transport.getHost())
        self._protocol = self._listener.make(Accepted(client, client_port, local, local_port))
        self._listener.connections.add(self._protocol)
        self._protocol.makeConnection(transport)
        if not self._listener.admits(transport):
            self.abort()

    def abort(self) -> None:
        cast("ITCPTransport", self.transport).abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def readConnectionLost(self) -> None:
        half_closeable = IHalfCloseableProtocol(self._protocol, None)
        if half_closeable is not None:
            half_closeable.readConnectionLost()
        else:
            assert self.transport is not None
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        half_closeable = IHalfCloseableProtocol(self._protocol, None)
        if half_closeable is not None:
            half_closeable.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._listener.plain.discard(self)
        self._listener.connections.discard(self._protocol)
        self._protocol.connectionLost(reason)
