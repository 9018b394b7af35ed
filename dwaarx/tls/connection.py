"""A TLS connection: its handshake, the protocol that comes after it, and its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast
from typing import Protocol as Interface

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHandshakeListener,
    ILoggingContext,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.deadline import Deadline
from dwaarx.log import quiet_logger
from dwaarx.tls.accepted import LOG_PREFIX, Accepted, Drainable, textual
from dwaarx.tls.client_hello import ClientHello, ClientHelloReader
from dwaarx.tls.names import normal_name

if TYPE_CHECKING:
    from dwaarx.tls.listener import Listener

_log = quiet_logger(__name__)

# The ALPN name of tls-alpn-01 (RFC 8737 section 6.2). Such a client offers nothing besides.
ACME_PROTOCOLS = (b"acme-tls/1",)

# How long a peer may take to answer our close_notify, in seconds. Many never do: a client's pool
# that keeps the connection looks at it when it needs one, and a stop would wait for all of them.
CLOSE_NOTIFY = 5.0


class Challenges(Interface):
    """ACME's tls-alpn-01 challenges: the certificates that prove a name to a CA (RFC 8737)."""

    @property
    def alpn_pending(self) -> bool:
        """Whether any CA is expected at present."""

    def alpn_context(self, name: str) -> SSL.Context | None:
        """Return the context that proves this name; None if no CA is expected to ask for it."""


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


class _Proof:
    """The negotiation of a handshake that is itself the answer: it proves a name to a CA."""

    __slots__ = ("_context", "protocols", "server_name")

    def __init__(self, server_name: str, context: SSL.Context) -> None:
        self.server_name: str | None = server_name
        self.protocols: tuple[bytes, ...] = ACME_PROTOCOLS
        self._context = context

    def choose(self, server_name: bytes | None) -> SSL.Context:
        return self._context


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
        self.negotiation: _Negotiation | _Proof = _Negotiation(listener)
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


class WatchfulTransport(TlsTransport):
    """One that reads the ClientHello before OpenSSL does, while a CA is expected.

    The hello of a CA leads to a handshake that proves the name, and to nothing after it. Any
    other, and what is none, goes to OpenSSL as it came.
    """

    def __init__(
        self, factory: TLSMemoryBIOFactory, wrapped: _Handshake, challenges: Challenges
    ) -> None:
        TlsTransport.__init__(self, factory, wrapped)
        self._challenges = challenges
        self._hello: ClientHelloReader | None = ClientHelloReader()

    def dataReceived(self, data: bytes) -> None:
        """Hold back what comes until the hello is whole."""
        reader = self._hello
        if reader is not None:
            try:
                hello = reader.receive(data)
                if hello is None:
                    return
                self._meet(hello)
            except ValueError:
                pass  # no hello: OpenSSL has the right alert for it
            self._hello = None
            data = bytes(reader.received)
        receive: Callable[[bytes], None] = super().dataReceived
        receive(data)

    def _meet(self, hello: ClientHello) -> None:
        name = hello.server_name
        if name is not None and hello.protocols == ACME_PROTOCOLS:
            context = self._challenges.alpn_context(name)
            if context is not None:
                self.negotiation = _Proof(name, context)

    def establish(self) -> None:
        """Close at once if the handshake was all that was wanted (RFC 8737 section 3)."""
        if isinstance(self.negotiation, _Proof):
            self.established = True
            self.loseConnection()
        else:
            TlsTransport.establish(self)


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """What stands behind the TLS transport until the handshake is done."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def handshakeCompleted(self) -> None:
        assert isinstance(self.transport, TlsTransport)
        self.transport.establish()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert isinstance(self.transport, TlsTransport)
        if self.transport.established:
            return
        client, _ = textual(self.transport.getPeer())
        _log.debug(
            "{client}: TLS handshake failed: {reason}",
            client=client,
            reason=reason.getErrorMessage(),
        )


@implementer(ILoggingContext)
class _HandshakeFactory(Factory):
    """What Twisted asks how it is called."""

    noisy = False

    def logPrefix(self) -> str:
        return LOG_PREFIX


@implementer(IOpenSSLServerConnectionCreator)
class _Creator:
    def __init__(self, base: SSL.Context) -> None:
        self._base = base

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._base, None)


class TlsFactory(TLSMemoryBIOFactory):
    """Makes a listener's connections, which begin in the base context."""

    def __init__(self, listener: Listener, base: SSL.Context) -> None:
        TLSMemoryBIOFactory.__init__(
            self, _Creator(base), False, _HandshakeFactory(), listener.clock
        )
        self._listener = listener

    def buildProtocol(self, addr: IAddress | None) -> TlsTransport:
        """Make one, which is watchful only while a CA is expected."""
        listener = self._listener
        challenges = listener.challenges
        if challenges is not None and challenges.alpn_pending:
            return WatchfulTransport(self, _Handshake(listener), challenges)
        return TlsTransport(self, _Handshake(listener))
