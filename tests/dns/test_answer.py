import struct

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.dns.answer import error, freshness, relay
from dwaarx.dns.asking import matches, matches_in_any_case, request
from dwaarx.dns.message import MalformedMessageError
from tests.dns.fakes import answer_to, query

PADDING = dns.edns.GenericOption(12, bytes(7))
KEEPALIVE = dns.edns.GenericOption(11, b"")


def upstream(asked, *texts, **kw):
    """What an upstream answers to what we ask for a query, read as a message."""
    sent = dns.message.from_wire(b"\1\2" + request(asked))
    return answer_to(sent, *texts, **kw)


def codes(message) -> list[int]:
    return [int(option.otype) for option in message.options]


def test_an_error_with_its_reason():
    asked = query(edns=True, want_dnssec=True, flags=dns.flags.RD | dns.flags.CD)
    message = dns.message.from_wire(error(asked, 2, 22, "no upstream answered"))
    assert message.rcode() == dns.rcode.SERVFAIL
    assert message.id == struct.unpack("!H", asked.wire[:2])[0]
    assert message.flags & dns.flags.QR
    assert message.flags & dns.flags.CD
    assert message.ednsflags & dns.flags.DO
    (reason,) = message.extended_errors()
    assert (int(reason.code), reason.text) == (22, "no upstream answered")


def test_no_edns_for_who_has_none():
    message = dns.message.from_wire(error(query(), 2, 22, "no upstream answered"))
    assert message.edns == -1
    assert message.question[0].name.to_text() == "www.example.org."


def test_padding_only_when_the_query_is_padded():
    asked = query(options=[PADDING, KEEPALIVE])
    wire = error(asked, 5, 18)
    assert len(wire) == 468
    message = dns.message.from_wire(wire)
    assert codes(message) == [15, 11, 12]
    assert b"\0\x0b\0\2\x02\x58" in wire  # 600 tenths of a second
    assert len(error(query(options=[KEEPALIVE]), 5)) < 100


@pytest.mark.parametrize("size", [1, 300, 410, 420, 440, 450, 900, 3000])
def test_padding_to_blocks(size):
    asked = query(options=[PADDING])
    text = " ".join('"' + "x" * min(200, size - at) + '"' for at in range(0, size, 200))
    wire = relay(upstream(asked, f"www.example.org. 5 TXT {text}").to_wire(max_size=65_535), asked)
    assert len(wire) % 468 == 0
    assert codes(dns.message.from_wire(wire)) == [12]


def big_answer(asked, size: int) -> bytes:
    """An upstream's answer of so many octets, without OPT."""
    head = b"\1\2\x81\x80\0\1\0\1\0\0\0\0" + asked.question
    rest = size - len(head) - 12
    return head + b"\xc0\x0c\0\x0a\0\1\0\0\0\5" + struct.pack("!H", rest) + bytes(rest)


