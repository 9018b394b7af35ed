"""What is revoked is stapled no more, on any listener, and everyone is told."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dwaarx.certs.record import hexadecimal
from tests.certs.pki import make_ca, make_delegate
from tests.system.listeners import Listeners, shown, told
from tests.system.ocsp_peers import (
    ALLOW,
    OpensslResponder,
    Pki,
    Responder,
    curl_accepts,
    handshake,
)
from tests.system.processes import Service, free_port, until

Serve = Callable[[str], Service]


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def listeners(pki: Pki) -> Listeners:
    return Listeners(pki)


@pytest.fixture
def responder(tmp_path: Path, pki: Pki) -> Iterator[Responder]:
    with Responder(tmp_path, pki.issuer) as running:
        yield running


def test_revoked_by_ocsp(
    pki: Pki, listeners: Listeners, responder: Responder, serve: Serve
) -> None:
    site = pki.leaf(ocsp=[responder.url])
    service = serve(listeners.dwaarfile(site))
    listeners.wait(site)
    [kept] = (service.storage / "ocsp").glob("*.der")
    assert f"OCSP {responder.url}" in shown(service)["guard"]
    responder.behave("revoked", reason="key_compromise")
    said = service.refusal('refreshOCSP("a.test")')
    assert "the certificate is revoked since" in said
    # At once, so that no handshake later than this answer has the staple.
    assert listeners.staples(site.serial) == {False}
    assert not curl_accepts(listeners.https, "a.test", pki.trust)
    assert not kept.exists()
    [line] = told(service, "revoked")
    assert "#error]" in line
    for words in (
        "a.test.pem",
        f"serial={hexadecimal(site.serial)}",
        "signal=ocsp",
        "keyCompromise",
    ):
        assert words in line
    row = shown(service)
    assert row["staple"] == "none"
    assert "revoked since" in row["why not stapled"]
    assert service.console("sum(row['count'] for row in showOCSPCounters() "
                           "if row['outcome'] == 'revoked')").strip() == "1"  # fmt: skip
    # Said again, it is no news.
    service.refusal("refreshOCSP()")
    assert len(told(service, "revoked")) == 1
    assert listeners.staples(site.serial) == {False}
    # Neither is it after a reload, or after a restart that finds no responder.
    service.console("reloadAllCertificates()")
    assert listeners.staples(site.serial) == {False}
    responder.stop()
    service.stop()
    service.start()
    assert listeners.staples(site.serial) == {False}
    # What replaces it goes live by itself, without waiting for its staple: there is none now.
    responder.start()
    new = pki.leaf(ocsp=[responder.url], stem="a.test")
    responder.behave("good", leaf=new)
    until("the new one", lambda: handshake(listeners.dot, "a.test", pki.trust).serial == new.serial)
    listeners.wait(new)


def test_revoked_from_the_start(
    pki: Pki, listeners: Listeners, responder: Responder, serve: Serve
) -> None:
    """It is served, as there is no other; but never with a staple, and everyone is told."""
    responder.behave("revoked", reason="superseded")
    site = pki.leaf(ocsp=[responder.url], must_staple=True)
    service = serve(listeners.dwaarfile(site))
    [line] = until("the alarm", lambda: told(service, "revoked"))
    assert "#error]" in line
    assert "superseded" in line
    assert listeners.staples(site.serial) == {False}


def test_what_is_not_signed_is_no_revocation(
    pki: Pki, listeners: Listeners, responder: Responder, tmp_path: Path, serve: Serve
) -> None:
    """Somebody on the way, who has a CA of the same name, cannot take a staple away."""
    site = pki.leaf(ocsp=[responder.url])
    service = serve(listeners.dwaarfile(site))
    listeners.wait(site)
    with OpensslResponder(tmp_path, pki.issuer, delegate=make_ca("Test Sub")) as false:
        false.stop()
        false.revoke(site)
        false.start()
        responder.behave("redirect", to=f"{false.url}{{request}}")
        said = service.refusal("refreshOCSP()")
    assert "the signer 'CN=Test Sub' was not issued by the certificate's issuer" in said
    assert listeners.staples(site.serial) == {True}
    assert not told(service, "revoked")


@pytest.mark.parametrize("delegated", [False, True])
def test_with_the_responder_of_openssl(
    pki: Pki, listeners: Listeners, tmp_path: Path, serve: Serve, delegated: bool
) -> None:
    delegate = make_delegate(pki.issuer) if delegated else None
    with OpensslResponder(tmp_path, pki.issuer, delegate=delegate) as responder:
        site = pki.leaf(ocsp=[responder.url], must_staple=True)
        service = serve(listeners.dwaarfile(site))
        # It does not know the certificate yet, as is so with new ones.
        until("the refusal", lambda: "does not know the certificate" in service.log())
        assert listeners.staples(site.serial) == {False}
        responder.stop()
        responder.add(site)
        responder.start()
        assert "stapled, good until" in service.console("refreshOCSP()")
        listeners.wait(site)
        responder.stop()
        responder.revoke(site)
        responder.start()
        assert "revoked since" in service.refusal("refreshOCSP()")
        assert listeners.staples(site.serial) == {False}
        assert "keyCompromise" in told(service, "revoked")[0]


# --- by the list of the issuer ----------------------------------------------


def test_revoked_by_the_list(
    pki: Pki, listeners: Listeners, responder: Responder, serve: Serve
) -> None:
    site = pki.leaf(crl=[responder.crl_url])
    other = pki.leaf(stem="other")
    responder.behave_crl("good", revoked=[other], entries=1000)
    service = serve(listeners.dwaarfile(site))
    [seen] = responder.until_asked(of="crl", ended=True)
    assert seen.method == "GET"
    row = shown(service)
    assert row["guard"] == f"CRL {responder.crl_url}"
    assert row["problem"] == ""
    assert "names no OCSP responder" in row["why not stapled"]
    assert listeners.staples(site.serial) == {False}
    assert not told(service, "revoked")
    # While it is current the list on the disk is what counts; so it is taken away here.
    service.stop()
    [kept] = (service.storage / "crl").glob("*.crl")
    kept.unlink()
    responder.behave_crl("good", revoked=[other, site], reason="key_compromise", entries=1000)
    service.start()
    [line] = until("the alarm", lambda: told(service, "revoked"))
    assert "#error]" in line
    for words in (
        "a.test.pem",
        f"serial={hexadecimal(site.serial)}",
        "signal=crl",
        "keyCompromise",
    ):
        assert words in line
    assert "revoked" in shown(service)["why not stapled"]
    # The list on the disk says so too, when there is no other.
    service.kill()
    responder.stop()
    service.start()
    until("the alarm again", lambda: len(told(service, "revoked")) == 2)
    assert "failed what=crl" not in service.log()


BAD_LISTS = {
    "hang": "did not answer within 3 s",
    "http_503": "answers 503",
    "garbage": "looks like a page of HTML",
    "nothing": "it is empty",
    "expired": "the CRL expired at",
    "not_yet": "the CRL is not valid before",
    "bad_signature": "the signature is not that of",
    "stranger": "the signature is not that of",
    "cut": "ended the connection",
    "endless": "answers with more than",
    "redirect_loop": "redirects more than 3 times",
}


def test_lists_that_cannot_be_relied_on(pki: Pki, tmp_path: Path, serve: Serve) -> None:
    """They say that the certificate is revoked, but that is not believed; and told why."""
    port = free_port()
    urls, sites = {}, []
    with ExitStack() as stack:
        for kind in BAD_LISTS:
            responder = stack.enter_context(Responder(tmp_path, pki.issuer))
            urls[kind] = responder.crl_url
            name = f"{kind.replace('_', '-')}.test"
            site = pki.leaf(name, crl=[responder.crl_url])
            responder.behave_crl(kind, revoked=[site])
            sites.append(f"{name}:{port} {{\nbind 127.0.0.1\n{site.tls}\nrespond hello\n}}\n")
        options = ALLOW.replace("{", "{\n    timeout 3s", 1)
        service = serve(f"{{\nhttp_port 0\n{options}\n}}\n{''.join(sites)}")
        until("the warnings", lambda: len(told(service, "failed")) == len(BAD_LISTS))
        said = service.console("{row['guard']: row['problem'] for row in showCertificates()}")
        problems = ast.literal_eval(said)
        for kind, reason in BAD_LISTS.items():
            [line] = [line for line in told(service, "failed") if f" url={urls[kind]} " in line]
            assert "#warn]" in line
            assert "what=crl" in line
            assert reason in line
            assert reason in problems[f"CRL {urls[kind]}"]
        assert not told(service, "revoked")


def test_a_list_where_it_may_not_be(
    pki: Pki, listeners: Listeners, responder: Responder, serve: Serve
) -> None:
    site = pki.leaf(crl=[responder.crl_url])
    service = serve(listeners.dwaarfile(site, ""))
    [line] = until("the warning", lambda: told(service, "failed"))
    assert "a loopback address" in line
    assert responder.connections == 0
