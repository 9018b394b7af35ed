import socket

from dwaarx.config.model import Address, DnsUpstream
from dwaarx.dns import udp_upstream
from tests.dns.fakes import (
    DEAD,
    Client,
    UdpServer,
    answer_to,
    use,
)


def test_over_udp(forwarder, reactor, server):
    use(forwarder, server)
    client = Client(forwarder, "wWw.example.org", id=99)
    assert client.answer is None
    asked = server.answer("www.example.org. 30 A 192.0.2.10")
    assert asked.question[0].name.to_text() == "wWw.example.org."
    assert asked.payload == 1232
    reactor.turn()
    assert client.text == "192.0.2.10"
    assert client.answer.id == 99
    (status,) = forwarder.servers()
    assert (status.outstanding, status.queries, status.failures) == (0, 1, 0)
    assert status.address == str(server.address)
    assert not [call for call in reactor.getDelayedCalls() if call.getTime() < reactor.seconds()]


def test_over_udp_and_ipv6(forwarder, reactor):
    server = UdpServer(socket.AF_INET6)
    use(forwarder, server)
    client = Client(forwarder)
    server.answer("www.example.org. 30 A 192.0.2.10")
    reactor.turn()
    assert client.text == "192.0.2.10"
    server.close()


def test_ports_and_ids_differ(forwarder, reactor, server):
    use(forwarder, server)
    seen = set()
    for _ in range(64):
        client = Client(forwarder)
        asked, peer = server.take()
        seen.add((peer[1], asked.id))
        server.send(answer_to(asked), peer)
        reactor.turn()
        assert client.answer is not None
    assert len({port for port, _ in seen}) > 8
    assert len({number for _, number in seen}) > 60
    assert len(reactor.getReaders()) <= udp_upstream.SOCKETS


def test_sockets_are_renewed(forwarder, reactor, server, monkeypatch):
    monkeypatch.setattr(udp_upstream, "SOCKETS", 1)
    monkeypatch.setattr(udp_upstream, "QUERIES_PER_SOCKET", 3)
    use(forwarder, server)
    clients, ports = [], []
    for _ in range(7):
        clients.append(Client(forwarder))
        asked, peer = server.take()
        ports.append(peer)
        server.send(answer_to(asked, "www.example.org. 30 A 192.0.2.10"), peer)
    assert [ports.index(port) for port in ports] == [0, 0, 0, 3, 3, 3, 6]
    assert len(reactor.getReaders()) == 3  # the retired ones still wait
    reactor.turn()
    assert all(client.text == "192.0.2.10" for client in clients)
    assert len(reactor.getReaders()) == 1
    reactor.advance(udp_upstream.SECONDS_PER_SOCKET + 1)
    Client(forwarder)
    assert server.take()[1] != ports[-1]


def test_ten_thousand_queries_leave_no_socket(forwarder, reactor, server):
    use(forwarder, server)
    for number in range(10_000):
        client = Client(forwarder, f"n{number}.example.org")
        wire, peer = server.socket.recvfrom(65_535)
        server.send(wire[:2] + b"\x81\x83" + wire[4:], peer)
        for reader in reactor.getReaders():
            reader.doRead()
        assert client.wires
    assert len(reactor.getReaders()) == udp_upstream.SOCKETS
    assert len(reactor.getDelayedCalls()) <= 1


def test_what_does_not_match_ends_no_wait(forwarder, reactor, server, second):
    use(forwarder, DnsUpstream("udp", server.address))
    client = Client(forwarder)
    asked, peer = server.take()
    good = answer_to(asked, "www.example.org. 30 A 192.0.2.10")
    wire = good.to_wire()
    forged = answer_to(asked, "www.example.org. 30 A 192.0.2.66").to_wire()
    question = asked.question[0].name.to_wire()
    for bad in (
        b"",
        forged[:1],
        forged[:2],
        forged[:12],
        bytes([forged[0] ^ 1]) + forged[1:],  # another id
        forged[:2] + b"\1\0" + forged[4:],  # no answer
        forged[:4] + b"\0\0" + forged[6:],
        forged[:4] + b"\0\2" + forged[6:],
        forged.replace(b"example", b"Example", 1),
        forged.replace(b"example", b"another", 1),
        forged[: 12 + len(question)] + b"\0\x1c" + forged[14 + len(question) :],
        forged[: 14 + len(question)] + b"\0\3" + forged[16 + len(question) :],
    ):
        server.send(bad, peer)
    second.send(forged, peer)  # from another address
    reactor.turn()
    assert client.answer is None
    server.send(wire, peer)
    reactor.turn()
    assert client.text == "192.0.2.10"
    server.send(forged, peer)  # once more
    reactor.turn()
    assert client.text == "192.0.2.10"


def test_refused_by_icmp_goes_on_at_once(forwarder, reactor, server, second, monkeypatch):
    monkeypatch.setattr(udp_upstream, "SOCKETS", 1)
    server.close()
    use(forwarder, server, second)
    first = Client(forwarder)
    reactor.turn()  # the refusal is read
    second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert first.text == "192.0.2.20"
    # Here the second's send hears of the first's refusal
    clients = [Client(forwarder), Client(forwarder)]
    reactor.advance(0)
    for _ in clients:
        second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert [client.text for client in clients] == ["192.0.2.20"] * 2


def test_no_descriptor_is_left(forwarder, monkeypatch):
    def no_socket(*args):
        raise OSError(24, "Too many open files")

    use(forwarder, DnsUpstream("udp", DEAD))
    monkeypatch.setattr(udp_upstream.socket, "socket", no_socket)
    assert Client(forwarder, edns=True).failure == ("SERVFAIL", 23)


def test_no_route(forwarder, monkeypatch, reactor):
    # 0.0.0.0/8 but 0.0.0.0 itself is nowhere
    use(forwarder, DnsUpstream("udp", Address("240.0.0.1", 53)), DnsUpstream("udp", DEAD))
    monkeypatch.setattr(udp_upstream, "UdpSocket", Unreachable)
    assert Client(forwarder, edns=True).failure == ("SERVFAIL", 23)
    assert [s.failures for s in forwarder.servers()] == [1, 1]


class Unreachable:
    def __init__(self, reactor, address):
        raise OSError(101, "Network is unreachable")


def test_a_socket_that_the_reactor_gives_up(forwarder, reactor, server, second):
    use(forwarder, server, second)
    client = Client(forwarder)
    (reader,) = reactor.getReaders()
    assert reader.logPrefix() == "dns"
    reader.connectionLost(None)
    assert reader.fileno() == -1
    reader.doRead()
    second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert client.text == "192.0.2.20"
