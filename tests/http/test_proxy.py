"""The reverse proxy: conversations between a client's exchange and an upstream."""

from __future__ import annotations

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher

from dwaarx.config.model import Address, ReverseProxy
from dwaarx.http.proxy import TUNNEL_END_TIMEOUT, ReverseProxyHandler
from dwaarx.http.upstream import IDLE_TIMEOUT, UpstreamPools
from tests.http.fakes import FakeUpstream, make_exchange

ONE = Address("192.0.2.10", 8080)
TWO = Address("192.0.2.11", 8080)
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Stage:
    """A proxy with its upstreams, which the tests play."""

    def __init__(self, *upstreams, **options):
        self.reactor = MemoryReactorClock()
        self.pools = UpstreamPools(self.reactor)
        self.handler = ReverseProxyHandler(ReverseProxy(upstreams or (ONE,), **options), self.pools)
        self.warnings = []

    def ask(self, *args, **changes):
        exchange = make_exchange(*args, **changes)
        self.handler.handle(exchange)
        return exchange

    def upstream(self, at=-1):
        return FakeUpstream(self.reactor, at)

    def asked(self, *args, **changes):
        """An exchange and the upstream that has got its request."""
        exchange = self.ask(*args, **changes)
        return exchange, self.upstream().accept()

    def kept(self):
        """An upstream whose connection has served one request and is kept."""
        _, upstream = self.asked()
        upstream.says(HELLO)
        upstream.taken()
        return upstream

    def upload(self, *args, **changes):
        return self.asked(b"/", b"POST", *args, **{"request_ended": False, **changes})


@pytest.fixture
def stage():
    return Stage()


@pytest.fixture(autouse=True)
def warnings():
    """What was logged, as text."""
    logged = []

    def observe(event):
        if event["log_namespace"] == "dwaarx.http.proxy":
            logged.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)


# --- a plain request ---


def test_a_request_and_its_response(stage):
    exchange, upstream = stage.asked(b"/a?b", fields=[(b"accept", b"*/*")])
    assert upstream.taken() == (
        b"GET /a?b HTTP/1.1\r\nhost: example.com\r\naccept: */*\r\n"
        b"x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n"
        b"x-forwarded-host: example.com\r\n"
        b'forwarded: for=192.0.2.7;proto=https;host="example.com"\r\n'
        b"via: 1.1 dwaarx\r\n\r\n"
    )
    upstream.says(b"HTTP/1.0 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhel", b"lo")
    assert exchange.names == ["head", "body", "end"]
    assert exchange.status == 200
    assert exchange.fields == {b"server": b"x", b"content-length": b"5", b"via": b"1.0 dwaarx"}
    assert exchange.body == b"hello"
    assert upstream.gone


def test_the_connection_is_kept_for_the_next_request(stage):
    upstream = stage.kept()
    exchange = stage.ask(b"/next", b"HEAD")
    assert upstream.taken().startswith(b"HEAD /next HTTP/1.1\r\n")
    upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert exchange.said[-1][0] == "head"
    assert exchange.said[-1][3] is True
    assert len(stage.reactor.tcpClients) == 1
    assert stage.pools.idle(ONE) == 1


@pytest.mark.parametrize(("last", "split"), [("end", -1), ("_send_answer", len(HELLO))])
def test_the_next_request_finds_the_connection_free_when_a_response_ends(
    stage, monkeypatch, last, split
):
    exchange, upstream = stage.asked()
    plain = getattr(type(exchange), last)

    def end_and_go_on(ended, *args):
        plain(ended, *args)
        if ended is exchange:
            stage.ask(b"/pipelined")

    monkeypatch.setattr(type(exchange), last, end_and_go_on)
    upstream.taken()
    upstream.says(HELLO[:split], HELLO[split:])
    assert upstream.taken().startswith(b"GET /pipelined ")


def test_a_request_without_host_gets_the_upstreams(stage):
    _, upstream = stage.asked(authority=b"", version=b"1.0")
    sent = upstream.taken()
    assert b"host: 192.0.2.10:8080\r\n" in sent
    assert b"x-forwarded-host" not in sent
    assert b"via: 1.0 dwaarx\r\n" in sent


