"""A reactor in memory, upstreams on loopback, and transports that remember."""

from __future__ import annotations

import socket

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from twisted.internet import error
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from dwaarx.config.model import Address, DnsUpstream, Resolvers
from dwaarx.dns.forwarder import Forwarder
from dwaarx.dns.message import Query
from dwaarx.dns.query import parse

DEAD = Address("192.0.2.1", 53)


class Reactor(MemoryReactorClock):
    """Time and TCP in memory; UDP sockets are real, and read when `turn` is called."""

    def turn(self) -> None:
        for reader in list(self.getReaders()):
            reader.doRead()
        self.advance(0)


class UdpServer:
    """An upstream on loopback that answers as the test says."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self.socket.settimeout(5)
        host, port = self.socket.getsockname()[:2]
        self.address = Address(host, port)

    def take(self) -> tuple[dns.message.Message, tuple]:
        wire, peer = self.socket.recvfrom(65535)
        return dns.message.from_wire(wire), peer

    def nothing_came(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recvfrom(65535)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(5)
        return False

    def send(self, answer, peer) -> None:
        self.socket.sendto(answer if isinstance(answer, bytes) else answer.to_wire(), peer)

    def answer(self, *texts: str, rcode: int = 0, flags: int = 0) -> dns.message.Message:
        asked, peer = self.take()
        self.send(answer_to(asked, *texts, rcode=rcode, flags=flags), peer)
        return asked

    def close(self) -> None:
        self.socket.close()


class TcpPeer:
    """The upstream's end of a connection that the code under test has opened."""

    def __init__(self, reactor: Reactor, index: int = -1) -> None:
        host, port, factory, timeout, _ = reactor.tcpClients[index]
        self.address = Address(host, port)
        self.timeout = timeout
        self.factory = factory
        self.connector = reactor.connectors[index]
        self.transport = Transport()
        self.protocol = None

    def connect(self) -> TcpPeer:
        self.protocol = self.factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        return self

    def refuse(self) -> None:
        self.factory.clientConnectionFailed(self.connector, Failure(error.ConnectionRefusedError()))

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(error.ConnectionDone()))

    def asked(self) -> list[dns.message.Message]:
        return [dns.message.from_wire(wire) for wire in unframe(self.transport.take())]

    def send(self, *answers) -> None:
        wires = [a if isinstance(a, bytes) else a.to_wire(max_size=65_535) for a in answers]
        self.protocol.dataReceived(frame(*wires))


class Transport(StringTransport):
    """Counts writes, and tells an abort from an orderly close."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    def take(self) -> bytes:
        data = self.value()
        self.clear()
        return data


def answer_to(
    asked: dns.message.Message, *texts: str, rcode: int = 0, flags: int = 0, edns: bool = True
) -> dns.message.Message:
    answer = dns.message.make_response(asked, our_payload=4096)
    if not edns:
        answer.use_edns(False)
    answer.flags |= dns.flags.RA | flags
    answer.set_rcode(rcode)
    for text in texts:
        owner, ttl, kind, value = text.split(" ", 3)
        answer.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, value))
    return answer


def frame(*wires: bytes) -> bytes:
    return b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires)


def unframe(data: bytes) -> list[bytes]:
    wires = []
    while data:
        length = int.from_bytes(data[:2], "big")
        assert len(data) >= 2 + length
        wires.append(data[2 : 2 + length])
        data = data[2 + length :]
    return wires


def make(name: str = "www.example.org", kind: str = "A", **kw) -> dns.message.Message:
    options = kw.pop("options", None)
    edns = kw.pop("edns", options is not None)
    return dns.message.make_query(
        name, kind, use_edns=0 if edns else False, payload=1400, options=options, **kw
    )


def query(name: str = "www.example.org", kind: str = "A", *, client="127.0.0.1", **kw) -> Query:
    parsed = parse(make(name, kind, **kw).to_wire(), client, 600)
    assert isinstance(parsed, Query)
    return parsed


def configure(forwarder: Forwarder, resolvers: tuple[Resolvers, ...]) -> None:
    forwarder.apply(forwarder.prepare(resolvers))


def use(forwarder, *servers, **kw) -> None:
    """Configure a default pool: UdpServers, addresses, or upstreams."""
    made = []
    for one in servers:
        if isinstance(one, UdpServer):
            one = DnsUpstream("auto", one.address)
        elif isinstance(one, Address):
            one = DnsUpstream("tcp", one)
        made.append(one)
    kw.setdefault("policy", "first")
    configure(forwarder, (Resolvers(upstreams=tuple(made), **kw),))


class Client:
    """Takes the one answer to a query."""

    def __init__(self, forwarder, name="www.example.org", kind="A", **kw):
        self.wires = []
        forwarder.resolve(query(name, kind, **kw), self.wires.append)

    @property
    def answer(self) -> dns.message.Message | None:
        assert len(self.wires) < 2
        return dns.message.from_wire(self.wires[0]) if self.wires else None

    @property
    def text(self) -> str:
        assert self.answer is not None
        return " ".join(rrset[0].to_text() for rrset in self.answer.answer)

    @property
    def failure(self) -> tuple[str, int | None]:
        assert self.answer is not None
        reasons = self.answer.extended_errors()
        return dns.rcode.to_text(self.answer.rcode()), int(reasons[0].code) if reasons else None
