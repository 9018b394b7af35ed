"""One listener per address: it accepts, shakes hands, and hands over to the protocol agreed on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import Any, cast
from typing import Protocol as Interface

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IListeningPort,
    ILoggingContext,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IReactorSocket,
    IReactorTime,
    ISystemHandle,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.deadline import Deadline
from dwaarx.log import quiet_logger
from dwaarx.tls import descriptors
from dwaarx.tls.names import NameTable, normal_name

_log = quiet_logger(__name__)

# Who is starting on a port, in Twisted's own lines of the log.
LOG_PREFIX = "dwaarx"

# How long a peer may take to answer our close_notify, in seconds. Many never do: a client's pool
# that keeps the connection looks at it when it needs one, and a stop would wait for all of them.
CLOSE_NOTIFY = 5.0


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


@attrs.frozen
class Accepted:
    """A new connection, as its protocol's maker sees it.

    Addresses are textual, an IPv4-mapped one as IPv4; `protocol` is the ALPN name agreed on, None
    without ALPN; `server_name` is the SNI, lower-case. Both are None on a plain connection.
    """

    client: str
    client_port: int
    local: str
    local_port: int
    protocol: bytes | None = None
    server_name: str | None = None


class Drainable(Interface):
    """What a maker returns: a Twisted protocol that can be asked to finish."""

    def makeConnection(self, transport: object) -> None:
        """Begin, on this transport."""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes that came."""

    def connectionLost(self, reason: Failure) -> None:
        """Hear that the connection is gone."""

    def drain(self) -> None:
        """Finish what is in progress, begin nothing new, then close."""


Maker = Callable[[Accepted], Drainable]


def textual(address: IAddress) -> tuple[str, int]:
    """Return host and port of a socket's address; an IPv4-mapped host as IPv4, without a zone."""
    host: str = getattr(address, "host", "")
    if host.startswith("::ffff:"):
        mapped = IPv6Address(host).ipv4_mapped
        host = str(mapped) if mapped else host
    return host.partition("%")[0], getattr(address, "port", 0)


class Listener:
    """One listening address, with TLS or plain, and the connections accepted on it.

    `make` makes the protocol of each connection; `handshake` and `idle` are its deadlines in
    seconds. With TLS, `set_endpoints` must be called before `listen`; it may be called again at
    any time, for the handshakes that come after.
    """

    def __init__(
        self,
        make: Maker,
        reactor: IReactorTime,
        *,
        base: SSL.Context | None = None,
        handshake: float = 10.0,
        idle: float = 60.0,
    ) -> None:
        self.make = make
        self.clock = reactor
        self.base = base
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

    def factory(self) -> Factory[Any] | TLSMemoryBIOFactory:
        """Make the factory of its connections."""
        return _PlainFactory(self) if self.base is None else _tls_factory(self)

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


class _Negotiation:
    """What one handshake has agreed on so far."""

    __slots__ = ("listener", "protocols", "server_name")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.server_name: str | None = None
        self.protocols: tuple[bytes, ...] = ()

    def choose(self, server_name: bytes | None) -> SSL.Context | None:
        self.server_name = name = normal_name(server_name)
        endpoint, self.protocols = self.listener.endpoint(name)
        return endpoint.certificate.context


