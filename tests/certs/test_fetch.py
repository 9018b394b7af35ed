"""Fetching: what is sent, what is taken, what is refused, and how it ends."""

from __future__ import annotations

import gzip
import queue
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis.strategies import binary, integers, lists
from hypothesis.strategies import sampled_from as one_of
from twisted.internet.defer import CancelledError

from dwaarx import __version__
from dwaarx.certs.endpoint import CLOSE_TIMEOUT, MAX_HEAD
from dwaarx.certs.errors import FetchFailure
from dwaarx.certs.fetch import MAX_REDIRECTS, MAX_RESPONSE
from dwaarx.certs.lookup import THREADS
from dwaarx.certs.url import MAX_URL
from tests.certs import fake_internet
from tests.certs.fake_internet import LONG, NOW, PUBLIC

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def internet():
    with fake_internet.internet() as made:
        yield made


# --- what is sent -----------------------------------------------------------


def test_a_get(internet):
    outcome = internet.fetch("http://ocsp.example/a%2Fb%2f%3D=/+x//y;p?q=a+b#no", accept="text/x")
    assert internet.dialled == [(PUBLIC, 80)]
    line = internet.accept()
    assert line.request == (
        "GET /a%2Fb%2f%3D=/+x//y;p?q=a+b HTTP/1.1",
        {
            "host": "ocsp.example",
            "connection": "close",
            "accept": "text/x",
            "accept-encoding": "identity",
            "user-agent": f"dwaarx/{__version__}",
        },
        b"",
    )
    line.says(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: a=b\r\n\r\nhel", b"lo")
    assert outcome.pending
    line.leaves()
    assert outcome.fetched.status == 200
    assert outcome.fetched.headers == {"x-a": "1, 2"}
    assert outcome.fetched.body == b"hello"
    assert outcome.fetched.url == "http://ocsp.example/a%2Fb%2f%3D=/+x//y;p?q=a+b#no"


def test_a_post(internet):
    outcome = internet.fetch(
        "http://ocsp.example:8080", method="POST", body=b"asked", content_type="application/x"
    )
    assert internet.dialled == [(PUBLIC, 8080)]
    line = internet.accept()
    first, headers, body = line.request
    assert (first, body) == ("POST / HTTP/1.1", b"asked")
    assert headers["content-length"] == "5"
    assert headers["content-type"] == "application/x"
    assert headers["host"] == "ocsp.example:8080"
    line.says(OK)
    assert outcome.fetched.body == b"hello"


def test_a_name_in_another_script_and_in_capitals(internet):
    internet.resolver.names["xn--bcher-kva.example"] = [[PUBLIC]]
    internet.fetch("HTTP://Bücher.Example/ä")
    assert internet.dialled == [(PUBLIC, 80)]
    first, headers, _ = internet.accept().request
    assert first == "GET /%C3%A4 HTTP/1.1"
    assert headers["host"] == "xn--bcher-kva.example"


def test_cookies_stay_where_they_came_from(internet):
    for _ in range(2):
        outcome = internet.fetch()
        line = internet.accept()
        assert "cookie" not in line.request[1]
        line.says(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")
        assert outcome.fetched.headers == {}


# --- what is taken ----------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello, more",
    ],
)
def test_answers_whole_and_byte_by_byte(internet, answer):
    assert internet.answer(answer).fetched.body == b"hello"
    bytewise = internet.answer(*(bytes((byte,)) for byte in answer))
    assert bytewise.fetched.body == b"hello"


@pytest.mark.parametrize("status", [200, 201, 203, 206, 299])
def test_every_success_is_one(internet, status):
    answer = b"HTTP/1.1 %d x\r\nContent-Length: 1\r\n\r\ny" % status
    assert internet.answer(answer).fetched.status == status


def test_no_content_is_an_empty_body(internet):
    assert internet.answer(b"HTTP/1.1 204 No Content\r\n\r\n").fetched.body == b""


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "404 Not Found"), (500, "500 Internal Server Error"), (304, "304 Not Modified")],
)
def test_every_other_status_is_an_error(internet, status, words):
    outcome = internet.answer(b"HTTP/1.1 %d evil\x1b[0m\r\nContent-Length: 9\r\n\r\n" % status)
    assert outcome.kind is FetchFailure.STATUS
    assert outcome.reason == f"ocsp.example answers {words}"
    assert outcome.error.retry_after is None
    assert internet.lines[0].ended == ("lose" if status == 304 else "abort")


