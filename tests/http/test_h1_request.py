import pytest

from dwaarx.http import h1_request
from dwaarx.http.events import (
    RequestHead,
)
from tests.http.h1_driver import GET, Driver, both, request

pytestmark = pytest.mark.usefixtures("fixed_date")


def test_a_head() -> None:
    driver = both(request(b"X-A:  1 2\t", b"Accept:", host=b"hOsT:Ex.com:80\r\n"))
    assert driver.heads == [
        RequestHead(
            b"GET", b"https", b"ex.com:80", b"/", [(b"x-a", b"1 2"), (b"accept", b"")], b"1.1"
        )
    ]
    assert not driver.over


@pytest.mark.parametrize(
    ("line", "target", "authority"),
    [
        (b"GET /a?b HTTP/1.1", b"/a?b", b"a"),
        (b"PROPFIND / HTTP/1.1", b"/", b"a"),
        (b"M-SEARCH / HTTP/1.1", b"/", b"a"),
        (b"OPTIONS * HTTP/1.1", b"*", b"a"),
        (b"GET http://B:8/c?d HTTP/1.1", b"/c?d", b"b:8"),
        (b"GET HTTPS://b HTTP/1.1", b"/", b"b"),
        (b"GET http://b?c HTTP/1.1", b"/?c", b"b"),
        (b"OPTIONS http://b HTTP/1.1", b"*", b"b"),
        (b"GET //b HTTP/1.1", b"//b", b"a"),
    ],
)
def test_targets(line: bytes, target: bytes, authority: bytes) -> None:
    (head,) = both(request(line=line)).heads
    assert (head.target, head.authority) == (target, authority)


def test_one_empty_line_before_a_request_is_ignored() -> None:
    assert len(both(b"\r\n" + GET + b"\r\n" + GET).heads) == 2


def test_http_1_0_needs_no_host() -> None:
    driver = both(b"GET / HTTP/1.0\r\n\r\n")
    assert (driver.heads[0].authority, driver.heads[0].version) == (b"", b"1.0")
    assert driver.over


