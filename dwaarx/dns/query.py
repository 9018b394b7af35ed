"""Reading a client's message: a query to resolve, an answer on the spot, or nothing at all."""

from __future__ import annotations

import struct

from dwaarx.dns.answer import EDE_NOT_SUPPORTED, bare_error, error
from dwaarx.dns.message import (
    AXFR,
    BADVERS,
    DO,
    FORMERR,
    HEADER,
    HEADER_SIZE,
    IXFR,
    MAX_ADDITIONALS,
    MAX_LABEL,
    MAX_NAME,
    NOTIMP,
    OPCODE,
    OPT,
    QR,
    QUESTION_FIXED,
    RECORD_FIXED,
    REFUSED,
    TC,
    TKEY,
    TSIG,
    Edns,
    MalformedMessageError,
    Query,
    skip_name,
)

# Transfers, and the types that only ever stand in other sections: never for an upstream.
_NOT_ASKED_FOR = frozenset((OPT, TKEY, TSIG, IXFR, AXFR))

_LAST_ZERO = HEADER_SIZE + MAX_NAME - 1  # where the root label of the longest name stands


def parse(wire: bytes, client: str, keepalive: int | None = None) -> Query | bytes | None:
    """Read one message of a client; whatever its bytes are, nothing is raised.

    Returns a Query; or the answer to give at once (FORMERR, NOTIMP, REFUSED, BADVERS); or None
    for what cannot be answered: no whole header, or an answer instead of a query.
    `keepalive` is the time to name to a client that asks for edns-tcp-keepalive, in units of
    100 ms; None where that has no meaning (DoH: RFC 7828 speaks of the DNS over TCP alone).
    """
    size = len(wire)
    if size < HEADER_SIZE:
        return None
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(wire)
    if flags & QR:
        return None
    if flags & OPCODE:
        return bare_error(wire, flags, NOTIMP)
    if questions != 1 or answers or flags & TC:
        return bare_error(wire, flags, FORMERR)
    position = HEADER_SIZE
    try:
        while length := wire[position]:
            position += length + 1
            if length > MAX_LABEL or position > _LAST_ZERO:
                return bare_error(wire, flags, FORMERR)
        qtype, qclass = QUESTION_FIXED.unpack_from(wire, position + 1)
    except (IndexError, struct.error):
        return bare_error(wire, flags, FORMERR)
    end = position + 5
    name = wire[HEADER_SIZE : position + 1].lower()
    edns: Edns | None = None
    try:
        if additionals or authorities:
            if (authorities and qtype != IXFR) or authorities + additionals > MAX_ADDITIONALS:
                return bare_error(wire, flags, FORMERR)
            edns = _read_records(wire, end, authorities, additionals)
        elif size != end:
            return bare_error(wire, flags, FORMERR)
    except MalformedMessageError:
        return bare_error(wire, flags, FORMERR)
    query = Query(
        wire,
        flags,
        wire[HEADER_SIZE:end],
        name,
        name + wire[position + 1 : end],
        qtype,
        qclass,
        edns,
        client,
    )
    if edns is not None:
        if edns.keepalive:
            query.keepalive = keepalive
        if edns.version:
            return error(query, BADVERS)
    if qtype in _NOT_ASKED_FOR:
        return error(query, REFUSED, EDE_NOT_SUPPORTED)
    return query


def _read_records(wire: bytes, position: int, authorities: int, additionals: int) -> Edns | None:
    """Walk through the records behind the question, and return what the OPT among them says."""
    edns: Edns | None = None
    try:
        for index in range(authorities + additionals):
            owner = position
            position = skip_name(wire, position)
            kind, _, ttl, length = RECORD_FIXED.unpack_from(wire, position)
            options = position + 10
            position = options + length
            if kind == OPT:
                if edns is not None or index < authorities or wire[owner]:
                    raise MalformedMessageError("an OPT record out of place")
                edns = Edns(ttl >> 16 & 0xFF, bool(ttl & DO), wire[options:position])
    except (IndexError, struct.error):
        raise MalformedMessageError("a record cut off") from None
    if position != len(wire):
        raise MalformedMessageError("records and message end in different places")
    return edns
