"""What a Dwaarfile says, as frozen values; made by `dwaarx.config.load`, read by `frontend`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from dwaarx.config.errors import Problem

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@attrs.frozen
class Location:
    """A place in a Dwaarfile; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@attrs.frozen(order=True)
class Address:
    """An address to listen on or to send to; host "" means every local address."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host or "*"
        return f"{host}:{self.port}"


# --- certificates -----------------------------------------------------------


@attrs.frozen
class CertificateFiles:
    """`tls CERT KEY { ocsp FILE }`: PEM chain (leaf first), PEM key, DER staple.

    The location is where it was written and takes no part in equality, so that a reload
    that only moves lines keeps the certificate.
    """

    certificate: Path
    key: Path
    ocsp: Path | None = None
    location: Location | None = attrs.field(default=None, eq=False)
    ocsp_location: Location | None = attrs.field(default=None, eq=False)


@attrs.frozen
class InternalCertificate:
    """`tls internal`: a leaf of the local CA for these DNS names, wildcards and IP literals."""

    names: tuple[str, ...]
    location: Location | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Eab:
    """External account binding (RFC 8555 section 7.3.4); the key is base64url, without padding.

    The location is that of a key that is written in the Dwaarfile (None: not there).
    """

    key_id: str
    mac_key: str = attrs.field(repr=False)
    location: Location | None = attrs.field(default=None, eq=False)


@attrs.frozen
class AcmeCa:
    """`acme_ca DIRECTORY [BUNDLE] { eab KEY_ID MAC_KEY; profile NAME }`.

    `bundle` is a PEM file of the CAs that the directory's own certificate is verified by (None:
    those of the system); the location is that of the bundle's name, if there is one.
    """

    directory: str
    bundle: Path | None = None
    eab: Eab | None = None
    profile: str | None = None
    location: Location | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Rfc2136:
    """`tls { dns rfc2136 SERVER KEYNAME SECRET [ALGORITHM] }`; the secret is base64.

    The server is a host, or an IP address, and a port. The location is that of a secret that is
    written in the Dwaarfile (None: not there).
    """

    server: Address
    key_name: str
    secret: str = attrs.field(repr=False)
    algorithm: str = "hmac-sha256"
    location: Location | None = attrs.field(default=None, eq=False)


@attrs.frozen
class AcmeSettings:
    """How certificates by ACME are obtained; the CAs are tried in order.

    `profile` goes before that of the CA. Without `dns` there are no wildcards.
    """

    cas: tuple[AcmeCa, ...]
    email: str | None = None
    dns: Rfc2136 | None = None
    profile: str | None = None
    must_staple: bool = False


@attrs.frozen
class AcmeCertificate:
    """A certificate by ACME for one name, which may be a wildcard.

    The name alone makes it the same: other settings hold from the next renewal on.
    """

    name: str
    settings: AcmeSettings = attrs.field(eq=False)


@attrs.frozen
class AutomaticCertificates:
    """What a site gets that says nothing of files: one by ACME for each of its names.

    Those that no public CA can sign, such as localhost, are together in `internal`.
    """

    acme: AcmeSettings
    internal: InternalCertificate | None = None
    _internal_names: frozenset[str] = attrs.field(init=False, eq=False, repr=False)

    @_internal_names.default
    def _names(self) -> frozenset[str]:
        return frozenset(self.internal.names if self.internal else ())

    def source(self, host: str) -> InternalCertificate | AcmeCertificate:
        """Return where the certificate of one host of the site comes from."""
        if self.internal is not None and host in self._internal_names:
            return self.internal
        return AcmeCertificate(host, self.acme)


# Where one certificate comes from: pairs of files (ECDSA and RSA side by side) count as one.
CertificateSource = tuple[CertificateFiles, ...] | InternalCertificate | AcmeCertificate

# What a site says of its certificates.
SiteCertificates = tuple[CertificateFiles, ...] | InternalCertificate | AutomaticCertificates


def source_for(certificates: SiteCertificates, host: str) -> CertificateSource:
    """Return where the certificate of one host of a site comes from."""
    if isinstance(certificates, AutomaticCertificates):
        return certificates.source(host)
    return certificates


# --- what a site does with a request ----------------------------------------


@attrs.frozen
class PathMatcher:
    """Caddy's path matcher: exact, or with a `*` at the end (prefix), start (suffix) or both."""

    pattern: str


@attrs.frozen
class HeaderOp:
    """One change of a header field: op is "set", "add", "delete" or "default" (set if absent).

    `name` is lower-case; it may end in `*` for delete (prefix). `value` may hold placeholders.
    """

    op: str
    name: str
    value: str = ""


@attrs.frozen
class ChangeHeaders:
    """`header` (of the response) or `request_header`."""

    ops: tuple[HeaderOp, ...]
    of_request: bool
    matcher: PathMatcher | None = None


@attrs.frozen
class Redirect:
    """`redir [MATCHER] TO [CODE]`; `to` may hold placeholders; status is 3xx."""

    to: str
    status: int = 302
    matcher: PathMatcher | None = None


@attrs.frozen
class Respond:
    """`respond [MATCHER] "BODY" [STATUS]` or `respond [MATCHER] STATUS`."""

    body: str = ""
    status: int = 200
    matcher: PathMatcher | None = None


@attrs.frozen
class ReverseProxy:
    """`reverse_proxy [MATCHER] UPSTREAM… { … }`; times in seconds.

    Upstreams are plain HTTP/1.1 over TCP, taken in turn (round robin).
    """

    upstreams: tuple[Address, ...]
    matcher: PathMatcher | None = None
    dial_timeout: float = 3.0
    response_header_timeout: float = 60.0
    read_timeout: float = 0.0  # between two reads of a response body; 0 = no limit
    location: Location | None = attrs.field(default=None, eq=False)


