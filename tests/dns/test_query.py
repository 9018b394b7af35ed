import struct

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.dns.message import Query
from dwaarx.dns.query import parse
from tests.dns.fakes import make

HEADER = struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0)
QUESTION = b"\3www\7Example\3org\0\0\1\0\1"
OPT = b"\0\0\x29\4\xd0\0\0\0\0\0\0"


def read(wire: bytes, keepalive: int | None = 600) -> Query | bytes | None:
    return parse(wire, "127.0.0.1", keepalive)


def header(flags=0x0100, qd=1, an=0, ns=0, ar=0) -> bytes:
    return struct.pack("!6H", 0x1234, flags, qd, an, ns, ar)


def rcode_of(wire: bytes) -> str:
    answer = read(wire)
    assert isinstance(answer, bytes)
    message = dns.message.from_wire(answer)
    assert message.id == 0x1234
    assert message.flags & dns.flags.QR
    return dns.rcode.to_text(message.rcode())


def test_a_plain_query():
    query = read(HEADER + QUESTION)
    assert isinstance(query, Query)
    assert query.question == QUESTION
    assert query.name == b"\3www\7example\3org\0"
    assert query.key == b"\3www\7example\3org\0\0\1\0\1"
    assert (query.qtype, query.qclass, query.flags) == (1, 1, 0x0100)
    assert query.edns is None
    assert query.keepalive is None
    assert query.client == "127.0.0.1"


def test_the_type_in_a_key_is_not_lower_cased():
    query = read(HEADER + b"\1A\0\0\x41\0\1")  # HTTPS is type 65, which is the letter A
    assert isinstance(query, Query)
    assert query.key == b"\1a\0\0\x41\0\1"


def test_edns_is_read():
    options = [dns.edns.GenericOption(12, bytes(20)), dns.edns.GenericOption(11, b"")]
    query = read(make(options=options, want_dnssec=True).to_wire())
    assert isinstance(query, Query)
    edns = query.edns
    assert edns is not None
    assert (edns.version, edns.dnssec_ok, edns.padded, edns.keepalive) == (0, True, True, True)
    assert query.keepalive == 600


def test_keepalive_is_for_dot_only():
    wire = make(options=[dns.edns.GenericOption(11, b"")]).to_wire()
    query = read(wire, None)
    assert isinstance(query, Query)
    assert query.keepalive is None


@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_is_nothing(size):
    assert read((HEADER + QUESTION)[:size]) is None


def test_an_answer_is_nothing():
    assert read(header(0x8100) + QUESTION) is None


@pytest.mark.parametrize("cut", range(12, len(HEADER + QUESTION)))
def test_a_question_cut_off(cut):
    assert rcode_of((HEADER + QUESTION)[:cut]) == "FORMERR"


@pytest.mark.parametrize(
    "wire",
    [
        header(qd=0),
        header(qd=0) + QUESTION,
        header(qd=2) + QUESTION + QUESTION,
        header(an=1) + QUESTION,
        header(ns=1) + QUESTION + b"\0\0\1\0\1\0\0\0\0\0\0",
        header(flags=0x0300) + QUESTION,  # TC
        HEADER + QUESTION + b"\0",  # behind the end
        HEADER + QUESTION + bytes(60_000),
        HEADER + b"\xc0\x0c\0\1\0\1",  # a pointer to itself
        HEADER + b"\3www\xc0\x0c\0\1\0\1",
        HEADER + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",  # a label of 64 octets
        HEADER + b"\x80a\0\0\1\0\1",
        HEADER + b"\1a" * 127 + b"\1a\0\0\1\0\1",  # 257 octets of name
        HEADER + b"\1a" * 30_000 + b"\0\0\1\0\1",
        header(ar=1) + QUESTION,
        header(ar=1) + QUESTION + OPT[:-1],
        header(ar=1) + QUESTION + OPT + b"\0",
        header(ar=2) + QUESTION + OPT + OPT,
        header(ar=9) + QUESTION + b"\0\0\1\0\1\0\0\0\0\0\0" * 9,
        header(ar=1) + QUESTION + b"\1a" + OPT,  # an OPT that is not the root's
        header(ar=1) + QUESTION + b"\xc0\x0c" + OPT[1:],
        header(ar=1) + QUESTION + OPT[:-2] + b"\0\4\0\x0c\0\1",  # an option beyond its record
        header(ar=1) + QUESTION + OPT[:-2] + b"\0\3\0\x0c\0",
        header(ar=1) + QUESTION + OPT[:-2] + b"\0\6\0\x0b\0\2\0\1",  # a client names no time
        header(ar=1) + QUESTION + OPT[:-2] + b"\xff\xff",
        header(ar=1) + QUESTION + b"\x80\0\0\1\0\1\0\0\0\0\0\0",
        header(qd=0xFFFF, an=0xFFFF, ns=0xFFFF, ar=0xFFFF) + bytes(65_523),
    ],
)
def test_what_is_malformed(wire):
    assert rcode_of(wire) == "FORMERR"