def test_padding_is_the_least_that_fills_a_block():
    asked = query(options=[PADDING])
    for size in range(440, 440 + 468):
        # 15: an OPT without options, and the head of the padding
        assert len(relay(big_answer(asked, size), asked)) == -(-(size + 15) // 468) * 468


@pytest.mark.parametrize("size", [65_000, 65_500, 65_520, 65_523, 65_524, 65_525, 65_535])
def test_no_answer_is_longer_than_a_message_can_be(size):
    asked = query(options=[PADDING])
    wire = relay(big_answer(asked, size), asked)
    assert len(wire) <= 65_535
    message = dns.message.from_wire(wire)
    assert (message.edns == 0) == (size <= 65_524)
    assert len(message.answer) == 1


def test_id_and_letter_case_come_back():
    asked = query("wWw.ExAmPlE.oRg", id=0x4242)
    answer = upstream(asked, "www.example.org. 5 A 192.0.2.1")
    wire = answer.to_wire().replace(b"\3wWw", b"\3www")
    message = dns.message.from_wire(relay(wire, asked))
    assert message.id == 0x4242
    assert message.question[0].name.to_text() == "wWw.ExAmPlE.oRg."
    assert message.answer[0].to_text() == "wWw.ExAmPlE.oRg. 5 IN A 192.0.2.1"


def test_what_is_asked_carries_only_our_edns():
    options = [PADDING, dns.edns.ECSOption("192.0.2.0", 24)]
    asked = query(options=options, want_dnssec=True, flags=dns.flags.RD | dns.flags.AD | 0x40)
    sent = dns.message.from_wire(b"\0\0" + request(asked))
    assert (sent.edns, sent.payload, sent.ednsflags, sent.options) == (0, 1232, dns.flags.DO, ())
    assert sent.flags == dns.flags.RD | dns.flags.AD
    plain = dns.message.from_wire(b"\0\0" + request(query()))
    assert (plain.edns, plain.payload, plain.ednsflags) == (0, 1232, 0)


def test_the_upstreams_opt_stays_behind():
    for edns in (False, True):
        asked = query(edns=edns)
        answer = upstream(asked, "www.example.org. 5 A 192.0.2.1")
        answer.use_edns(0, payload=4096, options=[dns.edns.GenericOption(10, b"12345678")])
        answer.additional.append(dns.rrset.from_text("ns.example.org.", 5, "IN", "A", "192.0.2.9"))
        message = dns.message.from_wire(relay(answer.to_wire(), asked))
        assert message.edns == (0 if edns else -1)
        assert message.options == ()
        assert message.payload == (1232 if edns else 0)
        assert message.answer == answer.answer
        assert message.additional == answer.additional


def test_an_opt_that_is_not_last():
    asked = query(edns=True)
    wire = upstream(asked).to_wire()
    opt = wire[-11:]
    assert opt[:3] == b"\0\0\x29"
    # two more records behind it: the second's owner points into the first's
    behind = b"\3ns9\xc0\x10\0\1\0\1\0\0\0\5\0\4\1\2\3\4"
    pointer = struct.pack("!H", 0xC000 | len(wire))
    again = pointer + b"\0\1\0\1\0\0\0\5\0\4\5\6\7\x08"
    wire = wire[:10] + b"\0\3" + wire[12:] + behind + again
    message = dns.message.from_wire(relay(wire, asked))
    assert message.edns == 0
    assert message.additional[0].to_text().splitlines() == [
        "ns9.example.org. 5 IN A 1.2.3.4",
        "ns9.example.org. 5 IN A 5.6.7.8",
    ]


def test_codes_of_more_than_four_bits():
    answer = upstream(query(edns=True), rcode=dns.rcode.BADCOOKIE).to_wire()
    with_edns = dns.message.from_wire(relay(answer, query(edns=True)))
    assert with_edns.rcode() == dns.rcode.BADCOOKIE
    assert dns.message.from_wire(relay(answer, query())).rcode() == dns.rcode.SERVFAIL


def test_octets_behind_the_end_are_not_passed_on():
    asked = query()
    answer = upstream(asked, "www.example.org. 5 A 192.0.2.1", edns=False).to_wire()
    assert relay(answer + b"junk", asked) == asked.wire[:2] + answer[2:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda wire: wire[:-1],
        lambda wire: wire[:-20],
        lambda wire: wire[:6] + b"\0\2" + wire[8:],
        lambda wire: wire[:10] + b"\0\2" + wire[12:] + wire[-11:],  # two OPT
        lambda wire: wire[:6] + b"\0\2\0\0\0\0" + wire[12:],  # OPT among the answers
    ],
)
def test_malformed_answers(damage):
    asked = query()
    wire = upstream(asked, "www.example.org. 5 A 192.0.2.1").to_wire()
    relay(wire, asked)
    with pytest.raises(MalformedMessageError):
        relay(damage(wire), asked)


