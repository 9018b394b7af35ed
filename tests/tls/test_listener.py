from __future__ import annotations

import os
import socket
import ssl

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
from dwaarx.tls import descriptors
from dwaarx.tls.accepted import Accepted, textual
from dwaarx.tls.listener import REFUSALS_TOLD, Endpoint, Listener
from dwaarx.tls.sockets import BindError, bind_stream
from tests.certs.pki import Entity, make_leaf
from tests.tls.memory import HOST, PEER, Client, MemoryTransport, certificate
from tests.tls.recorder import Recorder


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
