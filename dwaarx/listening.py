"""One planned listener, running: who answers its connections, and what it can say of itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Protocol

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorSocket, IReactorTime

from dwaarx.certs.store import Identity
from dwaarx.config.model import (
    AcmeCertificate,
    CertificateSource,
    DnsOverHttps,
    Site,
    Timeouts,
    every_route,
)
from dwaarx.dns.dot_connection import DotConnection
from dwaarx.dns.forwarder import Forwarder
from dwaarx.http import acme_challenge
from dwaarx.http.acme_challenge import AcmeChallengeHandler
from dwaarx.http.answers import HttpsRedirect
from dwaarx.http.exchange import ConnectionInfo, Handler
from dwaarx.http.h1_connection import H1Connection
from dwaarx.http.h2_connection import H2Connection
from dwaarx.http.router import Router
from dwaarx.plan import DOT_PROTOCOL, ListenerPlan
from dwaarx.tls import connection
from dwaarx.tls.accepted import Accepted, Drainable
from dwaarx.tls.listener import Endpoint, Listener


class Challenges(acme_challenge.Challenges, connection.Challenges, Protocol):
    """What is to be proven to CAs, by http-01 and by tls-alpn-01."""


@attrs.frozen
class BindStatus:
    """A listener as showBinds() and its kin show it.

    `protocols` are of "http", "https/1.1", "h2", "dot" and "doh"; `names` are those served,
    "*" for every name, none where ACME's challenges alone are answered; `connections` counts the
    open ones, `accepted` and `tls_failures` all since it began to listen; `certificates` names
    each certificate once.
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
        challenges: Challenges,
    ) -> None:
        self.plan = plan
        self._clock = reactor
        self._forwarder = forwarder
        self._timeouts = Timeouts()
        self._router = Router(plan.tls)
        self._handler: Handler = self._router
        if not plan.tls:
            self._handler = AcmeChallengeHandler(challenges, self._router)
        self._listener = Listener(
            self._make, reactor, base=base if plan.tls else None, challenges=challenges
        )

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
        self._router.replace(_table(plan, handlers))

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
        names = self._names()
        what = ", ".join(names)
        if not names:
            what = "ACME challenges"
        elif len(names) > 2:
            what = f"{names[0]} and {len(names) - 1} more names"
        return f"{self.plan.address}: {', '.join(self._protocols())} for {what}"

    def _names(self) -> tuple[str, ...]:
        plan = self.plan
        # Each once already, in either.
        if plan.names:
            return tuple(served.name or "*" for served in plan.names)
        return tuple(served.host or "*" for served in plan.sites)

    def _paths(self) -> tuple[str, ...]:
        """Return the paths of DNS over HTTPS."""
        sites = {id(served.site): served.site for served in self.plan.sites}.values()
        return tuple(
            dict.fromkeys(
                path
                for site in sites
                for route in every_route(site.routes)
                if isinstance(route, DnsOverHttps)
                for path in route.paths
            )
        )

    def _protocols(self) -> tuple[str, ...]:
        plan = self.plan
        protocols: tuple[str, ...] = () if plan.tls else ("http",)
        if plan.tls and plan.sites:
            protocols = ("https/1.1", "h2")
        if plan.dot:
            protocols += ("dot",)
        if plan.tls and self._paths():
            protocols += ("doh",)
        return protocols

    def status(self) -> BindStatus:
        """Say what it serves and has served."""
        plan = self.plan
        return BindStatus(
            str(plan.address),
            self._protocols(),
            self._names(),
            plan.origin,
            self._listener.open,
            self._listener.accepted,
            self._listener.tls_failures,
            tuple(dict.fromkeys(_source_name(served.source) for served in plan.names)),
            self._paths() if plan.tls else (),
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
        dot = protocol is None and self.plan.tls and not self.plan.sites
        if dot or protocol == DOT_PROTOCOL:
            return DotConnection(info, self._forwarder, self._timeouts, self._clock)
        if protocol == b"h2":
            return H2Connection(info, self._handler, self._timeouts, self._clock)
        return H1Connection(info, self._handler, self._timeouts, self._clock)


def _table(plan: ListenerPlan, handlers: Mapping[Site, Handler]) -> Iterator[tuple[str, Handler]]:
    """Yield each host of a plan with what answers for it.

    A site may have very many hosts: it is looked up once (its hash is made of all of them), and
    those that are redirected to one port share what does it.
    """
    redirects: dict[int, HttpsRedirect] = {}
    site: Site | None = None
    for served in plan.sites:
        if served.redirect is not None:
            redirect = redirects.get(served.redirect)
            if redirect is None:
                redirect = redirects[served.redirect] = HttpsRedirect(served.redirect)
            yield served.host, redirect
            continue
        if served.site is not site:
            site = served.site
            handler = handlers[site]
        yield served.host, handler


def _source_name(source: CertificateSource) -> str:
    if isinstance(source, AcmeCertificate):
        return f"acme {source.name}"
    if isinstance(source, tuple):
        return ", ".join(str(files.certificate) for files in source)
    return "internal"
