import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from dwaarx.config.model import Record
from dwaarx.dns.errors import ResolversError
from dwaarx.dns.records import Alias, compile_records, join, local_answer, query_for_target
from tests.dns.fakes import answer_to, query


def records(*lines: str):
    made = []
    for line in lines:
        name, kind, value = line.split(" ", 2)
        made.append(Record(name, kind, value))
    return compile_records(made)


def ask(local, name: str, kind: str = "A", **kw) -> dns.message.Message | None:
    asked = query(name, kind, **kw)
    body = local.find(asked)
    if body is None:
        return None
    return dns.message.from_wire(local_answer(asked, body))


def lines(message) -> list[str]:
    return [line for rrset in message.answer for line in rrset.to_text().splitlines()]


def test_an_address():
    local = records("hello.test A 127.0.0.1", "hello.test A 127.0.0.2", "hello.test AAAA ::1")
    asked = query("hElLo.tEsT", edns=True, id=77)
    message = dns.message.from_wire(local_answer(asked, local.find(asked)))
    assert message.id == 77
    assert message.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    assert message.edns == 0
    assert message.question[0].to_text() == "hElLo.tEsT. IN A"
    assert lines(message) == ["hElLo.tEsT. 60 IN A 127.0.0.1", "hElLo.tEsT. 60 IN A 127.0.0.2"]
    assert lines(ask(local, "hello.test", "AAAA")) == ["hello.test. 60 IN AAAA ::1"]


def test_another_type_is_nodata_and_another_name_is_not_ours():
    local = records("hello.test A 127.0.0.1")
    message = ask(local, "hello.test", "MX")
    assert message.rcode() == dns.rcode.NOERROR
    assert not message.answer
    assert not message.authority
    assert ask(local, "www.hello.test") is None
    assert ask(local, "test") is None
    assert ask(local, "hello.test", rdclass="CH") is None


def test_any():
    local = records("hello.test A 127.0.0.1", "hello.test TXT two words")
    assert lines(ask(local, "hello.test", "ANY")) == [
        "hello.test. 60 IN A 127.0.0.1",
        'hello.test. 60 IN TXT "two" "words"',
    ]


@pytest.mark.parametrize(
    "line",
    [
        "t.test MX 10 mail.t.test.",
        "t.test NS ns.t.test.",
        "t.test SOA ns.t.test. admin.t.test. 1 2 3 4 5",
        "t.test SRV 1 2 853 dns.t.test.",
        "t.test PTR t.test.",
        't.test HTTPS 1 . alpn="h2" port="8443"',
        't.test SVCB 1 dns.t.test. alpn="dot"',
        't.test CAA 0 issue "ca.example"',
        "t.test TLSA 3 1 1 " + "ab" * 32,
        "t.test DS 1 13 2 " + "ab" * 32,
        "t.test TYPE65280 \\# 3 010203",
    ],
)
def test_types(line):
    kind = line.split()[1]
    assert lines(ask(records(line), "t.test", kind)) == [
        line.replace("t.test ", "t.test. 60 IN ", 1)
    ]


def test_a_name_without_its_last_dot_is_absolute():
    local = records("a.test MX 10 mail")
    assert lines(ask(local, "a.test", "MX")) == ["a.test. 60 IN MX 10 mail."]


def test_names_in_records_are_compressed_against_the_question():
    local = records("hello.test MX 10 mail.hello.test.")
    body = local.find(query("hello.test", "MX"))
    assert body.sections.endswith(b"\4mail\xc0\x0c")


def test_records_of_one_set_have_one_ttl():
    local = compile_records(
        [Record("a.test", "A", "127.0.0.1", 300), Record("a.test", "A", "127.0.0.2", 30)]
    )
    assert [rrset.ttl for rrset in ask(local, "a.test").answer] == [30]


def test_a_local_chain_is_followed():
    local = records(
        "a.test CNAME b.test.", "b.test CNAME c.test.", "c.test A 127.0.0.1", "c.test TXT x"
    )
    assert lines(ask(local, "A.test")) == [
        "A.test. 60 IN CNAME b.test.",
        "b.test. 60 IN CNAME c.test.",
        "c.test. 60 IN A 127.0.0.1",
    ]
    assert lines(ask(local, "b.test", "TXT"))[1] == 'c.test. 60 IN TXT "x"'
    assert len(lines(ask(local, "a.test", "MX"))) == 2  # NODATA at its end
    assert lines(ask(local, "a.test", "CNAME")) == ["a.test. 60 IN CNAME b.test."]
    assert lines(ask(local, "a.test", "ANY")) == ["a.test. 60 IN CNAME b.test."]


