"""`resolvers` blocks: upstream servers, local records and who may ask."""

from __future__ import annotations

from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass

from dwaarx.config import addresses, statements
from dwaarx.config.errors import Problems, WrongError, likely, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import DnsUpstream, IPNetwork, Record, Resolvers
from dwaarx.config.statements import Grammar, read_block
from dwaarx.config.syntax import Word

DNS_PORT: Final = 53
POLICIES: Final = ("least_outstanding", "round_robin", "first", "random", "hash")
# Types whose data users write by hand. Signatures and the like belong in a zone.
RECORD_TYPES: Final = (
    "A",
    "AAAA",
    "CAA",
    "CNAME",
    "HTTPS",
    "MX",
    "NAPTR",
    "NS",
    "PTR",
    "SOA",
    "SRV",
    "SSHFP",
    "SVCB",
    "TLSA",
    "TXT",
)
_RESOLVERS: Final = Grammar(
    "`resolvers`",
    not_yet=frozenset({"block", "cache", "hosts"}),
    repeatable=frozenset({"to", "record", "allow"}),
)
_RECORD_FORM: Final = "record NAME TYPE VALUE…"
# A line of presentation format; RFC 1035 allows 65,535 bytes of data, which may be escaped.
_MAX_VALUE: Final = 300_000


def read_resolvers(statement: Statement, problems: Problems) -> Resolvers:
    """Return what one `resolvers` block says."""
    suffixes: dict[str, None] = {}
    for word in statement.arguments:
        suffix = _name(word)
        if suffix in suffixes:
            raise WrongError(word.location, f"the suffix {quoted(suffix)} is given twice")
        suffixes[suffix] = None
    block = statements.block(statement, "resolvers [SUFFIX…]")
    reader = _Reader(bool(suffixes), problems)
    table = {
        "to": reader.to,
        "policy": reader.policy,
        "record": reader.record,
        "allow": reader.allow,
    }
    read_block(block, _RESOLVERS, table, problems)
    if suffixes and not any(inner.name == "to" for inner in block):
        message = "a pool for the names under a suffix needs servers: expected `to ADDRESS…`"
        raise WrongError(statement.location, message)
    return Resolvers(
        suffixes=tuple(suffixes),
        upstreams=tuple(reader.upstreams),
        policy=reader.chosen,
        records=tuple(reader.records),
        allow=None if reader.networks is None else tuple(reader.networks),
        location=statement.location,
    )


class _Reader:
    def __init__(self, suffixed: bool, problems: Problems) -> None:
        self._suffixed = suffixed
        self._problems = problems
        self._types: dict[str, set[str]] = {}
        self.upstreams: dict[DnsUpstream, None] = {}
        self.records: dict[Record, None] = {}
        self.networks: dict[IPNetwork, None] | None = None
        self.chosen = POLICIES[0]

    def to(self, statement: Statement) -> None:
        statements.no_block(statement)
        for word in statements.words(statement, "to ADDRESS…", 1):
            upstream = _upstream(word)
            if upstream in self.upstreams:
                raise WrongError(word.location, f"the server {upstream} is given twice")
            self.upstreams[upstream] = None

    def policy(self, statement: Statement) -> None:
        word = statements.one_word(statement, "policy NAME")
        if word.text not in POLICIES:
            hint = likely(word.text, POLICIES)
            raise WrongError(word.location, f"there is no policy {quoted(word.text)}{hint}")
        self.chosen = word.text

    def record(self, statement: Statement) -> None:
        self._only_in_default(statement)
        statements.no_block(statement)
        name, kind, *value = statements.words(statement, _RECORD_FORM, 3)
        owner = _name(name)
        type_ = kind.text.upper()
        if type_ not in RECORD_TYPES:
            hint = likely(type_, RECORD_TYPES)
            message = f"{quoted(kind.text)} is not a type of record that can stand here{hint}"
            raise WrongError(kind.location, message)
        record = Record(owner, type_, _rdata(type_, value))
        if record in self.records:
            raise WrongError(statement.location, "this record is given twice")
        types = self._types.setdefault(owner, set())
        if ("CNAME" in types) if type_ != "CNAME" else types:
            message = f"a CNAME is the only record of its name, and {quoted(owner)} has another"
            raise WrongError(statement.location, message)
        types.add(type_)
        self.records[record] = None

    def allow(self, statement: Statement) -> None:
        self._only_in_default(statement)
        statements.no_block(statement)
        networks = self.networks = {} if self.networks is None else self.networks
        for word in statements.words(statement, "allow NETWORK…", 1):
            network = addresses.network(word)
            if network in networks:
                raise WrongError(word.location, f"the network {network} is given twice")
            networks[network] = None

    def _only_in_default(self, statement: Statement) -> None:
        if self._suffixed:
            message = (
                f"{quoted(statement.name)} holds for the whole service: it stands in the "
                "`resolvers` block without suffixes"
            )
            raise WrongError(statement.location, message)


def _upstream(word: Word) -> DnsUpstream:
    scheme, marks, rest = word.text.partition("://")
    if not marks:
        scheme, rest = "auto", word.text
    elif scheme in ("tls", "https", "h3", "quic", "sdns"):
        message = f"servers by {quoted(scheme + marks)} are not available yet"
        raise WrongError(word.location, message)
    elif scheme not in ("udp", "tcp"):
        message = f"{quoted(word.text)} is no DNS server: expected ADDRESS, `udp://` or `tcp://`"
        raise WrongError(word.location, message)
    address = addresses.socket_address(word, DNS_PORT, rest)
    literal = addresses.ip_literal(address.host)
    assert literal is not None
    if literal.is_unspecified or literal.is_multicast:
        raise WrongError(word.location, f"no server has the address {address.host}")
    return DnsUpstream(scheme, address)


def _name(word: Word) -> str:
    """Return a DNS name in lower case, without the last dot."""
    text = word.text
    if text.startswith("*"):
        message = f"wildcards such as {quoted(text)} are not available yet"
        raise WrongError(word.location, message)
    try:
        # 1,024: a name of 255 bytes, each written as \DDD, is not longer.
        name = dns.name.from_text(text, dns.name.root) if 0 < len(text) <= 1024 else dns.name.root
    except (dns.exception.DNSException, UnicodeError) as error:
        message = f"{quoted(text)} is not a domain name: {error}"
        raise WrongError(word.location, message) from error
    if name == dns.name.root:
        raise WrongError(word.location, f"{quoted(text)} is not a domain name")
    return name.canonicalize().to_text(omit_final_dot=True)


def _rdata(type_: str, words: list[Word]) -> str:
    """Return the canonical presentation format of the data that the words give."""
    parts = []
    for word in words:
        if word.quote or type_ == "TXT":
            parts.append('"' + word.text.replace("\\", "\\\\").replace('"', '\\"') + '"')
        elif any(c in word.text for c in ";()\n"):
            message = f"{quoted(word.text)} must be quoted here"
            raise WrongError(word.location, message)
        else:
            parts.append(word.text)
    place = words[0].location
    text = " ".join(parts)
    if len(text) > _MAX_VALUE:
        raise WrongError(place, f"the data of this {type_} record are too long")
    try:
        rdata = dns.rdata.from_text(
            dns.rdataclass.IN, type_, text, origin=dns.name.root, relativize=False
        )
        rdata.to_wire()
    except (dns.exception.DNSException, ValueError, OverflowError) as error:
        reason = str(error) or "it is not in the presentation format"
        raise WrongError(place, f"not the data of a record of type {type_}: {reason}") from error
    return str(rdata.to_text())
