"""The answers that a client gets, put together on the wire: ours, and those of upstreams.

The client's id and letter case come back, OPT records go hop by hop (RFC 6891 section 6.2.6),
padding follows RFC 8467, and what fails here says why by an extended error (RFC 8914).
"""

from __future__ import annotations

import struct

import dns.exception
import dns.message

from dwaarx.dns.message import (
    CD,
    DO,
    EDE_OPTION,
    HEADER,
    HEADER_SIZE,
    KEEPALIVE_OPTION,
    MAX_MESSAGE,
    NOERROR,
    NXDOMAIN,
    OPCODE,
    OPT,
    OPT_SIZE,
    OPTION,
    PADDING_OPTION,
    QR,
    RA,
    RCODE,
    RD,
    RECORD_FIXED,
    SERVFAIL,
    SOA,
    Edns,
    MalformedMessageError,
    Query,
    Z,
    skip_name,
)

# The UDP size that we name in every OPT: what crosses any path unfragmented (DNS flag day 2020).
UDP_SIZE = 1232
PADDING_BLOCK = 468  # RFC 8467 section 4.1: what a server pads to

_COUNTS = struct.Struct("!4H")
_ZEROS = bytes(PADDING_BLOCK)

# Extended errors (RFC 8914 section 4) that are made here.
EDE_OTHER = 0
EDE_NOT_READY = 14
EDE_PROHIBITED = 18
EDE_NOT_SUPPORTED = 21
EDE_NO_REACHABLE_AUTHORITY = 22
EDE_NETWORK_ERROR = 23


class Body:
    """Everything behind an answer's question: the counts, and the three sections but for OPT.

    `counts` are the header's last 8 octets without an OPT, `counts_with_opt` those with one.
    """

    __slots__ = ("counts", "counts_with_opt", "sections")

    def __init__(self, answers: int, authorities: int, additionals: int, sections: bytes) -> None:
        self.counts = _COUNTS.pack(1, answers, authorities, additionals)
        self.counts_with_opt = _COUNTS.pack(1, answers, authorities, additionals + 1)
        self.sections = sections


NOTHING = Body(0, 0, 0, b"")


def assemble(query: Query, flags: int, body: Body, extended: int = 0, ede: bytes = b"") -> bytes:
    """Return the answer to a query; with an OPT if it had one, and if there is room for it.

    `extended` are the upper 8 bits of the RCODE, `ede` is a whole EDNS option or nothing.
    """
    wire, edns = query.wire, query.edns
    if edns is None:
        return b"".join(
            (wire[:2], flags.to_bytes(2, "big"), body.counts, query.question, body.sections)
        )
    size = HEADER_SIZE + len(query.question) + len(body.sections)
    opt = _opt(query, edns, size, extended, ede)
    return b"".join(
        (
            wire[:2],
            flags.to_bytes(2, "big"),
            body.counts_with_opt if opt else body.counts,
            query.question,
            body.sections,
            opt,
        )
    )


def _opt(query: Query, edns: Edns, size: int, extended: int, ede: bytes) -> bytes:
    """Our OPT record, for an answer of `size` octets without it; b"" if there is no room."""
    options = ede
    if query.keepalive is not None:
        options += struct.pack("!HHH", KEEPALIVE_OPTION, 2, query.keepalive)
    room = MAX_MESSAGE - size - OPT_SIZE - len(options)
    if room < 0:
        return b""
    if edns.padded and room >= 4:
        # Padding stands last: what follows it could not be counted (RFC 8467 section 4).
        padding = min(-(size + OPT_SIZE + len(options) + 4) % PADDING_BLOCK, room - 4)
        options += OPTION.pack(PADDING_OPTION, padding) + _ZEROS[:padding]
    ttl = extended << 24 | (DO if edns.dnssec_ok else 0)
    return b"\0" + RECORD_FIXED.pack(OPT, UDP_SIZE, ttl, len(options)) + options


