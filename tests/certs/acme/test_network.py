from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests
from josepy.jwk import JWKEC

from dwaarx.certs.acme import network as network_module
from dwaarx.certs.acme.account import Account
from dwaarx.certs.acme.network import Network, Reply, Signer, silence
from dwaarx.certs.acme.problems import CaError
from dwaarx.config.model import AcmeCa
from tests.certs.acme.fake_ca import BASE, Answer, FakeCa, Stop, problem

CA = AcmeCa(f"{BASE}/dir")
KEY: JWKEC = Account.new(CA).jwk
NONCE = f"{BASE}/newNonce"


def post(network: Network, what: str = "thing") -> Reply:
    return network.post(f"{BASE}/{what}", None, Signer(KEY), NONCE)


def fails(ca: FakeCa, *answers: Any, stop: Stop | None = None) -> CaError:
    ca.script["thing"] = list(answers)
    with pytest.raises(CaError) as caught:
        post(ca.network(stop=stop))
    return caught.value


def test_a_nonce_is_fetched_once_and_then_taken_from_the_answers() -> None:
    ca = FakeCa()
    ca.script["thing"] = [Answer()] * 3
    network = ca.network()
    for _ in range(3):
        assert post(network).status == 200
    assert ca.requests == ["HEAD /newNonce", *["POST /thing"] * 3]


def test_refused_nonces_are_replaced_by_those_of_the_refusals() -> None:
    ca = FakeCa()
    ca.script["thing"] = [*[problem("badNonce")] * 20, Answer(body=b"{}")]
    stop = Stop()
    assert post(ca.network(stop=stop)).json == {}
    assert ca.requests.count("HEAD /newNonce") == 1
    assert stop.waits == []


def test_a_ca_that_takes_no_nonce_at_all() -> None:
    error = fails(FakeCa(), *[problem("badNonce", "No")] * 30)
    assert (error.reason, error.rejected) == ("No (badNonce)", False)


def test_no_nonce_and_one_that_is_none() -> None:
    ca = FakeCa()
    ca.script["newNonce"] = [Answer(headers={"Replay-Nonce": ""})]
    assert "gives no Replay-Nonce" in fails(ca).reason
    ca = FakeCa()
    ca.script["newNonce"] = [Answer(headers={"Replay-Nonce": "é!"})]
    assert "is no base64url" in fails(ca).reason


@pytest.mark.parametrize(
    "hiccup",
    [
        Answer(500),
        Answer(502, b"<html>"),
        problem("serverInternal", status=503),
        requests.ConnectionError("gone"),
        requests.exceptions.ChunkedEncodingError("gone"),
    ],
)
def test_what_passes_is_tried_once_more(hiccup: Any) -> None:
    ca = FakeCa()
    ca.script["thing"] = [hiccup, Answer()]
    stop = Stop()
    assert post(ca.network(stop=stop)).status == 200
    assert stop.waits == [1.0]
    error = fails(FakeCa(), hiccup, hiccup, Answer())
    assert not error.rejected
    assert not error.passing


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (requests.ReadTimeout(), "did not answer within 10 s"),
        (requests.ConnectTimeout(), "did not answer within 10 s"),
        (requests.exceptions.SSLError("bad"), "cannot be reached: bad"),
        (Answer(404), "HTTP status 404"),
        (Answer(302, headers={"Location": "https://elsewhere.test/"}), "redirects to https://else"),
        (Answer(302), "redirects to nowhere"),
        (Answer(body=b"x" * 300_000), "larger than 262144 bytes"),
    ],
)
def test_what_is_not_tried_again(answer: Any, reason: str) -> None:
    ca = FakeCa()
    error = fails(ca, answer, Answer())
    assert reason in error.reason
    assert ca.requests.count("POST /thing") == 1


def test_the_reason_is_the_one_at_the_bottom() -> None:
    outer = requests.ConnectionError("HTTPSConnectionPool(…): Max retries exceeded")
    outer.__context__ = OSError("wrapped")
    outer.__context__.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert fails(FakeCa(), outer, outer).reason == "it cannot be reached: Connection refused"
    outer = requests.exceptions.SSLError("long")
    below = ssl.SSLCertVerificationError("x")
    below.verify_message = "self-signed certificate"
    outer.__cause__ = below
    assert fails(FakeCa(), outer).reason == (
        "it cannot be reached: its certificate is not trusted: self-signed certificate"
    )
    assert "ConnectionError" in fails(FakeCa(), *[requests.ConnectionError()] * 2).reason


