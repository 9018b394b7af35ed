"""What is asked of upstreams, and whether a message is the answer to it (RFC 5452 section 9)."""

from __future__ import annotations

from dwaarx.dns.answer import UDP_SIZE
from dwaarx.dns.message import (
    AD,
    CD,
    DO,
    HEADER_SIZE,
    OPT,
    RD,
    RECORD_FIXED,
    Query,
)

_COUNTS = b"\0\1\0\0\0\0\0\1"  # one question, and our OPT
_OPT = b"\0" + RECORD_FIXED.pack(OPT, UDP_SIZE, 0, 0)
_OPT_DO = b"\0" + RECORD_FIXED.pack(OPT, UDP_SIZE, DO, 0)


def request(query: Query) -> bytes:
    """Return what to send upstream for a query, but for its first two octets, the id.

    The question is the client's, letter case included; of its flags RD, AD and CD go along, of
    its EDNS only DO: options are between it and us (RFC 6891 section 6.1.1).
    """
    flags = query.flags & (RD | AD | CD)
    opt = _OPT_DO if query.edns is not None and query.edns.dnssec_ok else _OPT
    return b"".join((flags.to_bytes(2, "big"), _COUNTS, query.question, opt))


def matches(wire: bytes, question: bytes) -> bool:
    """Whether a message answers exactly this question, letter case included."""
    return (
        len(wire) >= HEADER_SIZE + len(question)
        and wire[2] & 0xF8 == 0x80  # QR set, opcode QUERY
        and wire[4:6] == b"\0\1"
        and wire[HEADER_SIZE : HEADER_SIZE + len(question)] == question
    )


def matches_in_any_case(wire: bytes, question: bytes) -> bool:
    """Whether a message answers this question, however the letters of its name are written."""
    type_at = HEADER_SIZE + len(question) - 4
    name = wire[HEADER_SIZE:type_at]
    return name.lower() == question[:-4].lower() and matches(wire, name + question[-4:])
