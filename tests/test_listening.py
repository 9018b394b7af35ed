from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from dwaarx.certs.acme.challenges import Challenges
from dwaarx.config.model import (
    AcmeCa,
    AcmeSettings,
    Address,
    AutomaticCertificates,
    Config,
    InternalCertificate,
    Respond,
    Site,
    SiteAddress,
    Timeouts,
)
from dwaarx.dns.dot_connection import DotConnection
from dwaarx.dns.forwarder import Forwarder
from dwaarx.http.h1_connection import H1Connection
from dwaarx.http.h2_connection import H2Connection
from dwaarx.http.site import compile_site
from dwaarx.listening import RunningListener
from dwaarx.plan import make_plan
from dwaarx.tls.accepted import Accepted
from dwaarx.tls.policy import base_context
from tests.certs.pki import make_ca, make_leaf
from tests.tls.memory import Certificate, Client, MemoryTransport, certificate

ACME = AutomaticCertificates(AcmeSettings((AcmeCa("https://ca.test/directory"),)))
INTERNAL = AutomaticCertificates(ACME.acme, InternalCertificate(("localhost",)))
PLAIN, SECURE, DOT = Address("", 80), Address("", 443), Address("", 853)


def site(*hosts: str, tls: bool = True, **options: object) -> Site:
    addresses = tuple(SiteAddress(host, 443 if tls else 80, tls) for host in hosts)
    values = {"certificate": ACME if tls else None, **options}
    return Site(addresses, (Respond(hosts[0]),), **values)


@pytest.fixture
def challenges() -> Challenges:
    return Challenges()


@pytest.fixture
def start(challenges: Challenges):
    """What runs on each address of some sites; each name's certificate is as given, or none."""

    def start(
        *sites: Site, certificates: dict[str, Certificate] | None = None, **options: object
    ) -> dict[Address, RunningListener]:
        config = Config("Dwaarfile", sites, (), Path("/storage"), **options)
        plan = make_plan(config)
        handlers = {each: compile_site(each, None) for each in sites}
        none = Certificate(None)
        identities = {
            served.source: (certificates or {}).get(served.name, none)
            for each in plan.values()
            for served in each.names
        }
        clock, base = Clock(), base_context()
        running = {}
        for address, each in plan.items():
            forwarder = Forwarder(clock)
            running[address] = RunningListener(each, clock, base, forwarder, challenges)
            running[address].update(each, Timeouts(), identities, handlers)
        return running

    return start


def request(running: RunningListener, target: str, host: str) -> bytes:
    """What a plain connection answers to a request."""
    protocol = running._listener.factory().buildProtocol(None)
    transport = MemoryTransport(
        IPv4Address("TCP", "127.0.0.1", 80), IPv4Address("TCP", "192.0.2.9", 99)
    )
    protocol.makeConnection(transport)
    head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    protocol.dataReceived(head.encode())
    return transport.value()


def test_a_challenge_comes_before_the_redirect_and_before_the_sites(start, challenges) -> None:
    running = start(site("a.test"), site("b.test", tls=False))[PLAIN]
    target = "/.well-known/acme-challenge/token"
    assert request(running, target, "a.test").startswith(b"HTTP/1.1 308 ")
    assert request(running, target, "b.test").endswith(b"b.test")
    challenges.present_http("token", "token.thumbprint")
    for host in ("a.test", "b.test", "unknown.test"):
        answer = request(running, target, host)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\ntoken.thumbprint")


def test_a_plain_port_for_challenges_alone(start, challenges) -> None:
    running = start(site("a.test"), redirect_http=False)[PLAIN]
    target = "/.well-known/acme-challenge/token"
    assert request(running, target, "a.test").startswith(b"HTTP/1.1 404 ")
    challenges.present_http("token", "token.thumbprint")
    assert request(running, target, "a.test").endswith(b"token.thumbprint")
    assert running.description == "*:80: http for ACME challenges"
    assert running.status().names == ()
    assert running.status().protocols == ("http",)


def test_a_secure_listener_proves_names_by_alpn(start, challenges) -> None:
    ca = make_ca()
    leaf = make_leaf(ca, ["a.test"])
    running = start(site("a.test"), certificates={"a.test": certificate(leaf)})[SECURE]
    challenges.present_alpn("a.test", "token.thumbprint")
    with pytest.raises(OSError, match="self-signed"):
        Client(running._listener, ca, "a.test", ("acme-tls/1",)).handshake()
    client = Client(running._listener, ca, "a.test", ("h2",)).handshake()
    assert client.serial() == leaf.certificate.serial_number


def test_hosts_share_what_redirects_them(start) -> None:
    running = start(site("a.test", "b.test"), site("c.test"))[PLAIN]
    assert len({id(handler) for handler in running._router._exact.values()}) == 1
    assert b"\r\nlocation: https://c.test/\r\n" in request(running, "/", "c.test").lower()


@pytest.mark.parametrize(
    ("address", "protocol", "kind"),
    [
        (PLAIN, None, H1Connection),
        (SECURE, None, H1Connection),
        (SECURE, b"http/1.1", H1Connection),
        (SECURE, b"h2", H2Connection),
        (DOT, b"dot", DotConnection),
        (DOT, None, DotConnection),
    ],
)
def test_who_answers(start, address: Address, protocol: bytes | None, kind: type) -> None:
    """The plain listener has no site: it is there for challenges."""
    running = start(site("a.test", dns_over_tls=(DOT,)), redirect_http=False)[address]
    made = running._make(Accepted("192.0.2.7", 4711, "127.0.0.1", 443, protocol))
    assert isinstance(made, kind)


def test_what_it_says_of_itself(start) -> None:
    one = site("localhost", "a.test", "b.test", certificate=INTERNAL)
    running = start(one, site("*.c.test"))
    assert running[SECURE].status().certificates == (
        "internal",
        "acme a.test",
        "acme b.test",
        "acme *.c.test",
    )
    assert running[SECURE].description == "*:443: https/1.1, h2 for localhost and 3 more names"
    assert running[PLAIN].description == "*:80: http for localhost and 3 more names"
    two = start(site("a.test", "b.test"))
    assert two[SECURE].description == "*:443: https/1.1, h2 for a.test, b.test"