def test_upstreams_take_turns():
    stage = Stage(ONE, TWO)
    hosts = []
    for _ in range(4):
        stage.ask()
        hosts.append(stage.upstream().host)
    assert hosts == ["192.0.2.10", "192.0.2.11", "192.0.2.10", "192.0.2.11"]


def test_interim_responses_and_trailers_pass(stage):
    exchange, upstream = stage.asked(fields=[(b"te", b"trailers")])
    assert b"te: trailers\r\n" in upstream.taken()
    upstream.says(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    assert exchange.said[0] == ("informational", 103, [(b"link", b"</a>")])
    assert exchange.said[-1] == ("end", ((b"x-sum", b"1"),))
    assert exchange.body == b"hello"


@pytest.mark.parametrize(
    ("fields", "body", "names"),
    [
        (b"Content-Length: 5\r\n", b"hello", ["answer"]),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", ["answer"]),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", None),
        (b"Content-Length: 5\r\nConnection: close\r\n", b"hello", None),
        (b"Content-Length: 5\r\n", b"hello, and more", None),
    ],
)
def test_a_response_that_comes_in_one_read_is_answered_at_once(stage, fields, body, names):
    """So that a small one makes one write; not where there is more to it."""
    exchange, upstream = stage.asked()
    upstream.says(b"HTTP/1.1 200 OK\r\nX-A: b\r\n" + fields + b"\r\n" + body)
    assert exchange.names == (names or ["head", "body", "end"])
    assert (exchange.status, exchange.body, exchange.ended) == (200, b"hello", True)
    assert exchange.fields[b"x-a"] == b"b"
    assert exchange.fields[b"via"] == b"1.1 dwaarx"
    if names:
        assert exchange.said[0][2].count((b"content-length", b"5")) == 1
    assert stage.pools.idle(ONE) == (1 if b"X: y" in body or names else 0)


def test_interim_and_final_responses_in_one_read(stage):
    exchange, upstream = stage.asked()
    upstream.says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2 + EMPTY)
    assert exchange.names == ["informational", "informational", "head"]


