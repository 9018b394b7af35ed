"""Look-ups: in threads of their own, each name once at a time."""

from __future__ import annotations

import queue
import socket
import threading
from ipaddress import ip_address

import pytest
from twisted.internet.defer import CancelledError

from dwaarx.certs import lookup
from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.lookup import MAX_ADDRESSES, MAX_LOOKUP, THREADS, Lookups
from tests.certs import fake_internet
from tests.certs.fake_internet import LONG, Resolver, ThreadedReactor

PUBLIC = ip_address(fake_internet.PUBLIC)


class System:
    """A getaddrinfo that answers when it is let go."""

    def __init__(self):
        self.asked = queue.Queue()
        self.go = threading.Event()
        self.found = [str(PUBLIC)]

    def __call__(self, host):
        self.asked.put((host, threading.current_thread().daemon))
        assert self.go.wait(LONG)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def reactor():
    return ThreadedReactor()


@pytest.fixture
def system():
    made = System()
    yield made
    made.go.set()


@pytest.fixture
def lookups(reactor, system):
    made = Lookups(reactor, ask=system)
    yield made
    made.close()


def result(deferred):
    """What a Deferred has, or [] if it has nothing yet."""
    results = []
    deferred.addBoth(results.append)
    return results


def reason(results):
    (failure,) = results
    failure.trap(FetchError)
    assert failure.value.kind is FetchFailure.UNREACHABLE
    return failure.value.reason


def test_a_name_is_asked_in_a_thread_that_nobody_waits_for(lookups, reactor, system):
    results = result(lookups.addresses("a.example"))
    assert system.asked.get(timeout=LONG) == ("a.example", True)
    assert results == []
    system.go.set()
    reactor.turn()
    assert results == [(PUBLIC,)]


def test_a_name_is_asked_once_for_all_who_ask(lookups, reactor, system):
    first, second = (result(lookups.addresses("a.example")) for _ in range(2))
    system.go.set()
    reactor.turn()
    assert first == second == [(PUBLIC,)]
    assert system.asked.get(timeout=LONG)
    assert system.asked.empty()
    result(lookups.addresses("a.example"))
    assert system.asked.get(timeout=LONG)  # anew, once the former question is answered


def test_a_name_that_hangs_holds_one_thread(lookups, reactor, system):
    for _ in range(10 * THREADS):
        result(lookups.addresses("hanging.example"))
    assert system.asked.get(timeout=LONG)[0] == "hanging.example"
    result(lookups.addresses("b.example"))
    assert system.asked.get(timeout=LONG)[0] == "b.example"


def test_giving_up_leaves_the_others_waiting(lookups, reactor, system):
    given_up = lookups.addresses("a.example")
    results, other = result(given_up), result(lookups.addresses("a.example"))
    given_up.cancel()
    assert results[0].check(CancelledError)
    system.go.set()
    reactor.turn()
    assert other == [(PUBLIC,)]
    given_up.cancel()


def test_a_name_that_nobody_waits_for_any_more_is_not_asked(lookups, reactor, system):
    for number in range(THREADS):
        result(lookups.addresses(f"hanging{number}.example"))
        assert system.asked.get(timeout=LONG)
    given_up = [lookups.addresses(f"{number}.example") for number in range(100)]
    for each in given_up:
        result(each)
        each.cancel()
    wanted = lookups.addresses("50.example")
    results = result(wanted)
    system.go.set()
    for _ in range(THREADS + 100):
        reactor.turn()
    assert results == [(PUBLIC,)]
    assert system.asked.get(timeout=LONG)[0] == "50.example"
    assert system.asked.empty()


def test_who_comes_while_a_name_is_passed_over_is_answered(lookups, reactor, system):
    for number in range(THREADS):
        result(lookups.addresses(f"hanging{number}.example"))
        assert system.asked.get(timeout=LONG)
    given_up = lookups.addresses("a.example")
    result(given_up)
    given_up.cancel()
    system.go.set()
    passed = [reactor.from_threads.get(timeout=LONG) for _ in range(THREADS + 1)]
    results = result(lookups.addresses("a.example"))
    for each in passed:
        each()
    reactor.turn()
    assert results == [(PUBLIC,)]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError(24, "Too many open files"), "Too many open files"),
        ([], "it has no address"),
    ],
)
def test_what_is_not_found(lookups, reactor, system, found, words):
    system.found = found
    system.go.set()
    results = result(lookups.addresses("a.example"))
    reactor.turn()
    assert reason(results) == f"the name a.example cannot be resolved: {words}"


def test_many_addresses_are_cut_and_doubles_told_once(lookups, reactor, system):
    system.found = ["::1", "::1", *(f"1.1.1.{i}" for i in range(200))]
    system.go.set()
    results = result(lookups.addresses("a.example"))
    reactor.turn()
    assert len(results[0]) == len(set(results[0])) == MAX_ADDRESSES
    assert results[0][:2] == (ip_address("::1"), ip_address("1.1.1.0"))


def test_closing_waits_for_no_thread(lookups, reactor, system):
    results = result(lookups.addresses("hanging.example"))
    assert system.asked.get(timeout=LONG)
    lookups.close()
    assert results == []
    system.go.set()
    reactor.turn()  # the answer comes all the same
    assert results == [(PUBLIC,)]


def test_the_system_is_asked():
    assert "127.0.0.1" in lookup.addresses_of("127.1")
    assert set(lookup.addresses_of("localhost")) <= {"127.0.0.1", "::1"}
    assert lookup.addresses_of("2130706433") == ["127.0.0.1"]


# --- a resolver of Twisted's kind -------------------------------------------


def test_a_resolver_in_place_of_the_system(reactor):
    resolver = Resolver()
    resolver.names["a.example"] = [["1.1.1.1", "::1"]]
    resolver.names["b.example"] = [[]]
    lookups = Lookups(reactor, resolver)
    found = result(lookups.addresses("a.example"))
    assert found == [(ip_address("1.1.1.1"), ip_address("::1"))]
    assert "it has no address" in reason(result(lookups.addresses("b.example")))
    lookups.close()


def test_a_look_up_that_was_lost_is_made_anew(reactor):
    resolver = Resolver()
    lookups = Lookups(reactor, resolver)
    lost = result(lookups.addresses("a.example"))
    reactor.advance(MAX_LOOKUP)
    assert result(lookups.addresses("a.example")) == []
    assert resolver.asked == ["a.example"]
    reactor.advance(1)
    anew = result(lookups.addresses("a.example"))
    assert resolver.asked == ["a.example"] * 2
    resolver.answer(["1.1.1.1"], at=0)
    assert (lost, anew) == ([(ip_address("1.1.1.1"),)], [])
    resolver.answer(["1.1.1.2"], at=1)
    assert anew == [(ip_address("1.1.1.2"),)]
