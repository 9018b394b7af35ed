"""The client session: requests as they go out, responses taken apart strictly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    InformationalReceived,
    ResponseReceived,
)
from dwaarx.http.h1_client import MAX_FIELDS, MAX_HEAD, MAX_INFORMATIONAL, H1ClientSession

OK = b"HTTP/1.1 200 OK\r\n"


def asked(method=b"GET", body="none", upgrade=None, fields=()):
    session = H1ClientSession()
    session.send_request(method, b"/x?y", b"example.com", fields, body, upgrade)
    return session


def sent(session):
    return b"".join(session.data_to_send())


def merged(events):
    """Events with the pieces of a body put together."""
    out = []
    for event in events:
        if isinstance(event, BodyReceived) and out and isinstance(out[-1], BodyReceived):
            out[-1] = BodyReceived(1, out[-1].data + event.data)
        elif isinstance(event, ConnectionEnded):
            out.append(event.error is not None)
        else:
            out.append(event)
    return out


def take(data, close=False, **how):
    """The events of a response, fed whole; byte by byte they must be the same."""
    whole = asked(**how)
    events = whole.receive_data(data) + (whole.eof() if close else [])
    single = asked(**how)
    split = [e for at in range(len(data)) for e in single.receive_data(data[at : at + 1])]
    split += single.eof() if close else []
    assert merged(split) == merged(events)
    assert single.reusable == whole.reusable
    return events, whole


def body_of(events):
    return b"".join(event.data for event in events if isinstance(event, BodyReceived))


def refused(data, **how):
    events, session = take(data, **how)
    assert isinstance(events[-1], ConnectionEnded)
    assert events[-1].error
    assert not session.reusable
    assert session.receive_data(b"more") == []
    return events


# --- requests ---


def test_request_without_body():
    session = asked(fields=[(b"accept", b"*/*")])
    assert sent(session) == b"GET /x?y HTTP/1.1\r\nhost: example.com\r\naccept: */*\r\n\r\n"
    assert session.data_to_send() == []


def test_request_with_length_hands_pieces_on_uncopied():
    session = asked(b"POST", body=5)
    piece = b"hello"
    session.send_body(piece)
    session.end()
    head, body = session.data_to_send()
    assert head.endswith(b"content-length: 5\r\n\r\n")
    assert body is piece


def test_request_with_length_zero():
    session = asked(b"POST", body=0)
    session.end()
    assert sent(session).endswith(b"content-length: 0\r\n\r\n")


def test_chunked_request_with_trailers():
    session = asked(b"POST", body="chunked")
    session.send_body(b"hello")
    session.send_body(b"")
    session.end([(b"x-sum", b"1")])
    assert sent(session).endswith(
        b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
    )


def test_te_and_upgrade_are_named_by_connection():
    both = sent(asked(fields=[(b"te", b"trailers")], upgrade=b"websocket"))
    assert b"te: trailers\r\nupgrade: websocket\r\nconnection: TE, upgrade\r\n" in both
    assert b"connection: TE\r\n" in sent(asked(fields=[(b"te", b"trailers")]))
    assert b"connection: upgrade\r\n" in sent(asked(upgrade=b"websocket"))


@pytest.mark.parametrize(("body", "piece"), [(3, b"four"), ("none", b"x")])
def test_more_body_than_announced_is_misuse(body, piece):
    session = asked(b"POST", body=body)
    with pytest.raises(ValueError, match="more body than the request's head says"):
        session.send_body(piece)


def test_less_body_than_announced_is_misuse():
    session = asked(b"POST", body=3)
    session.send_body(b"ab")
    with pytest.raises(ValueError, match="less body than the request's head says"):
        session.end()


def test_one_request_at_a_time():
    session = asked()
    with pytest.raises(ValueError, match="still has a request"):
        session.send_request(b"GET", b"/", b"a", (), "none")


# --- responses ---


def test_content_length():
    piece = OK + b"Content-Length: 5\r\nX-A:  b \t\r\n\r\nhello"
    events, session = take(piece)
    head = events[0].head
    assert (head.status, head.version, head.content_length) == (200, b"1.1", 5)
    assert head.fields == [(b"content-length", b"5"), (b"x-a", b"b")]
    assert events[1:] == [BodyReceived(1, b"hello"), BodyEnded(1)]
    assert session.reusable
    assert not session.silent


def test_a_body_in_a_read_of_its_own_is_not_copied():
    session = asked()
    session.receive_data(OK + b"Content-Length: 10\r\n\r\n")
    first, second = b"hello", b"world"
    assert session.receive_data(first)[0].data is first
    assert session.receive_data(second)[0].data is second
    assert session.reusable


def test_chunked_with_trailers():
    events, session = take(
        OK + b"Transfer-Encoding: Chunked\r\nTrailer: x-sum\r\n\r\n"
        b"5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    assert events[0].head.content_length is None
    assert body_of(events) == b"hello0123456789"
    assert events[-1] == BodyEnded(1, ((b"x-sum", b"7"),))
    assert session.reusable


def test_until_close():
    events, session = take(OK + b"\r\nhello", close=True)
    assert merged(events)[1:] == [BodyReceived(1, b"hello"), BodyEnded(1), False]
    assert not session.reusable


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        (b"HEAD", b"200", b"Content-Length: 5\r\n"),
        (b"HEAD", b"200", b"Transfer-Encoding: chunked\r\n"),
        (b"GET", b"304", b"Content-Length: 5\r\n"),
        (b"GET", b"204", b""),
        (b"GET", b"204", b"Content-Length: 0\r\n"),
        (b"GET", b"200", b"Content-Length: 0\r\n"),
    ],
)
def test_responses_without_body(method, status, fields):
    events, session = take(b"HTTP/1.1 " + status + b" X\r\n" + fields + b"\r\n", method=method)
    assert [type(event) for event in events] == [ResponseReceived]
    assert events[0].ended
    assert session.reusable
    if status == b"204":
        assert events[0].head.fields == []


def test_interim_responses_come_before_the_final_one():
    events, session = take(
        b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"
    )
    assert events[:2] == [
        InformationalReceived(1, 100, []),
        InformationalReceived(1, 103, [(b"link", b"</a>")]),
    ]
    assert events[2].head.status == 200
    assert session.reusable


def test_an_interim_response_has_no_length():
    """It would be passed on to a client that takes it for an error (RFC 9110 8.6)."""
    answer = b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\nX: y\r\n\r\n"
    events, _ = take(answer + OK + b"Content-Length: 0\r\n\r\n")
    assert events[0] == InformationalReceived(1, 100, [(b"x", b"y")])
    assert events[1].head.content_length == 0


def test_hop_by_hop_fields_are_dropped():
    events, session = take(
        OK + b"Connection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Upgrade: h2c\r\nProxy-Connection: x\r\nServer: y\r\nContent-Length: 0\r\n\r\n"
    )
    assert events[0].head.fields == [(b"server", b"y"), (b"content-length", b"0")]
    assert not session.reusable
    assert not session.keep_alive


def test_http_1_0_is_not_reused():
    events, session = take(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert events[0].head.version == b"1.0"
    assert body_of(events) == b"hi"
    assert not session.reusable


def test_a_reason_may_be_left_out_and_may_hold_anything_printable():
    for line in (b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 200 \xc3\xa4 !\r\n"):
        events, _ = take(line + b"Content-Length: 0\r\n\r\n")
        assert events[0].head.status == 200


WEBSOCKET = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"


def test_tunnel():
    events, session = take(
        WEBSOCKET + b"Sec-X: y\r\nContent-Length: 0\r\n\r\nraw", upgrade=b"websocket"
    )
    head = events[0].head
    assert (head.status, head.upgrade, head.fields) == (101, b"websocket", [(b"sec-x", b"y")])
    assert body_of(events) == b"raw"
    sent(session)
    session.send_body(b"up")
    assert session.data_to_send() == [b"up"]
    assert session.eof() == [BodyEnded(1)]
    assert not session.reusable


def test_a_refused_upgrade_is_a_plain_response():
    events, session = take(OK + b"Content-Length: 2\r\n\r\nno", upgrade=b"websocket")
    assert body_of(events) == b"no"
    assert session.reusable


@pytest.mark.parametrize(
    ("answer", "upgrade"),
    [
        (WEBSOCKET + b"\r\n", None),
        (WEBSOCKET + b"\r\n", b"h2c"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", b"websocket"),
        (b"HTTP/1.1 101 X\r\nConnection: upgrade\r\n\r\n", b"websocket"),
        (WEBSOCKET + b"Upgrade: h2c\r\n\r\n", b"websocket"),
        (WEBSOCKET.replace(b"1.1", b"1.0") + b"\r\n", b"websocket"),
        (WEBSOCKET + b"Transfer-Encoding: chunked\r\n\r\n", b"websocket"),
    ],
)
def test_a_change_of_protocol_nobody_asked_for(answer, upgrade):
    refused(answer, upgrade=upgrade)


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 9999999999999999999\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"X: a\x00b\r\n",
        b"X: a\x7fb\r\n",
        b"X: a\rb\r\n",
        b"X: a\nY: b\r\n",
        b"X: a\r\n b\r\n",
        b" X: a\r\n",
        b"X : a\r\n",
        b": a\r\n",
        b"X\r\n",
        b"X\xff: a\r\n",
        b"Connection: a b\r\n",
    ],
)
def test_malformed_fields(fields):
    events = refused(OK + fields + b"\r\n")
    assert len(events) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 099 OK\r\n",
        b"HTTP/1.1 600 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/2.0 200 OK\r\n",
        b"HTTP/1.2 200 OK\r\n",
        b"HTTP/0.9 200 OK\r\n",
        b"http/1.1 200 OK\r\n",
        b"HTTP/1.1 200 O\x01K\r\n",
        b"HTTP/1.1 200 O\nK\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_malformed_status_lines(line):
    refused(line + b"Content-Length: 0\r\n\r\n")


def test_what_is_no_http_is_refused_without_waiting_for_a_head():
    for start in (b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01", b"HTTP/1.1 200 OK\nServer: x\n\n"):
        events = asked().receive_data(start)
        assert events[-1].error


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"5\nhello\n",
        b"5\r\nhelloXY",
        b"\r\n",
        b"fffffffffffffffff\r\n",
        b"5;" + b"a" * 300,
        b"0\r\nX : a\r\n\r\n",
        b"0\r\nX: a\x00\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n" + b"X: a\r\n" * 300 + b"\r\n",
    ],
)
def test_malformed_chunks(body):
    refused(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body)


def test_other_nonsense():
    refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    refused(b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n")
    refused(b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n")
    refused(b"HTTP/1.1 100 X\r\nTransfer-Encoding: chunked\r\n\r\n")
    refused(b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INFORMATIONAL + 1))


def test_limits_of_a_head():
    few = b"X: y\r\n" * (MAX_FIELDS - 1) + b"Content-Length: 0\r\n\r\n"
    events, _ = take(OK + few)
    assert len(events[0].head.fields) == MAX_FIELDS
    refused(OK + b"X: y\r\n" + few)
    big = b"X: " + b"y" * (MAX_HEAD - len(OK) - 5 - 19) + b"\r\nContent-Length: 0\r\n\r\n"
    session = asked()
    assert session.receive_data(OK + big)[0].head.status == 200
    session = asked()
    assert session.receive_data(OK + b"X: " + big)[-1].error
    session = asked()
    session.receive_data(OK + b"X: ")
    pieces = [session.receive_data(b"z" * 1024) for _ in range(70)]
    assert next(events for events in pieces if events)[0].error


def test_bytes_after_the_response():
    events, session = take(OK + b"Content-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n")
    assert merged(events)[1:] == [BodyReceived(1, b"hi"), BodyEnded(1), True]
    assert not session.reusable
    refused(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nX")
    refused(OK + b"Content-Length: 5\r\n\r\nX", method=b"HEAD")


def test_bytes_before_a_request():
    session = H1ClientSession()
    assert session.receive_data(b"HTTP/1.1 408 Timeout\r\n\r\n")[0].error
    assert not session.reusable


def test_ends_in_the_wrong_place():
    for start in (b"", b"HTTP/1", OK + b"Content-Length: 5\r\n\r\nhe"):
        session = asked()
        session.receive_data(start)
        assert session.eof()[-1].error
        assert session.eof() == []
    session = asked()
    session.receive_data(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    assert "middle" in session.eof()[-1].error
    idle = H1ClientSession()
    assert idle.eof() == [ConnectionEnded(None)]


def test_an_early_response_leaves_the_connection_unusable_until_the_request_is_whole():
    session = asked(b"POST", body=5)
    session.receive_data(OK + b"Content-Length: 0\r\n\r\n")
    assert not session.reusable
    session.send_body(b"hello")
    session.end()
    assert session.reusable


def test_requests_follow_each_other():
    session = asked(b"HEAD")
    session.receive_data(OK + b"Content-Length: 5\r\n\r\n")
    session.send_request(b"GET", b"/", b"example.com", (), "none")
    assert session.silent
    events = session.receive_data(OK + b"Content-Length: 5\r\n\r\nhello")
    assert body_of(events) == b"hello"


# --- fuzzing ---

TOKENS = st.text("abcXYZ-_0", min_size=1, max_size=8).map(lambda t: b"x" + t.encode())
VALUES = st.text('abc ,;="\x80\xff', max_size=20).map(lambda t: t.encode("latin-1").strip())


@st.composite
def responses(draw):
    fields = draw(st.lists(st.tuples(TOKENS, VALUES), max_size=5))
    body = draw(st.binary(max_size=60))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    head = OK + b"".join(b"%b: %b\r\n" % field for field in fields)
    if framing == "length":
        raw = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    elif framing == "chunked":
        size = draw(st.integers(1, 20))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        raw = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    else:
        raw = head + b"\r\n" + body
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n" * draw(st.integers(0, 2))
    return interim + raw, [(name.lower(), value) for name, value in fields], body


@st.composite
def cuts(draw, size):
    marks = sorted(draw(st.sets(st.integers(0, size), max_size=8)))
    return list(zip([0, *marks], [*marks, size], strict=True))


@settings(max_examples=150)
@given(responses(), st.data())
def test_valid_responses_however_they_are_split(response, data):
    raw, fields, body = response
    session = asked()
    events = []
    for start, end in data.draw(cuts(len(raw))):
        events += session.receive_data(raw[start:end])
    events += session.eof()
    final = next(event for event in events if isinstance(event, ResponseReceived))
    framing = (b"content-length", b"transfer-encoding")
    assert [field for field in final.head.fields if field[0] not in framing] == fields
    assert body_of(events) == body
    assert final.ended != any(isinstance(event, BodyEnded) for event in events)
    assert events[-1] == ConnectionEnded(None)


@settings(max_examples=150)
@given(responses(), st.data())
def test_mutated_bytes_never_raise(response, data):
    raw = bytearray(response[0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    take(bytes(raw), close=True)