@pytest.mark.parametrize(
    ("headers", "retry_after"),
    [
        ({"Retry-After": "3600"}, 3600.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], retry_after: float | None) -> None:
    stop = Stop()
    limited = problem("rateLimited", "Too many", 429)
    error = fails(FakeCa(), Answer(429, limited.body, headers), stop=stop)
    assert error.retry_after == (None if retry_after is None else stop.now + retry_after)
    assert error.reason == "Too many (rateLimited)"
    assert not error.rejected
    if retry_after is not None:
        down = fails(FakeCa(), Answer(503, b"", headers), stop=stop)  # and not again at once
        assert down.retry_after == stop.now + retry_after


def test_the_ca_may_not_send_us_off_https() -> None:
    network = FakeCa().network()
    with pytest.raises(CaError, match="which is not https"):
        network.get("http://ca.test/thing")
    with pytest.raises(CaError, match="which is not https"):
        network.get("file:///etc/passwd")
    ca = FakeCa()
    plain = ca.network(AcmeCa("http://ca.test/dir"))  # for those who wrote so
    plain._session.mount("http://", ca)
    assert plain.get("http://ca.test/dir").status == 200
    for other in ("http://192.0.2.1/dir", "http://ca.test:81/dir", "http://x@ca.test/dir"):
        with pytest.raises(CaError, match="which is not https"):  # but not to others
            plain.get(other)


def test_urls_that_are_none() -> None:
    network = FakeCa().network()
    for url in ("https://", "https://[", "https://ca.test:port/", "//", ""):
        with pytest.raises(CaError):
            network.get(url)


@pytest.mark.parametrize("headers", [{}, {"location": ""}, {"location": "https://ca.test/\x1b[2J"}])
def test_an_answer_without_location(headers: dict[str, str]) -> None:
    with pytest.raises(CaError, match="no Location"):
        Reply(201, headers, b"", None).location()


def test_stopping() -> None:
    ca, stop = FakeCa(), Stop()
    network = ca.network(stop=stop)
    stop.set()
    with pytest.raises(CaError, match="stopping"):
        network.get(CA.directory)
    with pytest.raises(CaError, match="stopping"):
        network.pause(5)
    assert ca.requests == []


def test_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/elsewhere.pem")
    ca = FakeCa()
    ca.network(AcmeCa(f"{BASE}/dir", Path("/bundle.pem"))).get(CA.directory)
    assert ca.verify == "/bundle.pem"
    assert not ca.proxies


@pytest.mark.parametrize(
    ("cafile", "filled", "expected"),
    [("/there.pem", True, "/there.pem"), (None, True, "FOLDER"), (None, False, True)],
)
def test_trust_without_a_bundle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cafile: str | None,
    filled: bool,
    expected: str | bool,
) -> None:
    if filled:
        (tmp_path / "ca.pem").touch()
    paths = ssl.DefaultVerifyPaths(cafile, str(tmp_path), "", "", "", "")
    monkeypatch.setattr(network_module.ssl, "get_default_verify_paths", lambda: paths)
    ca = FakeCa()
    ca.network().get(CA.directory)
    assert ca.verify == (str(tmp_path) if expected == "FOLDER" else expected)


def test_a_bundle_that_is_not_there() -> None:
    network = Network(AcmeCa("https://localhost:1/dir", Path("/nowhere.pem")), Stop())
    with pytest.raises(CaError, match=r"cannot be reached: .*/nowhere"):
        network.get("https://localhost:1/dir")
    network.close()


def test_the_libraries_log_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keep = Keep()
    logging.getLogger().addHandler(keep)
    try:
        silence()
        silence()
        for name in ("acme.client", "josepy.jwk", "requests", "urllib3.connectionpool"):
            logging.getLogger(name).error("a secret")
    finally:
        logging.getLogger().removeHandler(keep)
    assert records == []
    assert "secret" not in capfd.readouterr().err
    handlers = logging.getLogger("acme").handlers
    assert [type(each) for each in handlers].count(logging.NullHandler) == 1
