import base64
import tracemalloc

import dns.edns
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.config.model import Record, Resolvers
from dwaarx.dns.doh import DohHandler, decode
from dwaarx.dns.forwarder import Forwarder
from dwaarx.http.events import RequestHead
from dwaarx.http.exchange import ConnectionInfo, Exchange
from tests.dns.fakes import Reactor, configure, make

INFO = ConnectionInfo("127.0.0.1", 4000, "127.0.0.1", 443, secure=True)


class FakeExchange(Exchange):
    """Remembers what was sent."""

    def __init__(self, request, *, request_ended=False):
        super().__init__(request, INFO, request_ended=request_ended)
        self.status = None
        self.fields = {}
        self.body = b""
        self.informational = []
        self.answers = 0
        self.lost = False

    @property
    def ended(self):
        return self.status is not None or self.lost

    def _send_answer(self, status, fields, body):
        self.status, self.fields, self.body = status, dict(fields), body
        self.answers += 1

    def _send_head(self, status, fields, end):
        raise AssertionError("an answer is one piece")

    def send_informational(self, status, fields):
        self.informational.append(status)

    def send_body(self, data):
        raise AssertionError("an answer is one piece")

    def end(self, trailers=()):
        raise AssertionError("an answer is one piece")

    def reset(self, reason):
        raise AssertionError(reason)

    def pause_request(self):
        raise AssertionError("nothing is paused")

    def resume_request(self):
        raise AssertionError("nothing is paused")

    @property
    def message(self) -> dns.message.Message:
        assert self.status == 200
        assert self.fields[b"content-type"] == b"application/dns-message"
        return dns.message.from_wire(self.body)


class Resolver:
    """Keeps every query for the test to answer."""

    def __init__(self):
        self.waiting = []

    def resolve(self, query, respond):
        self.waiting.append((query, respond))


@pytest.fixture
def forwarder(tmp_path):
    forwarder = Forwarder(Reactor(), tmp_path / "none")
    configure(forwarder, (Resolvers(records=(Record("hello.test", "A", "127.0.0.1", 300),)),))
    return forwarder


@pytest.fixture
def handler(forwarder):
    return DohHandler(forwarder)


def request(method=b"GET", target=b"/dns-query", fields=(), length=None) -> FakeExchange:
    return FakeExchange(
        RequestHead(method, b"https", b"localhost", target, fields, b"2", content_length=length)
    )


def encoded(wire: bytes) -> bytes:
    return base64.urlsafe_b64encode(wire).rstrip(b"=")


def get(handler, query: bytes | None, method=b"GET") -> FakeExchange:
    target = b"/dns-query" if query is None else b"/dns-query?" + query
    exchange = request(method, target)
    handler.handle(exchange)
    assert exchange.consumer is None
    return exchange


def post(handler, *pieces: bytes, kind=b"application/dns-message", length=None, **kw):
    fields = [*kw.pop("fields", [])]
    if kind is not None:
        fields.append((b"content-type", kind))
    exchange = request(b"POST", fields=fields, length=length)
    handler.handle(exchange)
    for piece in pieces:
        if exchange.consumer is not None:
            exchange.consumer.body_received(piece)
    if exchange.consumer is not None:
        exchange.consumer.body_ended(())
    return exchange


WIRE = make("hello.test", id=0).to_wire()


def test_get(handler):
    exchange = get(handler, b"dns=" + encoded(WIRE))
    message = exchange.message
    assert message.id == 0
    assert message.answer[0][0].to_text() == "127.0.0.1"
    assert exchange.fields[b"cache-control"] == b"max-age=300"
    assert exchange.fields[b"content-length"] == b"%d" % len(exchange.body)


def test_get_among_other_parameters(handler):
    assert get(handler, b"a=1&dns=" + encoded(WIRE) + b"&b").message.answer
    percent = b"".join(b"%%%02X" % octet for octet in encoded(WIRE))
    assert get(handler, b"dns=" + percent).message.answer


def test_head_is_as_get(handler):
    assert get(handler, b"dns=" + encoded(WIRE), b"HEAD").message.answer


def test_post(handler):
    assert post(handler, WIRE).message.answer
    assert post(handler, WIRE, length=len(WIRE)).message.answer
    assert post(handler, *(WIRE[at : at + 1] for at in range(len(WIRE)))).message.answer
    assert post(handler, WIRE, kind=b"Application/DNS-Message; charset=x").message.answer


def test_expect_100_continue(handler):
    exchange = post(handler, WIRE, fields=[(b"expect", b"100-continue")])
    assert exchange.informational == [100]
    assert exchange.message.answer
    refused = post(handler, kind=None, fields=[(b"expect", b"100-continue")])
    assert refused.informational == []
    assert refused.status == 415


def test_padding_and_no_keepalive(handler):
    options = [dns.edns.GenericOption(12, b""), dns.edns.GenericOption(11, b"")]
    exchange = post(handler, make("hello.test", options=options).to_wire())
    assert len(exchange.body) == 468
    assert [int(option.otype) for option in exchange.message.options] == [12]


