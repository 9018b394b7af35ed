"""The running service: listeners, sites, forwarder and certificate manager, applied from a Config.

A Config is applied in two halves. The first prepares all that can fail: certificates are loaded
and new addresses listened on; whatever fails there, everything is as before. The second puts it
in place and cannot fail. The start, a reload and each addition on the console all go this one way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from contextlib import ExitStack
from typing import Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from dwaarx import collector
from dwaarx.certs.manager import CertificateManager
from dwaarx.certs.storage import Storage
from dwaarx.config import load
from dwaarx.config.model import (
    Address,
    CertificateFiles,
    CertificateSource,
    Config,
    DnsOverHttps,
    Location,
    ReverseProxy,
    Site,
    SiteAddress,
    every_route,
)
from dwaarx.dns.doh import DohHandler
from dwaarx.dns.forwarder import Forwarder
from dwaarx.http.exchange import Handler
from dwaarx.http.proxy import ReverseProxyHandler
from dwaarx.http.site import compile_site
from dwaarx.http.upstream import UpstreamPools
from dwaarx.listening import BindStatus, RunningListener
from dwaarx.plan import CONSOLE, ListenerPlan, make_plan
from dwaarx.reactor import Reactor
from dwaarx.tls.policy import base_context
from dwaarx.tls.sockets import BindError, bind_stream
from dwaarx.words import reason_of

_log = Logger()

# How often a stop looks whether all has been drained, in seconds.
DRAIN_LOOK = 0.05

# What a change lets go in circles is collected after this many of them: that takes 40 ms, and half
# a second with 100,000 names, which a storm of signals must not take each time.
SWEEP_EVERY = 32


class FrontendError(Exception):
    """What was asked cannot be done as things are; the message says why."""


class Part(Protocol):
    """What else changes with the Config, in the same two halves (the console)."""

    def prepare(self, config: Config) -> None:
        """Do all that may fail; what is raised refuses the Config."""

    def abandon(self) -> None:
        """Undo `prepare`: the Config is not put in place."""

    def change(self) -> None:
        """Put in place what was prepared; cannot fail."""


class Frontend(MultiService):
    """The service that runs a Dwaarfile.

    Its child is the certificate manager; `parts` are applied with it. Every method that changes
    something either does all of it, or raises and has changed nothing: `ConfigError` and
    `PlanError` with places, `ResolversError`, `CertificateErrors` with files, `BindError` with
    the address, `FrontendError` else.
    """

    def __init__(self, config: Config, reactor: Reactor) -> None:
        MultiService.__init__(self)
        self.config = config
        try:
            self.storage = Storage(config.storage)
        except OSError as error:
            raise FrontendError(f"storage {config.storage}: {reason_of(error)}") from error
        self.manager = CertificateManager(self.storage, reactor)
        MultiService.addService(self, self.manager)
        self.forwarder = Forwarder(reactor)
        self.parts: list[Part] = []
        self._reactor = reactor
        self._base = base_context()
        self._pools = UpstreamPools(reactor)
        self._doh = DohHandler(self.forwarder)
        self._additions: tuple[Site, ...] = ()
        self._listeners: dict[Address, RunningListener] = {}
        self._retired: list[RunningListener] = []
        self._handlers: dict[Site, Handler] = {}
        self._changes = 0
        self._drop_at: float | None = None  # while it stops: when what is left is dropped

    # --- life ---------------------------------------------------------------

    def privilegedStartService(self) -> None:
        """Put the first Config in place, while ports below 1024 may still be bound."""
        self.storage.clear()
        self._apply(self.config, ())
        MultiService.privilegedStartService(self)

    def stopService(self) -> Deferred[object]:
        """Accept no more, let what is in progress finish within `timeouts.drain`, then stop."""
        self._drop_at = self._reactor.seconds() + self.config.timeouts.drain
        running = [*self._listeners.values(), *self._retired]
        stopped: list[Deferred[None]] = [listener.stop() for listener in running]
        for listener in running:
            listener.drain()
        drained = self._drained(running)
        drained.addCallback(lambda _: gatherResults(stopped))
        drained.addCallback(lambda _: self._close())
        drained.addCallback(lambda _: MultiService.stopService(self))
        return drained

    def hurry(self) -> None:
        """Wait no more for what is in progress, if it is being stopped."""
        if self._drop_at is not None:
            self._drop_at = self._reactor.seconds()

    def _drained(self, running: Sequence[RunningListener]) -> Deferred[object]:
        """Wait until all connections are gone, or time is up: then drop those left."""

        def look() -> None:
            assert self._drop_at is not None
            if not any(listener.connections for listener in running):
                looking.stop()
            elif self._reactor.seconds() >= self._drop_at:
                _log.warn(
                    "dropped what was still in progress; open connections: {count}",
                    count=sum(listener.connections for listener in running),
                )
                for listener in running:
                    listener.abort()
                looking.stop()

        looking = LoopingCall(look)
        looking.clock = self._reactor
        waiting: Deferred[object] = looking.start(DRAIN_LOOK).addCallback(lambda _: None)
        return waiting

    def _close(self) -> None:
        self._pools.close()
        self.forwarder.stop()

    # --- changes ------------------------------------------------------------

    def reload(self) -> str:
        """Read the Dwaarfile again and put it in place; returns what changed.

        Certificates, keys and staples are read again as well, for that is what a renewal's hook
        wants of a SIGHUP. One that cannot be loaded keeps its former, and is told.
        """
        with collector.paused():
            return self._reload()

    def _reload(self) -> str:
        config = load(self.config.file)
        if config.storage != self.config.storage:
            raise FrontendError(
                f"storage cannot change from {self.config.storage} to {config.storage} "
                "while dwaarx runs: restart it"
            )
        done = self._apply(config, self._additions)
        kept = [
            f"kept the former {outcome.description}: {outcome.error}"
            for outcome in self.manager.reload()
            if outcome.error
        ]
        return "; ".join((done, *kept))

    def add_tls_local(self, address: Address, sources: tuple[CertificateFiles, ...]) -> str:
        """Listen for DNS over TLS on one more address, for as long as the process lives."""
        return self._add(
            address,
            Site((), (), sources, dns_over_tls=(address,), location=Location(CONSOLE, 1, 1)),
        )

    def add_doh_local(
        self, address: Address, sources: tuple[CertificateFiles, ...], paths: tuple[str, ...]
    ) -> str:
        """Listen for DNS over HTTPS on one more address, for as long as the process lives."""
        return self._add(
            address,
            Site(
                (SiteAddress("", address.port),),
                (DnsOverHttps(paths),),
                sources,
                bind=(address.host,),
                location=Location(CONSOLE, 1, 1),
            ),
        )

    def _add(self, address: Address, site: Site) -> str:
        taken = self._listeners.get(address)
        if taken is not None and taken.plan.origin != CONSOLE:
            raise FrontendError(f"{address} is already a listener of the Dwaarfile")
        return self._apply(self.config, (*self._additions, site))

    def _apply(self, config: Config, additions: tuple[Site, ...]) -> str:
        if self._drop_at is not None:
            raise FrontendError("dwaarx is stopping: nothing can be changed any more")
        self._changes += 1
        try:
            with collector.paused():
                return self._put_in_place(config, additions)
        finally:
            if self._changes % SWEEP_EVERY == 0:
                collector.sweep()  # for what is no longer in use, or came to nothing

    def _put_in_place(self, config: Config, additions: tuple[Site, ...]) -> str:
        plan = make_plan(config, additions)
        handlers = {
            site: self._handlers.get(site) or compile_site(site, self)
            for site in (*config.sites, *additions)
        }
        tables = self.forwarder.prepare(config.resolvers)
        sources = _sources(plan)
        kept = self._kept(plan)
        opened: dict[Address, RunningListener] = {}
        with ExitStack() as undo:
            for part in self.parts:
                undo.callback(part.abandon)
                part.prepare(config)
            former = self.config
            undo.callback(lambda: self._configure(former))
            self._configure(config)
            undo.callback(lambda: self.manager.retain(_sources(self._plan())))
            identities = self.manager.acquire(sources)
            self._give_way([plan[address] for address in plan if address not in kept], kept, undo)
            for address, each in plan.items():
                if address not in kept:
                    # It accepts nothing before the reactor's next turn.
                    listener = RunningListener(
                        each, self._reactor, self._base, self.forwarder, self.manager.challenges
                    )
                    listener.update(each, config.timeouts, identities, handlers)
                    undo.callback(listener.yield_address)
                    listener.listen(self._reactor, bind_stream(address))
                    opened[address] = listener
            undo.pop_all()
        # From here on nothing fails.
        before = self._listeners
        self._handlers = handlers
        self._listeners = {address: kept.get(address) or opened[address] for address in plan}
        for address, listener in kept.items():
            listener.update(plan[address], config.timeouts, identities, handlers)
        for address, listener in before.items():
            if address not in kept:
                self._retire(listener)
        self.config = config
        self._additions = additions
        self.forwarder.apply(tables)
        self._pools.retain(_upstreams(config.sites))
        self.manager.retain(sources)
        for part in self.parts:
            part.change()
        for listener in opened.values():
            _log.info("listening on {what}", what=listener.description)
        changes = [_count(config.sites, "site"), _count(plan, "listener")]
        changes += [f"now listening on {address}" for address in plan if address not in before]
        changes += [
            f"no longer listening on {address}" for address in before if address not in plan
        ]
        return ", ".join(changes)

    def _configure(self, config: Config) -> None:
        self.manager.configure(config.ocsp, config.certificate_cache, config.http_port != 0)

    def _kept(self, plan: dict[Address, ListenerPlan]) -> dict[Address, RunningListener]:
        """Return the listeners that go on with this plan: same address, still (or not) TLS."""
        return {
            address: listener
            for address, listener in self._listeners.items()
            if address in plan and plan[address].tls is listener.plan.tls
        }

    def _give_way(
        self,
        new: Sequence[ListenerPlan],
        kept: Mapping[Address, RunningListener],
        undo: ExitStack,
    ) -> None:
        """Let the listeners that are to be given up leave their ports to the new ones.

        So a port can go from one address to every address (or back), and from plain HTTP to TLS.
        """
        ports = {plan.address.port for plan in new}
        for address, listener in self._listeners.items():
            if address not in kept and address.port in ports:
                undo.callback(self._come_back, listener)
                listener.yield_address()

    def _come_back(self, listener: RunningListener) -> None:
        address = listener.plan.address
        try:
            listener.listen(self._reactor, bind_stream(address))
        except (BindError, OSError) as error:
            # Another process was quicker, or the process has no descriptor left. The reason for
            # coming back is to be raised all the same.
            _log.critical(
                "{address} is not listened on any more, restart dwaarx: {error}",
                address=str(address),
                error=str(error),
            )

    def _retire(self, listener: RunningListener) -> None:
        """Stop a listener that the plan no longer has; its connections finish what they do."""
        listener.stop()
        listener.drain()
        self._retired = [each for each in self._retired if each.connections]
        self._retired.append(listener)

    # --- parts --------------------------------------------------------------

    def reverse_proxy(self, config: ReverseProxy) -> Handler:
        """Make the handler of a `reverse_proxy` directive."""
        return ReverseProxyHandler(config, self._pools)

    def doh(self, config: DnsOverHttps) -> Handler:
        """Return the handler of DNS over HTTPS."""
        return self._doh

    def _plan(self) -> dict[Address, ListenerPlan]:
        return {address: listener.plan for address, listener in self._listeners.items()}

    # --- what runs ----------------------------------------------------------

    def binds(self) -> list[BindStatus]:
        """Say what listens."""
        return [self._listeners[address].status() for address in sorted(self._listeners)]


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name if len(things) == 1 else name + 's'}"


def _sources(plan: dict[Address, ListenerPlan]) -> list[CertificateSource]:
    return list(dict.fromkeys(served.source for each in plan.values() for served in each.names))


def _upstreams(sites: Sequence[Site]) -> set[Address]:
    return {
        address
        for site in sites
        for route in every_route(site.routes)
        if isinstance(route, ReverseProxy)
        for address in route.upstreams
    }
