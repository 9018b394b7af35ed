from __future__ import annotations

from ipaddress import ip_network

import dns.rdata
import dns.rdataclass
import pytest

from dwaarx.config.model import Address, DnsUpstream, Record, Resolvers
from tests.config.reading import problem, problems, read


def pool(text: str) -> Resolvers:
    return read(f"resolvers {{\n{text}\n}}").resolvers[0]


def pool_problem(text: str) -> str:
    return problem(f"resolvers {{\n{text}\n}}")


@pytest.mark.parametrize(
    ("word", "upstream"),
    [
        ("192.0.2.53", DnsUpstream("auto", Address("192.0.2.53", 53))),
        ("192.0.2.53:5353", DnsUpstream("auto", Address("192.0.2.53", 5353))),
        ("udp://192.0.2.53", DnsUpstream("udp", Address("192.0.2.53", 53))),
        ("tcp://192.0.2.53:5353", DnsUpstream("tcp", Address("192.0.2.53", 5353))),
        ("[::1]:5353", DnsUpstream("auto", Address("::1", 5353))),
        ("tcp://[::1]", DnsUpstream("tcp", Address("::1", 53))),
        ("2001:DB8::53", DnsUpstream("auto", Address("2001:db8::53", 53))),
    ],
)
def test_servers(word: str, upstream: DnsUpstream) -> None:
    assert pool(f"to {word}").upstreams == (upstream,)


def test_defaults() -> None:
    assert pool("") == Resolvers()


def test_all_of_it() -> None:
    config = read(
        """
        resolvers {
            to 192.0.2.1 192.0.2.2
            to tcp://192.0.2.1
            policy hash
            record Hello.TEST. a 127.0.0.1
            allow 127.0.0.0/8 ::1
            allow 2001:db8::/32
        }
        resolvers Corp.Example 10.in-addr.arpa bücher.example { to 192.0.2.3 }
        """
    )
    default, corp = config.resolvers
    assert [str(upstream) for upstream in default.upstreams] == [
        "192.0.2.1:53",
        "192.0.2.2:53",
        "tcp://192.0.2.1:53",
    ]
    assert default.policy == "hash"
    assert default.records == (Record("hello.test", "A", "127.0.0.1", 60),)
    assert default.allow == tuple(map(ip_network, ["127.0.0.0/8", "::1/128", "2001:db8::/32"]))
    assert corp.suffixes == ("corp.example", "10.in-addr.arpa", "xn--bcher-kva.example")
    assert (corp.records, corp.allow) == ((), None)


@pytest.mark.parametrize(
    ("words", "type_", "value"),
    [
        ("A 192.0.2.1", "A", "192.0.2.1"),
        ("aaaa 2001:DB8::1", "AAAA", "2001:db8::1"),
        ("PTR host.test", "PTR", "host.test."),
        ("CNAME other.test.", "CNAME", "other.test."),
        ("NS ns.test", "NS", "ns.test."),
        ("MX 10 mail.test", "MX", "10 mail.test."),
        ("SRV 1 2 443 web.test", "SRV", "1 2 443 web.test."),
        ("TXT plain words", "TXT", '"plain" "words"'),
        ('TXT "two words" b', "TXT", '"two words" "b"'),
        (r'TXT "a \"b\" \\c;d"', "TXT", r'"a \"b\" \\c;d"'),
        ("TXT v=spf1;x(y)", "TXT", '"v=spf1;x(y)"'),
        ('TXT ""', "TXT", '""'),
        ('CAA 0 issue "ca.test; policy=ev"', "CAA", '0 issue "ca.test; policy=ev"'),
        ("HTTPS 1 . alpn=h2", "HTTPS", '1 . alpn="h2"'),
    ],
)
def test_records(words: str, type_: str, value: str) -> None:
    (record,) = pool(f"record x.test {words}").records
    assert record == Record("x.test", type_, value)
    again = dns.rdata.from_text(dns.rdataclass.IN, record.type, record.value)
    assert again.to_text() == value


