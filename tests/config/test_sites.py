from __future__ import annotations

from pathlib import Path

import pytest

from dwaarx.config import parse
from dwaarx.config.model import (
    AcmeCertificate,
    Address,
    AutomaticCertificates,
    CertificateFiles,
    InternalCertificate,
    SiteAddress,
)
from dwaarx.config.options import LETS_ENCRYPT
from tests.config.reading import problem, problems, read, site


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("example.com", SiteAddress("example.com", 443)),
        ("EXAMPLE.com.", SiteAddress("example.com", 443)),
        ("*.example.com", SiteAddress("*.example.com", 443)),
        ("https://x.test", SiteAddress("x.test", 443)),
        ("https://x.test/", SiteAddress("x.test", 443)),
        ("https://x.test:444", SiteAddress("x.test", 444)),
        ("localhost:8443", SiteAddress("localhost", 8443)),
        (":8443", SiteAddress("", 8443)),
        ("https://", SiteAddress("", 443)),
        ("127.0.0.1", SiteAddress("127.0.0.1", 443)),
        ("127.0.0.1:8443", SiteAddress("127.0.0.1", 8443)),
        ("[::1]:8443", SiteAddress("::1", 8443)),
        ("[2001:DB8:0::1]", SiteAddress("2001:db8::1", 443)),
        ("bücher.example", SiteAddress("xn--bcher-kva.example", 443)),
        ("*.Bücher.example", SiteAddress("*.xn--bcher-kva.example", 443)),
        ("_x.example", SiteAddress("_x.example", 443)),
    ],
)
def test_addresses_with_tls(written: str, address: SiteAddress) -> None:
    assert site("tls internal", written).addresses == (address,)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("http://x.test", SiteAddress("x.test", 80, tls=False)),
        ("http://x.test:8080", SiteAddress("x.test", 8080, tls=False)),
        ("x.test:80", SiteAddress("x.test", 80, tls=False)),
        (":80", SiteAddress("", 80, tls=False)),
        ("http://:8080", SiteAddress("", 8080, tls=False)),
        ("http://", SiteAddress("", 80, tls=False)),
        ("http://[::1]", SiteAddress("::1", 80, tls=False)),
    ],
)
def test_plain_addresses(written: str, address: SiteAddress) -> None:
    found = site("", written)
    assert found.addresses == (address,)
    assert found.certificate is None


def test_the_ports_of_the_global_options() -> None:
    options = "{\nhttp_port 8080\nhttps_port 8443\n}\n"
    config = read(options + "localhost { }\nhttp://a.test { }\nb.test:8080 { }\nc.test:80 { }")
    assert [each.addresses[0] for each in config.sites] == [
        SiteAddress("localhost", 8443),
        SiteAddress("a.test", 8080, tls=False),
        SiteAddress("b.test", 8080, tls=False),
        SiteAddress("c.test", 80, tls=False),
    ]
    tls = read("{\nhttp_port 0\nhttps_port 80\n}\nlocalhost:80 { }").sites[0]
    assert tls.addresses == (SiteAddress("localhost", 80),)


