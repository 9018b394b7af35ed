import json
import os
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from dwaarx.console import protocol
from dwaarx.console.errors import ConsoleError
from dwaarx.console.protocol import ConsoleFactory, Request, RequestError, parse_request


class Handle:
    def __init__(self, uid):
        self._uid = uid

    def getsockopt(self, level, name, size):
        return struct.pack("3i", 4321, self._uid, 0)


class UnixTransport(StringTransport):
    def __init__(self, uid=0):
        super().__init__()
        self._handle = Handle(uid)
        self.aborting = False

    def abortConnection(self):
        self.aborting = True

    def getHandle(self):
        return self._handle


class Client:
    def __init__(self, namespace=None, uid=0):
        self.clock = Clock()
        self.factory = ConsoleFactory(namespace or {}, self.clock)
        self.transport = UnixTransport(uid)
        self.protocol = self.factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)

    def send(self, request):
        self.protocol.dataReceived(json.dumps(request).encode() + b"\n")

    def eval(self, expression, **more):
        self.send({"mode": "eval", "expression": expression, **more})
        return self.answer()

    def answer(self):
        lines = self.transport.value().splitlines(keepends=True)
        self.transport.clear()
        assert len(lines) == 1
        assert lines[0].endswith(b"\n")
        return json.loads(lines[0])

    def lose(self):
        self.protocol.connectionLost(Failure(ConnectionDone()))


def ok(result=None, output=""):
    return {"ok": True, "output": output, "result": result, "error": None}


def wrong(error, output=""):
    return {"ok": False, "output": output, "result": None, "error": error}


def test_an_expression_is_answered_and_the_connection_closed():
    client = Client({"f": lambda: "text"})
    assert client.eval("f()") == ok("'text'")
    assert client.transport.disconnecting


def test_what_was_printed_and_errors():
    assert Client().eval("print('a\\nb')") == ok(output="a\nb\n")
    assert Client().eval("x = 1") == ok()
    assert Client().eval("print('a') or 1/0") == wrong("ZeroDivisionError: division by zero", "a\n")


def test_any_text_makes_one_line():
    assert Client().eval("'\\u2028\\ud800é'") == ok("'\\u2028\\ud800é'")


def test_a_request_may_come_in_pieces():
    client = Client()
    for byte in b'{"mode": "eval", "expression": "1"}\n':
        assert client.transport.value() == b""
        client.protocol.dataReceived(bytes([byte]))
    assert client.answer() == ok("1")


def test_several_requests_share_a_namespace():
    client = Client()
    assert client.eval("x = 20", more=True) == ok()
    assert client.eval("x + 1", more=True) == ok("21")
    assert not client.transport.disconnecting
    client.clock.advance(1_000)
    assert client.eval("x") == ok("20")
    assert client.transport.disconnecting
    client.send({"mode": "eval", "expression": "x"})
    assert client.transport.value() == b""


def test_thousands_of_requests_at_once_are_answered_in_turn():
    client = Client()
    line = b'{"mode":"eval","expression":"1","more":true}\n'
    client.protocol.dataReceived(line * 5_000)
    assert len(client.transport.value().splitlines()) == 5_000


def test_deferreds_are_waited_for():
    waiting = Deferred()
    client = Client({"f": lambda: waiting})
    client.send({"mode": "eval", "expression": "f()", "more": True})
    client.send({"mode": "eval", "expression": "2"})
    client.clock.advance(100)
    assert client.transport.value() == b""
    waiting.callback(3)
    assert [json.loads(line)["result"] for line in client.transport.value().splitlines()] == [
        "3",
        "2",
    ]
    assert client.transport.disconnecting


def test_deferreds_that_fail_and_coroutines():
    async def coroutine():
        return await succeed(5)

    assert Client({"f": lambda: fail(ConsoleError("no"))}).eval("f()") == wrong("ConsoleError: no")
    assert Client({"f": coroutine}).eval("f()") == ok("5")


