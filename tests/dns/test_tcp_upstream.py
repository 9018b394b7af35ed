import socket

import dns.flags
import dns.message
import dns.rcode
import pytest

from dwaarx.config.model import Address, DnsUpstream
from dwaarx.dns import lookup
from tests.dns.fakes import (
    DEAD,
    Client,
    TcpPeer,
    answer_to,
    use,
)


def test_truncated_goes_on_over_tcp(forwarder, reactor, server):
    use(forwarder, server)
    client = Client(forwarder, kind="TXT")
    server.answer(flags=dns.flags.TC)
    reactor.turn()
    peer = TcpPeer(reactor)
    assert peer.address == server.address
    peer.connect()
    (asked,) = peer.asked()
    text = " ".join('"' + "x" * 250 + '"' for _ in range(20))
    peer.send(answer_to(asked, f"www.example.org. 30 TXT {text}"))
    assert len(client.wires[0]) > 5000
    assert client.text == text
    assert not client.answer.flags & dns.flags.TC
    (status,) = forwarder.servers()
    assert (status.outstanding, status.queries) == (0, 1)


def test_truncated_from_udp_only_stays_so(forwarder, reactor, server):
    use(forwarder, DnsUpstream("udp", server.address))
    client = Client(forwarder)
    server.answer(flags=dns.flags.TC)
    reactor.turn()
    assert client.answer.flags & dns.flags.TC
    assert reactor.tcpClients == []


def test_other_letters_go_on_over_tcp(forwarder, reactor, server):
    use(forwarder, server)
    client = Client(forwarder, "wWw.example.org")
    asked, peer = server.take()
    wire = answer_to(asked, "www.example.org. 30 A 192.0.2.66").to_wire()
    server.send(wire.replace(b"wWw", b"www"), peer)
    reactor.turn()
    assert client.answer is None
    tcp = TcpPeer(reactor).connect()
    (again,) = tcp.asked()
    wire = answer_to(again, "www.example.org. 30 A 192.0.2.10").to_wire()
    tcp.send(wire.replace(b"wWw", b"www"))
    assert client.text == "192.0.2.10"
    assert client.answer.question[0].name.to_text() == "wWw.example.org."


def test_one_connection_carries_many_in_any_order(forwarder, reactor):
    use(forwarder, DEAD)
    before = [Client(forwarder, f"n{n}.example.org") for n in range(3)]
    peer = TcpPeer(reactor).connect()
    after = [Client(forwarder, f"n{n}.example.org") for n in range(3, 6)]
    assert len(reactor.tcpClients) == 1
    asked = peer.asked()
    assert len({message.id for message in asked}) == 6
    answers = [
        answer_to(message, f"{message.question[0].name} 5 A 192.0.2.{n}")
        for n, message in enumerate(asked)
    ]
    wires = [answer.to_wire() for answer in reversed(answers)]
    data = b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires)
    for position in range(len(data)):
        peer.protocol.dataReceived(data[position : position + 1])
    assert [client.text for client in before + after] == [f"192.0.2.{n}" for n in range(6)]


def test_over_tcp_too_only_what_matches_counts(forwarder, reactor):
    use(forwarder, DEAD)
    client = Client(forwarder)
    peer = TcpPeer(reactor).connect()
    (asked,) = peer.asked()
    forged = answer_to(asked, "www.example.org. 5 A 192.0.2.66").to_wire()
    peer.send(b"", b"\0", forged[:12], bytes([forged[0] ^ 1]) + forged[1:])
    peer.send(forged.replace(b"example", b"another", 1), forged[:2] + b"\0\0" + forged[4:])
    assert client.answer is None
    peer.send(answer_to(asked, "www.example.org. 5 A 192.0.2.10"))
    assert client.text == "192.0.2.10"


def test_a_connection_refused_goes_on_at_once(forwarder, reactor, second):
    use(forwarder, DEAD, second)
    client = Client(forwarder)
    TcpPeer(reactor).refuse()
    second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert client.text == "192.0.2.20"


def test_a_connection_refused_and_no_other(forwarder, reactor):
    use(forwarder, DEAD)
    client = Client(forwarder, edns=True)
    TcpPeer(reactor).refuse()
    assert client.failure == ("SERVFAIL", 23)
    again = Client(forwarder, edns=True)
    assert len(reactor.tcpClients) == 2
    TcpPeer(reactor).refuse()
    assert again.failure == ("SERVFAIL", 23)