@pytest.mark.parametrize(
    "query",
    [
        None,
        b"",
        b"dns",
        b"dns=",
        b"DNS=" + encoded(WIRE),
        b"name=hello.test",
        b"dns=" + encoded(WIRE) + b"&dns=" + encoded(WIRE),
        b"dns=" + base64.urlsafe_b64encode(WIRE + b"a").rstrip(b"=") + b"=",
        b"dns=" + encoded(WIRE) + b"%3D",
        b"dns=A",
        b"dns=AAAAA",
        b"dns=AA+A",
        b"dns=AA/A",
        b"dns=AA A",
        b"dns=AA%20A",
        b"dns=AA\xffA",
        b"dns=" + encoded(WIRE[:11]),
        b"dns=" + encoded(WIRE[:2] + b"\x81\x80" + WIRE[4:]),
    ],
)
def test_bad_gets(handler, query):
    exchange = get(handler, query)
    assert exchange.status == 400
    assert exchange.fields[b"content-type"].startswith(b"text/plain")
    assert exchange.body


def test_a_get_that_is_too_long(handler):
    assert get(handler, b"dns=" + b"A" * 87_381).status == 414
    assert get(handler, b"dns=" + b"A" * 87_380).status in (200, 400)


@pytest.mark.parametrize(
    "method", [b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"get", b"X"]
)
def test_other_methods(handler, method):
    exchange = request(method)
    handler.handle(exchange)
    assert exchange.status == 405
    assert exchange.fields[b"allow"] == b"GET, HEAD, POST"


@pytest.mark.parametrize(
    "kind", [None, b"", b"application/json", b"application/dns-json", b"application/dns-messages"]
)
def test_other_types(handler, kind):
    assert post(handler, WIRE, kind=kind).status == 415


def test_two_types(handler):
    twice = [(b"content-type", b"application/dns-message")]
    assert post(handler, WIRE, fields=twice).status == 415


def test_bodies_that_are_too_long(handler):
    announced = post(handler, length=65_536)
    assert announced.status == 413
    assert announced.consumer is None
    grown = post(handler, bytes(40_000), bytes(40_000), bytes(40_000))
    assert grown.status == 413
    assert grown.answers == 1
    assert post(handler, bytes(65_535)).status == 200  # a DNS answer: FORMERR


def test_a_body_in_tiny_pieces_takes_no_more_room(handler):
    exchange = request(b"POST", fields=[(b"content-type", b"application/dns-message")])
    handler.handle(exchange)
    tracemalloc.start()
    for number in range(32_767):
        exchange.consumer.body_received(number.to_bytes(2, "big"))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 100_000
    exchange.consumer.body_ended(())
    assert exchange.message.rcode() == dns.rcode.FORMERR


def test_an_empty_body(handler):
    assert post(handler).status == 400
    assert post(handler, length=0).status == 400


def test_no_body_at_all(handler):
    head = RequestHead(
        b"POST",
        b"https",
        b"localhost",
        b"/dns-query",
        [(b"content-type", b"application/dns-message")],
        b"2",
    )
    exchange = FakeExchange(head, request_ended=True)
    handler.handle(exchange)
    assert exchange.status == 400


def test_dns_errors_are_200(handler):
    malformed = post(handler, WIRE + b"x")
    assert malformed.message.rcode() == dns.rcode.FORMERR
    assert malformed.fields[b"cache-control"] == b"max-age=0"
    nowhere = post(handler, make("example.org", edns=True).to_wire())
    assert nowhere.message.rcode() == dns.rcode.SERVFAIL
    assert nowhere.fields[b"cache-control"] == b"max-age=0"
    refused = post(handler, make("example.org", "AXFR").to_wire())
    assert refused.message.rcode() == dns.rcode.REFUSED


def test_answers_that_come_later():
    resolver = Resolver()
    handler = DohHandler(resolver)
    exchange = get(handler, b"dns=" + encoded(WIRE))
    assert exchange.status is None
    (query, respond) = resolver.waiting.pop()
    assert query.client == "127.0.0.1"
    respond(query.wire[:2] + b"\x81\x80" + query.wire[4:])
    assert exchange.status == 200


def test_a_client_that_is_gone():
    resolver = Resolver()
    handler = DohHandler(resolver)
    exchange = request(b"POST", fields=[(b"content-type", b"application/dns-message")])
    handler.handle(exchange)
    consumer = exchange.consumer
    consumer.body_received(WIRE)
    consumer.pause_response()
    consumer.resume_response()
    consumer.body_ended(())
    exchange.lost = True
    consumer.client_lost("reset")
    resolver.waiting.pop()[1](WIRE)
    assert exchange.answers == 0


def test_decode_as_the_library_does():
    for size in range(40):
        wire = bytes(range(200, 200 + size))
        assert decode(encoded(wire)) == wire


@given(st.binary(max_size=100))
def test_any_parameter(value):
    resolver = Resolver()
    exchange = request(target=b"/dns-query?dns=" + value)
    DohHandler(resolver).handle(exchange)
    assert exchange.status in (None, 200, 400)
    assert (exchange.status is None) == (len(resolver.waiting) == 1)


@given(st.binary(max_size=100))
def test_any_message_in_a_parameter(wire):
    resolver = Resolver()
    exchange = request(target=b"/dns-query?dns=" + encoded(wire))
    DohHandler(resolver).handle(exchange)
    assert exchange.status in (None, 200, 400)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_body(pieces):
    resolver = Resolver()
    exchange = post(DohHandler(resolver), *pieces)
    assert exchange.status in (None, 200, 400)