def test_a_lost_client_cancels_what_it_waits_for():
    cancelled = []
    waiting = Deferred(cancelled.append)
    client = Client({"f": lambda: waiting})
    client.send({"mode": "eval", "expression": "f()"})
    client.lose()
    assert cancelled == [waiting]
    assert client.transport.value() == b""
    assert client.clock.getDelayedCalls() == []
    waiting.addErrback(lambda failure: failure.trap(CancelledError))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", "expected one JSON object"),
        (b"GET / HTTP/1.1\r", "expected one JSON object"),
        (b"\xff\xfe", "expected one JSON object"),
        (b"[" * 100_000, "expected one JSON object"),
        (b"[]", "expected a JSON object"),
        (b"{}", '"mode" is "eval" or "terminal"'),
        (b'{"mode": ["eval"]}', '"mode" is "eval" or "terminal"'),
        (b'{"mode": "eval"}', '"expression", a string'),
        (b'{"mode": "eval", "expression": 3}', '"expression", a string'),
        (b'{"mode": "eval", "expression": "", "more": 3}', '"expression", a string'),
        (b'{"mode": "terminal", "width": "80"}', '"width" and "height" are numbers'),
    ],
)
def test_what_is_no_request_gets_an_error_and_a_close(line, error):
    client = Client()
    client.protocol.dataReceived(line + b"\n")
    answer = client.answer()
    assert not answer["ok"]
    assert error in answer["error"]
    assert client.transport.disconnecting


@given(st.binary(max_size=200))
def test_no_line_raises_but_what_is_declared(line):
    with suppress(RequestError):
        assert isinstance(parse_request(line), Request)


@given(st.binary(max_size=200))
def test_no_bytes_can_break_the_protocol(data):
    client = Client()
    client.protocol.dataReceived(data)
    client.protocol.dataReceived(b"\n")
    assert client.transport.disconnecting
    client.lose()


def test_a_request_is_bounded(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_REQUEST", 100)
    client = Client()
    client.protocol.dataReceived(b" " * 100)
    assert client.transport.value() == b""
    client.protocol.dataReceived(b" ")
    assert client.answer() == wrong("a request is at most 100 bytes long")
    assert client.transport.disconnecting


def test_a_client_that_says_nothing_is_closed():
    client = Client()
    client.clock.advance(9)
    client.protocol.dataReceived(b"{")
    client.clock.advance(0.9)
    assert not client.transport.disconnecting
    client.clock.advance(0.2)
    assert client.answer() == wrong("no request came within 10 s")
    assert client.transport.disconnecting


def test_a_client_that_does_not_read_its_answer_is_dropped():
    client = Client()
    client.eval("1")
    client.clock.advance(9.9)
    assert not client.transport.aborting
    client.clock.advance(0.2)
    assert client.transport.aborting


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_root_and_the_own_user_are_let_in(uid):
    assert Client(uid=uid).eval("1") == ok("1")


def test_others_are_refused(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    client = Client(uid=1_001)
    assert client.answer()["error"].startswith("only root and the user")
    assert client.transport.disconnecting
    client.send({"mode": "eval", "expression": "1"})
    assert client.transport.value() == b""


def test_a_terminal():
    client = Client({"showBinds": lambda: 7})
    request = b'{"mode": "terminal", "width": 100, "height": 30, "term": "xterm"}\n'
    client.protocol.dataReceived(request + b"showBi")
    assert client.transport.value().startswith(b"dwaarx ")
    client.clock.advance(10_000)
    client.protocol.dataReceived(b"\tx\x7f)\r")
    assert b"showBinds()\r\n7\r\n" in client.transport.value()
    assert not client.transport.disconnecting
    client.protocol.dataReceived(b"\x04")
    assert client.transport.disconnecting
    client.lose()


def test_a_terminal_that_is_not_read_is_not_typed_at():
    client = Client()
    client.send({"mode": "terminal"})
    producer = client.transport.producer
    assert client.transport.streaming
    producer.pauseProducing()
    assert client.transport.producerState == "paused"
    producer.resumeProducing()
    assert client.transport.producerState == "producing"
    producer.stopProducing()


def test_a_client_that_does_not_read_is_not_answered_on():
    client = Client()
    client.transport.producer.pauseProducing()
    client.send({"mode": "eval", "expression": "1", "more": True})
    client.send({"mode": "eval", "expression": "2", "more": True})
    assert client.transport.value() == b""
    client.transport.producer.resumeProducing()
    assert client.transport.value().count(b"\n") == 2
    assert client.transport.producerState == "producing"


def test_a_terminal_left_with_much_output_is_closed_when_that_is_read():
    client = Client()
    client.send({"mode": "terminal"})
    # What the transport does when its buffer is full, and when it has been emptied.
    client.transport.producer.pauseProducing()
    client.protocol.dataReceived(b"\x04")
    assert client.transport.disconnecting
    client.transport.producer.resumeProducing()
    assert client.transport.producer is None


def test_clients_are_bounded(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    factory = ConsoleFactory({}, Clock())
    first = factory.buildProtocol(None)
    assert factory.buildProtocol(None) is not None
    assert factory.buildProtocol(None) is None
    first.makeConnection(UnixTransport())
    first.connectionLost(Failure(ConnectionDone()))
    assert factory.buildProtocol(None) is not None
