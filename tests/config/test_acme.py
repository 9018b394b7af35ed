from __future__ import annotations

from pathlib import Path

import pytest

from dwaarx.config import parse
from dwaarx.config.model import AcmeCa, Address, AutomaticCertificates, Eab, Rfc2136
from dwaarx.config.options import LETS_ENCRYPT
from tests.config.reading import option_problem, problem, read, site

SECRET = "c2VjcmV0"
DNS = f"dns rfc2136 192.0.2.1 key.example {SECRET}"


def test_everything() -> None:
    text = """{
        email ops@bücher.example
        acme_ca https://ca.example:14000/dir private.pem {
            eab key-1 c2VjcmV0-_8=
            profile shortlived
        }
        acme_ca http://127.0.0.1/dir
        acme_ca http://ca.localhost/dir { profile x }
        acme_ca http://[::1]:1/dir
    }
    a.test {
        tls {
            dns rfc2136 NS.example:5353 Key.Example. c2VjcmV0 HMAC-SHA512
            profile classic
            must_staple
        }
    }
    """
    config = parse(text, "/etc/x/Dwaarfile", {})
    assert config.acme_cas == (
        AcmeCa(
            "https://ca.example:14000/dir",
            Path("/etc/x/private.pem"),
            Eab("key-1", "c2VjcmV0-_8"),
            "shortlived",
        ),
        AcmeCa("http://127.0.0.1/dir"),
        AcmeCa("http://ca.localhost/dir", profile="x"),
        AcmeCa("http://[::1]:1/dir"),
    )
    assert str(config.acme_cas[0].location) == "/etc/x/Dwaarfile:3:46"
    found = config.sites[0].certificate
    assert isinstance(found, AutomaticCertificates)
    settings = found.acme
    assert settings.cas is config.acme_cas
    assert settings.email == "ops@xn--bcher-kva.example"
    assert settings.dns == Rfc2136(
        Address("ns.example", 5353), "key.example", "c2VjcmV0", "hmac-sha512"
    )
    assert (settings.profile, settings.must_staple) == ("classic", True)


def test_defaults() -> None:
    found = site("", "a.test").certificate
    assert isinstance(found, AutomaticCertificates)
    settings = found.acme
    assert settings.cas == (LETS_ENCRYPT,)
    assert (settings.email, settings.dns, settings.profile) == (None, None, None)
    assert not settings.must_staple


def test_secrets_are_not_shown_by_values() -> None:
    config = read("{\nacme_ca https://a.test/ { eab k QUJD }\n}\na.test { tls { " + DNS + " } }")
    assert "QUJD" not in repr(config)
    assert SECRET not in repr(config)