class TlsTransport(TLSMemoryBIOProtocol):
    """Twisted's TLS transport, with a deadline on either end of the connection's life.

    The handshake must be done in time; and a peer must take what is left in time. An answer to
    our close_notify is waited for, but not for long (RFC 8446 section 6.1 asks for none), while
    Twisted would wait without end. The protocol agreed on takes the
    place of the wrapped protocol as soon as the handshake is done, so that nothing of this stands
    between the transport and it.
    """

    def __init__(self, factory: TLSMemoryBIOFactory, wrapped: _Handshake) -> None:
        TLSMemoryBIOProtocol.__init__(self, factory, wrapped)
        self.listener = listener = wrapped.listener
        self.negotiation = _Negotiation(listener)
        self.established = False
        self._deadline = Deadline(listener.clock, self._late)
        self._close_by = 0.0

    def makeConnection(self, transport: object) -> None:
        """Begin the handshake."""
        self.listener.accepted += 1
        self.listener.transports.add(self)
        self._deadline.set(self.listener.handshake)
        TLSMemoryBIOProtocol.makeConnection(self, transport)
        if not self.listener.admits(transport):
            self.abortConnection()

    def establish(self) -> None:
        """Put the protocol that was agreed on in the handshake's place."""
        self.established = True
        self._deadline.clear()
        tcp = cast("ITCPTransport", self.transport)
        client, client_port = textual(tcp.getPeer())
        local, local_port = textual(tcp.getHost())
        protocol = self.listener.make(
            Accepted(
                client,
                client_port,
                local,
                local_port,
                self.negotiatedProtocol or None,
                self.negotiation.server_name,
            )
        )
        self.wrappedProtocol = cast("IProtocol", protocol)
        self.listener.connections.add(protocol)
        protocol.makeConnection(self)

    def loseConnection(self) -> None:
        """Close in order, and by force if the peer does not do its part."""
        if self.connected and not self.disconnecting:
            idle = self.listener.idle
            self._close_by = self.listener.clock.seconds() + idle
            self._deadline.set(min(CLOSE_NOTIFY, idle))
            TLSMemoryBIOProtocol.loseConnection(self)

    def _late(self) -> None:
        """Close the socket, once it has sent what is left; cut the connection if that is late."""
        left = self._close_by - self.listener.clock.seconds()
        if left <= 0:
            self.abortConnection()
            return
        self._deadline.set(left)
        # What the producer or OpenSSL still holds has yet to reach the socket.
        if self._producer is None and not self._appSendBuffer:
            cast("ITCPTransport", self.transport).loseConnection()

    def abortConnection(self) -> None:
        """Close at once."""
        if self.connected:  # Twisted's has no TLS to tear down afterwards, and raises
            TLSMemoryBIOProtocol.abortConnection(self)

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """Close the socket, for TLS is over: the peer ended it, or broke it.

        Twisted leaves the protocol registered as the socket's producer, for which the socket
        would wait, although nothing that it writes goes out any more.
        And a close_notify amid the handshake, which is an error without arguments, makes it raise.
        """
        if reason is not None and reason.check(SSL.ZeroReturnError):
            reason = None
        if self.established:
            self._deadline.set(self.listener.idle)
        finish: Callable[[Failure | None], None] = super()._tlsShutdownFinished
        finish(reason)
        if self._producer is not None:
            cast("IConsumer", self.transport).unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self._deadline.stop()
        listener = self.listener
        listener.transports.discard(self)
        if self.established:
            listener.connections.discard(cast("Drainable", self.wrappedProtocol))
        else:
            listener.tls_failures += 1
        # All that came has been read. Twisted would look again and find but the end, at the price
        # of an exception whose frames keep OpenSSL's buffers until Python looks for cycles.
        self._lostTLSConnection = True
        TLSMemoryBIOProtocol.connectionLost(self, reason)


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """What stands behind the TLS transport until the handshake is done."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def handshakeCompleted(self) -> None:
        assert isinstance(self.transport, TlsTransport)
        self.transport.establish()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.transport is not None
        client, _ = textual(self.transport.getPeer())
        _log.debug(
            "{client}: TLS handshake failed: {reason}",
            client=client,
            reason=reason.getErrorMessage(),
        )


@implementer(ILoggingContext)
class _HandshakeFactory(Factory):
    noisy = False

    def logPrefix(self) -> str:
        return LOG_PREFIX

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def buildProtocol(self, addr: IAddress | None) -> _Handshake:
        return _Handshake(self.listener)


@implementer(IOpenSSLServerConnectionCreator)
class _Creator:
    def __init__(self, base: SSL.Context) -> None:
        self._base = base

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._base, None)


def _tls_factory(listener: Listener) -> TLSMemoryBIOFactory:
    assert listener.base is not None
    factory = TLSMemoryBIOFactory(
        _Creator(listener.base), False, _HandshakeFactory(listener), listener.clock
    )
    factory.protocol = TlsTransport
    return factory


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
