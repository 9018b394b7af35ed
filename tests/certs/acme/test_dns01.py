from __future__ import annotations

import socket
from collections.abc import Callable

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.update
import pytest

from dwaarx.certs.acme import dns01
from dwaarx.certs.acme.dns01 import Rfc2136Solver
from dwaarx.certs.errors import AcmeError
from dwaarx.config.model import Address, Rfc2136
from tests.certs.acme.fake_ca import Stop

SETTINGS = Rfc2136(Address("127.0.0.1", 5353), "acme-key", "c2VjcmV0", "hmac-sha512")
OWNER = "_acme-challenge.example.test."

Send = Callable[..., dns.message.Message]


class Server:
    """An authoritative server in the place of the network."""

    def __init__(self) -> None:
        self.zones = ["example.test."]
        self.aliases: dict[str, str] = {}
        self.texts: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.rcode = dns.rcode.NOERROR  # of updates
        self.late = 0  # so many questions for TXT are answered with what was before
        self.addresses: list[tuple[str, int, float]] = []

    def tcp(
        self, message: dns.message.Message, address: str, timeout: float, port: int
    ) -> dns.message.Message:
        self.addresses.append((address, port, timeout))
        wire = message.to_wire()
        assert message.keyring is not None
        received = dns.message.from_wire(wire, keyring=message.keyring)
        assert received.had_tsig
        assert received.keyalgorithm == dns.tsig.HMAC_SHA512
        answer = dns.message.make_response(received)
        if isinstance(received, dns.update.UpdateMessage):
            self._update(received, answer)
        else:
            self._answer(received, answer)
        return answer

    def _update(self, update: dns.update.UpdateMessage, answer: dns.message.Message) -> None:
        answer.set_rcode(self.rcode)
        if self.rcode != dns.rcode.NOERROR:
            return
        assert str(update.zone[0].name) in self.zones
        for records in update.update:
            for record in records:
                entry = str(records.name), record.strings[0].decode()
                if records.deleting is None:
                    assert records.ttl == 60
                    self.texts.append(entry)
                else:
                    self.texts.remove(entry)

    def _answer(self, query: dns.message.Message, answer: dns.message.Message) -> None:
        assert not query.flags & dns.flags.RD
        (question,) = query.question
        name = str(question.name)
        self.asked.append(f"{name} {dns.rdatatype.to_text(question.rdtype)}")
        if name in self.aliases:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", self.aliases[name]))
            return
        zone = next(
            (each for each in self.zones if dns.name.from_text(name).is_subdomain(
                dns.name.from_text(each))), None)  # fmt: skip
        if zone is None:
            answer.set_rcode(dns.rcode.REFUSED)
            return
        values = [value for owner, value in self.texts if owner == name]
        if question.rdtype == dns.rdatatype.TXT and values:
            if self.late == 0:
                quoted = [f'"{value}"' for value in values]
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *quoted))
            else:
                self.late -= 1
        soa = dns.rrset.from_text(zone, 60, "IN", "SOA", "ns admin 1 2 3 4 5")
        (answer.answer if name == zone else answer.authority).append(soa)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(dns01.dns.query, "tcp", made.tcp)
    return made


def solver(stop: Stop | None = None, **other: object) -> Rfc2136Solver:
    settings = Rfc2136(**{**_fields(SETTINGS), **other})
    return Rfc2136Solver(settings, stop)


def _fields(settings: Rfc2136) -> dict[str, object]:
    return {name: getattr(settings, name) for name in ("server", "key_name", "secret", "algorithm")}


def fails(act: Callable[[], None]) -> AcmeError:
    with pytest.raises(AcmeError) as caught:
        act()
    assert SETTINGS.secret not in caught.value.reason
    return caught.value


def test_a_record_comes_and_goes(server: Server) -> None:
    records = solver()
    records.present("*.example.test", "one")
    solver().present("example.test", "two")
    assert server.texts == [(OWNER, "one"), (OWNER, "two")]
    records.remove("*.example.test", "one")
    assert server.texts == [(OWNER, "two")]
    records.remove("*.example.test", "one")  # what is gone is not asked for again
    assert set(server.addresses) == {("127.0.0.1", 5353, 10.0)}


def test_the_zone_is_the_closest_one(server: Server) -> None:
    server.zones = ["deep.sub.example.test.", "example.test."]
    solver().present("a.deep.sub.example.test", "one")
    assert server.texts == [("_acme-challenge.a.deep.sub.example.test.", "one")]
    solver().present("sub.example.test", "two")
    assert len(server.texts) == 2


def test_an_owner_that_is_a_zone_itself(server: Server) -> None:
    server.zones = [OWNER]
    solver().present("example.test", "one")
    assert server.texts == [(OWNER, "one")]


def test_aliases_are_followed(server: Server) -> None:
    server.zones.append("proofs.test.")
    server.aliases = {OWNER: "a.proofs.test.", "a.proofs.test.": "b.proofs.test."}
    records = solver()
    records.present("example.test", "one")
    assert server.texts == [("b.proofs.test.", "one")]
    records.remove("example.test", "one")
    assert server.texts == []


def test_a_loop_of_aliases(server: Server) -> None:
    server.aliases = {OWNER: OWNER}
    error = fails(lambda: solver().present("example.test", "one"))
    assert "loop of CNAME" in error.reason
    assert error.rejected