@pytest.mark.parametrize("transport", ["tcp", "auto"])
def test_an_address_whose_zone_is_no_interface(forwarder, reactor, monkeypatch, second, transport):
    def no_such_zone(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # as Twisted does

    monkeypatch.setattr(reactor, "connectTCP", no_such_zone)
    use(forwarder, DnsUpstream(transport, Address("fe80::1%nosuch", 53)), second)
    client = Client(forwarder)
    reactor.advance(0)
    second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert client.text == "192.0.2.20"


def test_queries_on_a_lost_connection_go_on(forwarder, reactor):
    use(forwarder, DEAD)
    client = Client(forwarder, edns=True)
    peer = TcpPeer(reactor).connect()
    peer.lose()
    assert len(reactor.tcpClients) == 2
    again = TcpPeer(reactor).connect()
    again.send(answer_to(again.asked()[0], "www.example.org. 5 A 192.0.2.10"))
    assert client.text == "192.0.2.10"
    hopeless = Client(forwarder, edns=True)
    again.lose()
    TcpPeer(reactor).connect().lose()
    assert hopeless.failure == ("SERVFAIL", 22)


def test_an_idle_connection_is_closed(forwarder, reactor):
    use(forwarder, DEAD)
    Client(forwarder)
    peer = TcpPeer(reactor).connect()
    peer.send(answer_to(peer.asked()[0]))
    reactor.advance(7)
    assert not peer.transport.disconnecting
    Client(forwarder)
    peer.send(answer_to(peer.asked()[0]))
    reactor.advance(7)
    assert not peer.transport.disconnecting
    reactor.advance(2)
    assert peer.transport.disconnecting
    Client(forwarder)
    assert len(reactor.tcpClients) == 2


def test_a_connection_that_no_one_waits_for_any_more(forwarder, reactor):
    use(forwarder, DEAD)
    client = Client(forwarder)
    for _ in range(4):
        reactor.advance(lookup.ATTEMPT_TIMEOUT)
    assert client.failure[0] == "SERVFAIL"
    peer = TcpPeer(reactor).connect()
    assert peer.asked() == []
    reactor.advance(10)
    assert peer.transport.disconnecting


def test_a_silent_connection_is_cut(forwarder, reactor):
    use(forwarder, DEAD)
    Client(forwarder)
    peer = TcpPeer(reactor).connect()
    reactor.advance(1)
    Client(forwarder)
    reactor.advance(1)
    assert not peer.transport.aborted  # it has stood for as long as the first waited
    reactor.advance(1)
    assert peer.transport.aborted
    peer.lose()
    assert len(reactor.tcpClients) > 1


def test_a_slow_answer_does_not_cut_a_lively_connection(forwarder, reactor):
    use(forwarder, DEAD)
    Client(forwarder)
    peer = TcpPeer(reactor).connect()
    peer.asked()
    reactor.advance(1)
    quick = Client(forwarder, "quick.example.org")
    peer.send(answer_to(peer.asked()[0], "quick.example.org. 5 A 192.0.2.10"))
    assert quick.text == "192.0.2.10"
    reactor.advance(1)
    assert not peer.transport.aborted


def test_a_connection_with_nothing_but_nonsense_is_cut(forwarder, reactor):
    """Where its messages begin may have been lost: it would never answer again."""
    use(forwarder, DEAD)
    Client(forwarder)
    peer = TcpPeer(reactor).connect()
    reactor.advance(0.5)
    Client(forwarder)
    for _ in range(5):
        reactor.advance(0.5)
        peer.protocol.dataReceived(b"\0\3abc\xff")
    assert peer.transport.aborted


def test_tcp_answers_in_turn_after_a_timeout_over_udp(forwarder, reactor, server):
    use(forwarder, server)
    client = Client(forwarder, edns=True)
    server.answer(flags=dns.flags.TC)
    reactor.turn()
    for _ in range(5):
        reactor.advance(lookup.ATTEMPT_TIMEOUT)
    assert client.failure == ("SERVFAIL", 22)
