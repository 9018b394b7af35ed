from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import weakref
from collections.abc import Callable

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISystemHandle
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.config.model import Address
from dwaarx.log import show_debug
from dwaarx.tls import descriptors
from dwaarx.tls.accepted import Accepted, textual
from dwaarx.tls.connection import CLOSE_NOTIFY
from dwaarx.tls.listener import REFUSALS_TOLD, Endpoint, Listener
from dwaarx.tls.policy import base_context, certificate_context
from dwaarx.tls.sockets import BindError, bind_stream
from tests.certs.pki import Entity, make_ca, make_leaf
from tests.tls.memory import HOST, PEER, Certificate, Client, MemoryTransport
from tests.tls.recorder import Recorder


@pytest.fixture(scope="module")
def ca() -> Entity:
    return make_ca()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def made() -> list[Recorder]:
    Recorder.made.clear()
    return Recorder.made


def certificate(leaf: Entity) -> Certificate:
    return Certificate(certificate_context([(leaf.key, [leaf.certificate])], lambda _: b""))


@pytest.fixture(scope="module")
def leaves(ca: Entity) -> dict[str, Entity]:
    return {name: make_leaf(ca, [name]) for name in ("a.example", "*.w.example", "dns.example")}


@pytest.fixture
def listener(clock: Clock, leaves: dict[str, Entity]) -> Listener:
    listener = Listener(Recorder, clock, base=base_context(), handshake=10, idle=60)
    http = (b"h2", b"http/1.1")
    listener.set_endpoints(
        [
            ("a.example", Endpoint(certificate(leaves["a.example"]), http)),
            ("*.w.example", Endpoint(certificate(leaves["*.w.example"]), http)),
            ("dns.example", Endpoint(certificate(leaves["dns.example"]), (b"dot",))),
        ]
    )
    return listener


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.example", "a.example"), ("b.w.example", "*.w.example"), ("A.Example", "a.example")],
)
def test_sni_chooses_the_certificate(
    listener: Listener, ca: Entity, leaves: dict[str, Entity], name: str, expected: str
) -> None:
    client = Client(listener, ca, name).handshake()
    assert client.serial() == leaves[expected].certificate.serial_number


@pytest.mark.parametrize("name", [None, "127.0.0.1"])
def test_without_sni_the_first_certificate_is_served(
    listener: Listener,
    ca: Entity,
    leaves: dict[str, Entity],
    name: str | None,
    made: list[Recorder],
) -> None:
    client = Client(listener, ca, None).handshake()
    assert client.serial() == leaves["a.example"].certificate.serial_number
    assert made[0].accepted == Accepted("192.0.2.7", 4711, "127.0.0.1", 443, None, None)


def test_the_session_learns_what_was_agreed_on(
    listener: Listener, ca: Entity, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "dns.example", ("dot",)).handshake()
    client.send(b"question")
    (session,) = made
    assert session.accepted.protocol == b"dot"
    assert session.accepted.server_name == "dns.example"
    assert session.received == [b"question"]
    assert session.transport is not None
    session.transport.write(b"answer")
    assert client.receive() == b"answer"


def test_a_name_gets_its_own_protocols_only(listener: Listener, ca: Entity) -> None:
    with pytest.raises(ssl.SSLError):
        Client(listener, ca, "a.example", ("dot",)).handshake()


def test_without_sni_whatever_is_spoken_here(listener: Listener, ca: Entity) -> None:
    assert Client(listener, ca, None, ("dot",)).handshake().tls.selected_alpn_protocol() == "dot"


