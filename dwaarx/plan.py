"""What listens where: worked out from the sites, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

import attrs

from dwaarx.config.errors import Problem
from dwaarx.config.model import (
    AcmeCertificate,
    Address,
    AutomaticCertificates,
    CertificateSource,
    Config,
    ConsoleSsh,
    Location,
    Site,
    source_for,
)

# `curl -0` and its like offer http/1.0, which the same session speaks.
HTTP_PROTOCOLS = (b"h2", b"http/1.1", b"http/1.0")
DOT_PROTOCOL = b"dot"
_DOT_PROTOCOLS = (DOT_PROTOCOL,)

# Who asked for a listener, as showBinds() says it.
DWAARFILE = "Dwaarfile"
CONSOLE = "console"

_EVERY_IPV4 = str(IPv4Address(0))
_EVERY_IPV6 = str(IPv6Address(0))


class PlanError(Exception):
    """The sites do not go together: each problem with its place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@attrs.frozen
class ServedName:
    """One name of a TLS listener: its certificate, and the ALPN names that it offers."""

    name: str
    source: CertificateSource
    protocols: tuple[bytes, ...]


@attrs.frozen
class ServedSite:
    """One host of an HTTP listener and the site that answers for it.

    `redirect` is the HTTPS port to send clients to; None where the site itself answers.
    """

    host: str
    site: Site
    redirect: int | None = None


@attrs.frozen
class ListenerPlan:
    """One listening address: with TLS, `names` is not empty; `sites` is empty for DoT alone.

    A plain one answers ACME's challenges (http-01) before any site; `sites` is empty if it is
    there for them alone.
    """

    address: Address
    tls: bool
    names: tuple[ServedName, ...]
    sites: tuple[ServedSite, ...]
    dot: bool
    origin: str = DWAARFILE


@attrs.define
class _Draft:
    """A listener's plan while sites are added to it; `site` is the first that asked for it."""

    address: Address
    tls: bool
    origin: str
    site: Site
    names: dict[str, ServedName] = attrs.Factory(dict)
    sites: dict[str, ServedSite] = attrs.Factory(dict)
    dot: bool = False

    def finished(self) -> ListenerPlan:
        names, sites = tuple(self.names.values()), tuple(self.sites.values())
        return ListenerPlan(self.address, self.tls, names, sites, self.dot, self.origin)


