from collections.abc import Callable, Iterator

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.http import h1, h1_request
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    Fields,
    RequestHead,
    RequestReceived,
)
from dwaarx.http.fields import FieldError
from dwaarx.http.h1 import H1Session, ResponseError

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(autouse=True, scope="module")
def fixed_date() -> Iterator[None]:
    """Answers are compared, and a second may pass between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h1, "http_date", lambda: b"now")
        yield


class Driver:
    """Feeds a session and answers each request with 204 as soon as it is whole."""

    def __init__(self, answer: Callable[[H1Session], None] | None = None) -> None:
        self.session = H1Session(b"https")
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.trailers: list[Fields] = []
        self.error: str | None = None
        self.over = False
        self.sent = b""
        self._answer = answer or (lambda session: session.send_head(204, (), end=True))

    def feed(self, *parts: bytes) -> "Driver":
        for part in parts:
            events = self.session.receive_data(part)
            while events:
                for event in events:
                    self.take(event)
                events = self.session.next_request()
            self.sent += b"".join(self.session.data_to_send())
        return self

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self.heads.append(event.head)
            self.bodies.append(b"")
            if event.ended:
                self.trailers.append(())
                self._answer(self.session)
        elif isinstance(event, BodyReceived):
            assert event.data, "an empty piece"
            self.bodies[-1] += event.data
        elif isinstance(event, BodyEnded):
            self.trailers.append(event.trailers)
            self._answer(self.session)
        elif isinstance(event, ConnectionEnded):
            self.over = True
            self.error = event.error

    @property
    def status(self) -> int:
        """Of the last answer."""
        return int(self.sent.rpartition(b"HTTP/1.1 ")[2][:3])

    def told(self) -> tuple[object, ...]:
        return self.heads, self.bodies, self.trailers, self.error, self.over, self.sent


def single(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def both(data: bytes) -> Driver:
    """Feed it whole and byte by byte: the same must be told, and answered."""
    whole = Driver().feed(data)
    assert whole.told() == Driver().feed(*single(data)).told()
    return whole


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in lines) + b"\r\n"


# --- heads ---


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


# --- bodies ---


def test_a_body_with_a_length() -> None:
    driver = both(request(b"Content-Length: 5", line=b"POST / HTTP/1.1") + b"hello")
    assert driver.heads[0].content_length == 5
    assert driver.heads[0].fields == [(b"content-length", b"5")]
    assert driver.bodies == [b"hello"]


def test_a_body_of_nothing() -> None:
    driver = both(request(b"Content-Length: 0"))
    assert driver.heads[0].content_length == 0
    assert driver.trailers == [()]


def test_a_body_in_chunks() -> None:
    data = request(b"Transfer-Encoding: Chunked") + b"2\r\nab\r\n3\r\ncde\r\n0\r\nX: 1\r\n\r\n"
    driver = both(data + GET)
    assert driver.heads[0].content_length is None
    assert driver.heads[0].fields == []
    assert driver.bodies == [b"abcde", b""]
    assert driver.trailers == [[(b"x", b"1")], ()]


def test_a_bad_chunk_is_answered_if_nothing_was() -> None:
    driver = both(request(b"Transfer-Encoding: chunked") + b"2\r\nab\r\n0x1\r\n")
    assert driver.bodies == [b"ab"]
    assert driver.status == 400
    assert not driver.session.broken
    assert driver.session.unread


def test_a_bad_chunk_within_a_response_breaks_the_session() -> None:
    session = H1Session(b"http")
    session.receive_data(request(b"Transfer-Encoding: chunked"))
    session.send_head(200, ())
    session.data_to_send()
    (event,) = session.receive_data(b"x\r\n")
    assert isinstance(event, ConnectionEnded)
    assert session.broken
    assert session.data_to_send() == []
    assert session.receive_data(GET) == []
    assert session.next_request() == []


def test_the_answer_to_a_bad_head_request_has_no_body() -> None:
    driver = both(request(b"Transfer-Encoding: chunked", line=b"HEAD / HTTP/1.1") + b"x\r\n")
    assert driver.sent.endswith(b"\r\n\r\n")
    assert driver.sent.count(b"\r\n\r\n") == 1


def test_a_piece_of_a_body_is_not_copied() -> None:
    session = H1Session(b"http")
    session.receive_data(request(b"Content-Length: 100"))
    data = b"x" * 50
    (event,) = session.receive_data(data)
    assert isinstance(event, BodyReceived)
    assert event.data is data


# --- pipelining ---


def test_pipelined_requests_come_one_at_a_time() -> None:
    session = H1Session(b"http")
    events = session.receive_data(GET + request(b"Content-Length: 2") + b"ab" + GET)
    assert [type(event) for event in events] == [RequestReceived]
    assert session.next_request() == []
    assert session.backlog > 0
    session.receive_data(GET)
    session.send_head(204, (), end=True)
    assert [type(e) for e in session.next_request()] == [RequestReceived, BodyReceived, BodyEnded]
    assert session.next_request() == []
    session.send_head(204, (), end=True)
    for _ in range(2):
        assert [type(event) for event in session.next_request()] == [RequestReceived]
        session.send_head(204, (), end=True)
    assert session.next_request() == []
    assert session.at_head
    assert session.backlog == 0


def test_thousands_of_requests_in_one_read() -> None:
    post = request(b"Content-Length: 1") + b"x"
    driver = Driver().feed((GET + post) * 2000)
    assert len(driver.heads) == 4000
    assert driver.bodies == [b"", b"x"] * 2000


def test_a_rejection_comes_behind_the_answers_before_it() -> None:
    driver = both(GET + b"BAD\r\n\r\n" + GET)
    assert driver.sent.startswith(b"HTTP/1.1 204 ")
    assert driver.status == 400
    assert len(driver.heads) == 1


# --- responses ---


def answered(
    data: bytes, status: int, fields: Fields, body: bytes | None = None, trailers: Fields = ()
) -> tuple[bytes, H1Session]:
    session = H1Session(b"http")
    session.receive_data(data)
    session.send_head(status, fields, end=body is None)
    if body is not None:
        session.send_body(body)
        session.end(trailers)
    head, _, rest = b"".join(session.data_to_send()).partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"date: ")]
    return b"|".join(lines) + b"||" + rest, session


GET_1_0 = b"GET / HTTP/1.0\r\n\r\n"
KEPT_1_0 = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "fields", "body", "sent"),
    [
        (GET, 200, (), None, b"HTTP/1.1 200 OK|content-length: 0||"),
        (GET, 200, ((b"content-length", b"2"),), b"ab", b"HTTP/1.1 200 OK|content-length: 2||ab"),
        (GET, 200, (), b"ab", b"HTTP/1.1 200 OK|transfer-encoding: chunked||2\r\nab\r\n0\r\n\r\n"),
        (GET, 200, (), b"", b"HTTP/1.1 200 OK|transfer-encoding: chunked||0\r\n\r\n"),
        (GET_1_0, 200, (), b"ab", b"HTTP/1.1 200 OK|connection: close||ab"),
        (KEPT_1_0, 200, (), b"ab", b"HTTP/1.1 200 OK|connection: close||ab"),
        (
            KEPT_1_0,
            200,
            ((b"content-length", b"1"),),
            b"a",
            b"HTTP/1.1 200 OK|content-length: 1|connection: keep-alive||a",
        ),
        (HEAD, 200, ((b"content-length", b"9"),), None, b"HTTP/1.1 200 OK|content-length: 9||"),
        (HEAD, 200, (), b"abc", b"HTTP/1.1 200 OK||"),
        (GET, 204, ((b"content-length", b"0"),), b"x", b"HTTP/1.1 204 No Content||"),
        (
            GET,
            304,
            ((b"content-length", b"9"),),
            None,
            b"HTTP/1.1 304 Not Modified|content-length: 9||",
        ),
        (GET, 299, ((b"x", b"1"),), None, b"HTTP/1.1 299 |x: 1|content-length: 0||"),
        (
            GET,
            200,
            ((b"content-length", b"1"), (b"content-length", b"1")),
            b"a",
            b"HTTP/1.1 200 OK|content-length: 1||a",
        ),
        (
            request(b"Connection: close"),
            200,
            (),
            None,
            b"HTTP/1.1 200 OK|content-length: 0|connection: close||",
        ),
    ],
)
def test_framing(data: bytes, status: int, fields: Fields, body: bytes | None, sent: bytes) -> None:
    out, session = answered(data, status, fields, body)
    assert out == sent
    closes = b"connection: close" in sent
    assert [type(e) for e in session.next_request()] == [ConnectionEnded] * closes


def test_one_date_goes_out() -> None:
    session = H1Session(b"http")
    session.receive_data(GET)
    session.send_head(200, (), end=True)
    assert b"".join(session.data_to_send()).count(b"\r\ndate: ") == 1
    session.next_request()
    session.receive_data(GET)
    session.send_head(200, ((b"date", b"x"),), end=True)
    assert b"".join(session.data_to_send()).count(b"\r\ndate: ") == 1


def test_trailers_go_out_behind_chunks() -> None:
    out, _ = answered(GET, 200, (), b"a", ((b"x-sum", b"1"),))
    assert out.endswith(b"||1\r\na\r\n0\r\nx-sum: 1\r\n\r\n")


def test_empty_pieces_do_not_end_a_chunked_body() -> None:
    session = H1Session(b"http")
    session.receive_data(GET)
    session.send_head(200, ())
    session.data_to_send()
    session.send_body(b"")
    assert session.data_to_send() == []


def test_queued_counts_what_waits() -> None:
    session = H1Session(b"http")
    session.receive_data(GET)
    session.send_head(200, ())
    session.send_body(b"abc")
    assert session.queued == 3
    session.data_to_send()
    assert session.queued == 0


def test_interim_responses() -> None:
    session = H1Session(b"http")
    session.receive_data(GET)
    session.send_informational(100, ())
    session.send_informational(103, ((b"link", b"x"),))
    assert b"".join(session.data_to_send()) == (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    )
    for status in (101, 200, 99):
        with pytest.raises(ResponseError):
            session.send_informational(status, ())
    session.send_head(200, ())
    with pytest.raises(ResponseError):
        session.send_informational(100, ())


def test_http_1_0_gets_no_interim_response() -> None:
    session = H1Session(b"http")
    session.receive_data(GET_1_0)
    session.send_informational(100, ())
    assert session.data_to_send() == []


@pytest.mark.parametrize(
    "field",
    [
        (b"a b", b"1"),
        (b"a\r\nb", b"1"),
        (b"", b"1"),
        (b"a:", b"1"),
        (b"a", b"1\r\nb: 2"),
        (b"a", b"1\n"),
        (b"a", b"\x00"),
        (b"a", b"\r"),
        (b"content-length", b"x"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"upgrade", b"a"),
    ],
)
def test_bad_response_fields_are_never_sent(field: tuple[bytes, bytes]) -> None:
    session = H1Session(b"http")
    session.receive_data(GET)
    with pytest.raises(FieldError):
        session.send_head(200, ((b"x", b"1"), field))
    if field[0] not in (b"content-length", b"transfer-encoding", b"connection", b"upgrade"):
        with pytest.raises(FieldError):
            session.send_informational(103, (field,))
    assert session.data_to_send() == []
    session.send_head(500, (), end=True)


def test_names_made_up_are_not_all_remembered() -> None:
    for number in range(1500):
        answered(GET, 200, ((b"x-%d" % number, b"1"), (b"y" * 65, b"")))
    assert len(h1._names) <= h1._MAX_NAMES
    assert b"y" * 65 not in h1._names


def with_length() -> H1Session:
    session = H1Session(b"http")
    session.receive_data(GET)
    session.send_head(200, ((b"content-length", b"5"),))
    session.send_body(b"abc")
    return session


def test_too_much_body() -> None:
    session = with_length()
    with pytest.raises(ResponseError):
        session.send_body(b"def")
    assert session.broken


def test_too_little_body() -> None:
    session = with_length()
    with pytest.raises(ResponseError):
        session.end()
    assert session.broken


def test_the_order_of_a_response_is_kept() -> None:
    session = H1Session(b"http")
    for call in (lambda: session.send_head(200, ()), lambda: session.send_body(b""), session.end):
        with pytest.raises(ResponseError):
            call()
    session.receive_data(GET)
    for status in (100, 199, 600, 1):
        with pytest.raises(ResponseError):
            session.send_head(status, ())
    with pytest.raises(ResponseError):
        session.send_head(200, ((b"content-length", b"1"),), end=True)
    session.send_head(200, ())
    with pytest.raises(ResponseError):
        session.send_head(200, ())
    session.end()
    with pytest.raises(ResponseError):
        session.end()


# --- keeping and closing ---


def early(*lines: bytes, rest: bytes = b"") -> H1Session:
    """A response that is final before its request is whole."""
    session = H1Session(b"http")
    session.receive_data(request(*lines, line=b"POST / HTTP/1.1") + rest)
    session.send_head(413, (), end=True)
    return session


def test_a_small_rest_of_a_request_is_discarded() -> None:
    session = early(b"Content-Length: 65536")
    assert b"connection: close" not in b"".join(session.data_to_send())
    assert session.next_request() == []
    events = session.receive_data(b"x" * 65536 + GET)
    assert isinstance(events[-1], BodyEnded)
    assert [type(event) for event in session.next_request()] == [RequestReceived]


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 65537",),
        (b"Transfer-Encoding: chunked",),
        (b"Content-Length: 5", b"Expect: 100-continue"),
    ],
)
def test_a_long_or_unsure_rest_closes(lines: tuple[bytes, ...]) -> None:
    session = early(*lines)
    assert b"connection: close" in b"".join(session.data_to_send())
    assert session.next_request() == [ConnectionEnded()]
    assert session.unread


def test_one_that_did_not_wait_for_100_is_kept() -> None:
    session = early(b"Content-Length: 5", b"Expect: 100-continue", rest=b"a")
    assert b"connection: close" not in b"".join(session.data_to_send())


def test_close_after_says_so() -> None:
    session = H1Session(b"http")
    session.receive_data(GET + GET)
    session.close_after()
    session.send_head(200, (), end=True)
    assert b"connection: close" in b"".join(session.data_to_send())
    assert session.next_request() == [ConnectionEnded()]
    assert session.unread


def test_close_after_the_head_closes_without_saying() -> None:
    session = H1Session(b"http")
    session.receive_data(GET)
    session.send_head(200, ())
    session.close_after()
    session.end()
    assert session.next_request() == [ConnectionEnded()]
    assert not session.unread


# --- tunnels ---

UPGRADE = request(b"Connection: Upgrade", b"Upgrade: websocket")


def test_a_tunnel() -> None:
    session = H1Session(b"http")
    (event,) = session.receive_data(UPGRADE + b"early")
    assert isinstance(event, RequestReceived)
    assert event.ended
    session.send_head(101, ((b"sec-websocket-accept", b"x"),))
    assert b"".join(session.data_to_send()) == (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-accept: x\r\n\r\n"
    )
    assert session.is_tunnel
    assert session.next_request() == [BodyReceived(1, b"early")]
    assert session.next_request() == []
    assert session.receive_data(GET) == [BodyReceived(1, GET)]
    session.send_body(b"raw")
    session.end()
    assert session.data_to_send() == [b"raw"]
    assert session.next_request() == []


def test_what_came_before_the_tunnel_goes_first() -> None:
    session = H1Session(b"http")
    session.receive_data(UPGRADE + b"early")
    session.send_head(101, ())
    assert session.receive_data(b"late") == [BodyReceived(1, b"early"), BodyReceived(1, b"late")]


def test_a_refused_upgrade_goes_on_with_http() -> None:
    driver = both(UPGRADE + GET)
    assert len(driver.heads) == 2
    assert not driver.over


def test_101_must_have_been_asked_for() -> None:
    session = H1Session(b"http")
    session.receive_data(GET)
    with pytest.raises(ResponseError):
        session.send_head(101, ())
    session = H1Session(b"http")
    session.receive_data(UPGRADE)
    with pytest.raises(FieldError):
        session.send_head(101, ((b"content-length", b"1"),))
    assert not session.is_tunnel


# --- against random input, and against llhttp ---

TOKENS = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}", fullmatch=True)
VALUES = st.from_regex(
    rb"([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]{0,20}[\x21-\x7e])?)?", fullmatch=True
)
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"REPORT"])
TARGETS = st.from_regex(rb"/[!\"$-~]{0,20}", fullmatch=True)
SPECIAL = {b"connection", b"content-length", b"host", b"keep-alive", b"proxy-connection", b"te"}
SPECIAL |= {b"transfer-encoding", b"upgrade"}
FIELDS = st.lists(
    st.tuples(TOKENS.filter(lambda name: name.lower() not in SPECIAL), VALUES), max_size=5
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """A request: its bytes; its method, target, fields and body."""
    method = draw(METHODS)
    target = draw(TARGETS)
    fields = draw(FIELDS)
    body = draw(st.binary(max_size=60))
    coding = draw(st.sampled_from(["none", "length", "chunked"]))
    data = b"%b %b HTTP/1.1\r\nHost: a\r\n" % (method, target)
    data += b"".join(b"%b: %b\r\n" % field for field in fields)
    if coding == "none":
        return data + b"\r\n", method, target, fields, b""
    if coding == "length":
        data += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        fields = [*fields, (b"content-length", b"%d" % len(body))]
        return data, method, target, fields, body
    size = draw(st.integers(1, 30))
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data += b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
    return data, method, target, fields, body


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_random_requests_split_anywhere(
    sent: list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes]], data: st.DataObject
) -> None:
    stream = b"".join(one[0] for one in sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    driver = Driver().feed(*parts)
    assert not driver.over
    assert driver.bodies == [body for *_, body in sent]
    for head, (_, method, target, fields, _) in zip(driver.heads, sent, strict=True):
        assert (head.method, head.target, head.authority) == (method, target, b"a")
        assert list(head.fields) == [(name.lower(), value) for name, value in fields]


SNIPPETS = [
    *(line + b"\r\n" for line in BAD_LINES if line),
    *(field + b"\r\n" for field in BAD_FIELDS),
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"0\r\n\r\n", b"5\r\nhello\r\n", b"Host: a\r\n"),
    *(b"GET / HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", GET),
]
MUTATED = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.binary(max_size=8)), max_size=12)


@given(MUTATED.map(b"".join))
def test_any_bytes_have_one_verdict(data: bytes) -> None:
    both(data)


class Peer:
    """What llhttp makes of a stream of requests."""

    def __init__(self, data: bytes) -> None:
        self.told: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] = []
        self.error: httptools.HttpParserError | None = None
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self.error = error

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.told.append((self._parser.get_method(), self._url, self._fields, self._body))


@given(st.lists(requests(), min_size=1, max_size=3), st.data())
def test_llhttp_reads_whole_streams_as_we_do(
    sent: list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes]],
    data: st.DataObject,
) -> None:
    """Heads are read by it; where messages end, and what chunks hold, it sees as we do."""
    stream = b"".join(one[0] for one in sent)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(stream)))
        stream = stream[:at] + data.draw(st.sampled_from(SNIPPETS)) + stream[at:]
    ours = Driver().feed(stream)
    if ours.over or ours.session.head_begun or ours.session.in_body:
        return
    peer = Peer(stream)
    assert peer.error is None
    assert [body for *_, body in peer.told] == ours.bodies
    assert [line[0] for line in peer.told] == [head.method for head in ours.heads]
    for (_, _, fields, _), head in zip(peer.told, ours.heads, strict=True):
        kept = [field for field in fields if field[0] not in SPECIAL - {b"content-length"}]
        assert kept == list(head.fields)