def test_an_error_or_a_redirect_may_be_compressed_as_it_is_not_read(internet):
    packed = b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    outcome = internet.answer(b"HTTP/1.1 503 x\r\nRetry-After: 120\r\n" + packed)
    assert outcome.reason == "ocsp.example answers 503 Service Unavailable"
    assert outcome.error.retry_after == NOW + 120
    outcome = internet.answer(b"HTTP/1.1 302 x\r\nLocation: /x\r\n" + packed)
    internet.accept().says(OK)
    assert outcome.fetched.body == b"hello"


def test_retry_after_comes_with_the_error(internet):
    outcome = internet.answer(b"HTTP/1.1 503 x\r\nRetry-After: 120\r\n\r\n")
    assert outcome.error.retry_after == NOW + 120
    assert str(outcome.error) == "ocsp.example answers 503 Service Unavailable"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46\n\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 %s OK\r\n\r\n" % (b"9" * 4000),
        b"HTTP/1.1 -200 OK\r\n\r\n",
        b"HTTP/x 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhello\r\n",
    ],
)
def test_what_is_no_http(internet, answer):
    for pieces in [answer], [answer[i : i + 1] for i in range(len(answer))]:
        outcome = internet.answer(*pieces)
        assert outcome.kind is FetchFailure.BROKEN
        assert outcome.reason == "what ocsp.example answers is no HTTP"


@pytest.mark.parametrize(
    ("answer", "stage"),
    [
        (b"", "waiting for its answer"),
        (b"HTTP/1.1 200 OK\r\nConte", "waiting for its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "reading its answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "reading its answer"),
    ],
)
def test_what_breaks_off(internet, answer, stage):
    for method in "leaves", "breaks":
        outcome = internet.answer(answer)
        assert outcome.pending
        getattr(internet.lines[-1], method)()
        assert outcome.kind is FetchFailure.BROKEN
        assert outcome.reason == f"ocsp.example ended the connection while {stage}"


def test_contents_are_never_decoded(internet):
    bomb = gzip.compress(bytes(10_000_000))
    outcome = internet.answer(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb),
        bomb,
    )
    assert outcome.kind is FetchFailure.BROKEN
    assert outcome.reason == "the answer is compressed, which was not asked for"
    assert internet.lines[0].ended == "abort"


# --- bounds -----------------------------------------------------------------


def test_a_body_has_a_limit(internet):
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    outcome = internet.answer(head, bytes(MAX_RESPONSE))
    assert outcome.pending
    internet.lines[0].leaves()
    assert len(outcome.fetched.body) == MAX_RESPONSE
    outcome = internet.answer(head, bytes(MAX_RESPONSE), b"x")
    assert outcome.kind is FetchFailure.TOO_LARGE
    assert outcome.reason == "ocsp.example answers with more than 65536 octets"
    assert internet.lines[1].ended is not None


def test_a_limit_of_ones_own_counts_chunks_as_well(internet):
    chunks = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 10]
    assert internet.answer(*chunks, b"0\r\n\r\n", limit=10).fetched.body == b"x" * 10
    assert internet.answer(*chunks, b"0\r\n\r\n", limit=9).kind is FetchFailure.TOO_LARGE


def test_a_length_beyond_the_limit_is_not_waited_for(internet):
    outcome = internet.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n")
    assert outcome.kind is FetchFailure.TOO_LARGE
    assert internet.lines[0].ended == "abort"


