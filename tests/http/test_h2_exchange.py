"""Responses and request bodies as a handler sees them."""

from __future__ import annotations

import pytest

from dwaarx.http import frames
from dwaarx.http.exchange import Exchange
from dwaarx.http.frames import ErrorCode, FrameType
from dwaarx.http.h2_connection import LINGER
from dwaarx.http.h2_settings import STREAM_WINDOW
from tests.http.h2_bed import Bed
from tests.http.h2_wire import GET, POST, data, headers


@pytest.fixture
def bed() -> Bed:
    return Bed()


# --- answers


def test_a_date_that_is_given_is_kept(bed):
    bed.exchange().send_head(200, [(b"date", b"then")], end=True)
    bed.turn()
    ((_, flags, _, payload),) = bed.frames()
    assert bed.fields(payload)[b"date"] == b"then"
    assert flags & frames.END_STREAM


def test_response_changes_are_made(bed):
    exchange = bed.exchange()
    exchange.response_changes.append(lambda status, fields: [*fields, (b"x", b"%d" % status)])
    exchange.send_head(204, [], end=True)
    bed.turn()
    assert bed.fields(bed.frames()[0][3])[b"x"] == b"204"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_responses_without_a_body(bed, method, status):
    fields = [(":method", method), *GET[1:]]
    exchange = bed.exchange(1, fields)
    exchange.send_head(status, [(b"content-length", b"5")] if status != 204 else [])
    exchange.send_body(b"hello")
    exchange.end()
    bed.act = lambda exchange: exchange.answer(status, [], b"hello")
    bed.exchange(3, fields)
    got = bed.frames()
    assert b"".join(payload for kind, _, _, payload in got if kind == 0) == b""
    assert {stream_id for _, flags, stream_id, _ in got if flags & 1} == {1, 3}


def test_informational_responses(bed):
    exchange = bed.exchange(1, [*POST, ("expect", "100-continue")], end=False)
    assert exchange.expects_continue()
    exchange.send_informational(100, [])
    bed.turn()
    ((kind, flags, _, payload),) = bed.frames()
    assert (kind, flags) == (1, frames.END_HEADERS)
    assert bed.fields(payload) == {b":status": b"100"}
    exchange.send_head(200, [])
    exchange.send_informational(103, [])
    bed.turn()
    assert len(bed.frames()) == 1


def test_trailers_go_out(bed):
    exchange = bed.exchange()
    exchange.send_head(200, [])
    exchange.end([(b"t", b"u")])
    bed.turn()
    assert bed.fields(bed.frames()[-1][3]) == {b"t": b"u"}


def test_more_than_the_content_length_resets(bed):
    exchange = bed.exchange()
    exchange.send_head(200, [(b"content-length", b"3")])
    exchange.send_body(b"ab")
    exchange.send_body(b"cd")
    assert exchange.ended
    bed.turn()
    got = bed.frames()
    assert got[-1] == (3, 0, 1, ErrorCode.INTERNAL_ERROR.to_bytes(4))
    assert [kind for kind, _, _, _ in got] == [1, 3]


@pytest.mark.parametrize("end", [True, False])
def test_less_than_the_content_length_resets(bed, end):
    exchange = bed.exchange()
    exchange.send_head(200, [(b"content-length", b"3")], end=end)
    if not end:
        exchange.send_body(b"ab")
        exchange.end()
    assert exchange.ended
    bed.turn()
    assert bed.frames()[-1][0] == FrameType.RST_STREAM


def test_once_over_calls_are_ignored(bed):
    exchange = bed.exchange(1, POST, end=False)
    exchange.answer(413, [], b"x")
    bed.turn()
    bed.frames()
    exchange.send_informational(100, [])
    exchange.send_head(200, [])
    exchange.answer(200, [], b"x")
    exchange.send_body(b"x")
    exchange.end()
    exchange.pause_request()
    exchange.resume_request()
    exchange.reset("why not")
    bed.turn()
    assert bed.frames() == []


