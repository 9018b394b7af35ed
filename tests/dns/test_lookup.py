import dns.flags
import dns.message
import dns.rcode
import pytest

from dwaarx.dns import lookup
from tests.dns.fakes import Client, UdpServer, answer_to, use


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


def test_when_no_upstream_can_be_reached(forwarder, reactor, server):
    server.close()
    use(forwarder, server)
    client = Client(forwarder, edns=True)
    reactor.turn()
    assert client.failure == ("SERVFAIL", 23)


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