def test_data_that_comes_with_the_last_handshake_bytes_is_not_lost(
    listener: Listener, ca: Entity, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example")
    for _ in range(3):
        try:
            client.tls.do_handshake()
        except ssl.SSLWantReadError:
            client.pump()
    client.tls.write(b"early")  # joins the client's Finished in one read of the server
    client.pump()
    assert made[0].received == [b"early"]


def test_a_swapped_context_serves_the_next_handshake(
    listener: Listener, ca: Entity, leaves: dict[str, Entity], made: list[Recorder]
) -> None:
    holder = certificate(leaves["a.example"])
    listener.set_endpoints([("a.example", Endpoint(holder, (b"h2",)))])
    before = Client(listener, ca, "a.example").handshake()
    renewed = make_leaf(ca, ["a.example"])
    holder.context = certificate(renewed).context
    after = Client(listener, ca, "a.example").handshake()
    assert after.serial() == renewed.certificate.serial_number
    before.send(b"still here")
    assert made[0].received == [b"still here"]


def test_an_unfinished_handshake_is_timed_out(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example")
    assert (listener.accepted, listener.open) == (1, 1)
    clock.advance(9)
    assert not client.transport.aborted
    clock.advance(1)
    assert client.transport.aborted
    client.server.connectionLost()
    assert (listener.open, listener.tls_failures) == (0, 1)
    assert made == []
    assert not clock.getDelayedCalls()


def test_garbage_ends_the_handshake(listener: Listener, ca: Entity, made: list[Recorder]) -> None:
    client = Client(listener, ca, "a.example")
    client.server.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
    assert client.transport.disconnecting
    show_debug()
    with capturedLogs() as logs:
        client.server.connectionLost()
    show_debug(show=False)
    assert (listener.tls_failures, made) == (1, [])
    assert [formatEvent(each).partition(": [")[0] for each in logs] == [
        "192.0.2.7: TLS handshake failed"
    ]


def test_a_peer_that_does_not_close_is_dropped(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    made[0].transport.loseConnection()
    clock.advance(CLOSE_NOTIFY - 1)
    assert not client.transport.disconnecting
    clock.advance(1)
    # What the socket still holds goes out before it closes.
    assert client.transport.disconnecting
    assert not client.transport.aborted
    clock.advance(60 - CLOSE_NOTIFY)
    assert client.transport.aborted


def test_a_short_idle_limit_holds_for_the_close_too(ca: Entity, clock: Clock) -> None:
    listener = Listener(Recorder, clock, base=base_context(), idle=2)
    leaf = make_leaf(ca, ["a.example"])
    listener.set_endpoints([("a.example", Endpoint(certificate(leaf), (b"h2",)))])
    client = Client(listener, ca, "a.example").handshake()
    client.server.loseConnection()
    clock.advance(2)
    assert client.transport.aborted


def test_a_peer_gets_no_more_time_by_being_told_again(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    for _ in range(3):
        made[0].transport.loseConnection()
        clock.advance(20)
    assert client.transport.aborted


def test_what_comes_after_the_end_does_nothing(
    listener: Listener, ca: Entity, clock: Clock
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    client.server.connectionLost()
    client.server.loseConnection()
    client.server.abortConnection()
    assert not client.transport.aborted
    assert not clock.getDelayedCalls()


def cut_off(client: Client) -> None:
    """End amid the handshake."""
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.pump()


CLOSE_NOTIFY_ALERT = bytes.fromhex("15 0303 0002 0100")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_close_notify_amid_the_handshake(
    listener: Listener, ca: Entity, version: ssl.TLSVersion
) -> None:
    client = Client(listener, ca, "a.example", version=version)
    cut_off(client)
    client.server.dataReceived(CLOSE_NOTIFY_ALERT)
    assert client.transport.disconnecting
    client.server.connectionLost(Failure(ConnectionDone()))
    assert (listener.open, listener.tls_failures) == (0, 1)


def fail(client: Client) -> None:
    """End by garbage."""
    client.server.dataReceived(b"GET / HTTP/1.1\r\n\r\n")


def shake_hands(client: Client) -> None:
    """End without a word after the handshake."""
    client.handshake()


@pytest.mark.parametrize("begin", [cut_off, fail, shake_hands])
def test_openssls_memory_is_given_back_at_once(
    listener: Listener, ca: Entity, begin: Callable[[Client], None]
) -> None:
    client = Client(listener, ca, "a.example")
    begin(client)
    connection = weakref.ref(client.server.getHandle())
    gc.disable()  # the cycles that it would break are what is looked for
    try:
        client.server.connectionLost(Failure(ConnectionDone()))
        assert connection() is None
    finally:
        gc.enable()


class Producer:
    """A streaming producer that never has anything to say."""

    def pauseProducing(self) -> None:
        """Do nothing."""

    def resumeProducing(self) -> None:
        """Do nothing."""

    def stopProducing(self) -> None:
        """Do nothing."""


def break_tls(client: Client) -> None:
    client.server.dataReceived(b"\x17\x03\x03\x00\x20" + bytes(32))


def close_tls(client: Client) -> None:
    with contextlib.suppress(ssl.SSLError):
        client.tls.unwrap()
    client.pump()


@pytest.mark.parametrize("end", [break_tls, close_tls])
def test_when_tls_is_over_the_socket_waits_neither_for_the_producer_nor_for_the_peer(
    listener: Listener,
    ca: Entity,
    clock: Clock,
    made: list[Recorder],
    end: Callable[[Client], None],
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    made[0].transport.registerProducer(Producer(), True)
    end(client)
    assert client.transport.disconnecting
    assert client.transport.producer is None
    clock.advance(59)
    assert not client.transport.aborted
    clock.advance(1)
    assert client.transport.aborted
    client.server.connectionLost()
    assert not clock.getDelayedCalls()


def test_a_broken_handshake_gets_no_more_time(listener: Listener, ca: Entity, clock: Clock) -> None:
    client = Client(listener, ca, "a.example")
    client.server.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
    assert client.transport.disconnecting
    clock.advance(10)
    assert client.transport.aborted


def test_a_waiting_producer_does_not_outlast_the_deadline(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    made[0].transport.registerProducer(Producer(), True)
    made[0].transport.loseConnection()
    assert not client.transport.disconnecting  # Twisted waits for the producer
    clock.advance(CLOSE_NOTIFY)
    assert not client.transport.disconnecting
    clock.advance(60 - CLOSE_NOTIFY)
    assert client.transport.aborted


def test_the_deadline_of_the_handshake_ends_with_it(
    listener: Listener, ca: Entity, clock: Clock
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    clock.advance(1000)
    assert not client.transport.aborted
    assert not client.transport.disconnecting


def test_drain_and_abort(listener: Listener, ca: Entity, made: list[Recorder]) -> None:
    idle = Client(listener, ca, "a.example").handshake()
    shaking = Client(listener, ca, "a.example")
    assert listener.open == 2
    listener.drain()
    assert made[0].drained
    assert shaking.transport.aborted
    assert not idle.transport.aborted
    listener.abort()
    assert idle.transport.aborted
    for client in (idle, shaking):
        client.server.connectionLost()
    assert listener.open == 0
    assert made[0].lost is not None


# --- plain connections -------------------------------------------------------


def plain(listener: Listener) -> tuple[object, MemoryTransport]:
    protocol = listener.factory().buildProtocol(None)
    assert protocol is not None
    transport = MemoryTransport(
        IPv4Address("TCP", "127.0.0.1", 80), IPv6Address("TCP", "::ffff:192.0.2.9", 99)
    )
    protocol.makeConnection(transport)
    return protocol, transport


def test_a_plain_connection_begins_at_once(clock: Clock, made: list[Recorder]) -> None:
    listener = Listener(Recorder, clock)
    protocol, transport = plain(listener)
    protocol.dataReceived(b"GET")
    assert made[0].accepted == Accepted("192.0.2.9", 99, "127.0.0.1", 80)
    assert made[0].received == [b"GET"]
    assert (listener.open, listener.accepted) == (1, 1)
    protocol.readConnectionLost()
    protocol.writeConnectionLost()
    assert transport.disconnecting
    listener.abort()
    assert transport.aborted
    protocol.connectionLost(None)
    assert listener.open == 0


# --- descriptors ---------------------------------------------------------------


@implementer(ISystemHandle)
class SocketTransport(MemoryTransport):
    """A transport with a descriptor of this number."""

    def __init__(self, number: int) -> None:
        super().__init__(HOST, PEER)
        self.number = number

    def getHandle(self) -> SocketTransport:
        return self

    def fileno(self) -> int:
        return self.number


@pytest.mark.parametrize("tls", [True, False])
def test_the_last_descriptors_are_kept(
    listener: Listener, clock: Clock, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    if not tls:
        listener = Listener(Recorder, clock)
    monkeypatch.setattr(descriptors, "limit", lambda: 1024)

    def connect(number: int) -> SocketTransport:
        protocol = listener.factory().buildProtocol(PEER)
        assert protocol is not None
        transport = SocketTransport(number)
        protocol.makeConnection(transport)
        if transport.aborted:
            protocol.connectionLost(Failure(ConnectionDone()))
        return transport

    def told() -> list[str]:
        return [formatEvent(each).partition(" are kept")[0] for each in logs]

    with capturedLogs() as logs:
        assert not connect(895).aborted
        assert told() == []
        assert connect(896).aborted
        said = "connections refused: 1; of 1024 file descriptors the last 128"
        assert told() == [said]
        clock.advance(REFUSALS_TOLD - 1)
        assert connect(1000).aborted
        assert told() == [said]
        clock.advance(1)
        assert connect(1001).aborted
        assert told() == [said, said.replace("refused: 1", "refused: 2")]
    assert not connect(7).aborted
    assert listener.accepted == 5


def test_textual_addresses() -> None:
    assert textual(IPv4Address("TCP", "192.0.2.1", 1)) == ("192.0.2.1", 1)
    assert textual(IPv6Address("TCP", "::ffff:192.0.2.1", 1)) == ("192.0.2.1", 1)
    assert textual(IPv6Address("TCP", "fe80::1%eth0", 1)) == ("fe80::1", 1)
    assert textual(UNIXAddress(None)) == ("", 0)


# --- the socket --------------------------------------------------------------


class FakeReactor(MemoryReactorClock):
    """Adopts ports, and gives them up, in memory."""

    def adoptStreamPort(self, fd: int, family: int, factory: object) -> FakePort:
        return FakePort(socket.socket(fileno=os.dup(fd)))


class FakePort:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.sock.getsockname())

    def stopListening(self) -> None:
        self.sock.close()


def test_an_address_can_be_yielded_and_taken_again(clock: Clock) -> None:
    listener = Listener(Recorder, clock)
    sock = bind_stream(Address("127.0.0.1", 0))
    port = sock.getsockname()[1]
    listener.listen(FakeReactor(), sock)
    assert listener.local == ("127.0.0.1", port)
    with pytest.raises(BindError):
        bind_stream(Address("", port))
    listener.yield_address()
    bind_stream(Address("", port)).close()
    listener.listen(FakeReactor(), bind_stream(Address("127.0.0.1", port)))
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    listener.stop()
    listener.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