def test_a_zone_that_the_server_does_not_have(server: Server) -> None:
    error = fails(lambda: solver().present("example.org", "one"))
    assert "127.0.0.1:5353 answers REFUSED when asked for _acme-challenge.example.org." in (
        error.reason
    )
    assert error.rejected


def test_an_answer_without_soa(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(message: dns.message.Message, *_: object, **__: object) -> dns.message.Message:
        return dns.message.make_response(message)

    monkeypatch.setattr(dns01.dns.query, "tcp", empty)
    assert "has no zone that" in fails(lambda: solver().present("example.test", "x")).reason


def test_an_update_that_is_refused(server: Server) -> None:
    server.rcode = dns.rcode.NOTAUTH
    error = fails(lambda: solver().present("example.test", "one"))
    assert error.reason == f"adding {OWNER} at 127.0.0.1:5353 failed: it answers NOTAUTH"
    assert error.rejected
    server.rcode = dns.rcode.NOERROR
    records = solver()
    records.present("example.test", "one")
    server.rcode = dns.rcode.NOTAUTH
    assert "deleting" in fails(lambda: records.remove("example.test", "one")).reason


def test_what_was_never_added_is_not_removed(server: Server) -> None:
    records = solver()
    records.remove("example.test", "one")
    server.rcode = dns.rcode.REFUSED
    fails(lambda: records.present("example.test", "one"))
    sent = len(server.addresses)
    records.remove("example.test", "one")
    assert len(server.addresses) == sent


@pytest.mark.parametrize("error", [dns.exception.Timeout(), EOFError()])
def test_what_may_have_been_added_is_removed(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def lossy(message: dns.message.Message, *where: object, **more: object) -> dns.message.Message:
        answer = server.tcp(message, *where, **more)
        if isinstance(message, dns.update.UpdateMessage) and len(server.texts) == 1:
            raise error
        return answer

    monkeypatch.setattr(dns01.dns.query, "tcp", lossy)
    records = solver()
    fails(lambda: records.present("example.test", "one"))
    records.remove("example.test", "one")
    assert server.texts == []


def test_waiting_until_the_server_answers_it(server: Server) -> None:
    server.late = 3
    stop = Stop()
    solver(stop).present("example.test", "one")
    assert stop.waits == [0.5] * 3


def test_a_server_that_never_answers_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns01, "_SETTLED", 0.0)
    server.late = 10**9
    error = fails(lambda: solver(Stop()).present("example.test", "one"))
    assert "does not answer it" in error.reason


def test_what_is_not_answered_is_removed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns01, "_SETTLED", 0.0)
    server.late = 10**9
    records = solver(Stop())
    fails(lambda: records.present("example.test", "one"))
    records.remove("example.test", "one")
    assert server.texts == []


def test_stopping(server: Server) -> None:
    server.late = 10**9
    stop = Stop()
    stop.set()
    assert "stopping" in fails(lambda: solver(stop).present("example.test", "one")).reason


@pytest.mark.parametrize(
    ("error", "reason", "rejected"),
    [
        (dns.exception.Timeout(), "no answer within 10 s", False),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused", False),
        (EOFError(), "EOFError", False),
        (dns.tsig.PeerBadKey(), "didn't know the key", True),
        (dns.tsig.PeerBadSignature(), "didn't like the signature", True),
        (dns.tsig.BadTime(), "not within the TSIG", True),
        (dns.query.BadResponse(), "does not respond", False),
        (dns.exception.FormError("x"), "x", False),
        (ValueError("odd"), "odd", False),
    ],
)
def test_what_goes_wrong_on_the_way(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, rejected: bool
) -> None:
    def raises(*_: object, **__: object) -> dns.message.Message:
        raise error

    monkeypatch.setattr(dns01.dns.query, "tcp", raises)
    caught = fails(lambda: solver().present("example.test", "one"))
    assert caught.reason.startswith(f"asking for {OWNER} at 127.0.0.1:5353 failed: ")
    assert reason in caught.reason
    assert caught.rejected is rejected


def test_every_address_of_the_server_is_tried(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def addresses(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("ns.test", 53)
        return [(0, 0, 0, "", (address, port)) for address in ("192.0.2.1", "192.0.2.2")]

    def tcp(message: dns.message.Message, address: str, **more: object) -> dns.message.Message:
        if address == "192.0.2.1":
            raise ConnectionRefusedError(111, "Connection refused")
        return server.tcp(message, address, **more)

    monkeypatch.setattr(dns01.socket, "getaddrinfo", addresses)
    monkeypatch.setattr(dns01.dns.query, "tcp", tcp)
    solver(server=Address("ns.test", 53)).present("example.test", "one")
    assert server.texts == [(OWNER, "one")]


def test_a_server_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(dns01.socket, "getaddrinfo", none)
    error = fails(lambda: solver(server=Address("ns.test", 53)).present("example.test", "one"))
    assert error.reason == "the DNS server ns.test has no address: Name or service not known"


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".test", "é" * 60 + ".test"])
def test_names_that_are_none(server: Server, name: str) -> None:
    assert "is no name of the DNS" in fails(lambda: solver().present(name, "one")).reason


@pytest.mark.parametrize("other", [{"secret": "x"}, {"key_name": "a..b"}])
def test_keys_that_are_none(server: Server, other: dict[str, object]) -> None:
    error = fails(lambda: solver(**other).present("example.test", "one"))
    assert error.reason.startswith("the key of `dns rfc2136` is not usable")
