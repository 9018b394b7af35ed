"""The forwarder: who may ask, local records, and the pool that a name goes to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import attrs
import dns.name
from twisted.logger import Logger

from dwaarx.config.model import DnsUpstream, Resolvers
from dwaarx.dns import resolv
from dwaarx.dns.acl import LOCAL_NETWORKS, AllowList
from dwaarx.dns.answer import EDE_PROHIBITED, error
from dwaarx.dns.lookup import Lookups, Pool
from dwaarx.dns.message import REFUSED, Query
from dwaarx.dns.policies import policy
from dwaarx.dns.records import (
    Alias,
    LocalRecords,
    compile_records,
    join,
    local_answer,
    query_for_target,
)
from dwaarx.dns.resolver import Respond
from dwaarx.dns.upstream import Upstream
from dwaarx.reactor import Reactor

_log = Logger()


@attrs.frozen
class ServerStatus:
    """An upstream of a pool, as showServers() shows it; latency in ms, 0.0 before any answer."""

    pool: str
    name: str
    address: str
    outstanding: int
    queries: int
    failures: int
    latency: float


@attrs.frozen
class Tables:
    """All that a Dwaarfile says of resolving, swapped whole; pools by their suffix on the wire."""

    upstreams: dict[DnsUpstream, Upstream]
    allow: AllowList
    records: LocalRecords
    default: Pool
    suffixes: dict[bytes, Pool]
    pools: tuple[Pool, ...]


class Forwarder:
    """Resolves queries by local records and upstreams; one for the whole service."""

    def __init__(self, reactor: Reactor, resolv_conf: Path = resolv.RESOLV_CONF) -> None:
        self._reactor = reactor
        self._resolv_conf = resolv_conf
        self._lookups = Lookups(reactor)
        self._tables = Tables(
            {},
            AllowList(LOCAL_NETWORKS),
            compile_records(()),
            Pool("", (), policy("first")),
            {},
            (),
        )

    def prepare(self, resolvers: tuple[Resolvers, ...]) -> Tables:
        """Return what `apply` puts into force, without changing anything.

        Reads /etc/resolv.conf. Raises ResolversError for records that cannot stand side by
        side.
        """
        upstreams: dict[DnsUpstream, Upstream] = {}
        default: Pool | None = None
        allow: AllowList | None = None
        records = compile_records(record for block in resolvers for record in block.records)
        suffixes: dict[bytes, Pool] = {}
        pools: list[Pool] = []
        system = tuple(DnsUpstream("auto", address) for address in resolv.read(self._resolv_conf))
        for block in resolvers:
            members = self._members(block.upstreams or system, upstreams)
            pool = Pool(" ".join(block.suffixes), members, policy(block.policy))
            pools.append(pool)
            for suffix in block.suffixes:
                suffixes[dns.name.from_text(suffix).to_digestable()] = pool
            if not block.suffixes:
                default = pool
                if block.allow is not None:
                    allow = AllowList(block.allow)
        if default is None:
            default = Pool("", self._members(system, upstreams), policy("least_outstanding"))
            pools.append(default)
        allow = allow or AllowList(LOCAL_NETWORKS)
        return Tables(upstreams, allow, records, default, suffixes, tuple(pools))

    def apply(self, tables: Tables) -> None:
        """Put into force what `prepare` returned last; cannot fail.

        Upstreams that stay keep their sockets and counts; those that go finish what they were
        asked.
        """
        former, self._tables = self._tables, tables
        for upstream in tables.upstreams.values():
            upstream.revive()
        for server, upstream in former.upstreams.items():
            if tables.upstreams.get(server) is not upstream:
                upstream.retire()
        for pool in tables.pools:
            if not pool.upstreams:
                _log.warn(
                    "No upstream for {pool}: {file} names no usable server; queries get SERVFAIL",
                    pool=pool.name or "the default pool",
                    file=self._resolv_conf,
                )

    def resolve(self, query: Query, respond: Respond) -> None:
        """Answer a query: `respond` is called once, at once if nothing must be asked upstream."""
        tables = self._tables
        if not tables.allow.allows(query.client):
            respond(error(query, REFUSED, EDE_PROHIBITED))
            return
        body = tables.records.find(query)
        if body is None:
            self._forward(tables, query, respond)
        elif isinstance(body, Alias):
            self._follow(tables, query, body, respond)
        else:
            respond(local_answer(query, body))

    def servers(self) -> list[ServerStatus]:
        """Return what each upstream was asked and how it did, pool by pool."""
        return [
            ServerStatus(
                pool=pool.name,
                name=str(upstream.server),
                address=str(upstream.server.address),
                outstanding=upstream.outstanding,
                queries=upstream.queries,
                failures=upstream.failures,
                latency=(upstream.latency or 0.0) * 1000,
            )
            for pool in self._tables.pools
            for upstream in pool.upstreams
        ]

    def stop(self) -> None:
        """Answer what waits with SERVFAIL, and close every socket."""
        self._lookups.stop()
        for upstream in self._tables.upstreams.values():
            upstream.retire()

    def _forward(self, tables: Tables, query: Query, respond: Respond) -> None:
        pool = tables.default
        if tables.suffixes:
            pool = _pool_for(query.name, tables)
        self._lookups.start(pool, query, respond)

    def _follow(self, tables: Tables, query: Query, alias: Alias, respond: Respond) -> None:
        def found(answer: bytes) -> None:
            respond(join(query, alias, answer))

        self._forward(tables, query_for_target(query, alias), found)

    def _members(
        self, servers: Iterable[DnsUpstream], upstreams: dict[DnsUpstream, Upstream]
    ) -> tuple[Upstream, ...]:
        members: dict[DnsUpstream, Upstream] = {}
        for server in servers:
            upstream = upstreams.get(server) or self._tables.upstreams.get(server)
            if upstream is None:
                upstream = Upstream(self._reactor, server)
            members[server] = upstreams[server] = upstream
        return tuple(members.values())


def _pool_for(name: bytes, tables: Tables) -> Pool:
    """The pool of the longest suffix, by whole labels."""
    suffixes = tables.suffixes
    position = 0
    while True:
        pool = suffixes.get(name[position:])
        if pool is not None:
            return pool
        length = name[position]
        if not length:
            return tables.default
        position += length + 1
