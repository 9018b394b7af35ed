import socket
from ipaddress import ip_network

import dns.flags
import dns.message
import dns.rcode
import pytest
from twisted.logger import globalLogPublisher

from dwaarx.config.model import Address, DnsUpstream, Record, Resolvers
from dwaarx.config.resolvers import POLICIES
from dwaarx.dns import lookup, udp_upstream
from dwaarx.dns.errors import ResolversError
from dwaarx.dns.forwarder import Forwarder
from tests.dns.fakes import Reactor, TcpPeer, UdpServer, answer_to, configure, query

DEAD = Address("192.0.2.1", 53)


@pytest.fixture
def reactor():
    return Reactor()


@pytest.fixture
def server():
    server = UdpServer()
    yield server
    server.close()


@pytest.fixture
def second():
    server = UdpServer()
    yield server
    server.close()


@pytest.fixture
def forwarder(reactor, tmp_path):
    forwarder = Forwarder(reactor, tmp_path / "resolv.conf")
    yield forwarder
    forwarder.stop()
    assert reactor.getReaders() == []


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


# --- what needs no upstream -------------------------------------------------------


def test_local_records_are_answered_at_once(forwarder):
    use(forwarder, DEAD, records=(Record("hello.test", "A", "127.0.0.1"),))
    assert Client(forwarder, "Hello.test").text == "127.0.0.1"
    assert Client(forwarder, "hello.test", "AAAA").text == ""


def test_who_may_not_ask_is_refused(forwarder):
    use(forwarder, DEAD, records=(Record("hello.test", "A", "127.0.0.1"),))
    assert Client(forwarder, "hello.test", client="192.0.2.7", edns=True).failure == ("REFUSED", 18)
    use(
        forwarder,
        DEAD,
        records=(Record("hello.test", "A", "127.0.0.1"),),
        allow=(ip_network("192.0.2.0/24"),),
    )
    assert Client(forwarder, "hello.test", client="192.0.2.7").text == "127.0.0.1"
    assert Client(forwarder, "hello.test", client="127.0.0.1").failure == ("REFUSED", None)


def test_before_any_configuration(forwarder):
    assert Client(forwarder, edns=True).failure == ("SERVFAIL", 22)


def test_after_stop(forwarder, server):
    use(forwarder, server)
    waiting = Client(forwarder, edns=True)
    forwarder.stop()
    assert waiting.failure == ("SERVFAIL", 14)
    assert Client(forwarder, edns=True).failure == ("SERVFAIL", 14)


# --- UDP ----------------------------------------------------------------------------


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
    assert status.state == "up"
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


def test_a_malformed_answer_counts_as_a_failure(forwarder, reactor, server, second):
    use(forwarder, server, second)
    client = Client(forwarder)
    asked, peer = server.take()
    server.send(answer_to(asked, "www.example.org. 30 A 192.0.2.10").to_wire()[:-3], peer)
    reactor.turn()
    second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert client.text == "192.0.2.20"
    assert [status.failures for status in forwarder.servers()] == [1, 0]


def test_a_silent_upstream_is_left_for_the_next(forwarder, reactor, server, second):
    use(forwarder, server, second)
    client = Client(forwarder)
    asked, peer = server.take()
    reactor.advance(lookup.ATTEMPT_TIMEOUT - 0.1)
    assert second.nothing_came()
    reactor.advance(0.2)
    second.answer("www.example.org. 30 A 192.0.2.20")
    server.send(answer_to(asked, "www.example.org. 30 A 192.0.2.10"), peer)  # too late
    reactor.turn()
    assert client.text == "192.0.2.20"
    assert [(s.outstanding, s.failures) for s in forwarder.servers()] == [(0, 1), (0, 0)]


def test_a_lost_datagram_is_sent_again(forwarder, reactor, server):
    use(forwarder, server)
    client = Client(forwarder)
    server.take()
    reactor.advance(lookup.ATTEMPT_TIMEOUT)
    server.answer("www.example.org. 30 A 192.0.2.10")
    reactor.turn()
    assert client.text == "192.0.2.10"


def test_when_all_are_silent(forwarder, reactor, server, second):
    use(forwarder, server, second)
    client = Client(forwarder, edns=True)
    plain = Client(forwarder)
    for _ in range(10):
        reactor.advance(lookup.ATTEMPT_TIMEOUT)
    assert client.failure == ("SERVFAIL", 22)
    assert plain.failure == ("SERVFAIL", None)
    assert all(status.outstanding == 0 for status in forwarder.servers())
    assert sum(status.failures for status in forwarder.servers()) == 6


def test_time_is_up_even_with_many_upstreams(forwarder, reactor):
    servers = [UdpServer() for _ in range(6)]
    use(forwarder, *servers)
    client = Client(forwarder, edns=True)
    reactor.pump([lookup.ATTEMPT_TIMEOUT] * 3)
    assert client.failure == ("SERVFAIL", 22)
    assert [status.queries for status in forwarder.servers()] == [1, 1, 1, 0, 0, 0]
    for server in servers:
        server.close()