def test_several_addresses_on_several_lines() -> None:
    text = "a.test,b.test c.test,\n  d.test , \n\n# comment\n  e.test { tls internal }"
    hosts = [address.host for address in read(text).sites[0].addresses]
    assert hosts == ["a.test", "b.test", "c.test", "d.test", "e.test"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.test", "1:1: expected `{` after the address of a site (`a.test`)"),
        ("a.test,\n", "1:1: expected another address after the comma, and `{`"),
        (", {\n}", "1:1: expected the address of a site before `{`"),
        ('"" { }', "1:1: expected the address of a site before `{`"),
        ("ftp://a.test { }", "1:1: `ftp://a.test` is no address of a site: expected `http://` or"),
        ("a.test/x { }", "1:1: the address of a site has no path: `a.test/x`; use `handle` for it"),
        ("{uri} { }", "1:1: placeholders in the address of a site are not available: `{uri}`"),
        ("a..test { }", "1:1: `a..test` is no address of a site: expected one such as"),
        ("a.*.test { }", "1:1: `a.*.test` is no address of a site"),
        ("* { }", "1:1: `*` is no address of a site"),
        ("-a.test { }", "1:1: `-a.test` is no address of a site"),
        ("1.2.3.400 { }", "1:1: `1.2.3.400` is no address of a site"),
        ("xn--é.test { }", "1:1: `xn--é.test` is no address of a site"),
        ("a.test:x { }", "1:1: `x` is not a port: expected a number from 1 to 65535"),
        ("a.test: { }", "1:1: `` is not a port"),
        ("::1 { }", "1:1: an IPv6 address stands in brackets here: expected `[::1]`"),
        ("a:b:c { }", "1:1: `a:b:c` is not an address"),
        ("[::1 { }", "1:1: `[::1` is no address: expected `[IPV6]:PORT`"),
        ("[::1]x { }", "1:1: `[::1]x` is no address: expected `[IPV6]:PORT`"),
        ("[127.0.0.1]:1 { }", "1:1: `127.0.0.1` is not an IPv6 address"),
        ("[fe80::1%eth0]:1 { }", "1:1: `fe80::1%eth0` is not the address of a site"),
        ("localhost,b..test { }", "1:11: `b..test` is no address of a site"),
        ("http://a.test:443 { }", "1:1: `http://` on port 443, which is the https_port"),
        ("https://a.test:80 { }", "1:1: `https://` on port 80, which is the http_port"),
        ("{\nhttp_port 0\n}\nhttp://a.test { }", "4:1: `http://a.test` is plain HTTP, and http_p"),
        (":8443 { }", "1:1: `:8443` has no name, so it needs `tls CERT KEY` or `tls internal` (or"),
        ("reverse_proxy a:1", "1:1: `reverse_proxy` is a directive: it stands in a site's block"),
        ("htp_port 80", "1:1: expected `{` after the address of a site (`htp_port`); did you mean"),
        ("impotr x", "1:1: expected `{` after the address of a site (`impotr`); did you mean `im"),
    ],
)
def test_bad_addresses(text: str, expected: str) -> None:
    assert problem(text).startswith(expected)


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        ("localhost", ("localhost",)),
        ("a.localhost:8443, localhost", ("a.localhost", "localhost")),
        ("printer.local", ("printer.local",)),
        ("a.internal", ("a.internal",)),
        ("a.home.arpa", ("a.home.arpa",)),
        ("127.0.0.1, [::1]:444, 127.0.0.1:444", ("127.0.0.1", "::1")),
        ("localhost, http://a.test", ("localhost",)),
    ],
)
def test_internal_by_itself(addresses: str, names: tuple[str, ...]) -> None:
    found = site("", addresses).certificate
    assert isinstance(found, AutomaticCertificates)
    assert found.internal == InternalCertificate(names)
    assert {str(found.source(name)) for name in names} == {str(found.internal)}


def test_internal_when_asked_for() -> None:
    assert site("tls internal", "a.test, :8443").certificate == InternalCertificate(
        ("a.test", "localhost")
    )
    assert site("tls internal", ":8443").certificate == InternalCertificate(("localhost",))


def test_acme_for_every_other_name() -> None:
    found = site("", "a.dwaarx.org, localhost, http://c.test, b.dwaarx.org:444").certificate
    assert isinstance(found, AutomaticCertificates)
    assert found.acme.cas == (LETS_ENCRYPT,)
    assert found.internal == InternalCertificate(("localhost",))
    assert found.source("localhost") is found.internal
    assert found.source("a.dwaarx.org") == AcmeCertificate("a.dwaarx.org", found.acme)
    assert site("", "a.dwaarx.org").certificate == AutomaticCertificates(found.acme)


def test_sites_with_the_same_settings_share_them() -> None:
    text = """
    a.dwaarx.org { }
    b.dwaarx.org { tls { profile short } }
    c.dwaarx.org, localhost { }
    d.dwaarx.org { tls { profile short } }
    """
    found = []
    for each in read(text).sites:
        assert isinstance(each.certificate, AutomaticCertificates)
        found.append(each.certificate.acme)
    assert found[0] is found[2]
    assert found[1] is found[3]
    assert (found[0].profile, found[1].profile) == (None, "short")


def test_wildcards_need_dns() -> None:
    text = "a.dwaarx.org, *.dwaarx.org {\n}\n*.b.dwaarx.org { tls { must_staple } }"
    said = (
        "needs `tls { dns rfc2136 … }`: CAs sign a wildcard only for who can change its zone "
        "(or give `tls CERT KEY` or `tls internal`)"
    )
    assert problems(text) == [f"1:15: `*.dwaarx.org` {said}", f"3:1: `*.b.dwaarx.org` {said}"]


def test_one_name_has_one_certificate() -> None:
    text = "a.test,b.test { }\nc.test, b.test:444 { tls { must_staple } }"
    assert problem(text) == (
        "2:9: the certificate for `b.test` has other settings in the site at Dwaarfile:1:8"
    )
    assert len(read(text.replace("must_staple", "profile x").replace(", b", ", d")).sites) == 2
    assert len(read(text.replace("b.test", "localhost")).sites) == 2
    assert len(read(text.replace("b.test:444", "http://b.test")).sites) == 2


def test_settings_that_would_change_nothing() -> None:
    assert problem("localhost, 127.0.0.1 {\ntls { must_staple }\n}").startswith(
        "2:1: no public CA signs the names of this site"
    )
    assert len(read("localhost, a.test {\ntls { must_staple }\n}").sites) == 1