def test_where_secrets_are_written() -> None:
    text = "{\nacme_ca https://a.test/ { eab k %s }\n}\na.test { tls { dns rfc2136 ::1 k %s } }"
    config = read(text % ("QUJD", '"QUJD"'))
    eab, found = config.acme_cas[0].eab, config.sites[0].certificate
    assert isinstance(found, AutomaticCertificates)
    assert eab is not None
    assert found.acme.dns is not None
    assert str(eab.location) == "Dwaarfile:2:33"
    assert str(found.acme.dns.location) == "Dwaarfile:4:34"
    config = read(text % ("{$X}", '"{$X}"'), {"X": "QUJD", "HOME": "/h"})
    eab, found = config.acme_cas[0].eab, config.sites[0].certificate
    assert isinstance(found, AutomaticCertificates)
    assert eab is not None
    assert found.acme.dns is not None
    assert (eab.mac_key, eab.location) == ("QUJD", None)
    assert (found.acme.dns.secret, found.acme.dns.location) == ("QUJD", None)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("192.0.2.1", Address("192.0.2.1", 53)),
        ("192.0.2.1:54", Address("192.0.2.1", 54)),
        ("2001:DB8::1", Address("2001:db8::1", 53)),
        ("[::1]:54", Address("::1", 54)),
        ("ns", Address("ns", 53)),
        ("Ns.example:54", Address("ns.example", 54)),
    ],
)
def test_servers(written: str, address: Address) -> None:
    found = site(f"tls {{ dns rfc2136 {written} k {SECRET} }}", "*.dwaarx.org").certificate
    assert isinstance(found, AutomaticCertificates)
    assert found.acme.dns == Rfc2136(address, "k", SECRET, "hmac-sha256")


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("email", "2:1: a word is missing: expected `email ADDRESS`"),
        ("email ops", "2:7: `ops` is not an email address: expected one such as ops@a.example"),
        ("email ops@", "2:7: `ops@` is not an email address"),
        ("email @a.test", "2:7: `@a.test` is not an email address"),
        ("email mailto:ops@a.test", "2:7: `mailto:ops@a.test` is not an email address"),
        ("email a@b.test,c@d.test", "2:7: `a@b.test,c@d.test` is not an email address"),
        ("acme_ca", "2:1: a word is missing: expected `acme_ca DIRECTORY [BUNDLE] { eab KEY_ID"),
        ("acme_ca https://a.test b c", "2:26: `c` is one word too many"),
        ("acme_ca ca.example", "2:9: `ca.example` is not a CA: expected the URL of its directory"),
        ("acme_ca staging", "2:9: `staging` is not a CA: expected the URL of its directory, such"),
        ("acme_ca ftp://a.test/", "2:9: `ftp://a.test/` is not a CA"),
        ("acme_ca https:///x", "2:9: `https:///x` is not a CA"),
        ("acme_ca https://a..b/x", "2:9: `https://a..b/x` is not a CA"),
        ("acme_ca https://a.test:x/", "2:9: `https://a.test:x/` is not a CA"),
        ("acme_ca https://a.test:0/", "2:9: `https://a.test:0/` is not a CA"),
        ("acme_ca https://[::1/", "2:9: `https://[::1/` is not a CA"),
        ("acme_ca https://a.test/#x", "2:9: `https://a.test/#x` is not a CA"),
        ('acme_ca "https://a.test/ x"', "2:9: `https://a.test/ x` is not a CA"),
        ("acme_ca https://a.test/ü", "2:9: `https://a.test/ü` is not a CA"),
        ("acme_ca https://me:pw@a.test/", "2:9: a directory has no user name: expected the URL"),
        ("acme_ca ftp://me:pw@a.test/", "2:9: this is not a CA: expected the URL"),
        ("acme_ca https://me:pw@a.test:0/", "2:9: this is not a CA: expected the URL"),
        ("acme_ca https://me:pwü@a.test/", "2:9: this is not a CA: expected the URL"),
        (
            "acme_ca http://a.test/",
            "2:9: `http://a.test/` is not safe: `http://` is for a CA on this machine only",
        ),
        ("acme_ca http://192.0.2.1/", "2:9: `http://192.0.2.1/` is not safe"),
        ("acme_ca http://notlocalhost/", "2:9: `http://notlocalhost/` is not safe"),
        ('acme_ca https://a.test/ ""', "2:25: expected the path of a file"),
        ("acme_ca https://a.test/ { x y }", "2:27: `x` is not a directive of `acme_ca`"),
        (
            "acme_ca https://a.test/\nacme_ca https://a.test/",
            "3:1: the CA `https://a.test/` is given twice",
        ),
        ("acme_ca https://a.test/ { eab k }", "2:27: a word is missing: expected `eab KEY_ID MAC"),
        ('acme_ca https://a.test/ { eab "" QUJD }', "2:31: a word is empty: expected `eab KEY_ID"),
        ("acme_ca https://a.test/ { profile }", "2:27: a word is missing: expected `profile NAME`"),
        ('acme_ca https://a.test/ { profile "" }', "2:35: `` is not the name of a profile"),
    ],
)
def test_bad_options(directive: str, expected: str) -> None:
    assert option_problem(directive).startswith(expected)


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("dns", "2:7: a word is missing: expected `dns rfc2136 SERVER KEYNAME SECRET [ALGORITHM]`"),
        ("dns cloudflare x", "2:11: there is no DNS provider `cloudflare`; expected `rfc2136`"),
        ("dns rfc2137 x", "2:11: there is no DNS provider `rfc2137`; did you mean `rfc2136`?"),
        ("dns rfc2136 { server x }", "2:7: `dns` takes no block"),
        ("dns rfc2136 ns key", "2:7: a word is missing: expected `dns rfc2136 SERVER KEYNAME"),
        (f"dns rfc2136 [::1 k {SECRET}", "2:19: `[::1` is no address: expected `[IPV6]:PORT`"),
        (f"dns rfc2136 a..b k {SECRET}", "2:19: `a..b` is not a server: expected `HOST` or"),
        (f"dns rfc2136 0.0.0.0 k {SECRET}", "2:19: `0.0.0.0` is not a server"),
        (f"dns rfc2136 ns:0 k {SECRET}", "2:19: `0` is not a port"),
        (f"dns rfc2136 ns . {SECRET}", "2:22: not the name of a key: expected `dns rfc2136"),
        (f"{DNS} hmac-md5", "2:50: not an algorithm: expected `hmac-sha256`, `hmac-sha384`, `hm"),
        ("must_staple yes", "2:19: `yes` is one word too many: expected `must_staple`"),
        ("profile a b", "2:17: `b` is one word too many: expected `profile NAME`"),
        (f"{DNS}\n{DNS}", "3:1: `dns` is given twice; the first is at Dwaarfile:2:7"),
    ],
)
def test_bad_settings(directive: str, expected: str) -> None:
    found = problem(f"a.test {{\ntls {{ {directive}\n}}\n}}")
    assert found.startswith(expected)


@pytest.mark.parametrize(
    "directive",
    [
        "acme_ca https://a.test/ { eab k sesame+open }",
        "acme_ca https://a.test/ { eab k sesamo+sesame QUJD }",
        "acme_ca https://a.test/ { eab k sesames7x }",
        "acme_ca https://me:sesame@a.test/",
    ],
)
def test_keys_are_not_shown_in_options(directive: str) -> None:
    assert "sesame" not in option_problem(directive)


@pytest.mark.parametrize(
    "words",
    [
        "ns k sesame!",
        "ns k sesames7x",
        "ns sesame..x= k",
        "ns hmac-sha256 k sesame=",
        "ns 53 k sesame=",
        'ns k ""',
    ],
)
def test_keys_are_not_shown_in_settings(words: str) -> None:
    found = problem(f"a.test {{\ntls {{\ndns rfc2136 {words}\n}}\n}}")
    assert found.startswith("3:")
    assert "sesame" not in found


def test_a_wildcard_whose_dns_is_wrong_has_this_one_problem() -> None:
    text = "*.a.test {\ntls {\ndns rfc2136 192.0.2.1 key wrong!\n}\n}"
    assert problem(text).startswith("3:27: the secret is not base64")
