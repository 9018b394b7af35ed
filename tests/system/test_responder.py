"""The responders of these tests are as good, and as nasty, as they claim: OpenSSL is the judge."""

from __future__ import annotations

import base64
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.certs.pki import make_delegate, make_response
from tests.system.ocsp_answers import ANSWERS
from tests.system.ocsp_peers import (
    OpensslResponder,
    Pki,
    Responder,
    Site,
    curl_accepts,
    handshake,
)
from tests.system.processes import background, free_port, listening, run, until


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def responder(tmp_path: Path, pki: Pki) -> Iterator[Responder]:
    with Responder(tmp_path, pki.issuer) as running:
        yield running


@pytest.fixture
def leaf(pki: Pki) -> Site:
    return pki.leaf()


def ask(pki: Pki, url: str, *leaves: Site, timeout: int = 20) -> str:
    """Ask by POST, as `openssl ocsp` does; its verdict in words."""
    issuer = pki.folder / "issuer.pem"
    issuer.write_bytes(pki.issuer.pem)
    words = [word for leaf in leaves for word in ("-cert", str(leaf.certificate))]
    return run("openssl", "ocsp", "-url", url, "-issuer", issuer, *words, "-CAfile", pki.trust,
               "-verify_other", issuer, "-no_nonce", "-timeout", str(timeout),
               check=False)  # fmt: skip