def test_a_body_until_close(stage):
    exchange, upstream = stage.asked()
    upstream.says(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
    assert exchange.names == ["head", "body"]
    upstream.ends()
    assert exchange.names == ["head", "body", "end"]
    assert upstream.gone


# --- the request's body ---


def test_an_upload_of_known_length(stage):
    exchange, upstream = stage.upload(content_length=10)
    assert exchange.names == ["pause_request", "resume_request"]
    assert b"content-length: 10\r\n" in upstream.taken()
    exchange.consumer.body_received(b"01234")
    assert upstream.taken() == b"01234"
    exchange.consumer.body_received(b"56789")
    exchange.consumer.body_ended(())
    assert upstream.taken() == b"56789"
    upstream.says(EMPTY)
    assert exchange.status == 200
    assert stage.pools.idle(ONE) == 1


def test_an_upload_of_unknown_length(stage):
    exchange, upstream = stage.upload()
    assert b"transfer-encoding: chunked\r\n" in upstream.taken()
    exchange.consumer.body_received(b"hello")
    exchange.consumer.body_ended([(b"x-sum", b"1")])
    assert upstream.taken() == b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"


def test_what_was_read_before_the_connection_is_there_is_sent_then(stage):
    exchange = stage.ask(b"/", b"POST", content_length=5)
    exchange.consumer.body_received(b"he")
    exchange.consumer.body_received(b"llo")
    exchange.consumer.body_ended(())
    upstream = stage.upstream().accept()
    assert upstream.taken().endswith(b"content-length: 5\r\n\r\nhello")
    upstream.says(EMPTY)
    assert stage.pools.idle(ONE) == 1


def test_a_body_is_sent_on_to_the_second_upstream_whole():
    stage = Stage(ONE, TWO)
    exchange = stage.ask(b"/", b"POST", content_length=5)
    exchange.consumer.body_received(b"hello")
    exchange.consumer.body_ended(())
    stage.upstream().refuse()
    upstream = stage.upstream().accept()
    assert upstream.host == "192.0.2.11"
    assert upstream.taken().endswith(b"\r\n\r\nhello")


def test_continue_is_the_upstreams_to_say(stage):
    exchange, upstream = stage.upload(content_length=5, fields=[(b"expect", b"100-continue")])
    assert b"expect: 100-continue\r\n" in upstream.taken()
    upstream.says(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert exchange.said[-1] == ("informational", 100, [])
    stage.reactor.advance(1000)  # it is the client's turn
    exchange.consumer.body_received(b"hello")
    exchange.consumer.body_ended(())
    upstream.says(HELLO)
    assert exchange.status == 200


@pytest.mark.parametrize("pieces", [[b"too much"], [b"ab"]])
@pytest.mark.parametrize("early", [True, False])
def test_a_body_of_another_length_ends_the_connection(stage, pieces, early):
    exchange = stage.ask(b"/", b"POST", content_length=5)
    upstream = stage.upstream()
    if not early:
        upstream.accept()
    for piece in pieces:
        exchange.consumer.body_received(piece)
    if not exchange.ended:
        exchange.consumer.body_ended(())
    if early:
        upstream.accept()
    assert exchange.names[-1] == "reset"
    assert upstream.gone


def test_an_early_refusal_is_passed_on_and_ends_the_upload(stage):
    exchange, upstream = stage.upload(content_length=1000)
    upstream.transport.producer.pauseProducing()
    assert exchange.said[-1] == ("pause_request",)
    upstream.taken()
    upstream.says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbi")
    assert "stop-writing" in upstream.transport.events
    assert exchange.names[-3:] == ["resume_request", "head", "body"]
    exchange.consumer.body_received(b"more")
    exchange.consumer.body_ended(())
    upstream.transport.producer.pauseProducing()
    upstream.says(b"g")
    assert upstream.taken() == b""
    assert (exchange.status, exchange.body, exchange.ended) == (413, b"big", True)
    assert upstream.gone
    assert stage.pools.idle(ONE) == 0
    exchange.consumer.body_received(b"more")


def test_an_early_refusal_until_close_may_end_with_a_reset(stage, warnings):
    exchange, upstream = stage.upload(content_length=1000)
    upstream.says(b"HTTP/1.1 413 Too Large\r\n\r\nbig")
    upstream.breaks()
    assert exchange.names[-3:] == ["head", "body", "end"]
    assert warnings == []


def test_an_early_response_with_close_ends_the_upload(stage):
    exchange, upstream = stage.upload()
    upstream.taken()
    upstream.says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n")
    exchange.consumer.body_received(b"more")
    assert upstream.taken() == b""


def test_an_early_success_goes_on_both_ways(stage):
    exchange, upstream = stage.upload()
    upstream.taken()
    upstream.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    exchange.consumer.body_received(b"two")
    assert upstream.taken() == b"3\r\ntwo\r\n"
    upstream.transport.producer.pauseProducing()
    upstream.transport.producer.resumeProducing()
    assert exchange.names[-2:] == ["pause_request", "resume_request"]
    exchange.consumer.body_ended(())
    upstream.says(b"0\r\n\r\n")
    assert exchange.ended
    assert stage.pools.idle(ONE) == 1


def test_a_success_that_ends_before_the_upload_ends_the_connection(stage):
    exchange, upstream = stage.upload()
    upstream.says(HELLO)
    assert exchange.ended
    assert upstream.gone


# --- back-pressure ---


def test_a_slow_client_pauses_the_upstream(stage):
    exchange, upstream = stage.asked()
    upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    exchange.consumer.pause_response()
    assert upstream.transport.events == ["pause"]
    upstream.says(b"hello")
    stage.reactor.advance(1000)
    exchange.consumer.resume_response()
    assert upstream.transport.events == ["pause", "resume"]
    upstream.says(b"hello")
    assert exchange.body == b"hellohello"
    exchange.consumer.pause_response()
    exchange.consumer.resume_response()


def test_a_client_that_is_slow_before_the_connection_is_there(stage):
    exchange = stage.ask()
    exchange.consumer.pause_response()
    upstream = stage.upstream().accept()
    assert upstream.transport.events == ["pause"]


def test_a_slow_upstream_pauses_the_client(stage):
    exchange, upstream = stage.upload(content_length=1000)
    upstream.transport.producer.pauseProducing()
    assert exchange.said[-1] == ("pause_request",)
    upstream.transport.producer.resumeProducing()
    assert exchange.said[-1] == ("resume_request",)
    stage.reactor.advance(1000)
    assert not exchange.ended


# --- failures ---


def test_unreachable_upstreams_are_each_tried_once(warnings):
    stage = Stage(ONE, TWO)
    exchange = stage.ask()
    for _ in range(2):
        assert exchange.status is None
        stage.upstream().refuse()
    assert exchange.status == 502
    assert exchange.said[-1][3] == b"502 Bad Gateway\n"
    assert len(stage.reactor.tcpClients) == 2
    assert warnings == [
        f"upstream {host}:8080 cannot be reached: Connection was refused by other side"
        for host in ("192.0.2.10", "192.0.2.11")
    ]


def test_an_upstream_that_swallows_packets(stage, warnings):
    exchange = stage.ask(b"/", b"POST", content_length=5)
    stage.reactor.advance(3.0)
    assert exchange.status == 502
    assert exchange.names == ["pause_request", "resume_request", "answer"]
    assert warnings == ["upstream 192.0.2.10:8080 cannot be reached: timed out"]


def test_dial_timeout():
    stage = Stage(dial_timeout=0.5)
    exchange = stage.ask()
    stage.reactor.advance(0.4)
    assert exchange.status is None
    stage.reactor.advance(0.1)
    assert exchange.status == 502


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_nonsense_is_502(stage, warnings, nonsense):
    exchange, upstream = stage.asked()
    upstream.says(nonsense)
    assert exchange.status == 502
    assert upstream.gone
    assert len(warnings) == 1


@pytest.mark.parametrize("how", ["ends", "breaks"])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 2"])
def test_closed_before_a_response_is_502(stage, warnings, how, said):
    exchange, upstream = stage.asked()
    upstream.says(said)
    getattr(upstream, how)()
    assert exchange.status == 502
    assert len(warnings) == 1
    assert "connection" in warnings[0]


@pytest.mark.parametrize("how", ["ends", "breaks"])
def test_closed_in_the_middle_of_a_response_resets(stage, warnings, how):
    exchange, upstream = stage.asked()
    upstream.says(HELLO[:-2])
    getattr(upstream, how)()
    assert exchange.names == ["head", "body", "reset"]
    assert len(warnings) == 1


def test_a_broken_body_until_close_is_not_a_whole_one(stage):
    exchange, upstream = stage.asked()
    upstream.says(b"HTTP/1.1 200 OK\r\n\r\nhel")
    upstream.breaks()
    assert exchange.names == ["head", "body", "reset"]


def test_a_bad_chunk_resets(stage):
    exchange, upstream = stage.asked()
    upstream.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\none\r\n-\r\n")
    assert exchange.names == ["head", "body", "reset"]
    assert upstream.gone


def test_silence_is_504(stage, warnings):
    exchange, upstream = stage.asked()
    stage.reactor.advance(59.9)
    assert exchange.status is None
    stage.reactor.advance(0.2)
    assert exchange.status == 504
    assert upstream.gone
    assert warnings == ["upstream 192.0.2.10:8080 did not answer in time"]


@pytest.mark.parametrize("body", [False, True], ids=["no body", "body"])
def test_response_header_timeout(body):
    stage = Stage(response_header_timeout=2.0)
    exchange, _ = stage.upload(content_length=5) if body else stage.asked()
    if body:
        exchange.consumer.body_received(b"hello")
        exchange.consumer.body_ended(())
    stage.reactor.advance(1.9)
    assert exchange.status is None
    stage.reactor.advance(0.1)
    assert exchange.status == 504


def test_interim_responses_are_no_silence(stage):
    exchange, upstream = stage.asked()
    stage.reactor.advance(40)
    upstream.says(b"HTTP/1.1 102 Processing\r\n\r\n")
    stage.reactor.advance(40)
    assert exchange.status is None
    stage.reactor.advance(20)
    assert exchange.status == 504


def test_an_upload_is_no_silence_but_one_that_is_not_taken_is(stage):
    exchange, upstream = stage.upload(content_length=1000)
    stage.reactor.advance(100)
    exchange.consumer.body_received(b"hello")
    stage.reactor.advance(100)
    assert exchange.status is None
    upstream.transport.producer.pauseProducing()
    stage.reactor.advance(60)
    assert exchange.status == 504


def test_an_upload_that_is_not_taken_is_504_whatever_had_been_read_of_it(stage):
    exchange, upstream = stage.upload(content_length=1000)
    upstream.transport.producer.pauseProducing()
    exchange.consumer.body_received(b"read before the client was paused")
    stage.reactor.advance(60)
    assert exchange.status == 504


def test_claims_do_not_pass_as_trailers(stage):
    exchange, upstream = stage.upload()
    upstream.taken()
    exchange.consumer.body_ended([(b"x-forwarded-for", b"6.6.6.6"), (b"x-sum", b"1")])
    assert upstream.taken() == b"0\r\nx-sum: 1\r\n\r\n"


def test_silence_after_an_upload_is_504(stage):
    exchange, _ = stage.upload(content_length=5)
    exchange.consumer.body_received(b"hello")
    exchange.consumer.body_ended(())
    stage.reactor.advance(60)
    assert exchange.status == 504


def test_read_timeout():
    stage = Stage(read_timeout=5.0)
    exchange, upstream = stage.asked()
    upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    for _ in range(3):
        stage.reactor.advance(4)
        upstream.says(b"x")
    exchange.consumer.pause_response()
    stage.reactor.advance(100)  # it is the client that does not read
    assert exchange.names == ["head", "body"]
    exchange.consumer.resume_response()
    stage.reactor.advance(5)
    assert exchange.names == ["head", "body", "reset"]


def test_a_kept_connection_that_dies_is_replaced_once(stage, warnings):
    old = stage.kept()
    exchange = stage.ask()
    assert old.taken()
    old.breaks()
    assert exchange.said == []
    assert len(stage.reactor.tcpClients) == 2
    fresh = stage.upstream().accept()
    assert fresh.taken().startswith(b"GET / ")
    assert warnings == []
    fresh.ends()
    assert exchange.status == 502
    assert len(stage.reactor.tcpClients) == 2


def test_a_fresh_connection_that_dies_is_not_replaced(stage):
    exchange, upstream = stage.asked()
    upstream.ends()
    assert exchange.status == 502
    assert len(stage.reactor.tcpClients) == 1


def test_no_second_try_after_a_byte_of_response(stage):
    old = stage.kept()
    exchange = stage.ask()
    old.says(b"H")
    old.ends()
    assert exchange.status == 502


@pytest.mark.parametrize(("method", "ended"), [(b"POST", True), (b"PUT", False)])
def test_no_second_try_for_what_may_have_been_done(stage, method, ended):
    old = stage.kept()
    exchange = stage.ask(b"/", method, request_ended=ended, content_length=None if ended else 5)
    old.ends()
    assert exchange.status == 502
    assert len(stage.reactor.tcpClients) == 1


def test_a_lost_client_ends_the_upstream_connection(stage):
    exchange, upstream = stage.asked()
    exchange.consumer.client_lost("gone")
    assert upstream.transport.events == ["abort"]
    upstream.breaks()
    assert exchange.said == []
    assert stage.reactor.getDelayedCalls() == []


def test_a_lost_client_ends_the_dialling(stage):
    exchange = stage.ask()
    exchange.consumer.client_lost("gone")
    assert stage.upstream().accept().protocol is None
    assert stage.reactor.getDelayedCalls() == []
    exchange.consumer.pause_response()
    exchange.consumer.resume_response()


def test_many_failures_are_told_once_a_second(stage, warnings):
    for _ in range(5):
        stage.ask()
        stage.upstream().refuse()
    assert len(warnings) == 1
    stage.reactor.advance(1)
    stage.ask()
    stage.upstream().refuse()
    assert warnings[1].endswith("(4 more failures since the last warning)")


# --- tunnels ---

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: x\r\n\r\n"
)


@pytest.fixture
def tunnel(stage):
    exchange, upstream = stage.asked(upgrade=b"websocket")
    sent = upstream.taken()
    assert b"upgrade: websocket\r\nconnection: upgrade\r\n" in sent
    upstream.says(SWITCH + b"hi")
    assert exchange.status == 101
    assert exchange.fields[b"sec-websocket-accept"] == b"x"
    assert exchange.body == b"hi"
    return exchange, upstream


def test_a_tunnel_goes_both_ways_without_a_deadline(stage, tunnel):
    exchange, upstream = tunnel
    exchange.consumer.body_received(b"up")
    stage.reactor.advance(10_000)
    upstream.says(b"down")
    assert upstream.taken() == b"up"
    assert exchange.body == b"hidown"


def test_a_tunnel_with_back_pressure(tunnel):
    exchange, upstream = tunnel
    exchange.consumer.pause_response()
    exchange.consumer.resume_response()
    assert upstream.transport.events == ["pause", "resume"]
    upstream.transport.producer.pauseProducing()
    upstream.transport.producer.resumeProducing()
    assert exchange.names[-2:] == ["pause_request", "resume_request"]


def test_the_client_ends_a_tunnel_first(tunnel):
    exchange, upstream = tunnel
    exchange.consumer.body_ended(())
    assert upstream.transport.events == ["lose-write"]
    upstream.protocol.writeConnectionLost()
    upstream.says(b"bye")
    assert exchange.body == b"hibye"
    upstream.ends()
    assert exchange.names[-1] == "end"
    assert upstream.transport.events == ["lose-write", "lose"]


def test_the_upstream_ends_a_tunnel_first(stage, tunnel):
    exchange, upstream = tunnel
    upstream.ends()
    assert exchange.names[-1] == "end"
    stage.reactor.advance(TUNNEL_END_TIMEOUT - 1)
    exchange.consumer.body_received(b"up")
    stage.reactor.advance(TUNNEL_END_TIMEOUT - 1)
    assert upstream.transport.events == []
    exchange.consumer.body_ended(())
    assert upstream.taken() == b"up"
    assert upstream.transport.events == ["lose"]


def test_a_client_that_never_ends_its_side(stage, tunnel):
    exchange, upstream = tunnel
    upstream.ends()
    stage.reactor.advance(TUNNEL_END_TIMEOUT)
    assert exchange.said[-1][0] == "reset"
    assert upstream.transport.events == ["abort"]


def test_a_tunnel_that_breaks(tunnel):
    exchange, upstream = tunnel
    upstream.breaks()
    assert exchange.names[-1] == "reset"
    exchange.consumer.body_received(b"up")


def test_a_lost_client_ends_the_tunnel_behind_its_last_words(stage, tunnel):
    exchange, upstream = tunnel
    exchange.consumer.body_received(b"last words")
    exchange.consumer.client_lost("gone")
    assert upstream.taken() == b"last words"
    assert upstream.transport.producer is None
    assert upstream.transport.events == ["lose"]
    stage.reactor.advance(IDLE_TIMEOUT)
    assert upstream.transport.events == ["lose", "abort"]


def test_a_refused_upgrade(stage):
    exchange, upstream = stage.asked(upgrade=b"websocket")
    upstream.says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    assert (exchange.status, exchange.body, exchange.ended) == (403, b"no", True)
    assert stage.pools.idle(ONE) == 1
