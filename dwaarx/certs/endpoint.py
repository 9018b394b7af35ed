"""One connection through the gate: the address that is checked is the one that is connected to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.certs import guard
from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.lookup import Lookups
from dwaarx.certs.url import literal_of
from dwaarx.config.model import IPAddress, IPNetwork
from dwaarx.reactor import Reactor

# Of a name with many addresses: trying more than these one after the other helps nobody.
MAX_ATTEMPTS = 4

# What may come before the answer's head is complete: the TLS handshake, with its chain of
# certificates, and the header fields. Real ones have 10 KiB together.
MAX_HEAD = 64 * 1024

# How long a peer may take to let a connection end whose answer is here.
CLOSE_TIMEOUT = 2.0


class Tap(Protocol):
    """Counts what comes in, below TLS; `inner` has the transport for itself."""

    def __init__(self, wire: Wire, inner: IProtocol) -> None:
        self.inner = inner
        self._wire = wire

    def connectionMade(self) -> None:
        """Hand the transport on."""
        assert self.transport is not None
        self._wire.made(self.transport)
        self.inner.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Hand data on, and count it."""
        self.inner.dataReceived(data)
        self._wire.count(len(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        self._wire.lost()
        self.inner.connectionLost(reason)


class Wire(Factory[Tap]):
    """One connection, whichever attempt makes it: bounded until its head is there, sure to end.

    `overflow` is called when more than MAX_HEAD octets came before `headed`; `gone` when the
    connection has ended.
    """

    noisy = False

    def __init__(
        self,
        reactor: Reactor,
        overflow: Callable[[], None],
        gone: Callable[[Wire], None],
    ) -> None:
        self.inner: IProtocolFactory | None = None
        self._reactor = reactor
        self._overflow = overflow
        self._gone = gone
        self._left = MAX_HEAD
        self._headed = False
        self._transport: ITCPTransport | None = None
        self._end: IDelayedCall | None = None

    def buildProtocol(self, addr: IAddress | None) -> Tap | None:
        """Make the connection's protocol around that of `inner`."""
        assert self.inner is not None
        inner = self.inner.buildProtocol(cast("IAddress", addr))
        return None if inner is None else Tap(self, inner)

    def made(self, transport: ITransport) -> None:
        """Keep the transport."""
        self._transport = cast("ITCPTransport", transport)

    def count(self, octets: int) -> None:
        """Hold what came against what may come."""
        self._left -= octets
        if not self._headed and self._left < 0:
            self._headed = True
            self._overflow()

    def headed(self) -> None:
        """From here on the body is counted, by whoever reads it."""
        self._headed = True

    def lost(self) -> None:
        """The connection has ended."""
        self._transport = None
        if self._end is not None and self._end.active():
            self._end.cancel()
        self._gone(self)

    def finish(self) -> None:
        """Close when all is sent, without waiting for the peer's part of it in TLS.

        After CLOSE_TIMEOUT, close anyway.
        """
        if self._transport is not None and self._end is None:
            self._end = self._reactor.callLater(CLOSE_TIMEOUT, self.abort)
            self._transport.loseConnection()

    def abort(self) -> None:
        """Close at once, or never be made."""
        if self._transport is None:
            self._gone(self)
        else:
            self._transport.abortConnection()


@implementer(IStreamClientEndpoint)
@attrs.frozen(eq=False)
class GuardedEndpoint:
    """Connects to a host at those of its addresses at which a responder may be.

    Each gets its share of the time until `until` (of the reactor's clock). `stage` hears what is
    being done, as in "resolving its name". Fails with FetchError: REFUSED, UNREACHABLE.
    """

    reactor: Reactor
    lookups: Lookups
    host: str
    port: int
    tls: IOpenSSLClientConnectionCreator | None
    allowed: Sequence[IPNetwork]
    until: float
    stage: Callable[[str], None]
    wire: Wire

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect a protocol of this factory, over TLS if there is `tls`."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        self.wire.inner = factory
        if self.tls is not None:
            self.wire.inner = TLSMemoryBIOFactory(self.tls, True, factory, self.reactor)
        addresses = self._permitted(await self._addresses())[:MAX_ATTEMPTS]
        failures = []
        for index, address in enumerate(addresses):
            self.stage(f"connecting to {address}")
            share = (self.until - self.reactor.seconds()) / (len(addresses) - index)
            try:
                protocol = await self._attempt(address, max(share, 0.001))
            except ConnectError as error:
                failures.append(f"{address}: {str(error).rstrip('.')}")
            else:
                self.stage("waiting for its answer")
                return protocol
        reason = f"{self.host} cannot be reached ({'; '.join(failures)})"
        raise FetchError(FetchFailure.UNREACHABLE, reason)

    async def _addresses(self) -> Sequence[IPAddress]:
        literal = literal_of(self.host)
        if literal is not None:
            return (literal,)
        self.stage("resolving its name")
        return await self.lookups.addresses(self.host)

    def _permitted(self, addresses: Sequence[IPAddress]) -> Sequence[IPAddress]:
        refused = {address: guard.refusal(address, self.allowed) for address in addresses}
        permitted = [address for address, words in refused.items() if words is None]
        if permitted:
            return permitted
        address, words = next(iter(refused.items()))
        literal = literal_of(self.host) is not None
        what = f"{address} is" if literal else f"{self.host} resolves to {address},"
        advice = f"`ocsp {{ allow_responder {guard.exception_for(address)} }}` would allow it"
        raise FetchError(FetchFailure.REFUSED, f"{what} {words}; {advice}")

    async def _attempt(self, address: IPAddress, seconds: float) -> IProtocol:
        kind = TCP4ClientEndpoint if isinstance(address, IPv4Address) else TCP6ClientEndpoint
        tap = await kind(self.reactor, str(address), self.port, seconds).connect(self.wire)
        assert isinstance(tap, Tap)
        if self.tls is None:
            return tap.inner
        assert isinstance(tap.inner, TLSMemoryBIOProtocol)
        return tap.inner.wrappedProtocol