def test_the_third_is_asked_though_timeouts_come_late(forwarder, reactor, server, second):
    """As they do: a reactor's call comes a little after its time."""
    third = UdpServer()
    use(forwarder, server, second, third)
    client = Client(forwarder)
    reactor.advance(lookup.ATTEMPT_TIMEOUT + 0.01)
    reactor.advance(lookup.ATTEMPT_TIMEOUT + 0.01)
    third.answer("www.example.org. 30 A 192.0.2.30")
    reactor.turn()
    assert client.text == "192.0.2.30"
    third.close()


def test_one_delayed_call_for_all_timeouts(forwarder, reactor, server):
    use(forwarder, server)
    for _ in range(50):
        Client(forwarder)
    assert len(reactor.getDelayedCalls()) == 1


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


def test_when_no_upstream_can_be_reached(forwarder, reactor, server):
    server.close()
    use(forwarder, server)
    client = Client(forwarder, edns=True)
    reactor.turn()
    assert client.failure == ("SERVFAIL", 23)


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


@pytest.mark.parametrize("rcode", [1, 2, 4, 5, 9])
def test_a_failure_goes_to_the_next(forwarder, reactor, server, second, rcode):
    use(forwarder, server, second)
    client = Client(forwarder)
    server.answer(rcode=rcode)
    reactor.turn()
    second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert client.text == "192.0.2.20"


def test_the_last_failure_is_the_answer(forwarder, reactor, server, second):
    use(forwarder, server, second)
    client = Client(forwarder)
    server.answer(rcode=2)
    reactor.turn()
    second.answer(rcode=5)
    reactor.turn()
    assert client.failure == ("REFUSED", None)
    other = Client(forwarder)
    server.answer(rcode=2)
    reactor.turn()
    reactor.advance(lookup.ATTEMPT_TIMEOUT)
    assert other.failure == ("SERVFAIL", None)


def test_nxdomain_is_an_answer(forwarder, reactor, server, second):
    use(forwarder, server, second)
    client = Client(forwarder)
    server.answer(rcode=3)
    reactor.turn()
    assert client.failure == ("NXDOMAIN", None)
    assert second.nothing_came()


def test_too_many_at_once(forwarder, server, monkeypatch):
    monkeypatch.setattr(lookup, "MAX_OUTSTANDING", 3)
    use(forwarder, server)
    clients = [Client(forwarder, edns=True) for _ in range(5)]
    assert [bool(client.wires) for client in clients] == [False, False, False, True, True]
    assert clients[-1].failure == ("SERVFAIL", 0)


def test_no_client_takes_the_place_of_all(forwarder, reactor, server, monkeypatch):
    monkeypatch.setattr(lookup, "MAX_OUTSTANDING_OF_CLIENT", 2)
    use(forwarder, server)
    greedy = [Client(forwarder, edns=True) for _ in range(3)]
    assert [bool(client.wires) for client in greedy] == [False, False, True]
    assert greedy[2].failure == ("SERVFAIL", 0)
    assert not Client(forwarder, client="127.0.0.2").wires
    server.answer("www.example.org. 30 A 192.0.2.10")
    reactor.turn()
    assert greedy[0].text == "192.0.2.10"
    assert not Client(forwarder).wires  # one was answered: one may follow
    assert Client(forwarder).wires
    for _ in range(4):
        reactor.advance(lookup.ATTEMPT_TIMEOUT)
    assert greedy[1].failure == ("SERVFAIL", 22)
    assert forwarder._lookups._clients == {}
    assert forwarder._lookups.outstanding == 0


def test_recursion_not_desired_goes_on_as_it_is(forwarder, server):
    use(forwarder, server)
    Client(forwarder, flags=0)
    assert not server.take()[0].flags & dns.flags.RD


# --- TCP ----------------------------------------------------------------------------


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


# --- pools and configuration --------------------------------------------------------


def pools(forwarder, default, *others) -> None:
    configure(
        forwarder,
        (
            Resolvers(upstreams=(DnsUpstream("auto", default.address),)),
            *(
                Resolvers(suffixes=suffixes, upstreams=(DnsUpstream("auto", server.address),))
                for suffixes, server in others
            ),
        ),
    )