def test_a_second_head_and_an_end_without_one(bed):
    exchange = bed.exchange()
    exchange.send_body(b"too early")
    exchange.send_head(200, [])
    exchange.send_head(404, [])
    exchange.answer(404, [], b"")
    exchange.end()
    bed.exchange(3).end()
    bed.turn()
    got = bed.frames()
    assert [kind for kind, _, stream_id, _ in got if stream_id == 1] == [1, 0]
    assert [kind for kind, _, stream_id, _ in got if stream_id == 3] == [3]


def test_reset(bed):
    exchange = bed.exchange()
    exchange.send_head(200, [])
    exchange.reset("the upstream broke off")
    assert exchange.ended
    bed.turn()
    assert bed.frames()[-1][0] == FrameType.RST_STREAM
    assert exchange.consumer.calls == []


# --- the request's body


def test_a_body_is_delivered_and_acknowledged(bed):
    exchange = bed.exchange(1, POST, end=False)
    for _ in range(8):
        bed.send(data(1, bytes(16_384)))
    assert len(exchange.consumer.body) == STREAM_WINDOW // 2
    assert bed.frames() == [(8, 0, 1, (STREAM_WINDOW // 2).to_bytes(4))]
    bed.send(headers(1, [("t", "u")]))
    assert exchange.consumer.calls == [("ended", ((b"t", b"u"),))]


def test_a_body_that_nobody_wants_is_thrown_away(bed):
    bed.act = lambda _: None
    bed.exchange(1, POST, end=False)
    for _ in range(8):
        bed.send(data(1, bytes(16_384)))
    assert bed.frames() == [(8, 0, 1, (STREAM_WINDOW // 2).to_bytes(4))]
    bed.send(data(1, b"", end=True))
    bed.exchanges[0].answer(200, [], b"")
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1]


def test_a_paused_request_holds_the_client_back(bed):
    exchange = bed.exchange(1, POST, end=False)
    consumer = exchange.consumer
    exchange.pause_request()
    for number in range(16):
        bed.send(data(1, bytes((number,)) * 16_384))
    bed.send(data(1, b"", end=True))
    assert consumer.body == b""
    assert consumer.calls == []
    assert bed.frames() == []
    exchange.resume_request()
    assert consumer.body == b"".join(bytes((number,)) * 16_384 for number in range(16))
    assert consumer.calls == [("ended", ())]


def test_windows_are_given_back_on_resumption(bed):
    exchange = bed.exchange(1, POST, end=False)
    exchange.consumer.on_body = lambda _: exchange.pause_request()
    bed.send(data(1, b"a" * 16_384))
    for _ in range(15):
        bed.send(data(1, b"b" * 16_384))
    assert len(exchange.consumer.body) == 16_384
    exchange.resume_request()  # what was held is delivered, and it pauses again
    assert len(exchange.consumer.body) == STREAM_WINDOW
    bed.turn()
    assert bed.frames() == []
    exchange.resume_request()
    bed.turn()
    assert bed.frames() == [(8, 0, 1, STREAM_WINDOW.to_bytes(4))]
    exchange.resume_request()


def test_a_response_that_ends_first_frees_what_was_held(bed):
    exchange = bed.exchange(1, POST, end=False)
    exchange.pause_request()
    bed.send(data(1, bytes(16_384)))
    exchange.answer(413, [], b"")
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1]
    assert bed.connection.session._consumed == 16_384
    bed.send(data(1, b"late"))
    assert exchange.consumer.body == b""


def test_body_that_comes_while_the_response_is_still_queued_is_thrown_away():
    bed = Bed(frames.encode_settings([(4, 1)]))
    exchange = bed.exchange(1, POST, end=False)
    exchange.answer(413, [], b"xy")
    bed.turn()
    bed.send(data(1, b"late"))
    assert exchange.consumer.body == b""
    assert bed.connection.session._consumed == 4
    bed.send(frames.encode_window_update(1, 1))
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 0, 0]


def test_an_upload_goes_on_for_a_while_after_its_response():
    bed = Bed()
    exchange = bed.exchange(1, POST, end=False)
    exchange.answer(413, [], b"too large")
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 0]
    for _ in range(STREAM_WINDOW // 16_384):
        bed.send(data(1, bytes(16_384)))
    # A client that reads only when it has sent all shall not wait for a window.
    assert bed.frames() == [(8, 0, 1, (STREAM_WINDOW // 2).to_bytes(4))] * 2
    assert exchange.consumer.body == b""
    bed.turn(LINGER - 0.1)
    assert bed.frames() == []
    bed.turn(0.1)
    assert bed.frames() == [(3, 0, 1, bytes(4))]
    assert not bed.transport.disconnecting


# --- responses that wait for the rest of their request


def answer_whole(exchange: Exchange) -> None:
    exchange.answer(200, [], b"hello")


def answer_without_a_body(exchange: Exchange) -> None:
    exchange.send_head(302, [(b"location", b"/")], end=True)


def answer_with_a_length(exchange: Exchange) -> None:
    exchange.send_head(200, [(b"content-length", b"5")])
    exchange.send_body(b"hello")
    exchange.end()


def answer_without_a_length(exchange: Exchange) -> None:
    exchange.send_head(200, [])
    exchange.send_body(b"hello")
    exchange.end([(b"t", b"u")])


@pytest.mark.parametrize(
    ("answer", "before", "after"),
    [
        (answer_whole, [], [1, 0]),
        (answer_without_a_body, [], [1]),
        (answer_with_a_length, [1], [0]),
        (answer_without_a_length, [1, 0], [1]),
    ],
)
@pytest.mark.parametrize("when", ["at once", "on body", "while paused"])
def test_the_end_of_a_response_waits_for_the_end_of_its_request(bed, answer, before, after, when):
    exchange = bed.exchange(1, POST, end=False)
    consumer = exchange.consumer
    if when == "on body":
        consumer.on_body = lambda _: answer(exchange)
        bed.send(data(1, b"x"))
    else:
        if when == "while paused":
            exchange.pause_request()
            bed.send(data(1, b"x"))
        answer(exchange)
    bed.turn()
    assert exchange.ended
    assert [kind for kind, _, _, _ in bed.frames()] == before
    seen = consumer.body
    for _ in range(2 * STREAM_WINDOW // 16_384):
        bed.send(data(1, bytes(16_384)))
    # It all comes, and is thrown away.
    assert {(kind, stream_id) for kind, _, stream_id, _ in bed.frames()} == {(8, 1), (8, 0)}
    bed.send(data(1, b"", end=True))
    got = bed.frames()
    assert [kind for kind, _, _, _ in got] == after
    assert got[-1][1] & frames.END_STREAM
    assert (consumer.body, consumer.calls) == (seen, [])
    assert not bed.connection.session.streams
    bed.turn(LINGER)
    assert bed.frames() == []


@pytest.mark.parametrize("answer", [answer_whole, answer_without_a_body, answer_without_a_length])
def test_a_response_does_not_wait_for_ever(bed, answer):
    answer(bed.exchange(1, POST, end=False))
    bed.turn(LINGER / 2)
    bed.send(data(1, b"x"))
    bed.turn(LINGER / 2 - 0.1)
    assert not [flags for kind, flags, _, _ in bed.frames() if flags & frames.END_STREAM]
    bed.turn(0.1)
    *_, last, reset = bed.frames()
    assert last[1] & frames.END_STREAM
    assert reset == (3, 0, 1, bytes(4))
    assert not bed.transport.disconnecting


def test_a_response_that_waited_and_finds_its_window_shut_is_sent_when_it_opens():
    bed = Bed(frames.encode_settings([(4, 1)]))
    answer_whole(bed.exchange(1, POST, end=False))
    bed.turn(LINGER)
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 0]
    bed.send(frames.encode_window_update(1, 4))
    assert bed.frames() == [(0, frames.END_STREAM, 1, b"ello")]
    bed.turn(LINGER)
    assert bed.frames() == [(3, 0, 1, bytes(4))]


def test_what_completes_the_length_is_sent_without_an_end_as_the_request_ends(bed):
    exchange = bed.exchange(1, POST, end=False)
    exchange.send_head(200, [(b"content-length", b"5")])
    exchange.send_body(b"hello")
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1]
    bed.send(data(1, b"", end=True))
    assert exchange.consumer.calls == [("ended", ())]
    exchange.end()
    bed.turn()
    assert bed.frames() == [(0, 0, 1, b"hello"), (0, frames.END_STREAM, 1, b"")]


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_refusal_does_not_wait(bed, status):
    bed.exchange(1, POST, end=False).answer(status, [], b"no")
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 0]


def test_a_response_to_a_client_that_waits_for_100_does_not_wait(bed):
    answer_whole(bed.exchange(1, [*POST, ("expect", "100-continue")], end=False))
    bed.turn()
    assert [kind for kind, _, _, _ in bed.frames()] == [1, 0]


def test_a_response_that_waits_is_lost_with_its_stream_or_connection(bed):
    for stream_id in (1, 3):
        answer_whole(bed.exchange(stream_id, POST, end=False))
    bed.send(frames.encode_rst_stream(1, ErrorCode.CANCEL))
    bed.turn()
    assert bed.frames() == []
    bed.lose()
    bed.turn(100)
    assert bed.clock.getDelayedCalls() == []


def test_a_client_that_resets_is_lost(bed):
    exchange = bed.exchange()
    bed.send(frames.encode_rst_stream(1, ErrorCode.CANCEL))
    assert exchange.consumer.calls == [("lost", "the peer sent CANCEL")]
    assert exchange.ended
    exchange.answer(200, [], b"x")
    bed.turn()
    assert bed.frames() == []


def test_a_request_reset_in_the_same_breath_is_not_begun(bed):
    bed.send(headers(1, POST, end=False) + data(1, b"x") + frames.encode_rst_stream(1, 8))
    assert bed.exchanges == []


def test_a_request_whose_connection_ended_in_the_same_breath_is_not_begun(bed):
    bed.send(headers(1) + headers(3) + frames.encode_ping(bytes(8), ack=False)[:-1] + b"x" * 30)
    assert bed.exchanges == []
    assert bed.transport.disconnecting


def test_a_lost_connection_loses_every_exchange(bed):
    first, second = bed.exchange(1), bed.exchange(3)
    third = bed.exchange(5)
    third.answer(200, [], b"")
    bed.lose()
    assert [exchange.consumer.lost for exchange in (first, second, third)] == [True, True, False]
    first.answer(200, [], b"x")
    first.reset("too late")
    bed.turn(100)
    bed.connection.resumeProducing()
    bed.send(b"more")
    bed.connection.drain()
    assert bed.clock.getDelayedCalls() == []


def test_requests_without_a_body_say_so(bed):
    assert bed.exchange(1).request_ended
    assert not bed.exchange(3, POST, end=False).request_ended


def test_a_body_for_nobody_is_held_and_dropped_while_paused(bed):
    bed.act = lambda _: None
    exchange = bed.exchange(1, POST, end=False)
    exchange.pause_request()
    bed.send(data(1, bytes(16_384)) * 8 + data(1, b"", end=True))
    assert bed.frames() == []
    exchange.resume_request()
    exchange.answer(200, [], b"")
    bed.turn()
    assert bed.connection.session.streams == {}
    bed.exchange(3).reset("nobody listens here either")
    bed.exchange(5)
    bed.send(frames.encode_rst_stream(5, 8))
    bed.exchange(7, POST, end=False)
    bed.turn(30)
    assert bed.exchanges[-1].ended
    bed.lose()