class _Planner:
    """Adds site after site to the listeners' drafts.

    A site may have 100,000 names: what is said of each is one object for all its listeners.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.drafts: dict[Address, _Draft] = {}
        self.problems: list[Problem] = []
        self._by_key: dict[tuple[str, int], _Draft] = {}
        self._protocols: dict[tuple[bytes, ...], tuple[bytes, ...]] = {}

    def listener(self, host: str, port: int, site: Site, origin: str, *, tls: bool) -> _Draft:
        """Return the draft for an address, made for `site` if it is not there yet."""
        draft = self._by_key.get((host, port))
        if draft is None:
            address = Address(host, port)
            draft = _Draft(address, tls, origin, site)
            self.drafts[address] = self._by_key[host, port] = draft
        return draft

    def draft(self, host: str, port: int, site: Site, origin: str, *, tls: bool) -> _Draft | None:
        draft = self.listener(host, port, site, origin, tls=tls)
        if draft.tls is not tls:
            words = ("plain HTTP", "TLS") if tls else ("TLS", "plain HTTP")
            address = draft.address
            self.problem(site, f"{address} already serves {words[0]}: it cannot serve {words[1]}")
            return None
        return draft

    def problem(self, site: Site, message: str) -> None:
        location = site.location or Location(self.config.file, 1, 1)
        self.problems.append(Problem(location, message))

    def binds(self, site: Site) -> Sequence[str]:
        return site.bind or self.config.bind or ("",)

    def add(self, site: Site, origin: str) -> None:
        """Add a site's own listeners, not the redirects to it."""
        binds = self.binds(site)
        names: dict[str, ServedName] = {}
        for at in site.addresses:
            served = ServedSite(at.host, site)
            if at.tls and at.host not in names:
                names[at.host] = _named(site, at.host, HTTP_PROTOCOLS)
            for host in binds:
                draft = self.draft(host, at.port, site, origin, tls=at.tls)
                if draft is None:
                    continue
                if at.host in draft.sites:
                    shown = at.host or "any host"
                    self.problem(site, f"{shown} is already served on {draft.address}")
                    continue
                draft.sites[at.host] = served
                if at.tls:
                    self.name(draft, site, names[at.host])
        if not site.dns_over_tls:
            return
        # A site without names of its own (made on the console) serves every name.
        over_tls = [
            ServedName(each.name, each.source, _DOT_PROTOCOLS) for each in names.values()
        ] or [_named(site, "", _DOT_PROTOCOLS)]
        for address in site.dns_over_tls:
            draft = self.draft(address.host, address.port, site, origin, tls=True)
            if draft is None:
                continue
            draft.dot = True
            for named in over_tls:
                self.name(draft, site, named)

    def name(self, draft: _Draft, site: Site, named: ServedName) -> None:
        known = draft.names.get(named.name)
        if known is not None:
            if known.source != named.source:
                shown = named.name or "any name"
                self.problem(site, f"{shown} already has another certificate on {draft.address}")
                return
            both = tuple(dict.fromkeys((*known.protocols, *named.protocols)))
            named = attrs.evolve(named, protocols=self._protocols.setdefault(both, both))
        draft.names[named.name] = named

    def plain(self, site: Site) -> None:
        """Let the plain HTTP port answer ACME's challenges for a site, and send clients to it."""
        secure = [at for at in site.addresses if at.tls]
        redirect = self.config.redirect_http
        if not secure or not (redirect or _by_http(site)):
            return
        drafts = [
            self.listener(host, self.config.http_port, site, DWAARFILE, tls=False)
            for host in self.binds(site)
        ]
        for draft in drafts:
            if draft.tls:
                address = draft.address
                self.problem(site, f"http_port: {address} serves TLS: set it to 0 or another")
                return
        for at in secure if redirect else ():
            served = ServedSite(at.host, site, redirect=at.port)
            for draft in drafts:
                # What a site serves there itself comes first; so does the first port named.
                draft.sites.setdefault(at.host, served)

    def overlaps(self) -> None:
        """Find addresses of one port that the kernel does not give out side by side."""
        for address, draft in self.drafts.items():
            for host in _including(address.host):
                wider = self.drafts.get(Address(host, address.port))
                if wider is not None:
                    message = f"cannot listen on both {address} and {wider.address}"
                    if wider.site.location != draft.site.location:
                        message += f" (the site at {wider.site.location})"
                    self.problem(draft.site, f"{message}: the second includes the first")
                    break

    def console(self, console: ConsoleSsh) -> None:
        """Find a listener that leaves the console by SSH no port."""
        own = console.address
        for address in self.drafts:
            hosts = address.host, own.host
            overlap = hosts[0] == hosts[1] or any(
                one in _including(other) for one, other in (hosts, hosts[::-1])
            )
            if address.port == own.port and overlap:
                message = f"cannot listen on {own} for the console: {address} is a site's"
                location = console.location or Location(self.config.file, 1, 1)
                self.problems.append(Problem(location, message))


def _named(site: Site, name: str, protocols: tuple[bytes, ...]) -> ServedName:
    assert site.certificate is not None
    return ServedName(name, source_for(site.certificate, name), protocols)


def _by_http(site: Site) -> bool:
    """Whether a CA may look for the proof of a name on the plain HTTP port (http-01)."""
    certificates = site.certificate
    if not isinstance(certificates, AutomaticCertificates) or certificates.acme.dns is not None:
        return False
    return any(
        at.tls and isinstance(certificates.source(at.host), AcmeCertificate)
        for at in site.addresses
    )


def _including(host: str) -> tuple[str, ...]:
    """Return the hosts whose sockets take a host's connections too (dwaarx.tls.sockets)."""
    if not host:
        return ()
    if host == _EVERY_IPV6:
        return ("",)
    if ":" in host or host == _EVERY_IPV4:
        return "", _EVERY_IPV6
    return "", _EVERY_IPV6, _EVERY_IPV4


def make_plan(config: Config, additions: Sequence[Site] = ()) -> dict[Address, ListenerPlan]:
    """Work out the listeners for a Dwaarfile's sites and for those added on the console.

    Raises PlanError when two sites want the same name on the same address, or TLS and plain HTTP
    on one, or addresses that overlap (also the console's).
    """
    planner = _Planner(config)
    for site in config.sites:
        planner.add(site, DWAARFILE)
    for site in additions:
        planner.add(site, CONSOLE)
    if config.http_port:
        for site in config.sites:
            planner.plain(site)
    planner.overlaps()
    if isinstance(config.console, ConsoleSsh):
        planner.console(config.console)
    if planner.problems:
        raise PlanError(planner.problems)
    return {address: draft.finished() for address, draft in planner.drafts.items()}
