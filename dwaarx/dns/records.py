"""Local records: compiled to wire answers once, so that a query costs a look-up."""

from __future__ import annotations

from collections.abc import Iterable

import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from dwaarx.config.model import Record
from dwaarx.dns.answer import Body, assemble, error
from dwaarx.dns.errors import ResolversError
from dwaarx.dns.message import (
    AA,
    ANY,
    CD,
    CNAME,
    HEADER,
    HEADER_SIZE,
    IN,
    MAX_MESSAGE,
    NOERROR,
    NXDOMAIN,
    QR,
    QUESTION_FIXED,
    RA,
    RD,
    SERVFAIL,
    Edns,
    Query,
)

_RRsets = dict[int, list[dns.rrset.RRset]]


class Alias(Body):
    """An answer of local CNAME records whose last one points to a name that is not local.

    `target` is that name on the wire; stub resolvers follow no CNAME, so it must be looked up.
    """

    __slots__ = ("target",)

    def __init__(self, body: Body, target: bytes) -> None:
        self.counts = body.counts
        self.counts_with_opt = body.counts_with_opt
        self.sections = body.sections
        self.target = target


class LocalRecords:
    """The compiled `record`s of a Dwaarfile."""

    __slots__ = ("_answers", "_others")

    def __init__(self, answers: dict[bytes, Body], others: dict[bytes, Body]) -> None:
        self._answers = answers  # by Query.key
        self._others = others  # by name: for every type that has no record there

    def find(self, query: Query) -> Body | None:
        """Return the answer to a query, or None for a name without local records."""
        body = self._answers.get(query.key)
        if body is None and query.qclass == IN:
            return self._others.get(query.name)
        return body


def local_answer(query: Query, body: Body) -> bytes:
    """Return the whole answer to a query by local records."""
    return assemble(query, QR | AA | RA | query.flags & (RD | CD), body)


def compile_records(records: Iterable[Record]) -> LocalRecords:
    """Compile local records; raises ResolversError for those that cannot stand side by side."""
    names: dict[dns.name.Name, _RRsets] = {}
    for record in records:
        _add(names, record)
    for name, rrsets in names.items():
        if CNAME in rrsets and len(rrsets) > 1:
            raise ResolversError(f"record {_text(name)}: a name with a CNAME can have no other")
    answers: dict[bytes, Body] = {}
    others: dict[bytes, Body] = {}
    for name, rrsets in names.items():
        _compile_name(names, name, rrsets, answers, others)
    return LocalRecords(answers, others)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def _add(names: dict[dns.name.Name, _RRsets], record: Record) -> None:
    try:
        name = dns.name.from_text(record.name).canonicalize()
        kind = dns.rdatatype.from_text(record.type)
        rdata = dns.rdata.from_text(
            dns.rdataclass.IN, kind, record.value, origin=dns.name.root, relativize=False
        )
    except (dns.exception.DNSException, ValueError) as wrong:
        raise ResolversError(
            f"record {record.name} {record.type} {record.value}: {wrong}"
        ) from None
    if dns.rdatatype.is_metatype(kind):
        raise ResolversError(f"record {record.name} {record.type}: no type for a record")
    rrsets = names.setdefault(name, {}).setdefault(int(kind), [])
    covers = rdata.covers()
    for rrset in rrsets:
        if rrset.covers == covers:
            if dns.rdatatype.is_singleton(kind) and rdata not in rrset:
                raise ResolversError(f"record {record.name}: more than one {record.type}")
            rrset.add(rdata, min(record.ttl, rrset.ttl))  # RFC 2181 section 5.2: one TTL
            return
    rrset = dns.rrset.RRset(name, dns.rdataclass.IN, kind, covers)
    rrset.add(rdata, record.ttl)
    rrsets.append(rrset)


def _compile_name(
    names: dict[dns.name.Name, _RRsets],
    name: dns.name.Name,
    rrsets: _RRsets,
    answers: dict[bytes, Body],
    others: dict[bytes, Body],
) -> None:
    wire = name.to_digestable()

    def put(kind: int, sets: list[dns.rrset.RRset]) -> None:
        answers[wire + QUESTION_FIXED.pack(kind, IN)] = _body(name, sets)

    for kind, sets in rrsets.items():
        put(kind, sets)
    try:
        put(ANY, [rrset for sets in rrsets.values() for rrset in sets])
    except ResolversError:
        put(ANY, next(iter(rrsets.values())))  # RFC 8482 section 4.1: a subset will do
    # Without SOA: there is no zone here to say for how long that is so (RFC 2308 section 2.2).
    others[wire] = _body(name, [])
    if CNAME in rrsets:
        chain, target = _follow(names, name)
        others[wire] = _body(name, chain)
        if target in names:
            for kind, sets in names[target].items():
                if kind != CNAME:
                    put(kind, chain + sets)
        else:
            others[wire] = Alias(others[wire], target.to_digestable())


def _follow(
    names: dict[dns.name.Name, _RRsets], name: dns.name.Name
) -> tuple[list[dns.rrset.RRset], dns.name.Name]:
    """Return the CNAME records from a name on, and where they end (a loop: at its start)."""
    chain: list[dns.rrset.RRset] = []
    seen = {name}
    while CNAME in names.get(name, ()):
        rrset = names[name][CNAME][0]
        chain.append(rrset)
        name = rrset[0].target.canonicalize()
        if name in seen:
            break
        seen.add(name)
    return chain, name


def _body(name: dns.name.Name, rrsets: list[dns.rrset.RRset]) -> Body:
    # The question stands for that of any query: names in the records are compressed against it.
    message = dns.message.make_query(name, dns.rdatatype.ANY)
    message.answer = rrsets
    try:
        wire = message.to_wire(max_size=MAX_MESSAGE, want_shuffle=False)
    except dns.exception.TooBig:
        raise ResolversError(f"record {_text(name)}: more than one message can hold") from None
    count = HEADER.unpack_from(wire)[3]
    return Body(count, 0, 0, wire[HEADER_SIZE + len(name.to_digestable()) + 4 :])


def query_for_target(query: Query, alias: Alias) -> Query:
    """Return the query that finds out where a local CNAME leads to."""
    fixed = query.question[-4:]
    question = alias.target + fixed
    edns = query.edns
    return Query(
        query.wire,
        query.flags,
        question,
        alias.target,
        question,
        query.qtype,
        query.qclass,
        None if edns is None else Edns(0, edns.dnssec_ok, b""),
        query.client,
    )


def join(query: Query, alias: Alias, answer: bytes) -> bytes:
    """Return the local CNAME records and behind them the answer for their target."""
    try:
        found = dns.message.from_wire(answer)
        reasons = found.extended_errors()
        if found.rcode() not in (NOERROR, NXDOMAIN):
            if reasons:
                return error(query, found.rcode(), int(reasons[0].code), reasons[0].text or "")
            return error(query, found.rcode())
        whole = dns.message.from_wire(local_answer(query, alias))
        whole.use_edns(False)
        whole.answer += found.answer
        whole.authority = found.authority
        wire = whole.to_wire(max_size=MAX_MESSAGE, want_shuffle=False)
    except (dns.exception.DNSException, ValueError):
        return error(query, SERVFAIL)
    _, _, _, answers, authorities, _ = HEADER.unpack_from(wire)
    body = Body(answers, authorities, 0, wire[HEADER_SIZE + len(query.question) :])
    return assemble(query, QR | RA | query.flags & (RD | CD) | found.rcode(), body)
