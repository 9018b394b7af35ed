"""Dialling upstreams, and keeping their connections between requests."""

from __future__ import annotations

import socket

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from dwaarx.config.model import Address
from dwaarx.http.dialling import MAX_ADDRESSES
from dwaarx.http.upstream import IDLE_TIMEOUT, MAX_IDLE, UpstreamPools
from tests.http.fakes import FakeUpstream

APP = Address("192.0.2.10", 8080)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class User:
    """Dials, uses the connection, and writes down what it hears."""

    def __init__(self):
        self.heard = []
        self.connection = None
        self.refused = []

    def dialled(self, protocol):
        self.connection = protocol
        protocol.user = self

    def dial_failed(self, reason):
        self.refused.append(reason)

    def upstream_event(self, event):
        self.heard.append(type(event).__name__)

    def upstream_answer(self, head, body):
        self.heard.append((head.status, body))

    def upstream_lost(self, reason):
        self.heard.append(f"lost: {reason}")

    def upstream_full(self):
        self.heard.append("full")

    def upstream_drained(self):
        self.heard.append("drained")

    def upstream_overdue(self):
        self.heard.append("overdue")


@pytest.fixture
def reactor():
    return MemoryReactorClock()


@pytest.fixture
def pools(reactor):
    return UpstreamPools(reactor)


def dial(pools, address=APP, timeout=3.0):
    user = User()
    attempt = pools.dial(address, timeout, user)
    attempt.start()
    return user, attempt


def used(pools, reactor, address=APP):
    """A connection whose request is over, and its upstream."""
    user, _ = dial(pools, address)
    upstream = FakeUpstream(reactor).accept()
    user.connection.session.send_request(b"GET", b"/", b"a", (), "none")
    user.connection.flush()
    upstream.says(ANSWER)
    return user.connection, upstream


# --- dialling ---


def test_a_literal_is_dialled_at_once(pools, reactor):
    user, _ = dial(pools)
    upstream = FakeUpstream(reactor)
    assert (upstream.host, upstream.port, upstream.timeout) == ("192.0.2.10", 8080, 3.0)
    upstream.accept()
    assert user.connection is upstream.protocol
    assert upstream.transport.no_delay
    assert upstream.transport.keep_alive
    assert reactor.getDelayedCalls() == []


def test_localhost_is_both_loopback_addresses_without_a_wait(pools, reactor):
    user, _ = dial(pools, Address("localhost", 3000))
    first = FakeUpstream(reactor)
    first.refuse()
    second = FakeUpstream(reactor)
    assert (first.host, second.host) == ("127.0.0.1", "::1")
    assert user.refused == []
    second.refuse()
    assert user.refused == ["Connection was refused by other side"]
    assert reactor.getDelayedCalls() == []


class Resolver:
    def __init__(self, *addresses):
        self.addresses = addresses
        self.asked = []
        self.receiver = None

    def resolveHostName(self, receiver, name, port=0, addressTypes=None, transportSemantics="TCP"):
        self.asked.append(name)
        receiver.resolutionBegan(None)
        for address in self.addresses:
            receiver.addressResolved(address)
        self.receiver = receiver
        return receiver


def test_a_name_is_resolved_and_its_addresses_share_the_time(pools, reactor):
    resolver = reactor.nameResolver = Resolver(
        IPv6Address("TCP", "2001:db8::1", 80), IPv4Address("TCP", "192.0.2.1", 80)
    )
    user, _ = dial(pools, Address("app.example", 80))
    assert resolver.asked == ["app.example"]
    assert reactor.tcpClients == []
    resolver.receiver.resolutionComplete()
    first = FakeUpstream(reactor)
    assert (first.host, first.timeout) == ("2001:db8::1", 1.5)
    reactor.advance(1.5)
    first.refuse()
    second = FakeUpstream(reactor)
    assert (second.host, second.timeout) == ("192.0.2.1", 1.5)
    second.accept()
    assert user.connection is second.protocol


