"""Certificates by ACME, obtained by the whole service from a real CA."""

from __future__ import annotations

import json
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.system.acme_peers import EAB_KEY_ID, EAB_MAC_KEY, Bind, Front, bind, front
from tests.system.acme_town import Load, Town, digits, events, rows, served, told
from tests.system.peers import echo_head, tcp_server
from tests.system.processes import PATIENCE, Service, free_port, run

Serve = Callable[[str], Service]

NO_RESPONDER = "the certificate names no OCSP responder"


def site(name: str, *lines: str) -> str:
    body = "\n".join(lines or ("respond hello",))
    return f"{name} {{\n{body}\n}}"


def plain(port: int, host: str, path: str = "/") -> tuple[int, str]:
    """GET by plain HTTP, without following anything."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay)
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# --- http-01 ----------------------------------------------------------------


@pytest.mark.parametrize("redirects", [True, False])
def test_http_01_whatever_the_plain_port_does(
    tmp_path: Path, serve: Serve, redirects: bool
) -> None:
    """A bare site, one on every listener, and one with a site of its own there."""
    dot, doh = free_port(), free_port()
    with Town(tmp_path) as town, tcp_server(echo_head) as upstream:
        sites = [
            f"example.test {{ reverse_proxy 127.0.0.1:{upstream} }}",
            site("dns.test", f"dns_over_tls 127.0.0.1:{dot}", "dns_over_https", "respond web"),
            site(f"dns.test:{doh}", "dns_over_https"),
            site("only.test", f"dns_over_tls 127.0.0.1:{dot}"),
            site("other.test"),
            site(f"http://other.test:{town.http}", "respond no 401"),
        ]
        options = "" if redirects else "auto_https disable_redirects"
        service = serve(town.dwaarfile(*sites, options=options))
        serial = town.wait("example.test")
        assert served(service, "example.test").serial_number == serial
        where = f"example.test:{town.tls}"
        said = run("curl", "-sS", "--noproxy", "*", "--cacert", town.trust,
                   "--resolve", f"{where}:127.0.0.1", f"https://{where}/x")  # fmt: skip
        assert said.startswith("GET /x HTTP/1.1")
        everywhere = town.wait("dns.test")
        assert town.handshake("dns.test", dot).serial == everywhere
        assert town.handshake("dns.test", doh).serial == everywhere
        assert town.wait("only.test", dot) not in (serial, everywhere)
        town.wait("other.test")
        assert plain(town.http, "other.test")[0] == 401
        if redirects:
            assert plain(town.http, "example.test")[0] == 308
        assert "Attempting to validate w/ HTTP" in town.ca.log
        assert town.orders() == 4  # none failed and was followed by another for tls-alpn-01
        assert town.accounts() == 1
        # What was proven is proven: the tokens are gone.
        path = town.ca.log.partition("w/ HTTP: http://")[2].partition("/")[2].partition("\n")[0]
        assert path.startswith(".well-known/acme-challenge/")
        assert plain(town.http, "example.test", f"/{path}")[0] != 200


def test_what_is_shown_and_kept(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path, responder=True) as town:
        service = serve(town.dwaarfile(site("example.test"), site("other.test")))
        serial = town.wait("example.test")
        certificate = served(service, "example.test")
        [line] = told(service, "obtained", "name=example.test")
        issuer = town.issuer.certificate.subject.rfc4514_string()
        for words in (f'issuer="{issuer}"', f"serial={digits(serial)}", "staple=good"):
            assert words in line
        row = rows(service)["example.test"]
        assert row["names"] == "example.test"
        assert row["issuer"] == issuer
        assert int(row["serial"], 16) == serial
        assert row["key"] == "ECDSA P-256"
        assert row["source"] == "acme"
        assert row["staple"].startswith("good until ")
        assert row["why not stapled"] == row["problem"] == ""
        assert row["guard"] == f"OCSP {town.responder.url}"
        assert f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S}" in row["not after"]
        assert row["next attempt"] != "None"
        for path, mode in (
            ("certificates/example.test.pem", 0o600),
            ("acme/localhost/account.json", 0o600),
            ("acme/renewal/example.test.json", 0o644),
        ):
            assert stat.S_IMODE((service.storage / path).stat().st_mode) == mode
        assert list((service.storage / "pending").iterdir()) == []
        keys = [served(service, name).public_key() for name in ("example.test", "other.test")]
        assert keys[0] != keys[1]


# --- tls-alpn-01 ------------------------------------------------------------


def test_tls_alpn_01_beside_other_clients(tmp_path: Path, serve: Serve) -> None:
    """Without a plain port the proof is on the TLS port, where others are served all the while."""
    with Town(tmp_path, plain=False) as town:
        local = site("local.test", "tls internal", "respond hello")
        service = serve(town.dwaarfile(local, http=0))
        intermediate = (service.storage / "internal" / "intermediate.pem").read_bytes()
        [issuer, *_] = x509.load_pem_x509_certificates(intermediate)
        with Load(town.tls, "local.test", service.ca, issuer, threads=2) as load:
            names = [f"n{index}.test" for index in range(3)]
            service.write(town.dwaarfile(local, *map(site, names), http=0))
            service.hangup()
            for name in names:
                town.wait(name)
            load.until(5)
        assert load.failures == []
        assert len(load.serials) == 1
        assert "Attempting to validate w/ HTTP" not in town.ca.log
        # The protocol is for proofs alone.
        said = run("openssl", "s_client", "-connect", f"127.0.0.1:{town.tls}", "-servername",
                   "n0.test", "-alpn", "acme-tls/1", check=False)  # fmt: skip
        assert "ALPN protocol: acme-tls/1" not in said


def test_tls_alpn_01_after_http_01_failed(tmp_path: Path, serve: Serve) -> None:
    """Somebody else has port 80; the attempt goes on by the other way, and no other is needed."""
    with Town(tmp_path, plain=False) as town:
        service = serve(town.dwaarfile(site("example.test"), http=free_port()))
        first = town.wait("example.test")
        assert town.orders() == 2
        assert not events(service, "failed")
        # What worked comes first the next time.
        service.console('renewCertificate("example.test")')
        town.wait("example.test", but=[first])
        assert town.orders() == 3


def test_tls_alpn_01_on_the_port_of_dns_over_tls(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path, plain=False) as town:
        dot = site("dns.test", f"dns_over_tls 127.0.0.1:{town.tls}")
        text = town.dwaarfile(dot, http=0).replace(f"https_port {town.tls}\n", "")
        serve(text)
        town.wait("dns.test")
        assert town.orders() == 1


# --- dns-01 -----------------------------------------------------------------


def by_dns(names: Bind, secret: str = "") -> str:
    words = f"dns rfc2136 {names.address} {names.key_name} {secret or names.secret}"
    return f"tls {{\n{words}\n}}"


def test_dns_01_for_wildcards(tmp_path: Path, serve: Serve) -> None:
    with (
        bind(tmp_path / "bind") as names,
        Town(tmp_path, plain=False, dns_server=names.address) as town,
    ):
        both = site("*.example.test, example.test", by_dns(names), "respond hello")
        wrong = site("*.sub.example.test", by_dns(names, "d3Jvbmc="), "respond hello")
        # Nothing of it needs a port; the others are not kept up by the one that fails.
        service = serve(town.dwaarfile(wrong, both, http=0))
        serial = town.wait("a.example.test")
        assert served(service, "*.example.test").serial_number == serial
        assert town.wait("example.test") != serial
        [line] = told(service, "failed", "name=*.sub.example.test")
        assert "#error]" in line
        assert "The peer didn't like the signature we sent" in line
        assert "rejected" not in line
        row = rows(service)["*.sub.example.test"]
        assert "The peer didn't like the signature we sent" in row["problem"]
        assert row["why not stapled"] == "there is no certificate yet"
        # A name of the wildcard's level is the wildcard's, deeper ones are not.
        assert town.handshake("b.example.test").serial == serial
        assert town.handshake("a.sub.example.test").serial is None
        for owner in ("example.test", "sub.example.test"):
            assert names.texts(f"_acme-challenge.{owner}") == []
        assert "deleting an RR" in names.log
        assert names.secret not in service.log()
        assert "d3Jvbmc" not in service.log()


# --- several CAs ------------------------------------------------------------


def test_a_second_ca_takes_over(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as first:
        second = Town(tmp_path, stem="second", http=first.http, tls=first.tls)
        with second:
            first.ca.stop()
            cas = [first.acme_ca(), second.acme_ca()]
            service = serve(first.dwaarfile(site("a.test"), cas=cas))
            serial = second.wait("a.test")
            assert not events(service, "failed")
            # The first one again when it is back; what the other one gave stays till then.
            first.ca.start()
            assert "good until" in service.console('renewCertificate("a.test")')
            assert first.wait("a.test") != serial
            assert first.orders() == 1
            assert second.orders() == 1


def test_no_ca_at_all(tmp_path: Path, serve: Serve) -> None:
    """Other sites are served, it is tried again, and asked for by hand it is obtained."""
    with Town(tmp_path) as town:
        town.ca.stop()
        down = f"acme_ca https://localhost:{free_port()}/dir {town.ca.bundle}"
        local = site("local.test", "tls internal", "respond hello")
        text = town.dwaarfile(site("example.test"), local, cas=[down, town.acme_ca()])
        service = serve(text)
        [line] = told(service, "failed", "what=certificate", "name=example.test")
        assert "#error]" in line
        assert line.count("it cannot be reached: Connection refused") == 2
        assert "present=none" in line
        assert "next_attempt=" in line
        row = rows(service)["example.test"]
        assert row["problem"] in line.replace('\\"', '"')
        assert row["next attempt"] != "None"
        said = service.refusal('renewCertificate("example.test")')
        assert "it cannot be reached" in said
        assert said.startswith("example.test: ") or "AcmeError: example.test: " in said
        shown = run("openssl", "s_client", "-connect", f"127.0.0.1:{town.tls}", "-servername",
                    "example.test", check=False)  # fmt: skip
        assert "alert handshake failure" in shown
        shown = run("openssl", "s_client", "-connect", f"127.0.0.1:{town.tls}", "-servername",
                    "local.test", "-CAfile", service.ca, check=False)  # fmt: skip
        assert "Verify return code: 0 (ok)" in shown
        town.ca.start()
        assert "good until" in service.console('renewCertificate("example.test")')
        town.wait("example.test")
        assert rows(service)["example.test"]["problem"] == ""


# --- a CA that is not perfect -----------------------------------------------


@pytest.mark.parametrize("nonces", [None, 40])
def test_chaos(tmp_path: Path, serve: Serve, nonces: int | None) -> None:
    with Town(tmp_path, nonce_reject=nonces) as town:
        names = [f"n{index}.test" for index in range(5)]
        service = serve(town.dwaarfile(*map(site, names)))
        serials = {town.wait(name) for name in names}
        assert len(serials) == 5
        assert not events(service, "failed")
        assert town.accounts() == 1


def test_an_order_that_fails_by_itself(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town, front(town.ca) as before:
        left = [0, 1]

        def refuse(_: object) -> tuple[int, dict[str, str], dict[str, str]] | None:
            kind = "urn:ietf:params:acme:error:serverInternal"
            return (500, {"type": kind, "detail": "Oops"}, {}) if left and left.pop() else None

        before.refuse = refuse
        service = serve(town.dwaarfile(site("a.test"), cas=[town.acme_ca(before)]))
        town.wait("a.test")
        assert not events(service, "failed", "what=certificate")


# --- accounts ---------------------------------------------------------------


def account(service: Service) -> dict[str, str]:
    text = (service.storage / "acme" / "localhost" / "account.json").read_text()
    [found] = json.loads(text)["accounts"]
    assert isinstance(found, dict)
    return found


def test_one_account_for_all_times_until_the_ca_forgets_it(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town:
        service = serve(town.dwaarfile(site("a.test")))
        town.wait("a.test")
        made = account(service)
        assert made["email"] == "ops@example.test"
        service.stop()
        service.write(town.dwaarfile(site("a.test"), site("b.test"), email="new@example.test"))
        service.start()
        serial = town.wait("b.test")
        assert town.accounts() == 1
        assert town.orders() == 2  # that of a.test was there
        assert account(service)["url"] == made["url"]
        assert account(service)["email"] == "new@example.test"
        # A CA that lost its accounts; and, being pebble, has another root now.
        town.ca.restart()
        assert "good until" in service.console('renewCertificate("b.test")')
        assert town.wait("b.test") != serial
        assert town.accounts() == 1
        assert account(service)["url"] != made["url"]


def test_an_external_account(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path, eab=True) as town:
        service = serve(town.dwaarfile(site("a.test")))
        [line] = told(service, "failed", "name=a.test")
        assert "it wants an external account" in line
        bound = town.acme_ca(block=f"eab {EAB_KEY_ID} {EAB_MAC_KEY}")
        service.write(town.dwaarfile(site("a.test"), cas=[bound]))
        service.hangup()
        service.console('renewCertificate("a.test")')
        town.wait("a.test")
        assert account(service)["eab"] == EAB_KEY_ID
        assert EAB_MAC_KEY not in service.log()


# --- what is asked of the CA ------------------------------------------------


def test_profiles(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town, front(town.ca) as modern:
        cas = [town.acme_ca(modern, "profile default")]
        sites = [
            site("a.test"),
            site("b.test", "tls {\nprofile shortlived\n}", "respond hello"),
            site("c.test", "tls {\nprofile tlsserver\n}", "respond hello"),
        ]
        service = serve(town.dwaarfile(*sites, cas=cas))
        town.wait("a.test")
        town.wait("b.test")
        wanted = {order["identifiers"][0]["value"]: order.get("profile") for order in modern.orders}
        assert wanted == {"a.test": "default", "b.test": "shortlived"}
        [line] = told(service, "failed", "name=c.test")
        assert "it has no profile 'tlsserver': those it has are default, shortlived" in line


# --- the Dwaarfile changes --------------------------------------------------


def test_a_name_comes_and_goes_without_a_restart(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town:
        service = serve(town.dwaarfile(site("a.test")))
        first = town.wait("a.test")
        service.write(town.dwaarfile(site("a.test"), site("b.test")))
        service.hangup()
        second = town.wait("b.test")
        assert town.handshake("a.test").serial == first
        assert set(rows(service)) == {"a.test", "b.test"}
        service.write(town.dwaarfile(site("a.test")))
        service.hangup()
        assert town.handshake("b.test").serial in (None, first)
        assert set(rows(service)) == {"a.test"}
        assert "there is no certificate for b.test" in service.refusal('renewCertificate("b.test")')
        # What was obtained is kept for when it comes back.
        service.write(town.dwaarfile(site("a.test"), site("b.test")))
        service.hangup()
        assert town.wait("b.test", but=[first]) == second
        assert town.orders() == 2


class Gate:
    """Holds orders back at a Front until it is opened."""

    def __init__(self, before: Front) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()
        before.refuse = self._hold

    def _hold(self, _: object) -> None:
        self.reached.set()
        self._opened.wait(PATIENCE)

    def open(self) -> None:
        self._opened.set()


def test_a_name_goes_and_comes_while_it_is_ordered(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town, front(town.ca) as before:
        gate = Gate(before)
        cas = [town.acme_ca(before)]
        service = serve(town.dwaarfile(site("a.test"), cas=cas))
        assert gate.reached.wait(PATIENCE)
        for names in (["b.test"], ["a.test"], ["b.test"], ["a.test", "b.test"]):
            service.write(town.dwaarfile(*map(site, names), cas=cas))
            service.hangup()
        gate.open()
        town.wait("a.test")
        town.wait("b.test")
        assert town.orders() == 2
        assert not events(service, "failed", "what=certificate")


def test_a_stop_waits_for_no_ca(tmp_path: Path, serve: Serve) -> None:
    with Town(tmp_path) as town, front(town.ca) as before:
        gate = Gate(before)
        service = serve(town.dwaarfile(site("a.test"), cas=[town.acme_ca(before)]))
        assert gate.reached.wait(PATIENCE)
        begin = time.monotonic()
        service.stop()
        assert time.monotonic() - begin < 10
        gate.open()
        assert not events(service, "failed")
        service.start()
        town.wait("a.test")


def test_the_check_of_such_a_dwaarfile(tmp_path: Path) -> None:
    path = tmp_path / "Dwaarfile"
    bundle = tmp_path / "none.pem"
    path.write_text("dns.quad9.net {\nrespond hello\n}\n")
    assert "warning" not in run("dwaarx", "check", path)
    path.write_text("shop.lan {\nrespond hello\n}\n")
    assert ":1:1: warning: no public CA signs `shop.lan`" in run("dwaarx", "check", path)
    path.write_text("*.example.com {\nrespond hello\n}\n")
    said = run("dwaarx", "check", path, check=False)
    assert ":1:1: " in said
    assert "dns rfc2136" in said
    path.write_text(f"{{\nacme_ca https://ca.corp/dir {bundle}\n}}\nshop.lan {{\nrespond x\n}}\n")
    said = run("dwaarx", "check", path, check=False)
    assert ":2:" in said
    assert f"{bundle}: cannot be read" in said