def test_the_longest_name():
    query = read(HEADER + b"\1a" * 127 + b"\0\0\1\0\1")
    assert isinstance(query, Query)
    assert len(query.name) == 255


def test_the_longest_message():
    options = b"\xff\xf0" + struct.pack("!H", 65_535 - 12 - len(QUESTION) - 11 - 4)
    rest = bytes(65_535 - 12 - len(QUESTION) - 11 - 4)
    opt = OPT[:-2] + struct.pack("!H", len(options) + len(rest)) + options + rest
    wire = header(ar=1) + QUESTION + opt
    assert len(wire) == 65_535
    assert isinstance(read(wire), Query)


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes(opcode):
    assert rcode_of(header(opcode << 11) + QUESTION) == "NOTIMP"
    assert rcode_of(header(opcode << 11, qd=0)) == "NOTIMP"


def test_update_and_notify_as_dnspython_makes_them():
    for code in (dns.opcode.NOTIFY, dns.opcode.UPDATE):
        message = make("example.org", "SOA", id=0x1234)
        message.set_opcode(code)
        answer = read(message.to_wire())
        assert isinstance(answer, bytes)
        assert dns.message.from_wire(answer).rcode() == dns.rcode.NOTIMP


@pytest.mark.parametrize("kind", ["AXFR", "IXFR", "TKEY", "TSIG", "OPT"])
def test_types_that_are_refused(kind):
    asked = make("example.org", edns=True)
    asked.question[0].rdtype = dns.rdatatype.from_text(kind)
    answer = read(asked.to_wire())
    assert isinstance(answer, bytes)
    message = dns.message.from_wire(answer)
    assert message.rcode() == dns.rcode.REFUSED
    assert [int(reason.code) for reason in message.extended_errors()] == [21]


def test_an_ixfr_with_its_soa():
    asked = make("example.org", "IXFR")
    asked.authority.append(dns.rrset.from_text("example.org.", 0, "IN", "SOA", "a. b. 1 2 3 4 5"))
    answer = read(asked.to_wire())
    assert isinstance(answer, bytes)
    assert dns.message.from_wire(answer).rcode() == dns.rcode.REFUSED


def test_an_unknown_edns_version():
    wire = header(ar=1) + QUESTION + b"\0\0\x29\4\xd0\0\1\x80\0\0\0"
    answer = read(wire)
    assert isinstance(answer, bytes)
    message = dns.message.from_wire(answer)
    assert message.rcode() == dns.rcode.BADVERS
    assert message.edns == 0
    assert message.question


def test_a_signature_is_passed_over():
    tsig = b"\3key\0" + struct.pack("!HHIH", 250, 255, 0, 3) + b"abc"
    query = read(header(ar=2) + QUESTION + OPT + tsig)
    assert isinstance(query, Query)
    assert query.edns is not None


def test_every_cut_of_a_query_with_edns_is_answered():
    wire = make(options=[dns.edns.GenericOption(12, bytes(20))]).to_wire()
    for cut in range(12, len(wire)):
        assert isinstance(read(wire[:cut]), bytes)
    assert isinstance(read(wire), Query)


def check(wire: bytes) -> None:
    for keepalive in (600, None):
        result = read(wire, keepalive)
        if isinstance(result, bytes):
            assert result[:2] == wire[:2]
            dns.message.from_wire(result)
        elif result is not None:
            assert 1 <= len(result.name) <= 255


@given(st.binary(max_size=600))
def test_any_octets(wire):
    check(wire)


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 0x100]))
def test_any_octets_behind_a_likely_header(rest, authorities, additionals, flags):
    check(header(flags, 1, 0, authorities, additionals) + rest)
    check(header(flags, 1, 0, authorities, additionals) + QUESTION + rest)


labels = st.binary(min_size=1, max_size=20)


@given(
    st.lists(labels, max_size=8),
    st.sampled_from(["A", "AAAA", "MX", "TXT", "HTTPS", "ANY", "SVCB", "TYPE65280"]),
    st.integers(0, 65535),
    st.booleans(),
    st.none()
    | st.lists(
        st.tuples(st.integers(65001, 65535) | st.just(12), st.binary(max_size=20)), max_size=4
    ),
)
def test_as_dnspython_reads_it(parts, kind, number, want_dnssec, options):
    name = dns.name.Name([*parts, b""])
    asked = dns.message.make_query(name, kind, want_dnssec=want_dnssec)
    asked.id = number
    if options is not None:
        asked.use_edns(
            0, payload=1400, options=[dns.edns.GenericOption(code, data) for code, data in options]
        )
    wire = asked.to_wire()
    query = read(wire)
    assert isinstance(query, Query)
    known = dns.message.from_wire(wire)
    assert query.question[:-4] == known.question[0].name.to_wire()
    assert query.name == known.question[0].name.to_digestable()
    assert query.qtype == known.question[0].rdtype
    assert query.qclass == known.question[0].rdclass
    assert (query.edns is None) == (known.edns < 0)
    if query.edns is not None:
        assert query.edns.dnssec_ok == bool(known.ednsflags & dns.flags.DO)
        assert query.edns.padded == any(option.otype == 12 for option in known.options)