def test_a_name_with_many_addresses(pools, reactor):
    addresses = [IPv4Address("TCP", f"192.0.2.{at}", 80) for at in range(1, 10)]
    reactor.nameResolver = Resolver(*addresses)
    user, _ = dial(pools, Address("app.example", 80))
    reactor.nameResolver.receiver.resolutionComplete()
    for _ in range(MAX_ADDRESSES):
        assert user.refused == []
        FakeUpstream(reactor).refuse()
    assert len(user.refused) == 1


def test_a_name_without_addresses(pools, reactor):
    reactor.nameResolver = Resolver()
    user, _ = dial(pools, Address("nowhere.example", 80))
    reactor.nameResolver.receiver.resolutionComplete()
    assert user.refused == ["the name was not found"]


def test_a_resolver_that_does_not_answer_in_time(pools, reactor):
    reactor.nameResolver = Resolver(IPv4Address("TCP", "192.0.2.1", 80))
    user, _ = dial(pools, Address("slow.example", 80))
    reactor.advance(3.0)
    assert user.refused == ["timed out"]
    reactor.nameResolver.receiver.resolutionComplete()
    assert reactor.tcpClients == []


def test_a_connection_that_comes_too_late_is_not_used(pools, reactor):
    user, _ = dial(pools)
    upstream = FakeUpstream(reactor)
    reactor.advance(3.0)
    assert user.refused == ["timed out"]
    assert upstream.connector._disconnected
    assert upstream.accept().protocol is None
    upstream.refuse()
    assert user.refused == ["timed out"]


def test_a_cancelled_dial(pools, reactor):
    user, attempt = dial(pools)
    upstream = FakeUpstream(reactor)
    attempt.cancel()
    assert upstream.connector._disconnected
    assert upstream.accept().protocol is None
    assert (user.refused, user.connection) == ([], None)
    attempt.cancel()
    assert reactor.getDelayedCalls() == []


def test_a_dial_that_is_cancelled_while_the_connection_is_made(pools, reactor):
    _, attempt = dial(pools)
    upstream = FakeUpstream(reactor)
    protocol = upstream.factory.buildProtocol(None)
    attempt.cancel()
    protocol.makeConnection(upstream.transport)
    assert upstream.transport.events == ["abort"]


# --- kept connections ---


def test_the_one_used_last_is_taken_first(pools, reactor):
    connections = [used(pools, reactor)[0] for _ in range(2)]
    for connection in connections:
        pools.give_back(connection)
    assert pools.idle(APP) == 2
    assert pools.take(APP) is connections[1]
    assert pools.take(APP) is connections[0]
    assert pools.take(APP) is None
    assert pools.take(Address("192.0.2.11", 8080)) is None


def test_a_kept_connection_is_closed_in_time(pools, reactor):
    connection, upstream = used(pools, reactor)
    pools.give_back(connection)
    reactor.advance(IDLE_TIMEOUT - 0.1)
    assert pools.take(APP) is connection
    pools.give_back(connection)
    reactor.advance(IDLE_TIMEOUT)
    assert pools.idle(APP) == 0
    assert upstream.transport.events == ["lose"]
    reactor.advance(IDLE_TIMEOUT)
    assert upstream.transport.events == ["lose", "abort"]


def test_a_kept_connection_that_ends_is_forgotten(pools, reactor):
    for how in ("ends", "breaks"):
        connection, upstream = used(pools, reactor)
        pools.give_back(connection)
        getattr(upstream, how)()
        assert pools.idle(APP) == 0


