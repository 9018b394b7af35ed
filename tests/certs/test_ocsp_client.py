from __future__ import annotations

from datetime import timedelta

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from dwaarx.certs.errors import FetchError, FetchFailure, OcspError, Refusal
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.ocsp_client import MAX_POST_ONLY, MAX_RESPONSE, Answer, OcspClient
from dwaarx.certs.ocsp_request import build
from tests.certs import pki

NOW = pki.utc_now()
ROOT = pki.make_ca("Root")
LEAF = pki.make_leaf(ROOT)
GOOD = pki.make_response(LEAF)
REQUEST = build(LEAF.certificate, ROOT.certificate)
URL = "http://ocsp.test/r"
REFUSED = FetchError(FetchFailure.STATUS, "HTTP 405")


def said(body: bytes, headers: dict[str, str] | None = None) -> Fetched:
    return Fetched(200, headers if headers is not None else {}, body, URL)


class FakeFetcher:
    """Answers in turn; `asked` holds method, URL, body and the other arguments."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def fetch(self, url, *, method="GET", body=None, content_type=None, accept=None, limit=0):
        self.asked.append((method, url, body))
        assert accept == "application/ocsp-response"
        assert content_type == (None if body is None else "application/ocsp-request")
        assert limit == MAX_RESPONSE == 65536
        answer = self.answers.pop(0)
        if isinstance(answer, Deferred):
            return answer
        deferred = Deferred()
        if isinstance(answer, Exception):
            deferred.errback(answer)
        else:
            deferred.callback(answer)
        return deferred

    @property
    def methods(self):
        return [method for method, _, _ in self.asked]


def ask(*answers, url=URL):
    fetcher = FakeFetcher(*answers)
    return fetcher, result_of(client_of(fetcher), url)


def client_of(fetcher: FakeFetcher, clock: Clock | None = None) -> OcspClient:
    return OcspClient(fetcher, lambda: NOW, clock or Clock(), lambda: 10.0)


def result_of(client: OcspClient, url=URL):
    results = []
    asked = client.ask(LEAF.certificate, ROOT.certificate, url)
    asked.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results[0]


def test_a_staple_by_get():
    fetcher, answer = ask(said(GOOD))
    assert isinstance(answer, Answer)
    assert answer.staple.der == GOOD
    assert answer.fresh_until is None
    [(method, url, body)] = fetcher.asked
    assert (method, body) == ("GET", None)
    assert url.startswith(f"{URL}/MF")


def test_how_long_http_says_that_it_is_fresh():
    _, answer = ask(said(GOOD, {"cache-control": "max-age=600, public"}))
    assert answer.fresh_until == NOW.timestamp() + 600


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream", ""])
def test_the_content_type_decides_nothing(content_type):
    _, answer = ask(said(GOOD, {"content-type": content_type}))
    assert answer.staple.der == GOOD


def test_a_long_url_is_asked_by_post_at_once():
    url = f"http://ocsp.test/{'x' * 200}"
    fetcher, answer = ask(said(GOOD), url=url)
    assert answer.staple.der == GOOD
    assert fetcher.asked == [("POST", url, REQUEST)]
    # And not a second time.
    fetcher, error = ask(REFUSED, url=url)
    assert error is REFUSED
    assert fetcher.methods == ["POST"]


# --- responders that want POST ----------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        REFUSED,
        said(pki.error_response("MALFORMED_REQUEST")),
        said(b""),
        said(b"<html>Welcome to our OCSP responder"),
    ],
)
def test_one_that_does_not_understand_get_is_asked_by_post(first):
    fetcher, answer = ask(first, said(GOOD))
    assert answer.staple.der == GOOD
    assert fetcher.methods == ["GET", "POST"]
    assert fetcher.asked[1] == ("POST", URL, REQUEST)


def test_and_from_then_on_only_by_post():
    fetcher = FakeFetcher(REFUSED, said(GOOD), said(GOOD), said(GOOD))
    client = client_of(fetcher)
    assert result_of(client).staple.der == GOOD
    assert result_of(client).staple.der == GOOD
    assert result_of(client, "http://other.test").staple.der == GOOD
    assert fetcher.methods == ["GET", "POST", "POST", "GET"]


def test_a_post_that_helped_nothing_is_not_remembered():
    other = FetchError(FetchFailure.STATUS, "HTTP 500")
    fetcher = FakeFetcher(REFUSED, other, said(GOOD))
    client = client_of(fetcher)
    assert result_of(client) is other
    assert result_of(client).staple.der == GOOD
    assert fetcher.methods == ["GET", "POST", "GET"]


def test_the_memory_of_them_is_bounded():
    fetcher = FakeFetcher(*[REFUSED, said(GOOD)] * (MAX_POST_ONLY + 1), said(GOOD), REFUSED)
    client = client_of(fetcher)
    for number in range(MAX_POST_ONLY + 1):
        result_of(client, f"http://ocsp{number}.test")
    fetcher.asked.clear()
    result_of(client, "http://ocsp1.test")
    assert fetcher.methods == ["POST"]
    fetcher.answers.insert(1, said(GOOD))
    result_of(client, "http://ocsp0.test")
    assert fetcher.methods == ["POST", "GET", "POST"]


# --- failures ---------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        FetchError(FetchFailure.REFUSED, "a loopback address"),
        FetchError(FetchFailure.UNREACHABLE, "connection refused"),
        FetchError(FetchFailure.TIMEOUT, "no answer"),
        FetchError(FetchFailure.TOO_LARGE, "too large"),
        FetchError(FetchFailure.BROKEN, "broken"),
        # It says when it wants to be asked again, so it is not asked again now.
        FetchError(FetchFailure.STATUS, "HTTP 503", retry_after=5.0),
    ],
)
def test_what_cannot_be_fetched_is_asked_for_once(error):
    fetcher, failed = ask(error)
    assert failed is error
    assert len(fetcher.asked) == 1


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (pki.make_response(LEAF, status="revoked"), Refusal.REVOKED),
        (pki.make_response(LEAF, status="unknown"), Refusal.UNKNOWN),
        (pki.error_response("TRY_LATER"), Refusal.UNSUCCESSFUL),
        (pki.error_response("UNAUTHORIZED"), Refusal.UNSUCCESSFUL),
        (pki.make_response(pki.make_leaf(ROOT)), Refusal.MISMATCH),
        (pki.assemble(ROOT, []), Refusal.MISMATCH),
        (pki.make_response(LEAF, key=pki.make_key()), Refusal.SIGNATURE),
        (
            pki.make_response(LEAF, this_update=NOW - timedelta(days=9), validity=pki.DAY),
            Refusal.EXPIRED,
        ),
    ],
)
def test_what_is_refused_is_asked_for_once(response, kind):
    fetcher, error = ask(said(response))
    assert isinstance(error, OcspError)
    assert error.kind is kind
    assert fetcher.methods == ["GET"]


@pytest.mark.parametrize(
    ("ago", "lifetime", "reason"),
    [
        (timedelta(days=2), timedelta(days=30), "the response expired at"),
        (timedelta(days=1), timedelta(days=1) - timedelta(minutes=1), "the certificate expired at"),
    ],
)
def test_what_could_not_be_sent_is_no_staple(ago, lifetime, reason):
    """A clock may be five minutes late, and a response ends with its certificate."""
    leaf = pki.make_leaf(ROOT, not_before=NOW - ago, lifetime=lifetime)
    begin = NOW - timedelta(hours=1)
    late = reason.startswith("the response")
    validity = timedelta(minutes=58) if late else timedelta(days=1)
    response = pki.make_response(leaf, this_update=begin, validity=validity)
    failures = []
    asked = client_of(FakeFetcher(said(response))).ask(leaf.certificate, ROOT.certificate, URL)
    asked.addErrback(failures.append)
    assert failures[0].value.kind is Refusal.EXPIRED
    assert failures[0].value.reason.startswith(reason)


UNREADABLE = "the response cannot be read as an OCSP response in DER: it"
HTML = "looks like a page of HTML or XML"
TRAILING = "is followed by bytes that are no part of it (1 of them)"


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"", {}, f"{UNREADABLE} is empty (sent as no Content-Type)"),
        (
            b"<html>",
            {"content-type": "text/html; charset=utf-8"},
            f"{UNREADABLE} {HTML} (sent as text/html; charset=utf-8)",
        ),
        (
            GOOD + b"\0",
            {"content-type": "x\x1b[31m/" + "y" * 500},
            f"{UNREADABLE} {TRAILING} (sent as x[31m/{'y' * 53})",
        ),
    ],
)
def test_garbage_says_what_it_was_sent_as(body, headers, reason):
    fetcher, error = ask(said(body, headers), said(body, headers))
    assert error.kind is Refusal.MALFORMED
    assert error.reason == reason
    assert fetcher.methods == ["GET", "POST"]


def test_the_error_of_the_post_counts():
    _, error = ask(said(b"<html>"), said(pki.make_response(LEAF, status="revoked")))
    assert error.kind is Refusal.REVOKED


def test_a_certificate_that_cannot_be_asked_about(monkeypatch):
    def fails(certificate, issuer):
        raise KeyError("tag")

    monkeypatch.setattr("dwaarx.certs.ocsp_client.build", fails)
    fetcher, error = ask()
    assert error.kind is Refusal.NO_ISSUER
    assert "nothing can be asked" in error.reason
    assert fetcher.asked == []


def test_giving_up_gives_up_the_request():
    cancelled = []
    fetcher = FakeFetcher(Deferred(cancelled.append))
    failures = []
    asked = client_of(fetcher).ask(LEAF.certificate, ROOT.certificate, URL)
    asked.addErrback(failures.append)
    asked.cancel()
    assert len(cancelled) == 1
    assert failures[0].check(CancelledError)


# --- one deadline -----------------------------------------------------------


def test_get_and_post_have_one_deadline():
    clock = Clock()
    given_up = []
    fetcher = FakeFetcher(Deferred(), Deferred(given_up.append))
    get = fetcher.answers[0]
    failures = []
    asked = client_of(fetcher, clock).ask(LEAF.certificate, ROOT.certificate, URL)
    asked.addErrback(failures.append)
    clock.advance(7)
    get.errback(REFUSED)
    assert fetcher.methods == ["GET", "POST"]
    clock.advance(2.9)
    assert failures == given_up == []
    clock.advance(0.1)
    assert len(given_up) == 1
    [failure] = failures
    assert failure.check(FetchError)
    assert failure.value.kind is FetchFailure.TIMEOUT
    assert failure.value.reason == f"{URL} did not answer within 10 s"
    assert clock.getDelayedCalls() == []


def test_what_comes_in_time_leaves_no_deadline():
    clock = Clock()
    fetcher = FakeFetcher(Deferred())
    get = fetcher.answers[0]
    answers = []
    asked = client_of(fetcher, clock).ask(LEAF.certificate, ROOT.certificate, URL)
    asked.addCallback(answers.append)
    clock.advance(9.9)
    get.callback(said(GOOD))
    assert answers[0].staple.der == GOOD
    assert clock.getDelayedCalls() == []


def test_the_fetchers_own_deadline_comes_first_and_says_more():
    clock = Clock()
    slow = Deferred()
    error = FetchError(FetchFailure.TIMEOUT, "the time ended while resolving")

    class Timed(FakeFetcher):
        def fetch(self, url, **kwargs):
            clock.callLater(10.0, slow.errback, error)
            return super().fetch(url, **kwargs)

    failures = []
    asked = client_of(Timed(slow), clock).ask(LEAF.certificate, ROOT.certificate, URL)
    asked.addErrback(failures.append)
    clock.advance(10)
    assert failures[0].value is error


def test_what_the_fetcher_says_when_it_is_given_up_stays():
    clock = Clock()
    error = FetchError(FetchFailure.TIMEOUT, "said by itself")
    failures = []
    asked = client_of(FakeFetcher(Deferred(lambda d: d.errback(error))), clock).ask(
        LEAF.certificate, ROOT.certificate, URL
    )
    asked.addErrback(failures.append)
    clock.advance(10)
    assert failures[0].value is error
