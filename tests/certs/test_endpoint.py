"""The gate: which addresses are dialled, in which order, and whom TLS believes."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from OpenSSL import SSL
from twisted.internet import error

from dwaarx.certs import endpoint
from dwaarx.certs.endpoint import MAX_HEAD
from dwaarx.certs.errors import FetchFailure
from tests.certs import fake_internet, pki
from tests.certs.fake_internet import PUBLIC, TlsServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
URL = "http://ocsp.example/"


@pytest.fixture
def internet():
    with fake_internet.internet() as made:
        yield made


def allow(internet, *networks):
    internet.allowed = tuple(map(ip_network, networks))


# --- addresses --------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "http://10.0.0.1/",
            "10.0.0.1 is a private address; `ocsp { allow_responder 10.0.0.1/32 }`",
        ),
        ("http://[::1]:8080/", "::1 is the loopback address; `ocsp { allow_responder ::1/128 }`"),
        ("http://[::ffff:127.0.0.1]/", "`ocsp { allow_responder 127.0.0.1/32 }` would allow it"),
        ("https://169.254.169.254/", "169.254.169.254 is the metadata service of a cloud"),
        ("http://[64:ff9b::a00:1]/", "carries 10.0.0.1, a private address"),
    ],
)
def test_literal_addresses_are_judged(internet, url, reason):
    outcome = internet.fetch(url)
    assert outcome.kind is FetchFailure.REFUSED
    assert reason in outcome.reason
    assert internet.dialled == internet.resolver.asked == []


def test_a_name_is_judged_by_its_address(internet):
    internet.resolver.names["ocsp.example"] = [["10.0.0.1"]]
    outcome = internet.fetch()
    assert outcome.kind is FetchFailure.REFUSED
    assert outcome.reason == (
        "ocsp.example resolves to 10.0.0.1, a private address; "
        "`ocsp { allow_responder 10.0.0.1/32 }` would allow it"
    )
    assert internet.dialled == []


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "localhost"]
)
def test_what_the_resolver_takes_for_an_address_is_judged_by_what_it_makes_of_it(internet, host):
    internet.resolver.names[host] = [["127.0.0.1"]]
    outcome = internet.fetch(f"http://{host}/")
    assert outcome.reason.startswith(f"{host} resolves to 127.0.0.1, a loopback address")
    assert internet.dialled == []


def test_exceptions_are_asked_for_each_request(internet):
    internet.resolver.names["ocsp.example"] = [["10.0.0.1"]]
    allow(internet, "10.0.0.0/8")
    outcome = internet.fetch()
    assert internet.dialled == [("10.0.0.1", 80)]
    internet.accept().says(OK)
    assert outcome.fetched.body == b"hello"
    allow(internet)
    assert internet.fetch().kind is FetchFailure.REFUSED


def test_only_the_permitted_addresses_of_a_name_are_tried_in_order(internet):
    internet.resolver.names["ocsp.example"] = [
        ["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1", "127.0.0.1"]
    ]
    outcome = internet.fetch()
    assert internet.dialled == [("1.1.1.1", 80)]
    internet.refuse()
    assert internet.dialled[1:] == [("2606:4700::1", 80)]
    internet.refuse(error.NoRouteError())
    assert outcome.kind is FetchFailure.UNREACHABLE
    assert outcome.reason == (
        "ocsp.example cannot be reached (1.1.1.1: Connection was refused by other side; "
        "2606:4700::1: No route to host)"
    )
    assert len(internet.dialled) == 2


def test_a_name_that_turns_private_after_the_check_is_not_followed(internet):
    """DNS rebinding: each answer is used once, for the check and the connection."""
    internet.resolver.names["ocsp.example"] = [[PUBLIC], ["127.0.0.1"]]
    outcome = internet.fetch()
    assert internet.resolver.asked == ["ocsp.example"]
    assert internet.dialled == [(PUBLIC, 80)]
    internet.accept().says(b"HTTP/1.1 302 x\r\nLocation: /again\r\n\r\n")
    assert internet.resolver.asked == ["ocsp.example"] * 2
    assert outcome.kind is FetchFailure.REFUSED
    assert "ocsp.example resolves to 127.0.0.1, a loopback address" in outcome.reason
    assert internet.dialled == [(PUBLIC, 80)]


def test_each_address_gets_a_share_of_the_time(internet):
    internet.resolver.names["ocsp.example"] = [["1.1.1.1", "1.1.1.2", "1.1.1.3"]]
    outcome = internet.fetch()
    internet.reactor.advance(1)
    internet.swallow()
    assert internet.reactor.seconds() == pytest.approx(1 + 10 / 3)
    internet.swallow()
    internet.reactor.advance(0)
    assert outcome.pending
    internet.accept().says(OK)
    assert outcome.fetched.body == b"hello"
    assert [host for host, _ in internet.dialled] == ["1.1.1.1", "1.1.1.2", "1.1.1.3"]


def test_not_all_of_many_addresses_are_tried(internet):
    internet.resolver.names["ocsp.example"] = [[f"1.1.1.{i}" for i in range(100)]]
    outcome = internet.fetch()
    while outcome.pending:
        internet.refuse()
    assert len(internet.dialled) == endpoint.MAX_ATTEMPTS


def test_a_name_without_address(internet):
    internet.resolver.names["ocsp.example"] = [[]]
    outcome = internet.fetch()
    assert outcome.kind is FetchFailure.UNREACHABLE
    assert outcome.reason == "the name ocsp.example cannot be resolved: it has no address"


# --- TLS --------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca():
    return pki.make_ca()


@pytest.fixture
def bundle(ca, tmp_path):
    path = tmp_path / "bundle.pem"
    path.write_bytes(pki.make_ca("Another").pem + ca.pem)
    return path


def over_tls(internet, leaf, url="https://ocsp.example/", **options):
    outcome = internet.fetch(url, **options)
    return outcome, TlsServer(internet.accept(), leaf)


def test_https(internet, ca, bundle):
    leaf = pki.make_leaf(ca, ["ocsp.example"])
    outcome, server = over_tls(internet, leaf, trust=bundle)
    assert internet.dialled == [(PUBLIC, 443)]
    assert server.server_name == b"ocsp.example"
    assert server.came.startswith(b"GET / HTTP/1.1\r\n")
    assert b"\r\nHost: ocsp.example\r\n" in server.came
    server.says(OK)
    assert outcome.fetched.body == b"hello"
    assert server.line.ended == "lose"
    server.pump()
    assert server.alert == "close_notify"


def test_a_redirect_does_not_lead_from_https_to_http(internet, ca, bundle):
    leaf = pki.make_leaf(ca, ["ocsp.example"])
    outcome, server = over_tls(internet, leaf, trust=bundle)
    server.says(b"HTTP/1.1 307 x\r\nLocation: http://ocsp.example/\r\n\r\n")
    assert outcome.kind is FetchFailure.REFUSED
    assert outcome.reason == (
        "ocsp.example is not asked by http where https was asked for (redirected by ocsp.example)"
    )
    assert internet.dialled == [(PUBLIC, 443)]
    # The other way round, and on.
    outcome = internet.fetch(trust=bundle)
    internet.accept().says(b"HTTP/1.1 307 x\r\nLocation: https://ocsp.example/\r\n\r\n")
    server = TlsServer(internet.accept(), leaf)
    server.says(b"HTTP/1.1 307 x\r\nLocation: /x\r\n\r\n")
    server = TlsServer(internet.accept(), leaf)
    server.says(OK)
    assert outcome.fetched.url == "https://ocsp.example/x"


def test_https_to_an_address(internet, ca, bundle):
    leaf = pki.make_leaf(ca, ["1.1.1.1"])
    outcome, server = over_tls(internet, leaf, "https://1.1.1.1:8443/", trust=bundle)
    assert internet.dialled == [("1.1.1.1", 8443)]
    assert server.server_name is None
    server.says(OK)
    assert outcome.fetched.body == b"hello"
    outcome, _ = over_tls(internet, leaf, "https://1.1.1.2/", trust=bundle)
    assert outcome.kind is FetchFailure.UNREACHABLE


def test_https_to_an_ipv6_address(internet, ca, bundle):
    leaf = pki.make_leaf(ca, ["2606:4700::1"])
    outcome, server = over_tls(internet, leaf, "https://[2606:4700::1]:8443/x", trust=bundle)
    assert internet.dialled == [("2606:4700::1", 8443)]
    assert server.came.startswith(b"GET /x HTTP/1.1\r\n")
    assert b"\r\nHost: [2606:4700::1]:8443\r\n" in server.came
    server.says(OK)
    assert outcome.fetched.body == b"hello"


def test_capitals_do_not_turn_tls_off(internet, ca, bundle):
    leaf = pki.make_leaf(ca, ["ocsp.example"])
    outcome, server = over_tls(internet, leaf, "HTTPS://OCSP.Example/", trust=bundle)
    assert internet.dialled == [(PUBLIC, 443)]
    server.says(OK)
    assert outcome.fetched.url == "HTTPS://OCSP.Example/"


@pytest.mark.parametrize("names", [["other.example"], ["1.1.1.1"], ["ocsp.example.net"], []])
def test_a_certificate_for_another_name(internet, ca, bundle, names):
    outcome, server = over_tls(internet, pki.make_leaf(ca, names), trust=bundle)
    assert outcome.kind is FetchFailure.UNREACHABLE
    assert outcome.reason == "the certificate of ocsp.example is for another name"
    assert server.came == b""


def test_a_certificate_whose_names_cannot_be_read(internet, ca, bundle):
    unreadable = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x02\xff")
    leaf = pki.make_leaf(ca, [], extra=[(unreadable, False)])
    outcome, server = over_tls(internet, leaf, trust=bundle)
    assert outcome.kind is FetchFailure.UNREACHABLE
    assert server.came == b""


def test_a_wildcard(internet, ca, bundle):
    internet.resolver.names["a.ocsp.example"] = [[PUBLIC]]
    leaf = pki.make_leaf(ca, ["*.ocsp.example"])
    outcome, server = over_tls(internet, leaf, "https://a.ocsp.example/", trust=bundle)
    server.says(OK)
    assert outcome.fetched.body == b"hello"


def untrusted():
    yesterday = pki.utc_now() - 2 * pki.DAY
    tomorrow = pki.utc_now() + pki.DAY
    names = ["ocsp.example"]
    other = pki.make_ca()
    return {
        "is by an issuer that is not known": lambda _: pki.make_leaf(other, names),
        "is self-signed": lambda _: pki.make_ca("ocsp.example"),
        "has expired": lambda ca: pki.make_leaf(ca, names, not_before=yesterday, lifetime=pki.DAY),
        "is not valid yet": lambda ca: pki.make_leaf(ca, names, not_before=tomorrow),
        "is not good (error 79 of OpenSSL)": lambda ca: pki.make_leaf(
            pki.make_leaf(ca, ["ca.example"]), names
        ),
    }


@pytest.mark.parametrize("words", untrusted())
def test_certificates_that_are_not_trusted(internet, ca, bundle, words):
    outcome, server = over_tls(internet, untrusted()[words](ca), trust=bundle)
    assert outcome.kind is FetchFailure.UNREACHABLE
    assert outcome.reason == f"the certificate of ocsp.example {words}"
    assert server.came == b""


def test_the_roots_of_the_system_are_the_default(internet, ca, bundle, monkeypatch):
    leaf = pki.make_leaf(ca, ["ocsp.example"])
    outcome, _ = over_tls(internet, leaf)
    assert outcome.reason.endswith(" is by an issuer that is not known")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    outcome, server = over_tls(internet, leaf)
    server.says(OK)
    assert outcome.fetched.body == b"hello"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no bundle of certificates in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no bundle of"),
        (None, "No such file or directory"),
    ],
)
def test_a_bad_bundle(internet, tmp_path, content, words):
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_bytes(content)
    outcome = internet.fetch("https://ocsp.example/", trust=path)
    assert outcome.kind is FetchFailure.REFUSED
    assert outcome.reason.startswith(f"{path}: {words}")
    assert internet.dialled == []


def test_a_host_that_no_certificate_can_name(internet):
    outcome = internet.fetch("https://2130706433/")
    assert outcome.kind is FetchFailure.REFUSED
    assert outcome.reason == "no certificate can be for 2130706433"


def test_what_is_no_tls(internet):
    for answer in b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28":
        outcome = internet.fetch("https://ocsp.example/")
        line = internet.accept()
        internet.reactor.advance(0)
        line.says(answer)
        assert outcome.kind is FetchFailure.UNREACHABLE
        assert outcome.reason.startswith("no TLS with ocsp.example: ")


def test_a_tls_connection_that_breaks_off(internet, ca, bundle):
    outcome = internet.fetch("https://ocsp.example/")
    internet.accept().breaks()
    assert outcome.kind is FetchFailure.BROKEN
    leaf = pki.make_leaf(ca, ["ocsp.example"])
    outcome, server = over_tls(internet, leaf, trust=bundle)
    server.says(OK[:-1])
    server.line.leaves()
    assert outcome.kind is FetchFailure.BROKEN
    assert outcome.reason == "ocsp.example ended the connection while reading its answer"


def test_a_handshake_without_end(internet):
    outcome = internet.fetch("https://ocsp.example/")
    line = internet.accept()
    internet.reactor.advance(0)
    # Warnings (alerts of TLS 1.2 that need no answer) would go on for ever.
    for _ in range(MAX_HEAD // 7 + 1):
        line.says(b"\x15\x03\x03\x00\x02\x01\x5a")
    assert not outcome.pending
    assert outcome.kind in {FetchFailure.TOO_LARGE, FetchFailure.UNREACHABLE}
    assert line.ended


def test_cancelling_amid_a_handshake(internet, ca, bundle):
    outcome = internet.fetch("https://ocsp.example/", trust=bundle)
    line = internet.accept()
    internet.reactor.advance(0)
    outcome.deferred.cancel()
    assert line.ended == "abort"


def test_the_oldest_version_is_1_2(internet, ca, bundle):
    leaf = pki.make_leaf(ca, ["ocsp.example"])
    outcome = internet.fetch("https://ocsp.example/", trust=bundle)
    server = TlsServer(internet.accept(), leaf, SSL.TLS1_1_VERSION)
    assert outcome.kind is FetchFailure.UNREACHABLE
    assert server.came == b""
