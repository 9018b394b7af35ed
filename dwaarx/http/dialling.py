"""Dialling an upstream: one TCP connection to whichever of its addresses answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.config.addresses import ip_literal
from dwaarx.config.model import Address
from dwaarx.reactor import Reactor

# Of a name with many addresses: trying more than these one after the other helps nobody.
MAX_ADDRESSES = 4

# RFC 6761 6.3: localhost is the loopback, whatever a resolver says. Which of the two a service
# listens on differs; a refusal by the first costs some 50 µs, and no thread for getaddrinfo.
_LOOPBACK = ("127.0.0.1", "::1")


class Dialler(Interface):
    """Who dials; exactly one of these is called, unless the dial is cancelled before."""

    def dialled(self, protocol: Protocol) -> None:
        """The connection is there."""

    def dial_failed(self, reason: str) -> None:
        """No address answered in time; the reason is a phrase for the log."""


@implementer(IResolutionReceiver)
class Dial(ClientFactory):
    """One attempt: resolves the host, then tries its addresses in turn within `timeout` seconds.

    Each address gets its share of the time that is left, so that one that swallows packets does
    not use up all of it. (HostnameEndpoint waits 0.3 s before the second address even when
    the first was refused at once; `localhost` is often served on one of its two.)
    `make` builds the connection's protocol, which calls `connected` when it is made.
    """

    noisy = False

    def __init__(
        self,
        reactor: Reactor,
        address: Address,
        timeout: float,
        dialler: Dialler,
        make: Callable[[Dial], Protocol],
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._until = reactor.seconds() + timeout
        self._dialler: Dialler | None = dialler
        self._make = make
        self._hosts: list[str] = []
        self._connector: IConnector | None = None
        self._reason = "the name was not found"
        self._expiry = reactor.callLater(timeout, self._fail, "timed out")

    def start(self) -> None:
        """Begin."""
        host = self._address.host
        if host == "localhost":
            self._hosts = list(_LOOPBACK)
        elif ip_literal(host) is not None:
            self._hosts = [host]
        else:
            self._reactor.nameResolver.resolveHostName(self, host, self._address.port)
            return
        self._next()

    def cancel(self) -> None:
        """Give up; the dialler hears nothing more."""
        if self._finish() is not None and self._connector is not None:
            self._connector.disconnect()

    def connected(self, protocol: Protocol) -> None:
        """Hand a connection to the dialler."""
        dialler = self._finish()
        if dialler is not None:
            dialler.dialled(protocol)

    # --- the name -----------------------------------------------------------

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        """Nothing to keep: a look-up in getaddrinfo cannot be cancelled."""

    def addressResolved(self, address: IAddress) -> None:
        """Keep an address of the name, in the order of the resolver's preference."""
        if isinstance(address, IPv4Address | IPv6Address) and len(self._hosts) < MAX_ADDRESSES:
            self._hosts.append(address.host)

    def resolutionComplete(self) -> None:
        """Connect to the first of them."""
        if self._dialler is not None:
            self._next()

    # --- the addresses ------------------------------------------------------

    def _next(self) -> None:
        self._connector = None
        if not self._hosts:
            self._fail(self._reason)
            return
        left = max(self._until - self._reactor.seconds(), 0.001)
        host = self._hosts.pop(0)
        # The share of the last one is what the dial as a whole has left.
        share = left / (len(self._hosts) + 1)
        self._connector = self._reactor.connectTCP(host, self._address.port, self, timeout=share)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """Go on with the next address."""
        if self._dialler is not None:
            self._reason = reason.getErrorMessage().rstrip(".")
            self._next()

    def buildProtocol(self, address: IAddress | None) -> Protocol | None:
        """Make the connection's protocol; None where it comes too late."""
        return None if self._dialler is None else self._make(self)

    def _fail(self, reason: str) -> None:
        connector = self._connector
        dialler = self._finish()
        if dialler is not None:
            if connector is not None:
                connector.disconnect()
            dialler.dial_failed(reason)

    def _finish(self) -> Dialler | None:
        dialler, self._dialler = self._dialler, None
        if self._expiry.active():
            self._expiry.cancel()
        return dialler