def test_several_records_of_one_name() -> None:
    text = "record a.test A 192.0.2.1\nrecord a.test A 192.0.2.2\nrecord b.test CNAME a.test"
    assert len(pool(text).records) == 3


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("to", "2:1: a word is missing: expected `to ADDRESS…`"),
        ("to dns.test", "2:4: `dns.test` does not begin with an IP address: names are not looked"),
        ("to 192.0.2.1 192.0.2.1:53", "2:14: the server 192.0.2.1:53 is given twice"),
        ("to tls://9.9.9.9:853#x", "2:4: servers by `tls://` are not available yet"),
        ("to https://x/dns-query", "2:4: servers by `https://` are not available yet"),
        ("to ftp://192.0.2.1", "2:4: `ftp://192.0.2.1` is no DNS server: expected ADDRESS, `udp:"),
        ("to 0.0.0.0", "2:4: no server has the address 0.0.0.0"),
        ("to 192.0.2.1:0", "2:4: `0` is not a port"),
        ("to 192.0.2.1 { }", "2:1: `to` takes no block"),
        ("policy fist", "2:8: there is no policy `fist`; did you mean `first`?"),
        (
            "policy first\npolicy hash",
            "3:1: `policy` is given twice; the first is at Dwaarfile:2:1",
        ),
        ("cache 100", "2:1: `cache` is not available yet"),
        ("hosts /etc/hosts", "2:1: `hosts` is not available yet"),
        ("block x.test", "2:1: `block` is not available yet"),
        ("recrod x A 1", "2:1: `recrod` is not a directive of `resolvers`; did you mean `record`?"),
        ("record x.test A", "2:1: a word is missing: expected `record NAME TYPE VALUE…`"),
        ("record x..test A 192.0.2.1", "2:8: `x..test` is not a domain name: "),
        ("record . A 192.0.2.1", "2:8: `.` is not a domain name"),
        ("record *.test A 192.0.2.1", "2:8: wildcards such as `*.test` are not available yet"),
        ("record x.test AA 192.0.2.1", "2:15: `AA` is not a type of record that can stand here;"),
        ("record x.test ANY x", "2:15: `ANY` is not a type of record that can stand here"),
        ("record x.test A 192.0.2.256", "2:17: not the data of a record of type A: "),
        ("record x.test A 192.0.2.1 192.0.2.2", "2:17: not the data of a record of type A: "),
        ("record x.test MX mail.test", "2:18: not the data of a record of type MX: "),
        ("record x.test A 192.0.2.1;c", "2:17: `192.0.2.1;c` must be quoted here"),
        (f"record x.test TXT {'x' * 256}", "2:19: not the data of a record of type TXT: "),
        (f"record x.test A {'1' * 300_001}", "2:17: the data of this A record are too long"),
        ("record x A ::1", "2:12: not the data of a record of type A: "),
        ("record x A 1.1.1.1\nrecord X. a 1.1.1.1", "3:1: this record is given twice"),
        ("record x A 1.1.1.1\nrecord x CNAME y", "3:1: a CNAME is the only record of its name"),
        ("record x CNAME y\nrecord x A 1.1.1.1", "3:1: a CNAME is the only record of its name"),
        ("record x CNAME y\nrecord x CNAME z", "3:1: a CNAME is the only record of its name"),
        ("allow", "2:1: a word is missing: expected `allow NETWORK…`"),
        ("allow 10.0.0.1/8", "2:7: `10.0.0.1/8` has bits behind its prefix; did you mean `10.0.0."),
        ("allow 10/8", "2:7: `10/8` is not a network: expected one such as 192.0.2.0/24 or"),
        ("allow any", "2:7: `any` is not a network"),
        ("allow ::1\nallow ::1/128", "3:7: the network ::1/128 is given twice"),
        (f"allow {'1' * 2000}", "2:7: `1111"),
    ],
)
def test_problems(directive: str, expected: str) -> None:
    assert pool_problem(directive).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resolvers", "1:1: a block is missing: expected `resolvers [SUFFIX…] { … }`"),
        ("resolvers x x. { to 192.0.2.1 }", "1:13: the suffix `x` is given twice"),
        ("resolvers a..b { to 192.0.2.1 }", "1:11: `a..b` is not a domain name"),
        ("resolvers x { }", "1:1: a pool for the names under a suffix needs servers: expected `to"),
        ("resolvers { }\nresolvers { }", "2:1: there are two `resolvers` for all names; the first"),
        (
            "resolvers x { to 192.0.2.1 }\nresolvers y x { to 192.0.2.1 }",
            "2:1: there are two `resolvers` for `x`; the first is at Dwaarfile:1:1",
        ),
        (
            "resolvers x {\nto 192.0.2.1\nrecord a A 1.1.1.1\n}",
            "3:1: `record` holds for the whole service: it stands in the `resolvers` block without",
        ),
        ("resolvers x {\nto 192.0.2.1\nallow ::1\n}", "3:1: `allow` holds for the whole service"),
    ],
)
def test_problems_of_pools(text: str, expected: str) -> None:
    assert problem(text).startswith(expected)


def test_several_problems_of_one_pool() -> None:
    assert len(problems("resolvers {\nto x\npolicy y\nrecord a A b\nallow c\n}")) == 4