@pytest.mark.parametrize("piece", [b"X-Y: zzzzzzzzzz\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_headers_without_end(internet, piece):
    outcome = internet.fetch()
    line = internet.accept()
    if piece.startswith(b"X"):
        line.says(b"HTTP/1.1 200 OK\r\n")
    sent = 0
    while outcome.pending:
        line.says(piece * 100)
        sent += len(piece) * 100
    assert outcome.kind is FetchFailure.TOO_LARGE
    assert outcome.reason == "ocsp.example answers with endless headers"
    assert sent < MAX_HEAD + 3000
    assert line.ended == "abort"


def test_a_line_without_end(internet):
    outcome = internet.fetch()
    line = internet.accept()
    line.says(*[b"HTTP/1.1 200 " + b"x" * 1000] * 100)
    assert outcome.kind is FetchFailure.BROKEN
    assert line.ended


@pytest.mark.parametrize(
    ("head", "stage"),
    [
        (b"", "waiting for its answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "reading its answer"),
    ],
)
def test_bytes_that_drip_end_with_the_time(internet, head, stage):
    outcome = internet.answer(head)
    for _ in range(99):
        internet.reactor.advance(0.1)
        internet.lines[0].says(b"H")
        assert outcome.pending
    internet.reactor.advance(0.2)
    assert outcome.kind is FetchFailure.TIMEOUT
    assert outcome.reason == (
        f"ocsp.example did not answer within 10 s; the time ended while {stage}"
    )
    assert internet.lines[0].ended == "abort"


def test_the_time_is_asked_for_each_request(internet):
    internet.timeout = 2.5
    outcome = internet.fetch()
    internet.reactor.advance(2.5)
    assert "within 2.5 s; the time ended while connecting to 93.184.215.14" in outcome.reason


def test_a_connection_ends_even_if_the_peer_reads_nothing(internet):
    outcome = internet.fetch()
    line = internet.accept()
    done, line.loseConnection = [], lambda: done.append("lose")
    line.says(OK)
    assert outcome.fetched.body == b"hello"
    assert done
    assert line.ended is None
    internet.reactor.advance(CLOSE_TIMEOUT)
    assert line.ended == "abort"


# --- redirects --------------------------------------------------------------


def redirect(to, status=302):
    return b"HTTP/1.1 %d x\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, to.encode())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(internet, status):
    internet.resolver.names["other.example"] = [["1.1.1.1"]]
    outcome = internet.answer(redirect("//other.example:81/x", status))
    assert internet.lines[0].ended
    assert internet.dialled == [(PUBLIC, 80), ("1.1.1.1", 81)]
    line = internet.accept()
    assert line.request[0] == "GET /x HTTP/1.1"
    assert line.request[1]["host"] == "other.example:81"
    line.says(OK)
    assert outcome.fetched.url == "http://other.example:81/x"


def test_relative_redirects(internet):
    outcome = internet.answer(redirect("../c?d"), url="http://ocsp.example/a/b/")
    line = internet.accept()
    assert line.request[0] == "GET /a/c?d HTTP/1.1"
    line.says(OK)
    assert outcome.fetched.url == "http://ocsp.example/a/c?d"


def test_a_loop_of_redirects_ends(internet):
    outcome = internet.answer(redirect("/"))
    for _ in range(MAX_REDIRECTS):
        assert outcome.pending
        internet.accept().says(redirect("/"))
    assert outcome.kind is FetchFailure.REFUSED
    assert outcome.reason == "ocsp.example redirects more than 3 times"
    assert len(internet.lines) == 1 + MAX_REDIRECTS


def test_the_time_is_one_for_all_redirects(internet):
    outcome = internet.fetch()
    for _ in range(3):
        internet.reactor.advance(3)
        internet.accept().says(redirect("/"))
    internet.reactor.advance(1)
    assert outcome.kind is FetchFailure.TIMEOUT


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("http://127.0.0.1/", "127.0.0.1 is a loopback address"),
        ("http://169.254.169.254/latest", "169.254.169.254 is the metadata service of a cloud"),
        ("http://inside.example/", "inside.example resolves to 10.0.0.1, a private address"),
        ("http://[::ffff:10.0.0.1]/", "::ffff:a00:1 is an IPv4-mapped address that carries"),
        ("ftp://ocsp.example/", "'ftp://ocsp.example/' is not fetched: only http and https are"),
        ("file:///etc/passwd", "'file:///etc/passwd' is not fetched"),
        ("http://me:secret@ocsp.example/", "is not fetched: it holds credentials"),
        ("http://[::1", "with a Location that is no URL"),
        ("http://\udcff/", "with a Location that is no URL"),
    ],
)
def test_redirects_pass_the_same_gate(internet, to, reason):
    internet.resolver.names["inside.example"] = [["10.0.0.1"]]
    outcome = internet.fetch()
    location = to.encode("utf-8", "surrogateescape")
    internet.accept().says(b"HTTP/1.1 302 x\r\nLocation: %s\r\n\r\n" % location)
    assert outcome.kind is FetchFailure.REFUSED
    assert reason in outcome.reason
    assert internet.dialled == [(PUBLIC, 80)]


def test_names_of_redirects_do_not_keep_those_of_certificates_waiting(monkeypatch):
    """Each redirect names another host whose DNS hangs."""
    hanging, asked = threading.Event(), queue.Queue()

    def getaddrinfo(host, *_, **__):
        asked.put(host)
        if host.startswith("hanging"):
            assert hanging.wait(LONG)
        return [(0, 0, 0, "", (PUBLIC, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    reactor = fake_internet.ThreadedReactor()
    with fake_internet.internet(reactor) as made:
        for number in range(THREADS + 1):
            made.fetch()
            reactor.turn()  # the address of ocsp.example
            made.accept().says(redirect(f"http://hanging{number}.example/"))
        outcome = made.fetch("http://other.example/")
        reactor.turn()
        made.accept().says(OK)
        assert outcome.fetched.body == b"hello"
        hanging.set()


def test_who_redirected_is_told(internet):
    internet.resolver.names["other.example"] = [["1.1.1.1"]]
    outcome = internet.answer(redirect("http://other.example/"))
    internet.accept().says(b"HTTP/1.1 503 x\r\nRetry-After: 5\r\n\r\n")
    expected = "other.example answers 503 Service Unavailable (redirected by ocsp.example)"
    assert outcome.reason == expected
    assert outcome.error.retry_after == NOW + 5


def test_a_redirect_to_nowhere(internet):
    outcome = internet.answer(b"HTTP/1.1 302 x\r\n\r\n")
    assert outcome.kind is FetchFailure.STATUS
    assert outcome.reason == "ocsp.example answers 302 Found without a Location"


POST = {"method": "POST", "body": b"asked", "content_type": "application/x"}


@pytest.mark.parametrize("status", [307, 308])
def test_a_post_is_posted_again_where_that_is_meant(internet, status):
    internet.answer(redirect("/new", status), **POST)
    first, headers, body = internet.accept().request
    assert (first, body) == ("POST /new HTTP/1.1", b"asked")
    assert headers["content-type"] == "application/x"


def test_see_other_turns_a_post_into_a_get(internet):
    internet.answer(redirect("/new", 303), **POST)
    first, headers, body = internet.accept().request
    assert (first, body) == ("GET /new HTTP/1.1", b"")
    assert headers.keys().isdisjoint({"content-type", "content-length"})


@pytest.mark.parametrize("status", [301, 302])
def test_a_post_is_not_redirected_where_nobody_knows_what_is_meant(internet, status):
    outcome = internet.answer(redirect("/new", status), **POST)
    assert outcome.kind is FetchFailure.STATUS
    assert "to a POST: 307 or 308 would do" in outcome.reason
    assert len(internet.dialled) == 1


# --- what is not even tried -------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "'' is not fetched: only http and https are"),
        ("ldap://ocsp.example/cn=x", "is not fetched: only http and https are"),
        ("file:///etc/passwd", "is not fetched: only http and https are"),
        ("javascript:alert(1)", "is not fetched: only http and https are"),
        ("//ocsp.example/", "is not fetched: only http and https are"),
        ("http:///x", "names no host"),
        ("http:x", "names no host"),
        ("http://me@ocsp.example/", "is not fetched: it holds credentials"),
        ("http://me:x@ocsp.example/", "is not fetched: it holds credentials"),
        ("http://:x@ocsp.example/", "is not fetched: it holds credentials"),
        ("http://ocsp.example\\@1.1.1.1/", "is not fetched: it holds credentials"),
        ("http://ocsp.example/" + "x" * MAX_URL, "is too long (4116 octets)"),
        ("http://ocsp.example:0/", "is no URL"),
        ("http://ocsp.example:65536/", "is no URL"),
        ("http://ocsp.example:x/", "is no URL"),
        ("http://ocsp.example:/", "is no URL"),
        ("http://ocsp..example/", "is no URL"),
        ("http://ocsp .example/", "is no URL"),
        ("http://ocsp.example/a b", "is no URL"),
        ("http://ocsp.example/a\r\nX: y", "is no URL"),
        ("http://ocsp.example\0.net/", "is no URL"),
        ("http://ocsp%00.example/", "is no URL"),
        ("http://" + "a" * 64 + ".example/", "is no URL"),
        ("http://" + "a." * 127 + "a/", "is no URL"),
        ("http://ü" + "a" * 64 + ".example/", "is no URL"),
        ("http://\udcff.example/", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://[fe80::1%25eth0]/", "is no URL"),
        ("http://[::1]x/", "is no URL"),
    ],
)
def test_urls_that_are_not_asked(internet, url, reason):
    outcome = internet.fetch(url)
    assert outcome.kind is FetchFailure.REFUSED
    assert outcome.reason.endswith(reason)
    assert len(outcome.reason) < 200
    assert outcome.reason.isprintable()
    assert internet.dialled == internet.resolver.asked == []


# --- the end ----------------------------------------------------------------


def at_each_stage(internet):
    """A fetch that resolves, one that connects, one that waits, one that reads."""
    waiting = internet.fetch()
    internet.accept()
    reading = internet.fetch()
    internet.accept().says(b"HTTP/1.1 200 OK\r\n\r\nhel")
    return internet.fetch("http://hanging.example/"), internet.fetch(), waiting, reading


def test_cancelling(internet):
    outcomes = at_each_stage(internet)
    for outcome in outcomes:
        assert outcome.pending
        outcome.deferred.cancel()
        assert isinstance(outcome.error, CancelledError)
    assert [line.ended for line in internet.lines] == ["abort", "abort"]
    assert internet.reactor.connectors[-1].stoppedConnecting
    internet.resolver.answer([PUBLIC], at=2)
    assert len(internet.dialled) == 3


def test_timeout_at_each_stage(internet):
    outcomes = at_each_stage(internet)
    internet.reactor.advance(10)
    assert [outcome.kind for outcome in outcomes] == [FetchFailure.TIMEOUT] * 4
    assert [outcome.reason.partition(" ended while ")[2] for outcome in outcomes] == [
        "resolving its name",
        "connecting to 93.184.215.14",
        "waiting for its answer",
        "reading its answer",
    ]
    assert [line.ended for line in internet.lines] == ["abort", "abort"]
    assert internet.reactor.connectors[-1].stoppedConnecting


def test_closing(internet):
    outcomes = at_each_stage(internet)
    internet.answer(OK)
    internet.fetcher.close()
    for outcome in outcomes:
        assert outcome.kind is FetchFailure.REFUSED
        assert outcome.reason == "the service is stopping"
    assert internet.fetch().reason == "the service is stopping"
    assert internet.reactor.connectors[2].stoppedConnecting


def test_a_closed_fetcher_leaves_no_connection_that_is_closing(internet):
    internet.fetch()
    line = internet.accept()
    line.loseConnection = lambda: None
    line.says(OK)
    internet.fetcher.close()
    assert line.ended == "abort"


PIECES = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /x\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Retry-After: 1\r\n",
    b"\r\n",
    b"\n",
    b"3\r\n",
    b"abc",
    b"0\r\n\r\n",
    b" ",
    b":",
    b"\0",
]


@settings(max_examples=50)  # each makes an internet, and looks for garbage
@given(lists(one_of(PIECES) | binary(max_size=8), max_size=12), integers(1, 40))
def test_whatever_is_answered_ends_as_documented(pieces, size):
    stream = b"".join(pieces)
    with fake_internet.internet() as made:
        outcome = made.fetch()
        line = made.accept()
        line.says(*(stream[i : i + size] for i in range(0, len(stream), size)))
        line.leaves()
        if outcome.pending:  # it was redirected
            made.accept().says(OK)
        if not hasattr(outcome.results[0], "value"):
            assert outcome.fetched.status in range(200, 300)
        else:
            assert outcome.kind in FetchFailure
