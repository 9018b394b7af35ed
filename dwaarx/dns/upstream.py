"""One server of a pool: its sockets, and what is known of how it does."""

from __future__ import annotations

from dwaarx.config.model import DnsUpstream
from dwaarx.dns.channel import Asker
from dwaarx.dns.tcp_upstream import TcpUpstream
from dwaarx.dns.udp_upstream import UdpUpstream
from dwaarx.reactor import Reactor

# How much one answer weighs in the latency that is shown.
_WEIGHT = 0.1


class Upstream:
    """An upstream as the Dwaarfile names it; pools that name the same one share it.

    `latency` is a moving mean in seconds, None before the first answer. `falls_back` says
    whether TCP follows UDP where that is not enough.
    """

    __slots__ = (
        "_retired",
        "_tcp",
        "_udp",
        "failures",
        "falls_back",
        "latency",
        "outstanding",
        "queries",
        "server",
    )

    def __init__(self, reactor: Reactor, server: DnsUpstream) -> None:
        self.server = server
        self.falls_back = server.transport == "auto"
        self._udp = None if server.transport == "tcp" else UdpUpstream(reactor, server.address)
        self._tcp = TcpUpstream(reactor, server.address)
        self._retired = False
        self.outstanding = 0
        self.queries = 0
        self.failures = 0
        self.latency: float | None = None

    def ask(self, asker: Asker) -> bool:
        """Send a question; False if the network refuses it at once."""
        if self._udp is not None:
            return self._udp.ask(asker)
        self._tcp.ask(asker)
        return True

    def ask_over_tcp(self, asker: Asker) -> None:
        """Send a question over TCP, after UDP was not enough."""
        self._tcp.ask(asker)

    def took(self, seconds: float) -> None:
        """Hear how long an answer took."""
        known = self.latency
        self.latency = seconds if known is None else known + (seconds - known) * _WEIGHT

    def left(self, *, failed: bool) -> None:
        """Hear that an attempt here is over."""
        self.outstanding -= 1
        if failed:
            self.failures += 1
        if self._retired and not self.outstanding:
            self._close()

    def retire(self) -> None:
        """Close the sockets as soon as nothing is asked any more."""
        self._retired = True
        if not self.outstanding:
            self._close()

    def revive(self) -> None:
        """Keep the sockets: a new Dwaarfile names the upstream again."""
        self._retired = False

    def _close(self) -> None:
        if self._udp is not None:
            self._udp.retire()
        self._tcp.retire()
