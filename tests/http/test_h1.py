import pytest

from dwaarx.http import h1
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Fields,
    RequestReceived,
)
from dwaarx.http.fields import FieldError
from dwaarx.http.h1 import H1Session, ResponseError
from tests.http.h1_driver import GET, Driver, both, request

pytestmark = pytest.mark.usefixtures("fixed_date")


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