def test_a_chain_that_goes_round():
    local = records("a.test CNAME b.test.", "b.test CNAME a.test.", "c.test CNAME c.test.")
    assert len(lines(ask(local, "a.test"))) == 2
    assert len(lines(ask(local, "c.test"))) == 1


def leads_out(kind="A", **kw):
    asked = query("a.test", kind, **kw)
    body = records("a.test CNAME b.test.", "b.test CNAME www.example.org.").find(asked)
    assert isinstance(body, Alias)
    return asked, body


def test_a_chain_that_leads_out_is_joined_with_the_answer():
    asked, body = leads_out(options=[dns.edns.GenericOption(12, b"")], want_dnssec=True)
    further = query_for_target(asked, body)
    assert further.name == b"\3www\7example\3org\0"
    assert further.edns is not None
    assert further.edns.dnssec_ok
    assert not further.edns.padded
    target = dns.message.make_query("www.example.org", "A")
    wire = answer_to(target, "www.example.org. 9 A 192.0.2.1", flags=dns.flags.AD)
    message = dns.message.from_wire(join(asked, body, wire.to_wire()))
    assert lines(message) == [
        "a.test. 60 IN CNAME b.test.",
        "b.test. 60 IN CNAME www.example.org.",
        "www.example.org. 9 IN A 192.0.2.1",
    ]
    assert message.edns == 0
    assert not message.flags & dns.flags.AD


def test_a_chain_that_leads_nowhere():
    asked, body = leads_out()
    target = dns.message.make_query("www.example.org", "A")
    wire = answer_to(target, rcode=3).to_wire()
    message = dns.message.from_wire(join(asked, body, wire))
    assert message.rcode() == dns.rcode.NXDOMAIN
    assert len(lines(message)) == 2


def test_a_chain_whose_end_fails_says_why():
    asked, body = leads_out(edns=True)
    target = dns.message.make_query("www.example.org", "A", use_edns=0)
    failed = answer_to(target, rcode=2)
    failed.use_edns(0, options=[dns.edns.EDEOption(22, "no upstream answered")])
    message = dns.message.from_wire(join(asked, body, failed.to_wire()))
    assert message.rcode() == dns.rcode.SERVFAIL
    (reason,) = message.extended_errors()
    assert (int(reason.code), reason.text) == (22, "no upstream answered")
    plain = answer_to(target, rcode=5).to_wire()
    assert dns.message.from_wire(join(asked, body, plain)).rcode() == dns.rcode.REFUSED


def test_a_chain_whose_end_is_malformed():
    asked, body = leads_out()
    assert dns.message.from_wire(join(asked, body, b"\1\2")).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["a.test CNAME b.test.", "a.test A 127.0.0.1"], "can have no other"),
        (["a.test CNAME b.test.", "a.test CNAME c.test."], "more than one CNAME"),
        (["a.test SOA a. b. 1 2 3 4 5", "a.test SOA a. b. 2 2 3 4 5"], "more than one SOA"),
        (["a.test A 127.0.0.256"], "a.test A 127.0.0.256"),
        (["a.test A localhost"], "a.test A"),
        (["a.test NONSENSE x"], "NONSENSE"),
        (["a.test ANY \\# 0"], "no type for a record"),
        (["a..test A 127.0.0.1"], "a..test"),
        ([f"a.test TXT {'x' * 250}{n}" for n in range(300)], "more than one message"),
    ],
)
def test_what_cannot_be(wrong, said):
    with pytest.raises(ResolversError, match=said):
        records(*wrong)


def test_any_is_a_subset_when_all_is_too_much():
    half = [f"a.test TXT {'x' * 250}{n}" for n in range(150)]
    other = [f"a.test SPF {'x' * 250}{n}" for n in range(150)]
    message = ask(records(*half, *other), "a.test", "ANY")
    assert {rrset.rdtype for rrset in message.answer} == {dns.rdatatype.TXT}


def test_the_same_record_twice_is_one():
    assert len(lines(ask(records("a.test A 127.0.0.1", "a.test A 127.0.0.1"), "a.test"))) == 1
    assert len(lines(ask(records("a.test CNAME b.", "a.test CNAME b."), "a.test", "CNAME"))) == 1
