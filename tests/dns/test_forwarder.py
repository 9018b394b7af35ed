from ipaddress import ip_network

import pytest
from twisted.logger import globalLogPublisher

from dwaarx.config.model import DnsUpstream, Record, Resolvers
from dwaarx.config.resolvers import POLICIES
from dwaarx.dns import lookup
from dwaarx.dns.errors import ResolversError
from tests.dns.fakes import (
    DEAD,
    Client,
    TcpPeer,
    UdpServer,
    answer_to,
    configure,
    use,
)


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