def request_for(leaf: Site, folder: Path) -> bytes:
    """The request that OpenSSL would send."""
    out = folder / "request.der"
    issuer = folder / "of.pem"
    issuer.write_bytes(leaf.entity.issuer.pem)
    run("openssl", "ocsp", "-issuer", issuer, "-cert", leaf.certificate, "-no_nonce",
        "-reqout", out)  # fmt: skip
    return out.read_bytes()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def fetch(url: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body; redirects are not followed."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    try:
        with opener.open(url, body, 20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def get_url(base: str, request: bytes) -> str:
    return f"{base}/{quote(base64.b64encode(request), safe='')}"


# --- what is said -----------------------------------------------------------

VERDICTS = {
    "good": ("Response verify OK", ": good\n", "Next Update:"),
    "revoked": ("Response verify OK", ": revoked\n", "Reason: keyCompromise"),
    "unknown": ("Response verify OK", ": unknown\n"),
    "expired": ("Response verify OK", "Status times invalid", "status expired"),
    "not_yet": ("Response verify OK", "Status times invalid", "status not yet valid"),
    "no_next_update": ("Response verify OK", ": good\n"),
    "wrong_certificate": ("Response verify OK", "No Status found"),
    "wrong_order": ("Response verify OK", ": good\n"),
    "empty_list": ("Response Verify Failure", "response contains no revocation"),
    "bad_signature": ("Response Verify Failure", "signature failure"),
    "stranger": ("Response Verify Failure", "self-signed certificate"),
    "delegate": ("Response verify OK", ": good\n"),
    "delegate_expired": ("Response Verify Failure", "certificate has expired"),
    "delegate_without_eku": ("Response Verify Failure", "missing ocspsigning usage"),
    "garbage": ("Error querying OCSP responder",),
    "nothing": ("Error querying OCSP responder",),
    "try_later": ("Responder Error: trylater (3)",),
    "internal_error": ("Responder Error: internalerror (2)",),
    "malformed_request": ("Responder Error: malformedrequest (1)",),
    "sig_required": ("Responder Error: sigrequired (5)",),
    "unauthorized": ("Responder Error: unauthorized (6)",),
}


def test_every_answer_is_judged() -> None:
    assert set(VERDICTS) == ANSWERS


@pytest.mark.parametrize("kind", sorted(VERDICTS))
def test_answers(pki: Pki, responder: Responder, leaf: Site, kind: str) -> None:
    responder.behave(kind, reason="key_compromise")
    said = ask(pki, responder.url, leaf)
    for words in VERDICTS[kind]:
        assert words in said
    assert ("Next Update" in said) == (
        "Response verify" in said.replace("V", "v")
        and kind not in ("no_next_update", "wrong_certificate", "empty_list")
    )
    [seen] = responder.until_asked(ended=True)
    assert (seen.method, seen.serial, seen.behaviour) == ("POST", leaf.serial, kind)
    assert seen.complete


@pytest.mark.parametrize("key_type", ["p384", "rsa2048", "ed25519"])
@pytest.mark.parametrize("by_name", [False, True])
def test_cas_with_other_keys(tmp_path: Path, key_type: str, by_name: bool) -> None:
    pki = Pki(tmp_path, key_type=key_type, intermediate=False)
    with Responder(tmp_path, pki.issuer) as responder:
        responder.behave("good", by_name=by_name)
        assert "Response verify OK" in ask(pki, responder.url, pki.leaf())
        [seen] = responder.seen()
        assert seen.behaviour == "good"


def test_the_request_is_answered_with_its_own_hash(
    pki: Pki, responder: Responder, leaf: Site, tmp_path: Path
) -> None:
    issuer = tmp_path / "issuer.pem"
    issuer.write_bytes(pki.issuer.pem)
    for kind in ("good", "wrong_order"):
        responder.behave(kind)
        said = run("openssl", "ocsp", "-url", responder.url, "-issuer", issuer, "-sha256", "-cert",
                   leaf.certificate, "-CAfile", pki.trust, "-verify_other", issuer, "-text",
                   check=False)  # fmt: skip
        assert "Response verify OK" in said
        assert said.count("Hash Algorithm: sha256") >= 2
        assert ": good\n" in said


def test_get(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    request = request_for(leaf, tmp_path)
    root = responder.url.removesuffix("/ocsp")
    for base in (responder.url, root):
        status, fields, body = fetch(get_url(base, request))
        assert (status, fields["Content-Type"]) == (200, "application/ocsp-response")
        response = ocsp.load_der_ocsp_response(body)
        assert response.serial_number == leaf.serial
    assert {each.method for each in responder.seen(leaf)} == {"GET"}
    # And what is no request.
    for url in (responder.url, f"{root}/favicon.ico"):
        response = ocsp.load_der_ocsp_response(fetch(url)[2])
        assert response.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_another_ca(pki: Pki, responder: Responder, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other", name="Other")
    leaf = other.leaf()
    assert "unauthorized" in ask(other, responder.url, leaf)
    with Responder(tmp_path, pki.issuer, other.issuer) as both:
        assert "Response verify OK" in ask(other, both.url, leaf)
        assert "Response verify OK" in ask(pki, both.url, pki.leaf())


def test_short_validity_and_age(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    responder.behave("good", validity=300, age=100)
    _, _, body = fetch(responder.url, request_for(leaf, tmp_path))
    response = ocsp.load_der_ocsp_response(body)
    assert response.next_update_utc is not None
    assert (response.next_update_utc - response.this_update_utc).total_seconds() == 400


# --- how it is said ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["http_500", "http_404", "reset", "cut", "not_http"])
def test_no_answer(pki: Pki, responder: Responder, leaf: Site, kind: str) -> None:
    responder.behave(kind)
    assert "Error querying OCSP responder" in ask(pki, responder.url, leaf)
    [seen] = responder.until_asked(leaf=leaf, ended=True)
    assert seen.behaviour == kind
    assert seen.complete == kind.startswith("http")


def test_cut_and_reset_on_the_wire(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    request = request_for(leaf, tmp_path)
    responder.behave("cut", "reset")
    with pytest.raises(http.client.IncompleteRead):
        fetch(responder.url, request)
    with pytest.raises((ConnectionResetError, urllib.error.URLError), match="reset"):
        fetch(responder.url, request)


def test_fields_of_errors(responder: Responder) -> None:
    responder.behave("http_503", retry_after=120)
    status, fields, _ = fetch(responder.url)
    assert (status, fields["Retry-After"]) == (503, "120")


def test_caching_fields(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    responder.behave("good", headers={"Cache-Control": "max-age=3600", "Content-Type": "text/x"})
    status, fields, _ = fetch(responder.url, request_for(leaf, tmp_path))
    assert status == 200
    assert fields["Cache-Control"] == "max-age=3600"
    assert fields["Content-Type"] == "text/x"


def test_refused_get(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    request = request_for(leaf, tmp_path)
    responder.behave("refuse_get", answer="unknown")
    status, fields, _ = fetch(get_url(responder.url, request))
    assert (status, fields["Allow"]) == (405, "POST")
    status, _, body = fetch(responder.url, request)
    response = ocsp.load_der_ocsp_response(body)
    assert response.certificate_status is ocsp.OCSPCertStatus.UNKNOWN


def test_redirects(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    request = request_for(leaf, tmp_path)
    responder.behave("redirect", to="file:///etc/passwd")
    status, fields, _ = fetch(responder.url, request)
    assert (status, fields["Location"]) == (302, "file:///etc/passwd")
    responder.behave("redirect", to="http://127.0.0.1:1/{request}", status=307)
    status, fields, _ = fetch(get_url(responder.url, request))
    assert (status, fields["Location"]) == (307, get_url("http://127.0.0.1:1", request))


def test_a_redirect_loop(responder: Responder) -> None:
    responder.behave("redirect_loop", "good")
    url, seen = responder.url, set()
    for _ in range(20):
        status, fields, _ = fetch(url)
        assert status == 302
        url = fields["Location"]
        seen.add(url)
    assert len(seen) == 20
    assert len(responder.seen()) == 20


@pytest.mark.parametrize("size", [1 << 20, 70_000])
def test_oversize(responder: Responder, leaf: Site, tmp_path: Path, size: int) -> None:
    responder.behave("oversize", size=size)
    status, fields, body = fetch(responder.url, request_for(leaf, tmp_path))
    assert status == 200
    assert len(body) == int(fields["Content-Length"]) == size
    assert body.startswith(b"\x30\x82")


def connect(responder: Responder, request: bytes) -> socket.socket:
    """Send a request and leave the answer to be read."""
    sock = socket.create_connection((responder.host, responder.port), 20)
    head = f"POST /ocsp HTTP/1.1\r\nHost: r.test\r\nContent-Length: {len(request)}\r\n\r\n"
    sock.sendall(head.encode() + request)
    return sock


def test_endless(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    responder.behave("endless")
    with connect(responder, request_for(leaf, tmp_path)) as sock:
        taken = 0
        while taken < 8 << 20:
            taken += len(sock.recv(1 << 20))
    [seen] = responder.until_asked(ended=True)
    assert seen.sent >= taken
    assert not seen.complete


def test_drip(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    responder.behave("drip", interval=0.002, answer="revoked")
    _, _, body = fetch(responder.url, request_for(leaf, tmp_path))
    response = ocsp.load_der_ocsp_response(body)
    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    responder.behave("drip")
    begun = time.monotonic()
    with connect(responder, request_for(leaf, tmp_path)) as sock:
        assert sock.recv(100) == b"H"
        assert sock.recv(100) == b"T"
        assert 0.9 < time.monotonic() - begun < 10
    assert responder.seen()[1].serial == leaf.serial


def test_hang(pki: Pki, responder: Responder, leaf: Site) -> None:
    responder.behave("hang")
    ask(pki, responder.url, leaf, timeout=1)
    [seen] = responder.until_asked(ended=True)
    assert seen.took is not None
    assert 0.9 < seen.took < 10
    assert (seen.complete, seen.sent) == (False, 0)


def test_delay(responder: Responder, leaf: Site, tmp_path: Path) -> None:
    responder.behave("good", delay=0.3)
    begun = time.monotonic()
    assert fetch(responder.url, request_for(leaf, tmp_path))[0] == 200
    assert time.monotonic() - begun >= 0.3


# --- rules ------------------------------------------------------------------


def test_rules_in_turn_and_for_one_leaf(pki: Pki, responder: Responder) -> None:
    one, other = pki.leaves(2, ocsp=[responder.url])
    responder.behave("http_500", "unknown", "good")
    responder.behave("revoked", leaf=other)
    assert "Error querying" in ask(pki, responder.url, one)
    assert ": revoked" in ask(pki, responder.url, other)
    assert ": unknown" in ask(pki, responder.url, one)
    assert ": good" in ask(pki, responder.url, one)
    assert ": good" in ask(pki, responder.url, one)
    responder.behave(leaf=other)
    assert ": good" in ask(pki, responder.url, other)
    assert [each.behaviour for each in responder.seen(other)] == ["revoked", "good"]
    assert len(responder.until_asked(6)) == 6


def test_rules_that_mean_nothing_are_refused(responder: Responder) -> None:
    for kind, answer in (("godo", "good"), ("drip", "hang")):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            responder.behave(kind, answer=answer)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        responder.behave_crl("revoked")


def test_down_and_up_again(pki: Pki, responder: Responder, leaf: Site) -> None:
    port = responder.port
    responder.behave("unknown")
    assert ": unknown" in ask(pki, responder.url, leaf)
    responder.stop()
    assert not listening(port)
    assert "Error querying" in ask(pki, responder.url, leaf, timeout=1)
    responder.behave("revoked")
    responder.start()
    assert responder.port == port
    assert ": revoked" in ask(pki, responder.url, leaf)
    assert [each.behaviour for each in responder.seen()] == ["unknown", "revoked"]


def test_silent_connections_count(responder: Responder) -> None:
    assert responder.connections == 0
    with socket.create_connection((responder.host, responder.port)):
        until("the connection", lambda: responder.connections == 1)
    assert responder.seen() == []


def test_ipv6(tmp_path: Path, pki: Pki, leaf: Site) -> None:
    with Responder(tmp_path, pki.issuer, host="::1") as responder:
        assert responder.url == f"http://[::1]:{responder.port}/ocsp"
        status, _, body = fetch(responder.url, request_for(leaf, tmp_path))
        assert status == 200
        assert ocsp.load_der_ocsp_response(body).serial_number == leaf.serial


def test_200_certificates_at_once_while_another_hangs(pki: Pki, responder: Responder) -> None:
    def fetch_for(leaf: Site) -> int:
        builder = ocsp.OCSPRequestBuilder().add_certificate(
            leaf.entity.certificate, pki.issuer.certificate, SHA1()
        )
        request = builder.build().public_bytes(Encoding.DER)
        return ocsp.load_der_ocsp_response(fetch(responder.url, request)[2]).serial_number

    leaves = pki.leaves(200)
    responder.behave("hang", leaf=leaves[0])
    request = request_for(leaves[0], pki.folder)
    with connect(responder, request), ThreadPoolExecutor(50) as pool:
        serials = list(pool.map(fetch_for, leaves[1:]))
    assert serials == [each.serial for each in leaves[1:]]
    assert len(responder.until_asked(200)) == 200


# --- CRLs -------------------------------------------------------------------


def crl_verdict(pki: Pki, responder: Responder, leaf: Site) -> str:
    """Fetch the CRL and have `openssl verify` look at the leaf with it."""
    status, fields, body = fetch(responder.crl_url)
    assert (status, fields["Content-Type"]) == (200, "application/pkix-crl")
    der, pem, above = (pki.folder / name for name in ("crl.der", "crl.pem", "above.pem"))
    der.write_bytes(body)
    above.write_bytes(pki.issuer.pem)
    said = run("openssl", "crl", "-inform", "DER", "-in", der, "-out", pem, check=False)
    if not pem.exists():
        return said
    return run("openssl", "verify", "-CAfile", pki.trust, "-untrusted", above, "-CRLfile", pem,
               "-crl_check", leaf.certificate, check=False)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("good", ": OK"),
        ("expired", "CRL has expired"),
        ("not_yet", "CRL is not yet valid"),
        ("bad_signature", "CRL signature failure"),
        ("stranger", "unable to get certificate CRL"),
        ("garbage", "Unable to load CRL"),
        ("nothing", "Unable to load CRL"),
    ],
)
def test_crls(pki: Pki, responder: Responder, leaf: Site, kind: str, verdict: str) -> None:
    responder.behave_crl(kind)
    assert verdict in crl_verdict(pki, responder, leaf)
    [seen] = responder.seen(of="crl")
    assert (seen.path, seen.serial, seen.behaviour) == ("/crl", None, kind)


def test_a_crl_that_revokes(pki: Pki, responder: Responder, leaf: Site) -> None:
    other = pki.leaf("other.test")
    responder.behave_crl("good", revoked=[leaf], reason="key_compromise", entries=3000)
    assert "certificate revoked" in crl_verdict(pki, responder, leaf)
    assert ": OK" in crl_verdict(pki, responder, other)
    assert len(fetch(responder.crl_url)[2]) > 64 << 10


def test_crls_behave_too(tmp_path: Path, pki: Pki, responder: Responder, leaf: Site) -> None:
    responder.behave_crl("http_500", "cut", "good")
    assert fetch(responder.crl_url)[0] == 500
    other = Pki(tmp_path / "other", name="Other")
    with Responder(tmp_path, pki.issuer, other.issuer) as both:
        assert fetch(f"{both.crl_url}/1")[2] != fetch(both.crl_url)[2]
        (tmp_path / "crl").write_bytes(fetch(f"{both.crl_url}/1")[2])
    said = run("openssl", "crl", "-inform", "DER", "-in", tmp_path / "crl", "-noout", "-issuer")
    assert "Other Sub" in said


# --- the PKI ----------------------------------------------------------------


def test_what_leaves_say(pki: Pki) -> None:
    leaf = pki.leaf(
        "a.test",
        "*.a.test",
        ocsp=["http://one.test/", "http://two.test/"],
        crl=["http://crl.test/1"],
        must_staple=True,
    )
    said = run("openssl", "x509", "-in", leaf.certificate, "-noout", "-text", "-ocsp_uri")
    for words in ("http://one.test/\nhttp://two.test/", "URI:http://crl.test/1", "status_request",
                  "DNS:a.test, DNS:*.a.test"):  # fmt: skip
        assert words in said
    assert leaf.certificate.read_text().count("BEGIN CERT") == 3
    alone = pki.leaf("b.test", chain=())
    assert alone.certificate.read_text().count("BEGIN CERT") == 1
    assert leaf.tls == f"tls {pki.folder}/a.test.pem {pki.folder}/a.test.key"


# --- OpenSSL as the responder -----------------------------------------------


@pytest.mark.parametrize("delegated", [False, True])
def test_openssl_as_the_responder(tmp_path: Path, pki: Pki, delegated: bool) -> None:
    one, other, third = pki.leaves(3)
    delegate = make_delegate(pki.issuer) if delegated else None
    with OpensslResponder(tmp_path, pki.issuer, [one, other], delegate=delegate) as responder:
        said = ask(pki, responder.url, one)
        assert "Response verify OK" in said
        assert ": good\n" in said
        assert ": unknown\n" in ask(pki, responder.url, third)
        status, _, body = fetch(get_url(responder.url.rstrip("/"), request_for(one, tmp_path)))
        assert status == 200
        assert ocsp.load_der_ocsp_response(body).serial_number == one.serial
        port = responder.port
        responder.stop()
        assert not listening(port)
        responder.revoke(other)
        responder.add(third)
        responder.start()
        assert responder.port == port
        said = ask(pki, responder.url, other)
        assert ": revoked\n" in said
        assert "Reason: keyCompromise" in said
        assert ": good\n" in ask(pki, responder.url, third)


# --- the judges -------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "stapled", "good", "accepted"),
    [
        (None, False, False, False),
        ("good", True, True, True),
        ("unknown", True, False, False),
        ("forged", True, True, False),
    ],
)
def test_judges(
    tmp_path: Path, pki: Pki, status: str | None, stapled: bool, good: bool, accepted: bool
) -> None:
    leaf, port = pki.leaf(), free_port()
    words: list[str | Path] = []
    if status is not None:
        stranger = Pki(tmp_path / "stranger").issuer
        response = (
            make_response(leaf.entity, stranger, issuer=leaf.entity.issuer)
            if status == "forged"
            else make_response(leaf.entity, status=status)
        )
        (tmp_path / "staple").write_bytes(response)
        words = ["-status_file", tmp_path / "staple"]
    with background("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-www", "-cert",
                    leaf.certificate, "-cert_chain", leaf.certificate, "-key", leaf.key, *words,
                    ready=lambda: listening(port), log=tmp_path / "log"):  # fmt: skip
        seen = handshake(port, "a.test", pki.trust)
        assert (seen.serial, seen.stapled, seen.good) == (leaf.serial, stapled, good)
        assert (seen.next_update is not None) == stapled
        assert curl_accepts(port, "a.test", pki.trust) is accepted
    assert handshake(port, "a.test", pki.trust).serial is None
    assert not curl_accepts(port, "a.test", pki.trust)