@attrs.frozen
class DnsOverHttps:
    """`dns_over_https [PATH…]`: exact paths."""

    paths: tuple[str, ...] = ("/dns-query",)


@attrs.frozen
class Handle:
    """`handle [MATCHER] { … }`; only the first Handle of a block that matches is taken.

    With strip_prefix (`handle_path`) the matcher's prefix is cut from the path.
    """

    routes: tuple[Route, ...]
    matcher: PathMatcher | None = None
    strip_prefix: bool = False


Route = ChangeHeaders | Redirect | Respond | ReverseProxy | DnsOverHttps | Handle


def every_route(routes: Iterable[Route]) -> Iterator[Route]:
    """Yield these routes, and behind each `handle` those that it holds."""
    for route in routes:
        yield route
        if isinstance(route, Handle):
            yield from every_route(route.routes)


@attrs.frozen
class SiteAddress:
    """`[http://|https://]HOST[:PORT]`; host is lower-case, may be `*.name`, an IP or "" (any)."""

    host: str
    port: int
    tls: bool = True

    def __str__(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{Address(self.host, self.port)}"


@attrs.frozen
class Site:
    """One site block. `routes` stand in the order in which they are to be tried.

    `certificate` is None only for a site all of whose addresses are plain http.
    `dns_over_tls` holds the addresses of its DoT listeners (none: no DoT).
    `bind` holds the local addresses of its HTTPS and HTTP listeners; () means every address.
    """

    addresses: tuple[SiteAddress, ...]
    routes: tuple[Route, ...]
    certificate: SiteCertificates | None
    dns_over_tls: tuple[Address, ...] = ()
    bind: tuple[str, ...] = ()
    location: Location | None = attrs.field(default=None, eq=False)


# --- DNS --------------------------------------------------------------------


@attrs.frozen
class DnsUpstream:
    """One server of a pool, by its IP address.

    `transport` is "auto" (UDP, then TCP on TC), "udp" or "tcp".
    """

    transport: str
    address: Address

    def __str__(self) -> str:
        scheme = "" if self.transport == "auto" else f"{self.transport}://"
        return f"{scheme}{self.address}"


@attrs.frozen
class Record:
    """A local answer: name is lower-case, absolute, without the last dot; type upper-case.

    `value` is the presentation format of one RDATA; it has been parsed once, so it is right.
    """

    name: str
    type: str
    value: str
    ttl: int = 60


@attrs.frozen
class Resolvers:
    """A `resolvers [SUFFIX…] { … }` block; without suffixes it is the default pool.

    `upstreams` is empty when the block names none: then /etc/resolv.conf's are used.
    `allow` and `records` hold for the whole service and stand in the default pool only.
    """

    suffixes: tuple[str, ...] = ()
    upstreams: tuple[DnsUpstream, ...] = ()
    policy: str = "least_outstanding"  # round_robin, first, random, hash
    records: tuple[Record, ...] = ()
    allow: tuple[IPNetwork, ...] | None = None  # None: loopback and private networks
    location: Location | None = attrs.field(default=None, eq=False)


# --- global options ---------------------------------------------------------


@attrs.frozen
class Timeouts:
    """Deadlines in seconds."""

    handshake: float = 10.0
    read_header: float = 10.0
    read_body: float = 30.0  # between two reads of a request's body
    idle: float = 60.0  # no request in progress; or a peer that does not read
    drain: float = 30.0  # how long a stop waits for what is in progress


@attrs.frozen
class OcspOptions:
    """`ocsp { … }`; times in seconds.

    A staple is fetched again after `refresh` at the latest, and not sent when it was fetched
    longer than `max_age` ago. `allow` are the networks where a responder (of OCSP, CRLs or ARI)
    may be although nobody outside could reach it there.
    """

    refresh: float = 12 * 3600.0
    timeout: float = 10.0
    max_age: float = 7 * 86400.0
    allow: tuple[IPNetwork, ...] = ()


@attrs.frozen
class ConsoleUnix:
    """`console unix`: STORAGE/console.sock, mode 0600."""


@attrs.frozen
class ConsoleSsh:
    """`console ssh ADDRESS { authorized_keys FILE }`."""

    address: Address
    authorized_keys: Path
    location: Location | None = attrs.field(default=None, eq=False)  # of the file's name


@attrs.frozen
class ConsoleOff:
    """`console off`."""


Console = ConsoleUnix | ConsoleSsh | ConsoleOff


@attrs.frozen
class Config:
    """A whole Dwaarfile; `file` is the path it was read from, as given.

    `acme_cas` are those that it names, or the default. `warnings` are about what can be read, and
    will hardly do what was meant; `dwaarx check` shows them.
    """

    file: str
    sites: tuple[Site, ...]
    resolvers: tuple[Resolvers, ...]
    storage: Path
    http_port: int = 80  # 0 = off
    bind: tuple[str, ...] = ()
    redirect_http: bool = True  # False: auto_https disable_redirects
    console: Console = ConsoleUnix()
    timeouts: Timeouts = Timeouts()
    ocsp: OcspOptions = OcspOptions()
    certificate_cache: int = 10_000  # contexts held for handshakes; others are made when needed
    acme_cas: tuple[AcmeCa, ...] = ()
    warnings: tuple[Problem, ...] = attrs.field(default=(), eq=False)
