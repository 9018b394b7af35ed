"""One planned listener, running: who answers its connections, and what it can say of itself."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorSocket, IReactorTime

from dwaarx.certs.store import Identity
from dwaarx.config.model import CertificateSource, DnsOverHttps, Site, Timeouts, every_route
from dwaarx.dns.dot_connection import DotConnection
from dwaarx.dns.forwarder import Forwarder
from dwaarx.http.answers import HttpsRedirect
from dwaarx.http.exchange import ConnectionInfo, Handler
from dwaarx.http.h1_connection import H1Connection
from dwaarx.http.h2_connection import H2Connection
from dwaarx.http.router import Router
from dwaarx.plan import DOT_PROTOCOL, ListenerPlan
from dwaarx.tls.listener import Accepted, Drainable, Endpoint, Listener


@attrs.frozen
class BindStatus:
    """A listener as showBinds() and its kin show it.

    `protocols` are of "http", "https/1.1", "h2", "dot" and "doh"; `names` are those served,
    "*" for every name; `connections` counts the open ones, `accepted` and `tls_failures` all
    since it began to listen; `certificates` names each certificate once.
    """

    address: str
    protocols: tuple[str, ...]
    names: tuple[str, ...]
    origin: str
    connections: int
    accepted: int
    tls_failures: int
    certificates: tuple[str, ...]
    doh_paths: tuple[str, ...]


class RunningListener:
    """A listener with its router; `update` gives it a new plan without touching its socket."""

    def __init__(
        self,
        plan: ListenerPlan,
        reactor: IReactorTime,
        base: SSL.Context,
        forwarder: Forwarder,
    ) -> None:
        self.plan = plan
        self._clock = reactor
        self._forwarder = forwarder
        self._timeouts = Timeouts()
        self._router = Router(plan.tls)
        self._listener = Listener(self._make, reactor, base=base if plan.tls else None)

    def update(
        self,
        plan: ListenerPlan,
        timeouts: Timeouts,
        identities: Mapping[CertificateSource, Identity],
        handlers: Mapping[Site, Handler],
    ) -> None:
        """Serve this plan from the next handshake and the next request on."""
        self.plan = plan
        self._timeouts = timeouts
        self._listener.handshake = timeouts.handshake
        self._listener.idle = timeouts.idle
        if plan.tls:
            self._listener.set_endpoints(
                (served.name, Endpoint(identities[served.source], served.protocols))
                for served in plan.names
            )
        self._router.replace(
            [
                (
                    served.host,
                    handlers[served.site]
                    if served.redirect is None
                    else HttpsRedirect(served.redirect),
                )
                for served in plan.sites
            ]
        )

    def listen(self, reactor: IReactorSocket, sock: socket.socket) -> None:
        """Begin to accept on a listening socket."""
        self._listener.listen(reactor, sock)

    def yield_address(self) -> None:
        """Listen no more at once; see `Listener.yield_address`."""
        self._listener.yield_address()

    def stop(self) -> Deferred[None]:
        """Accept no more; fires when the socket is closed."""
        return self._listener.stop()

    def drain(self) -> None:
        """Ask every connection to finish."""
        self._listener.drain()

    def abort(self) -> None:
        """Drop every connection."""
        self._listener.abort()

    @property
    def connections(self) -> int:
        """How many connections are open, those still shaking hands included."""
        return self._listener.open

    @property
    def description(self) -> str:
        """Say in words where it listens, and what it serves there."""
        status = self.status()
        first, *others = status.names
        names = (
            f"{first} and {len(others)} more names" if len(others) > 1 else ", ".join(status.names)
        )
        return f"{status.address}: {', '.join(status.protocols)} for {names}"

    def status(self) -> BindStatus:
        """Say what it serves and has served."""
        plan = self.plan
        paths = tuple(
            dict.fromkeys(
                path
                for served in plan.sites
                for route in every_route(served.site.routes)
                if isinstance(route, DnsOverHttps)
                for path in route.paths
            )
        )
        protocols: tuple[str, ...] = ()
        if plan.sites:
            protocols = ("https/1.1", "h2") if plan.tls else ("http",)
        if plan.dot:
            protocols += ("dot",)
        if paths and plan.tls:
            protocols += ("doh",)
        names = [served.name for served in plan.names] or [served.host for served in plan.sites]
        return BindStatus(
            str(plan.address),
            protocols,
            tuple(dict.fromkeys(name or "*" for name in names)),
            plan.origin,
            self._listener.open,
            self._listener.accepted,
            self._listener.tls_failures,
            tuple(dict.fromkeys(_source_name(served.source) for served in plan.names)),
            paths if plan.tls else (),
        )

    def _make(self, accepted: Accepted) -> Drainable:
        """Make the session of a connection, by what ALPN agreed on.

        Without ALPN it is HTTP/1.1 wherever HTTP is served, else DoT (RFC 7858 has no ALPN).
        """
        info = ConnectionInfo(
            accepted.client,
            accepted.client_port,
            accepted.local,
            accepted.local_port,
            self.plan.tls,
            accepted.server_name,
        )
        protocol = accepted.protocol
        if protocol == DOT_PROTOCOL or (protocol is None and not self.plan.sites):
            return DotConnection(info, self._forwarder, self._timeouts, self._clock)
        if protocol == b"h2":
            return H2Connection(info, self._router, self._timeouts, self._clock)
        return H1Connection(info, self._router, self._timeouts, self._clock)


def _source_name(source: CertificateSource) -> str:
    if isinstance(source, tuple):
        return ", ".join(str(files.certificate) for files in source)
    return "internal"