def test_connection_specific_fields_are_taken_out() -> None:
    lines = (b"Connection: x-a, keep-alive", b"Keep-Alive: 5", b"X-A: 1", b"TE: trailers, gzip")
    (head,) = both(request(*lines, b"Upgrade: a", b"Proxy-Connection: close", b"X: 1")).heads
    assert head.fields == [(b"te", b"trailers"), (b"x", b"1")]
    assert head.upgrade is None


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ((b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket"), b"websocket"),
        ((b"Connection: upgrade", b"Upgrade: a/1.2, b"), b"a/1.2"),
        ((b"Connection: upgrade",), None),
        ((b"Connection: upgrade", b"Upgrade: h2c", b"HTTP2-Settings: x"), None),
        ((b"Connection: upgrade", b"Upgrade: HTTP/2.0"), None),
        ((b"Connection: upgrade", b"Upgrade: a b"), None),
        ((b"Connection: upgrade", b"Upgrade: a/b c"), None),
        ((b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 0"), b"websocket"),
        ((b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 1"), None),
        ((b"Connection: upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked"), None),
    ],
)
def test_upgrade(lines: tuple[bytes, ...], upgrade: bytes | None) -> None:
    assert both(request(*lines)).heads[0].upgrade == upgrade


def test_http_1_0_cannot_upgrade() -> None:
    lines = (b"Connection: upgrade", b"Upgrade: websocket")
    assert both(request(*lines, line=b"GET / HTTP/1.0")).heads[0].upgrade is None


BAD_LINES = [
    b"GET / HTTP/1.1 ",
    b"GET  / HTTP/1.1",
    b" GET / HTTP/1.1",
    b"GET / http/1.1",
    b"GET / HTTP/1.1.1",
    b"GET / HTTP/11",
    b"GET /",
    b"GET",
    b"",
    b"GET / x HTTP/1.1",
    b"GET\t/\tHTTP/1.1",
    b"GE(T / HTTP/1.1",
    b"GET /\x00 HTTP/1.1",
    b"GET /\x7f HTTP/1.1",
    b"GET /\xe9 HTTP/1.1",
    b"GET /# HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET a HTTP/1.1",
    b"GET a:80 HTTP/1.1",
    b"GET ftp://a/ HTTP/1.1",
    b"GET http:/// HTTP/1.1",
    b"GET http://u@a/ HTTP/1.1",
    b"GET http://a:99999/ HTTP/1.1",
    b"GET http://a/#b HTTP/1.1",
    b"\rGET / HTTP/1.1",
    b"GET / HTTP/1.1\r",
    b"\r\n\r\nGET / HTTP/1.1",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_request_lines(line: bytes) -> None:
    driver = both(request(line=line))
    assert driver.over
    assert driver.status == 400
    assert driver.heads == []


BAD_FIELDS = [
    b"A : 1",
    b" A: 1",
    b"A\t: 1",
    b": 1",
    b"A",
    b"A: \x00",
    b"A: 1\x0b",
    b"A: \x7f",
    b"A: 1\rB: 2",
    b"A: 1\nB: 2",
    b"A: 1\r\r",
    b"A: 1\r\n folded",
    b"A: 1\r\n\tfolded",
    b"\xe9: 1",
    b"A(: 1",
    b"Host: a",
    b"Host: b",
    b"Content-Length: ",
    b"Content-Length: +1",
    b"Content-Length: -1",
    b"Content-Length: 0x1",
    b"Content-Length: 1 1",
    b"Content-Length: 5, 5",
    b"Content-Length: 1\r\nContent-Length: 2",
    b"Content-Length: 1\r\nContent-Length: 1",
    b"Content-Length: 9999999999999999999",
    b"Content-Length: 1\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 0",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: ",
    b"Connection: a b",
]


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_fields(field: bytes) -> None:
    driver = both(request(field))
    assert driver.over
    assert driver.status == 400
    assert driver.heads == []
    assert b"connection: close" in driver.sent


@pytest.mark.parametrize(
    "host", [b"", b"Host:\r\n", b"Host: a b\r\n", b"Host: a/b\r\n", b"Host: a,\r\nHost: b\r\n"]
)
def test_bad_hosts(host: bytes) -> None:
    assert both(request(host=host)).status == 400


def test_a_bad_host_counts_even_where_the_target_overrules_it() -> None:
    assert both(request(line=b"GET http://a/ HTTP/1.1", host=b"Host: @\r\n")).status == 400


def test_http_1_0_with_transfer_encoding_is_refused() -> None:
    data = request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")
    assert both(data).status == 400


def test_lines_that_end_with_lf_are_refused_at_once() -> None:
    assert both(b"GET / HTTP/1.1\n").status == 400
    assert both(b"GET / HTTP/1.1\r\nHost: a\n").status == 400


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1", 501),
        (b"FOO-BAR / HTTP/1.1", 501),
        (b"get / HTTP/1.1", 501),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/0.9", 505),
        (b"PRI * HTTP/2.0", 505),
    ],
)
def test_what_is_not_served(line: bytes, status: int) -> None:
    assert both(request(line=line)).status == status


def test_another_transfer_coding_is_501() -> None:
    assert both(request(b"Transfer-Encoding: gzip, chunked")).status == 501


def test_a_request_line_has_a_limit() -> None:
    limit = h1_request.MAX_REQUEST_LINE
    padding = b"a" * (limit - len(b"GET / HTTP/1.1"))
    assert both(request(line=b"GET /" + padding + b" HTTP/1.1")).error is None
    assert both(request(line=b"GET /a" + padding + b" HTTP/1.1")).status == 414
    assert both(b"a" * (limit + 2)).status == 414
    assert not both(b"a" * (limit + 1)).over


def test_a_head_has_a_limit() -> None:
    limit = h1_request.MAX_HEAD
    padding = b"X: " + b"a" * (limit - len(request(b"X: ")))
    assert len(request(padding)) == limit
    assert both(request(padding)).error is None
    assert both(request(padding + b"a")).status == 431
    assert both(request(b"X: " + b"a" * 100_000)).status == 431


def test_fields_are_counted() -> None:
    limit = h1_request.MAX_FIELDS
    assert both(request(*[b"a: b"] * (limit - 1))).error is None
    assert both(request(*[b"a: b"] * limit)).status == 431


def test_a_long_head_byte_by_byte_costs_linear_time() -> None:
    # quadratic work here would take minutes
    driver = Driver()
    driver.feed(b"GET / HTTP/1.1\r\n", *[b"X"] * 30_000)
    assert driver.session.head_begun
    assert not driver.over