def test_bytes_on_a_kept_connection_end_it(pools, reactor):
    connection, upstream = used(pools, reactor)
    pools.give_back(connection)
    upstream.says(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert pools.idle(APP) == 0
    assert upstream.gone


def test_what_cannot_be_used_again_is_closed(pools, reactor):
    user, _ = dial(pools)
    upstream = FakeUpstream(reactor).accept()
    user.connection.session.send_request(b"GET", b"/", b"a", (), "none")
    upstream.says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    pools.give_back(user.connection)
    assert pools.idle(APP) == 0
    assert upstream.transport.events == ["lose"]
    user.connection.connectionLost(Failure(ConnectionDone()))
    assert reactor.getDelayedCalls() == []


def test_only_so_many_are_kept(pools, reactor):
    for _ in range(MAX_IDLE + 1):
        pools.give_back(used(pools, reactor)[0])
    assert pools.idle(APP) == MAX_IDLE


def test_retain_closes_those_of_forgotten_upstreams(pools, reactor):
    other = Address("192.0.2.11", 8080)
    kept, _ = used(pools, reactor)
    dropped, upstream = used(pools, reactor, other)
    busy, busy_upstream = used(pools, reactor, other)
    pools.give_back(kept)
    pools.give_back(dropped)
    pools.retain([APP])
    assert (pools.idle(APP), pools.idle(other)) == (1, 0)
    assert upstream.gone
    assert not busy_upstream.gone
    pools.give_back(busy)
    assert busy_upstream.gone
    pools.close()
    assert pools.idle(APP) == 0


# --- the connection ---


def test_reading_is_paused_and_resumed_once(pools, reactor):
    connection, upstream = used(pools, reactor)
    connection.pause()
    connection.pause()
    connection.resume()
    connection.resume()
    assert upstream.transport.events == ["pause", "resume"]
    connection.pause()
    connection.read_closed = True
    connection.resume()
    assert upstream.transport.events == ["pause", "resume", "pause"]


def test_the_transport_slows_the_user_down(pools, reactor):
    user, _ = dial(pools)
    upstream = FakeUpstream(reactor).accept()
    upstream.transport.producer.pauseProducing()
    upstream.transport.producer.resumeProducing()
    assert user.heard == ["full", "drained"]
    user.connection.user = None
    upstream.transport.producer.pauseProducing()
    upstream.transport.producer.resumeProducing()
    upstream.transport.producer.stopProducing()
    assert user.heard == ["full", "drained"]


class WritingTransport:
    """Over a real socket, the way Twisted's transports write."""

    def __init__(self, transport, sock):
        self.sock = sock
        self.transport = transport

    def __getattr__(self, name):
        return getattr(self.transport, name)

    def writeSomeData(self, data):
        try:
            return self.sock.send(data)
        except OSError as error:
            return error


def test_a_failing_write_does_not_end_the_connection_before_its_reads(pools, reactor):
    user, _ = dial(pools)
    upstream = FakeUpstream(reactor).accept()
    near, far = socket.socketpair()
    far.close()
    connection = user.connection
    transport = connection.transport = WritingTransport(upstream.transport, near)
    connection.watch_writes()
    connection.watch_writes()
    assert transport.writeSomeData(b"x") == 0
    assert upstream.transport.events == ["stop-writing"]
    connection.session.send_request(b"GET", b"/", b"a", (), "none")
    connection.flush()
    assert upstream.taken() == b""
    connection.read_closed = True
    assert isinstance(transport.writeSomeData(b"x"), OSError)
    near.close()


def test_a_write_that_succeeds_is_as_before(pools, reactor):
    user, _ = dial(pools)
    upstream = FakeUpstream(reactor).accept()
    near, far = socket.socketpair()
    connection = user.connection
    transport = connection.transport = WritingTransport(upstream.transport, near)
    connection.watch_writes()
    assert transport.writeSomeData(b"abc") == 3
    assert far.recv(10) == b"abc"
    near.close()
    far.close()


class ShortTransport:
    """Takes `size` bytes of a write, or fails."""

    def __init__(self, transport, size):
        self.transport = transport
        self.size = size
        self.sent = b""

    def __getattr__(self, name):
        return getattr(self.transport, name)

    def writeSomeData(self, data):
        if isinstance(self.size, Exception):
            return self.size
        self.sent += data[: self.size]
        return len(data[: self.size])


@pytest.mark.parametrize("size", [0, 7, 10_000, OSError("broken pipe")])
def test_a_head_goes_to_the_socket_at_once_and_the_rest_to_the_transport(pools, reactor, size):
    user, _ = dial(pools)
    upstream = FakeUpstream(reactor).accept()
    connection = user.connection
    transport = connection.transport = ShortTransport(upstream.transport, size)
    connection.session.send_request(b"GET", b"/", b"a", (), "none")
    connection.flush_head()
    request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    assert len(transport.sent) == (0 if isinstance(size, Exception) else min(size, len(request)))
    assert transport.sent + upstream.taken() == request
