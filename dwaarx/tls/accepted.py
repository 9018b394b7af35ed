"""What a listener makes of an accepted connection: what is known of it, and what answers it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Protocol

import attrs
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

# Who is starting on a port, in Twisted's own lines of the log.
LOG_PREFIX = "dwaarx"


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


class Drainable(Protocol):
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