def test_auto_https_off() -> None:
    off = "{\nauto_https off\n}\n"
    config = read(off + "a.test { }\nlocalhost:8443 { }\nb.test { tls internal }")
    assert not config.redirect_http
    assert [each.addresses[0] for each in config.sites] == [
        SiteAddress("a.test", 80, tls=False),
        SiteAddress("localhost", 8443, tls=False),
        SiteAddress("b.test", 443),
    ]
    assert config.sites[0].certificate is None
    assert problem(off + "https://a.test { }").startswith("4:1: `https://a.test` needs `tls CERT")
    assert problem(off + "a.test:443 { }").startswith("4:1: `a.test:443` would be plain HTTP on")
    (asked,) = read(off + "a.test { tls { must_staple } }").sites
    assert asked.addresses == (SiteAddress("a.test", 443),)
    assert isinstance(asked.certificate, AutomaticCertificates)


def test_certificates_from_files() -> None:
    text = """
    a.test {
        tls ec.pem /x/ec.key {
            ocsp ec.der
        }
        tls rsa.pem rsa.key
    }
    """
    (found,) = parse(text, "/etc/x/Dwaarfile", {}).sites
    assert found.certificate == (
        CertificateFiles(Path("/etc/x/ec.pem"), Path("/x/ec.key"), Path("/etc/x/ec.der")),
        CertificateFiles(Path("/etc/x/rsa.pem"), Path("/etc/x/rsa.key")),
    )
    assert isinstance(found.certificate, tuple)
    assert str(found.certificate[0].location) == "/etc/x/Dwaarfile:3:9"
    assert str(found.certificate[0].ocsp_location) == "/etc/x/Dwaarfile:4:18"


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("tls", "2:1: a word is missing: expected `tls CERT KEY { ocsp FILE }`, `tls internal` or"),
        ("tls { }", "2:1: a word is missing: expected `tls CERT KEY { ocsp FILE }`, `tls inter"),
        ("tls a", "2:5: a word is missing after `a`: expected `tls CERT KEY { ocsp FILE }`, `tls"),
        ("tls a@b.test", "2:5: the address for the CAs stands in the global options: `email ADD"),
        ("tls a b c", "2:9: `c` is one word too many"),
        ("tls a b { dns x }", "2:11: `dns` is for certificates by ACME: expected it in `tls { … "),
        ("tls internal { must_staple }", "2:16: `must_staple` is for certificates by ACME: expec"),
        ("tls { ocsp x }", "2:7: `ocsp` goes with `tls CERT KEY`: staples for other certificates"),
        ("tls { ca x }", "2:7: `ca` is not a directive of `tls`: it is named by `acme_ca DIRECTO"),
        ("tls { eab x y }", "2:7: `eab` is not a directive of `tls`: it stands in the block of"),
        ("tls { issuer acme }", "2:7: `issuer` is not a directive of `tls`: give `acme_ca` in"),
        ("tls { on_demand }", "2:7: `on_demand` is not available yet"),
        ("tls { profile a }\ntls a b", "3:1: `tls { … }` stands alone in a site; the other `tls`"),
        ("tls a b\ntls { profile a }", "3:1: `tls { … }` stands alone in a site; the other `tls`"),
        ("tls { profile a }\ntls { profile a }", "3:1: `tls { … }` stands alone in a site; the"),
        ("tls internal\ntls { profile a }", "3:1: `tls internal` stands alone in a site; the oth"),
        ("tls a b { protocols tls1.3 }", "2:11: `protocols` is not available yet"),
        ("tls a b { client_auth { } }", "2:11: `client_auth` is not available yet"),
        ("tls a b { oscp x }", "2:11: `oscp` is not a directive of `tls`; did you mean `ocsp`?"),
        ("tls a b { ocsp }", "2:11: a word is missing: expected `ocsp FILE`"),
        ("tls a b {\nocsp x\nocsp y\n}", "4:1: `ocsp` is given twice; the first is at"),
        ("tls internal { ocsp x }", "2:16: `ocsp` goes with `tls CERT KEY`: the local CA staples"),
        ("tls internal\ntls a b", "3:1: `tls internal` stands alone in a site; the other `tls` is"),
        ("tls a b\ntls internal", "3:1: `tls internal` stands alone in a site; the other `tls` is"),
        ("tls a b\ntls a c", "3:5: this certificate is given twice; the first is at Dwaarfile:2:1"),
        ("tls internal\nbind 127.0.0.1\nbind ::1", "4:1: `bind` is given twice; the first is at"),
        ("tls internal\nhttp_port 1", "3:1: `http_port` is not a directive of a site: it stands"),
        ("tls internal\nto a:1", "3:1: `to` is not a directive of a site"),
        ("tls internal\n@api path /x", "3:1: named matchers such as `@api` are not available yet"),
        ("tls internal\n{ x }", "3:1: a `{` must follow a directive on its line"),
    ],
)
def test_bad_directives(directive: str, expected: str) -> None:
    assert problem(f"a.test {{\n{directive}\n}}").startswith(expected)