def test_the_longest_suffix_wins(forwarder, reactor, server, second):
    third = UdpServer()
    pools(
        forwarder,
        server,
        (("corp.example", "10.in-addr.arpa"), second),
        (("a.Corp.example",), third),
    )
    for name, expected in (
        ("corp.example", second),
        ("www.CORP.example", second),
        ("a.corp.example", third),
        ("x.y.a.corp.example", third),
        ("b.a.corp.example", third),
        ("notcorp.example", server),
        ("xa.corp.example", second),
        ("example", server),
        (".", server),
        ("1.0.0.10.in-addr.arpa", second),
    ):
        client = Client(forwarder, name)
        expected.answer()
        reactor.turn()
        assert client.answer is not None, name
    assert [status.pool for status in forwarder.servers()] == [
        "",
        "corp.example 10.in-addr.arpa",
        "a.Corp.example",
    ]
    third.close()


def test_local_aliases_lead_out(forwarder, reactor, server):
    use(forwarder, server, records=(Record("a.test", "CNAME", "www.example.org."),))
    client = Client(forwarder, "a.test", id=5)
    assert client.answer is None
    server.answer("www.example.org. 30 A 192.0.2.10")
    reactor.turn()
    assert client.text == "www.example.org. 192.0.2.10"
    assert client.answer.id == 5
    assert Client(forwarder, "a.test", "CNAME").text == "www.example.org."


@pytest.fixture
def warnings():
    events = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def test_the_systems_resolvers(forwarder, tmp_path, warnings):
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\nnameserver ::1\n")
    configure(forwarder, ())
    assert [status.name for status in forwarder.servers()] == ["192.0.2.53:53", "[::1]:53"]
    configure(forwarder, (Resolvers(suffixes=("corp.example",)),))
    assert [status.pool for status in forwarder.servers()] == ["corp.example"] * 2 + [""] * 2
    assert warnings == []


def test_no_resolvers_at_all(forwarder, warnings):
    configure(forwarder, (Resolvers(records=(Record("hello.test", "A", "127.0.0.1"),)),))
    assert len(warnings) == 1
    assert Client(forwarder, "hello.test").text == "127.0.0.1"
    assert Client(forwarder, edns=True).failure == ("SERVFAIL", 22)


def test_a_new_configuration_lets_the_old_finish(forwarder, reactor, server, second):
    use(forwarder, server)
    old = Client(forwarder)
    use(forwarder, second)
    assert len(reactor.getReaders()) == 1
    new = Client(forwarder)
    second.answer("www.example.org. 30 A 192.0.2.20")
    server.answer("www.example.org. 30 A 192.0.2.10")
    reactor.turn()
    assert (old.text, new.text) == ("192.0.2.10", "192.0.2.20")
    assert len(reactor.getReaders()) == 1
    assert [status.queries for status in forwarder.servers()] == [1]


def test_an_upstream_that_has_gone_serves_the_lookups_of_before(forwarder, reactor, server, second):
    """Its sockets had closed already: those opened for a late attempt close as well."""
    use(forwarder, server, second)
    client = Client(forwarder)
    third = UdpServer()
    use(forwarder, third)
    reactor.advance(lookup.ATTEMPT_TIMEOUT)
    second.answer("www.example.org. 30 A 192.0.2.20")
    reactor.turn()
    assert client.text == "192.0.2.20"
    assert reactor.getReaders() == []
    third.close()


def test_what_stays_keeps_its_sockets_and_counts(forwarder, reactor, server, second):
    use(forwarder, DEAD, server)
    Client(forwarder)
    peer = TcpPeer(reactor).connect()
    peer.send(answer_to(peer.asked()[0]))
    use(forwarder, second, DEAD)
    assert not peer.transport.disconnecting
    assert [status.queries for status in forwarder.servers()] == [0, 1]
    use(forwarder, second)
    assert peer.transport.disconnecting


def test_what_comes_back_before_it_has_finished_stays(forwarder, reactor, server, second):
    use(forwarder, server)
    client = Client(forwarder)
    back = forwarder.prepare((Resolvers(upstreams=(DnsUpstream("auto", server.address),)),))
    use(forwarder, second)
    forwarder.apply(back)
    server.answer("www.example.org. 30 A 192.0.2.10")
    reactor.turn()
    assert client.text == "192.0.2.10"
    assert len(reactor.getReaders()) == 1


def test_a_wrong_configuration_changes_nothing(forwarder, reactor, server):
    use(forwarder, server)
    two = (Record("a.test", "CNAME", "b.test."), Record("a.test", "A", "127.0.0.1"))
    with pytest.raises(ResolversError):
        configure(forwarder, (Resolvers(records=two),))
    client = Client(forwarder)
    server.answer("www.example.org. 30 A 192.0.2.10")
    reactor.turn()
    assert client.text == "192.0.2.10"


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_pick_among_the_upstreams(forwarder, policy, server, second):
    use(forwarder, server, second, policy=policy)
    for _ in range(40):
        Client(forwarder)
    counts = [status.queries for status in forwarder.servers()]
    assert sum(counts) == 40
    if policy in ("least_outstanding", "round_robin"):
        assert counts == [20, 20]
    elif policy == "random":
        assert min(counts) > 0
    else:
        assert sorted(counts) == [0, 40]