def bare_error(wire: bytes, flags: int, rcode: int) -> bytes:
    """Return a header and nothing else: for a message whose question cannot be repeated."""
    flags = QR | flags & (OPCODE | RD | CD) | rcode
    return wire[:2] + flags.to_bytes(2, "big") + bytes(8)


def error(query: Query, rcode: int, code: int | None = None, text: str = "") -> bytes:
    """Return a refusal or failure made here, with an extended error if the client had EDNS."""
    ede = b""
    if code is not None:
        said = text.encode("utf-8")
        ede = struct.pack("!HHH", EDE_OPTION, 2 + len(said), code) + said
    flags = QR | RA | query.flags & (RD | CD) | rcode & RCODE
    return assemble(query, flags, NOTHING, rcode >> 4, ede)


def relay(wire: bytes, query: Query) -> bytes:
    """Return an upstream's answer, that matches the query, as its client gets it.

    Raises MalformedMessageError.
    """
    _, flags, _, answers, authorities, additionals = HEADER.unpack_from(wire)
    start = HEADER_SIZE + len(query.question)
    opt, opt_end, end, extended = _walk(wire, start, answers + authorities, additionals)
    if extended and query.edns is None:
        # A code of more than four bits has no other form for a client without EDNS.
        return error(query, SERVFAIL)
    if opt < 0:
        sections = wire[start:end]
    else:
        if opt_end != end:
            wire = _without_opt(wire)
            _, _, _, answers, authorities, additionals = HEADER.unpack_from(wire)
            opt = len(wire)
        else:
            additionals -= 1
        sections = wire[start:opt]
    body = Body(answers, authorities, additionals, sections)
    return assemble(query, flags & ~Z, body, extended)


def _walk(wire: bytes, position: int, before: int, additionals: int) -> tuple[int, int, int, int]:
    """Return where OPT starts (or -1) and ends, where the last record ends, the upper RCODE."""
    opt, opt_end, extended = -1, -1, 0
    try:
        for index in range(before + additionals):
            owner = position
            position = skip_name(wire, position)
            kind, _, ttl, length = RECORD_FIXED.unpack_from(wire, position)
            position += 10 + length
            if kind == OPT:
                if opt >= 0 or index < before or wire[owner]:
                    raise MalformedMessageError("an OPT record out of place")
                opt, opt_end, extended = owner, position, ttl >> 24
    except (IndexError, struct.error):
        raise MalformedMessageError("an answer cut off") from None
    if position > len(wire):
        raise MalformedMessageError("an answer cut off")
    return opt, opt_end, position, extended


def _without_opt(wire: bytes) -> bytes:
    """Write an answer anew without its OPT, since records behind it may be pointed to."""
    try:
        message = dns.message.from_wire(wire, ignore_trailing=True)
        message.use_edns(False)
        return message.to_wire(max_size=MAX_MESSAGE, want_shuffle=False)
    except (dns.exception.DNSException, ValueError) as wrong:
        raise MalformedMessageError(str(wrong)) from None


def rcode(wire: bytes) -> int:
    """Return the lower four bits of an answer's RCODE."""
    return wire[3] & RCODE


def freshness(wire: bytes) -> int:
    """Return for how many seconds an answer of ours may be kept (RFC 8484 section 5.1).

    The least TTL of the answer section; without records, or for NXDOMAIN, what the SOA says of
    negative answers (RFC 2308 section 5); 0 for a failure.
    """
    _, flags, questions, answers, authorities, _ = HEADER.unpack_from(wire)
    if flags & RCODE not in (NOERROR, NXDOMAIN) or questions != 1:
        return 0
    position = skip_name(wire, HEADER_SIZE) + 4
    least: int | None = None
    for index in range(answers + authorities):
        position = skip_name(wire, position)
        kind, _, ttl, length = RECORD_FIXED.unpack_from(wire, position)
        position += 10 + length
        if index >= answers:
            if kind != SOA or length < 22:
                continue
            ttl = min(ttl, int.from_bytes(wire[position - 4 : position], "big"))
        if ttl & 0x80000000:  # RFC 2181 section 8
            ttl = 0
        least = ttl if least is None else min(least, ttl)
    return least or 0