@pytest.mark.parametrize(
    "name",
    [
        *("encode", "basic_auth", "ip_filter", "rate_limit", "request_body", "log", "rewrite"),
        *("uri", "route", "error", "abort", "handle_errors", "file_server", "forward_auth"),
        "matcher",
    ],
)
def test_what_is_still_to_come(name: str) -> None:
    expected = f"`{name}` is not available yet"
    assert problem(f"http://a.test {{\n{name} x {{\n y\n}}\n}}") == f"2:1: {expected}"
    assert problem(f"http://a.test {{\nhandle {{\n{name}\n}}\n}}") == f"3:1: {expected}"


def test_tls_and_dot_in_a_plain_site() -> None:
    assert problem("http://a.test {\ntls internal\n}") == (
        "2:1: `tls` stands in a site whose addresses are all plain HTTP"
    )
    assert problem("http://a.test {\ndns_over_tls\n}") == (
        "2:1: `dns_over_tls` stands in a site whose addresses are all plain HTTP"
    )


def test_bind() -> None:
    config = read("{\nbind 127.0.0.1\n}\nlocalhost { }\na.localhost { bind ::1 [2001:db8::1] }\n")
    assert [each.bind for each in config.sites] == [("127.0.0.1",), ("::1", "2001:db8::1")]


@pytest.mark.parametrize(
    ("directives", "addresses"),
    [
        ("", ()),
        ("dns_over_tls", (Address("", 853),)),
        ("dns_over_tls :8853 :8443", (Address("", 8853), Address("", 8443))),
        ("dns_over_tls\ndns_over_tls :8853", (Address("", 853), Address("", 8853))),
        ("dns_over_tls 127.0.0.1 ::1", (Address("127.0.0.1", 853), Address("::1", 853))),
        ("dns_over_tls [::1]:8853", (Address("::1", 8853),)),
        ("dns_over_tls\nbind 127.0.0.1 ::1", (Address("127.0.0.1", 853), Address("::1", 853))),
        ("dns_over_tls 127.0.0.2\nbind ::1", (Address("127.0.0.2", 853),)),
    ],
)
def test_dns_over_tls(directives: str, addresses: tuple[Address, ...]) -> None:
    assert site(directives, "localhost").dns_over_tls == addresses


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("dns_over_tls localhost:1", "2:14: `localhost:1` does not begin with an IP address"),
        ("dns_over_tls :0", "2:14: `0` is not a port"),
        ("dns_over_tls :80", "2:14: port 80 is for plain HTTP: give `dns_over_tls` another"),
        ("dns_over_tls\ndns_over_tls :853", "3:14: the address *:853 is given twice; the first"),
        ("dns_over_tls { x }", "2:1: `dns_over_tls` takes no block"),
    ],
)
def test_bad_dns_over_tls(directives: str, expected: str) -> None:
    assert problem(f"localhost {{\n{directives}\n}}").startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "localhost { }\nx.local,LOCALHOST:443 { }",
            "2:9: the address https://localhost:443 is taken already, by the site at ",
        ),
        (
            "localhost, localhost { }",
            "1:12: the address https://localhost:443 is taken already, by the site at ",
        ),
        (
            "localhost { bind ::1 }\nlocalhost { }",
            "2:1: the address https://localhost:443 is taken already, by the site at ",
        ),
        (
            "localhost { }\nlocalhost { bind ::1 }",
            "2:1: the address https://localhost:443 is taken already, by the site at ",
        ),
        (
            "http://localhost:1 { }\nx.local:1 { }",
            "2:1: port 1 would serve both TLS and plain HTTP",
        ),
        (
            "http://localhost:1 { bind ::1 }\nx.local:1 { }",
            "2:1: port 1 would serve both TLS and plain HTTP",
        ),
        (
            "x.local:1 { }\nhttp://localhost:1 { bind ::1 }",
            "2:1: port 1 would serve both TLS and plain HTTP",
        ),
        (
            "http://localhost:853 { }\nx.local { dns_over_tls }",
            "2:1: port 853 would serve both TLS and plain HTTP",
        ),
    ],
)
def test_sites_that_do_not_go_together(text: str, expected: str) -> None:
    assert problem(text).removesuffix("Dwaarfile:1:1") == expected


def test_sites_that_go_together() -> None:
    config = read(
        "localhost { bind ::1 }\nlocalhost { bind 127.0.0.1 }\nhttp://localhost { }\n"
        "localhost:444 { }\nhttp://localhost:1 { bind ::1 }\nx.local:1 { bind 127.0.0.1 }"
    )
    assert len(config.sites) == 6