def test_a_malformed_answer_that_must_be_written_anew():
    asked = query()
    wire = upstream(asked).to_wire()
    bad = wire[:10] + b"\0\2" + wire[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\5\0\3abc"  # A of 3 octets
    with pytest.raises(MalformedMessageError):
        relay(bad, asked)


def test_matching():
    asked = query("www.Example.org")
    good = upstream(asked, "www.example.org. 5 A 192.0.2.1").to_wire()
    assert matches(good, asked.question)
    other_case = good.replace(b"Example", b"eXample", 1)
    assert not matches(other_case, asked.question)
    assert matches_in_any_case(good, asked.question)
    assert matches_in_any_case(other_case, asked.question)
    for bad in (
        good[:2] + b"\1" + good[3:],  # a query
        good[:2] + b"\xa1" + good[3:],  # another opcode
        good[:4] + b"\0\2" + good[6:],
        good[:4] + b"\0\0" + good[6:],
        good.replace(b"Example", b"Exbmple", 1),
        good[:12] + asked.question[:-4] + b"\0\x1c\0\1" + good[12 + len(asked.question) :],
        good[:12] + asked.question[:-4] + b"\0\1\0\3" + good[12 + len(asked.question) :],
        good[: 12 + len(asked.question) - 1],
        good[:12],
        b"",
    ):
        assert not matches(bad, asked.question)
        assert not matches_in_any_case(bad, asked.question)


def fresh(*texts: str, authority: tuple[str, ...] = (), rcode: int = 0) -> int:
    asked = query()
    answer = upstream(asked, *texts, rcode=rcode)
    for text in authority:
        owner, ttl, kind, value = text.split(" ", 3)
        answer.authority.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, value))
    return freshness(relay(answer.to_wire(), asked))


SOA = "example.org. 300 SOA ns. admin. 1 7200 900 1209600 120"


def test_freshness():
    assert fresh("www.example.org. 50 CNAME a.", "a. 20 A 192.0.2.1", "b. 30 A 192.0.2.1") == 20
    assert fresh("www.example.org. 0 A 192.0.2.1") == 0
    assert fresh("www.example.org. 50 A 192.0.2.1", authority=("org. 5 NS a.",)) == 50
    assert fresh(authority=(SOA,)) == 120
    assert fresh(authority=(SOA.replace("300", "60"),)) == 60
    assert fresh(authority=(SOA,), rcode=3) == 120
    assert fresh("www.example.org. 50 CNAME a.", authority=(SOA,), rcode=3) == 50
    assert fresh() == 0
    assert fresh("www.example.org. 50 A 192.0.2.1", rcode=2) == 0
    assert freshness(error(query(), 2)) == 0
    assert freshness(b"\1\2\x81\0" + bytes(8)) == 0


def test_a_ttl_with_its_top_bit_is_none():
    asked = query()
    wire = upstream(asked, "www.example.org. 50 A 192.0.2.1").to_wire()
    assert freshness(relay(wire.replace(b"\0\0\0\x32", b"\x80\0\0\x32"), asked)) == 0


def test_every_cut_of_an_answer():
    asked = query(edns=True)
    wire = upstream(
        asked, "www.example.org. 5 MX 10 mail.example.org.", "a. 5 A 192.0.2.1"
    ).to_wire()
    for cut in range(12 + len(asked.question), len(wire)):
        with pytest.raises(MalformedMessageError):
            relay(wire[:cut], asked)


@given(st.binary(max_size=200), st.lists(st.integers(0, 4), min_size=3, max_size=3), st.booleans())
def test_any_octets_of_an_upstream(rest, counts, edns):
    asked = query(edns=edns)
    wire = b"\1\2\x81\x80\0\1" + struct.pack("!3H", *counts) + asked.question + rest
    try:
        answer = relay(wire, asked)
    except MalformedMessageError:
        return
    assert answer[:2] == asked.wire[:2]
    assert freshness(answer) >= 0


@given(
    st.lists(
        st.sampled_from(["A 192.0.2.1", "AAAA 2001:db8::1", "MX 5 m.x.", "TXT a"]), max_size=5
    ),
    st.sampled_from([0, 2, 3, 5]),
    st.booleans(),
    st.booleans(),
)
def test_relayed_answers_differ_only_in_what_is_hop_by_hop(values, rcode, edns, theirs):
    asked = query(edns=edns)
    texts = [f"n{at}.example.org. {at} {value}" for at, value in enumerate(values)]
    answer = upstream(asked, *texts, rcode=rcode, edns=theirs)
    message = dns.message.from_wire(relay(answer.to_wire(), asked))
    assert message.id == dns.message.from_wire(asked.wire).id
    assert message.question == answer.question
    assert message.answer == answer.answer
    assert message.flags == answer.flags
    assert message.edns == (0 if edns else -1)
