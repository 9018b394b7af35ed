"""Renewal by ACME against the whole service: under load, over restarts, and when it must be now."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import struct
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import dns.message
from cryptography import x509

from dwaarx.certs.acme import ari
from tests.system.acme_peers import Front, Refusal, Window, front
from tests.system.acme_town import Browser, Town, digits, events, rows, served, told
from tests.system.ocsp_peers import curl_accepts
from tests.system.processes import Service, free_port, until

Serve = Callable[[str], Service]

SITE = "example.test {\nrespond hello\n}"
RENEW = 'renewCertificate("example.test")'
DAY = timedelta(days=1)

NO: Refusal = (
    403,
    {"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "Not now"},
    {},
)


def pending(service: Service) -> list[str]:
    return sorted(each.name for each in (service.storage / "pending").iterdir())


# --- under load -------------------------------------------------------------


class DotClient:
    """A connection of DNS over TLS that stays open."""

    def __init__(self, port: int, name: str, trust: Path) -> None:
        context = ssl.create_default_context(cafile=str(trust))
        raw = socket.create_connection(("127.0.0.1", port), 10)
        self._sock = context.wrap_socket(raw, server_hostname=name)

    def ask(self) -> str:
        query = dns.message.make_query("hello.test", "A").to_wire()
        self._sock.sendall(struct.pack("!H", len(query)) + query)
        size = struct.unpack("!H", self._sock.recv(2))[0]
        return str(dns.message.from_wire(self._sock.recv(size)).answer[0])

    def close(self) -> None:
        self._sock.close()


def test_every_handshake_is_stapled_from_the_first_on(tmp_path: Path, serve: Serve) -> None:
    """Over renewals too, on HTTPS and DNS over TLS, however long the responder takes."""
    dot = free_port()
    site = f"example.test {{\nrespond hello\ndns_over_tls 127.0.0.1:{dot}\n}}"
    resolvers = "resolvers {\nrecord hello.test A 127.0.0.1\n}"
    with Town(tmp_path, responder=True) as town:
        town.responder.behave("good", delay=0.7)
        service = serve(town.dwaarfile(site, resolvers))
        serials = [town.wait("example.test", staple=True)]
        assert curl_accepts(town.tls, "example.test", town.trust)
        browser = Browser(town.tls, "example.test", town.trust)
        asker = DotClient(dot, "example.test", town.trust)
        web = town.load("example.test", threads=2)
        names = town.load("example.test", dot, threads=2, talk=False)
        with web, names:
            for _ in range(4):
                assert "good until" in service.console(RENEW)
                serials.append(served(service, "example.test").serial_number)
                web.until(6)
                names.until(6)
                # What was opened before goes on.
                assert browser.get().startswith(b"HTTP/1.1 200")
                assert "127.0.0.1" in asker.ask()
        assert web.failures == names.failures == []
        assert web.serials == names.serials == serials
        assert len(set(serials)) == 5
        assert web.handshakes + names.handshakes >= 100
        browser.close()
        asker.close()
        assert len(events(service, "obtained")) == 1
        assert len(events(service, "renewed", "staple=good")) == 4
        assert not events(service, "failed")
        assert town.orders() == 5
        # Only the staple in use is kept.
        assert len(list((service.storage / "ocsp").iterdir())) == 1
        assert pending(service) == []
        # And the first handshake after a crash is stapled, whoever is gone.
        service.kill()
        town.responder.stop()
        service.start()
        assert town.handshake("example.test").good
        assert town.handshake("example.test", dot).serial == serials[-1]


def test_short_lives_are_renewed_by_themselves(tmp_path: Path, serve: Serve) -> None:
    """With 9 seconds of life, each is replaced after 6, and no client meets one that has ended."""
    with Town(tmp_path, responder=True, validity=9) as town:
        service = serve(town.dwaarfile(SITE))
        town.wait("example.test", staple=True)
        with town.load("example.test", threads=2) as load:
            until("two renewals", lambda: len(load.serials) == 3)
        assert load.failures == []
        assert town.orders() == 3
        assert not events(service, "failed")


# --- what waits for its staple ----------------------------------------------


def test_the_former_one_serves_until_the_staple_is_there(tmp_path: Path, serve: Serve) -> None:
    """And what waits is not ordered again, whatever happens to the service."""
    with Town(tmp_path, responder=True) as town:
        service = serve(town.dwaarfile(SITE))
        first = town.wait("example.test", staple=True)
        known = town.site(served(service, "example.test"))
        town.responder.behave("good", leaf=known)
        town.responder.behave("http_503")
        with town.load("example.test", threads=2) as load:
            said = service.refusal(RENEW)
            assert "the new certificate waits for its staple" in said
            [line] = events(service, "failed", "name=example.test")
            assert 'what="staple of the new certificate, so the former one stays"' in line
            assert "answers 503" in line
            assert pending(service) == ["example.test.json", "example.test.pem"]
            assert "waits for its staple" in rows(service)["example.test"]["problem"]
            load.until(5)
        assert load.failures == []
        assert load.serials == [first]
        service.kill()
        service.start()
        assert town.handshake("example.test").good
        # It is asked for again at the start, in vain; and then brought in by hand.
        told(service, "failed", "name=example.test", times=2)
        assert town.handshake("example.test").serial == first
        town.responder.behave("good")
        with town.load("example.test", threads=2) as load:
            assert "good until" in service.console(RENEW)
            load.until(5)
        assert load.failures == []
        assert load.serials[-1] != first
        assert town.orders() == 2
        assert pending(service) == []


def test_killed_while_the_responder_hangs(tmp_path: Path, serve: Serve) -> None:
    """The very first certificate: it was paid for, and is served after the restart."""
    with Town(tmp_path, responder=True) as town:
        town.responder.behave("hang")
        service = serve(town.dwaarfile(SITE))
        town.responder.until_asked()
        assert town.handshake("example.test").serial is None
        assert "example.test.pem" in pending(service)
        service.kill()
        town.responder.behave("good")
        service.start()
        serial = town.wait("example.test", staple=True)
        assert town.orders() == 1
        assert f"Issued certificate serial {digits(serial)}" in town.ca.log
        assert pending(service) == []
        assert events(service, "obtained", f"serial={digits(serial)}")


def test_killed_amid_the_order(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town, front(town.ca) as before:
        service = serve(town.dwaarfile(SITE, cas=[town.acme_ca(before)]))
        first = town.wait("example.test")

        def die(_: dict[str, Any]) -> None:
            service.kill()

        before.refuse = die
        service.console(RENEW, check=False)
        before.refuse = lambda _: None
        service.start()
        assert town.handshake("example.test").serial == first
        assert not events(service, "failed", "what=certificate")
        service.console(RENEW)
        town.wait("example.test", but=[first])
        assert town.accounts() == 1


# --- when the CA wants it (RFC 9773) ----------------------------------------


def information(service: Service) -> dict[str, Any]:
    path = service.storage / "acme" / "renewal" / "example.test.json"
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


def test_a_window_far_away_and_then_one_in_the_past(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path, responder=True) as town, front(town.ca) as modern:
        modern.window = Window.in_(20 * DAY, 22 * DAY)
        service = serve(town.dwaarfile(SITE, cas=[town.acme_ca(modern)]))
        first = town.wait("example.test", staple=True)
        certificate = served(service, "example.test")
        window = modern.window
        moment = until("the window", lambda: information(service)["moment"])
        assert window.start.timestamp() <= moment <= window.end.timestamp()
        assert modern.asked == [ari.certificate_id(certificate)]
        row = rows(service)["example.test"]
        assert row["guard"] == f"OCSP {town.responder.url}, ARI"
        # The moment outlives a restart, and the CA is not asked again before its time.
        service.kill()
        service.start()
        until("the row", lambda: rows(service)["example.test"]["guard"] == row["guard"])
        assert town.handshake("example.test").serial == first
        assert information(service)["moment"] == moment
        assert len(modern.asked) == 1
        # When it is asked again, the CA is about to revoke it.
        service.stop()
        document = information(service)
        document["poll"] = 0.0
        path = service.storage / "acme" / "renewal" / "example.test.json"
        path.write_text(json.dumps(document))
        modern.window = attrs.evolve(Window.in_(-DAY, -DAY / 2), explanation="https://ca.test/why")
        service.start()
        with town.load("example.test", threads=2) as load:
            second = town.wait("example.test", staple=True, but=[first])
            load.until(5)
        assert load.failures == []
        [line] = events(service, "overdue")
        assert "signal=ari" in line
        assert "https://ca.test/why" in line
        assert modern.orders[-1]["replaces"] == ari.certificate_id(certificate)
        assert town.orders() == 2
        # The same window again is no reason to replace one after the other.
        until("the second question", lambda: len(modern.asked) == 3)
        until("its answer", lambda: information(service)["window"][1] > 0)
        assert int(information(service)["serial"], 16) == second
        assert town.orders() == 2
        assert len(events(service, "overdue")) == 1


def test_renewal_information_where_nobody_may_be_asked(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town, front(town.ca) as modern:
        modern.window = Window.in_(-DAY, -DAY / 2)
        service = serve(town.dwaarfile(SITE, options="", cas=[town.acme_ca(modern)]))
        first = town.wait("example.test")
        [line] = told(service, "failed", "what=ari", "name=example.test")
        assert "#warn]" in line
        assert "loopback" in line
        # It is not ended by that, nor renewed; its lifetime says when.
        assert modern.asked == []
        assert information(service)["moment"] == 0.0
        assert town.handshake("example.test").serial == first
        assert town.orders() == 1
        assert len(events(service, "failed")) == 1


# --- when it is revoked -----------------------------------------------------


def revoke(town: Town, service: Service) -> x509.Certificate:
    certificate = served(service, "example.test")
    town.responder.behave("revoked", reason="key_compromise", leaf=town.site(certificate))
    said = service.refusal('refreshOCSP("example.test")')
    assert "the certificate is revoked since" in said
    return certificate


def test_what_is_revoked_is_replaced_at_once(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path, responder=True) as town:
        service = serve(town.dwaarfile(SITE))
        first = town.wait("example.test", staple=True)
        town.responder.behave("good", delay=0.5)
        with town.load("example.test", threads=2, staple=False) as load:
            certificate = revoke(town, service)
            load.until(2)
            second = town.wait("example.test", but=[first])
            load.until(5)
        assert load.failures == []
        assert load.serials == [first, second]
        assert load.unstapled > 0
        assert town.handshake("example.test").good
        assert curl_accepts(town.tls, "example.test", town.trust)
        [line] = events(service, "revoked")
        for words in ("#error]", f"serial={digits(first)}", "signal=ocsp", "keyCompromise"):
            assert words in line
        successor = served(service, "example.test")
        assert successor.public_key() != certificate.public_key()
        [aside] = (service.storage / "certificates").glob("example.test.revoked-*.pem")
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
        assert x509.load_pem_x509_certificate(aside.read_bytes()) == certificate
        assert len(list((service.storage / "ocsp").iterdir())) == 1
        assert town.orders() == 2


def refuse_all(before: Front) -> None:
    before.refuse = lambda _: NO


def test_what_is_revoked_is_not_served_after_a_crash(tmp_path: Path, serve: Serve) -> None:
    """While the CA refuses it is served on, without a staple; a new process knows it no more."""
    with Town(tmp_path, responder=True) as town, front(town.ca) as before:
        service = serve(town.dwaarfile(SITE, cas=[town.acme_ca(before)]))
        first = town.wait("example.test", staple=True)
        refuse_all(before)
        revoke(town, service)
        [line] = told(service, "failed", "what=certificate")
        assert "#error]" in line
        assert "Not now (rejectedIdentifier)" in line
        seen = town.handshake("example.test")
        assert (seen.serial, seen.stapled) == (first, False)
        service.console("reloadAllCertificates()")
        service.hangup()
        seen = town.handshake("example.test")
        assert (seen.serial, seen.stapled) == (first, False)
        assert "revoked since" in rows(service)["example.test"]["why not stapled"]
        service.kill()
        service.start()
        assert town.handshake("example.test").serial is None
        told(service, "failed", "what=certificate", times=2)  # it asks at once, as at any start
        before.refuse = lambda _: None
        assert "good until" in service.console(RENEW)
        second = town.wait("example.test", staple=True)
        assert second != first
        assert "replaces" not in before.orders[-1]


# --- must-staple ------------------------------------------------------------


def test_one_that_demands_a_staple(tmp_path: Path, serve: Serve) -> None:
    """It goes live without one only when there is no other; and everyone is told."""
    site = "example.test {\ntls {\nmust_staple\n}\nrespond hello\n}"
    with Town(tmp_path, responder=True) as town, front(town.ca) as before:
        before.amend = town.demand_staples
        town.responder.behave("http_503")
        service = serve(town.dwaarfile(site, cas=[town.acme_ca(before)]))
        first = town.wait("example.test")
        request = before.requests[-1]
        assert request.extensions.get_extension_for_class(x509.TLSFeature)
        [line] = events(service, "unstapled", "name=example.test", "must_staple=yes")
        assert "#error]" in line
        assert "answers 503" in line
        assert not town.handshake("example.test").stapled
        assert not curl_accepts(town.tls, "example.test", town.trust)
        # The others are good again; the next one is not known to the responder yet.
        known = town.site(served(service, "example.test"))
        town.responder.behave("unknown")
        town.responder.behave("good", leaf=known)
        assert "stapled, good until" in service.console('refreshOCSP("example.test")')
        with town.load("example.test", threads=2) as load:
            assert "waits for its staple" in service.refusal(RENEW)
            [line] = events(service, "failed", "must_staple=yes")
            assert "#error]" in line
            load.until(3)
            # What waits outlives a reload of everything.
            service.hangup()
            service.console("reloadAllCertificates()")
            load.until(3)
            assert load.serials == [first]
            town.responder.behave("good")
            assert "good until" in service.console(RENEW)
            load.until(3)
        assert load.failures == []
        assert len(load.serials) == 2
        assert town.orders() == 2
