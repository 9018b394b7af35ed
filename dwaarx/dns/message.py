"""What a DNS message is made of on the wire: the header's bits, names, records, and a query.

Nothing here knows a DNS library or the reactor: every query passes here (RFC 1035 section 4).
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("!6H")  # id, flags, and the number of entries in each of the four sections
QUESTION_FIXED = struct.Struct("!HH")  # type and class, after a question's name
RECORD_FIXED = struct.Struct("!HHIH")  # type, class, TTL and RDLENGTH, after a record's owner
OPTION = struct.Struct("!HH")  # code and length of an EDNS option

HEADER_SIZE = 12
MAX_MESSAGE = 65_535  # what the two octets of length before a message over TCP can say
MAX_NAME = 255  # RFC 1035 section 2.3.4
MAX_LABEL = 63
OPT_SIZE = 11  # an OPT record without options

# What one query may carry beside its question: an OPT and a TSIG or SIG(0) are usual. Without a
# bound one message could hold thousands of records for us to walk through.
MAX_ADDITIONALS = 8

QR = 0x8000
OPCODE = 0x7800
AA = 0x0400
TC = 0x0200
RD = 0x0100
RA = 0x0080
Z = 0x0040
AD = 0x0020
CD = 0x0010
RCODE = 0x000F
DO = 0x8000  # in the TTL of an OPT

NOERROR = 0
FORMERR = 1
SERVFAIL = 2
NXDOMAIN = 3
NOTIMP = 4
REFUSED = 5
NOTAUTH = 9
BADVERS = 16

CNAME = 5
SOA = 6
OPT = 41
TKEY = 249
TSIG = 250
IXFR = 251
AXFR = 252
ANY = 255
IN = 1

KEEPALIVE_OPTION = 11  # RFC 7828
PADDING_OPTION = 12  # RFC 7830
EDE_OPTION = 15  # RFC 8914


class MalformedMessageError(Exception):
    """A message that does not follow RFC 1035 or RFC 6891."""


class Edns:
    """What we heed of a query's OPT record (RFC 6891); a client's UDP size means nothing here.

    `options` is its RDATA; `padded` and `keepalive` say whether it holds those options. Raises
    MalformedMessageError for options of wrong lengths.
    """

    __slots__ = ("dnssec_ok", "keepalive", "padded", "version")

    def __init__(self, version: int, dnssec_ok: bool, options: bytes) -> None:
        self.version = version
        self.dnssec_ok = dnssec_ok
        self.padded = False
        self.keepalive = False
        if options:
            self._look_through(options)

    def _look_through(self, options: bytes) -> None:
        position, end = 0, len(options)
        while position < end:
            if position + 4 > end:
                raise MalformedMessageError("half an EDNS option")
            code, length = OPTION.unpack_from(options, position)
            position += 4 + length
            if code == PADDING_OPTION:
                self.padded = True
            elif code == KEEPALIVE_OPTION:
                if length:  # RFC 7828 section 3.2.1: a client names no time
                    raise MalformedMessageError("edns-tcp-keepalive with a time in a query")
                self.keepalive = True
        if position != end:
            raise MalformedMessageError("an EDNS option longer than the OPT record")


class Query:
    """One standard query that was found well-formed; made by `dwaarx.dns.query.parse`.

    `wire` is the whole message, `question` its name, type and class as the client wrote them;
    `name` is the name on the wire in lower case, and `key` that name with type and class: what
    two queries share if they ask the same. `keepalive` is the time to answer to
    edns-tcp-keepalive in units of 100 ms, None when that was not asked.
    """

    __slots__ = (
        "client",
        "edns",
        "flags",
        "keepalive",
        "key",
        "name",
        "qclass",
        "qtype",
        "question",
        "wire",
    )

    def __init__(
        self,
        wire: bytes,
        flags: int,
        question: bytes,
        name: bytes,
        key: bytes,
        qtype: int,
        qclass: int,
        edns: Edns | None,
        client: str,
        keepalive: int | None = None,
    ) -> None:
        self.wire = wire
        self.flags = flags
        self.question = question
        self.name = name
        self.key = key
        self.qtype = qtype
        self.qclass = qclass
        self.edns = edns
        self.client = client
        self.keepalive = keepalive


def skip_name(wire: bytes, position: int) -> int:
    """Return where the name at `position` ends, following no pointer.

    Raises MalformedMessageError for a label of an unknown kind, IndexError beyond the message.
    """
    while length := wire[position]:
        if length > MAX_LABEL:
            if length < 0xC0:
                raise MalformedMessageError("a label of an unknown kind")
            return position + 2
        position += length + 1
    return position + 1
