"""Policies, the allow list, resolv.conf, random numbers, and the queue of timeouts."""

import os
from collections import Counter
from ipaddress import ip_network

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from dwaarx.config.model import Address
from dwaarx.dns import acl, randomness, resolv
from dwaarx.dns.acl import LOCAL_NETWORKS, AllowList
from dwaarx.dns.expiry import Expiry
from dwaarx.dns.policies import policy
from dwaarx.dns.randomness import random16


@attrs.define
class Server:
    name: str
    outstanding: int = 0


A, B, C = Server("a", 2), Server("b", 1), Server("c", 1)


def test_least_outstanding():
    assert policy("least_outstanding")([A, B, C], b"") is B


def test_first():
    assert policy("first")([A, B, C], b"") is A


def test_round_robin_turns_on_its_own():
    one, other = policy("round_robin"), policy("round_robin")
    assert [one([A, B, C], b"").name for _ in range(4)] == ["a", "b", "c", "a"]
    assert other([A, B, C], b"") is A


def test_random_takes_all_in_time():
    pick = policy("random")
    seen = Counter(pick([A, B, C], b"").name for _ in range(600))
    assert set(seen) == {"a", "b", "c"}
    assert min(seen.values()) > 100


def test_hash_keeps_to_a_name():
    pick = policy("hash")
    names = [bytes([number]) for number in range(60)]
    chosen = [pick([A, B, C], name).name for name in names]
    assert chosen == [pick([A, B, C], name).name for name in names]
    assert set(chosen) == {"a", "b", "c"}


def test_an_unknown_policy():
    with pytest.raises(KeyError):
        policy("whatever")


def test_the_allow_list():
    allow = AllowList(LOCAL_NETWORKS)
    for client in ("127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "fd00::1", "fe80::1"):
        assert allow.allows(client)
    for client in ("192.0.2.1", "2001:db8::1", "8.8.8.8", "", "not an address", "172.32.0.1"):
        assert not allow.allows(client)
        assert not allow.allows(client)  # remembered
    assert allow.allows("::ffff:127.0.0.1")
    assert not allow.allows("::ffff:8.8.8.8")
    assert not AllowList(()).allows("127.0.0.1")
    assert AllowList((ip_network("0.0.0.0/0"),)).allows("8.8.8.8")


def test_networks_written_as_ipv4_mapped():
    allow = AllowList(map(ip_network, ("::ffff:192.0.2.0/120", "::ffff:198.51.100.7/128")))
    for client in ("192.0.2.1", "::ffff:192.0.2.1", "198.51.100.7"):
        assert allow.allows(client)
    for client in ("192.0.3.1", "::ffff:192.0.3.1", "198.51.100.8", "::1"):
        assert not allow.allows(client)
    everyone = AllowList((ip_network("::/0"), ip_network("0.0.0.0/0")))
    assert everyone.allows("2001:db8::1")
    assert everyone.allows("::ffff:8.8.8.8")


def test_the_allow_list_remembers_so_many(monkeypatch):
    monkeypatch.setattr(acl, "MAX_REMEMBERED", 3)
    allow = AllowList(LOCAL_NETWORKS)
    for number in range(10):
        assert allow.allows(f"10.0.0.{number}")
    assert len(allow._seen) <= 3


def test_resolv_conf(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# comment\nsearch example.org\nnameserver 192.0.2.53\n nameserver\t2001:DB8::53 # x\n"
        "nameserver\nnameserver dns.example\nnameserver 192.0.2.53\noptions edns0\n"
        "nameserver fe80::1%2\n"
    )
    assert resolv.read(file) == (
        Address("192.0.2.53", 53),
        Address("2001:db8::53", 53),
        Address("fe80::1%2", 53),
    )


def test_no_resolv_conf(tmp_path):
    assert resolv.read(tmp_path / "none") == ()
    assert resolv.read(tmp_path) == ()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0nameserver\n" * 10)
    assert resolv.read(tmp_path / "binary") == ()


@given(st.text())
def test_any_resolv_conf(text):
    assert isinstance(resolv.parse(text), tuple)


def test_random_numbers_are_of_all_sorts():
    drawn = [random16() for _ in range(20_000)]
    assert all(len(number) == 2 for number in drawn)
    assert len(set(drawn)) > 15_000


def test_a_child_draws_its_own_numbers():
    random16()
    left, right = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(right, b"".join(random16() for _ in range(20)))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(left, 40) != b"".join(random16() for _ in range(20))
    os.close(left)
    os.close(right)


def test_a_block_is_used_up_and_renewed(monkeypatch):
    monkeypatch.setattr(randomness, "_block", b"abcd")
    monkeypatch.setattr(randomness, "_position", randomness._BLOCK - 2)
    random16()
    assert len(random16()) == 2
    assert randomness._position == 2


class Waiter:
    def __init__(self, log, expiry=None, clock=None):
        self.deadline = None
        self.log = log
        self.again = expiry
        self.clock = clock

    def timed_out(self):
        self.log.append(self)
        if self.again is not None:
            expiry, self.again = self.again, None
            expiry.add(self, self.clock.seconds())


def test_expiry_in_order_and_only_of_who_still_waits():
    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    first, second, third, again = (Waiter(log) for _ in range(4))
    expiry.add(first, clock.seconds())
    expiry.add(second, clock.seconds())
    clock.advance(1)
    expiry.add(third, clock.seconds())
    expiry.add(again, clock.seconds())
    assert len(clock.getDelayedCalls()) == 1
    second.deadline = None
    clock.advance(0.5)
    expiry.add(again, clock.seconds())
    clock.advance(0.5)
    assert log == [first]
    clock.advance(1)
    assert log == [first, third]
    clock.advance(0.5)
    assert log == [first, third, again]
    assert clock.getDelayedCalls() == []


def test_who_times_out_may_wait_anew():
    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    waiter = Waiter(log, expiry, clock)
    other = Waiter(log)
    expiry.add(waiter, 0)
    clock.advance(1)
    expiry.add(other, 1)
    clock.advance(1)
    assert log == [waiter]
    clock.advance(1)
    assert log == [waiter, other]  # at its own time, though the first waits anew
    clock.advance(1)
    assert log == [waiter, other, waiter]


def test_a_waiter_that_raises_does_not_hold_up_the_others():
    class Broken(Waiter):
        def timed_out(self):
            super().timed_out()
            raise ZeroDivisionError

    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    broken, other, later = Broken(log), Waiter(log), Waiter(log)
    expiry.add(broken, 0)
    expiry.add(other, 0)
    clock.advance(1)
    expiry.add(later, 1)
    with pytest.raises(ZeroDivisionError):
        clock.advance(1)
    clock.advance(0)
    assert log == [broken, other]
    clock.advance(1)
    assert log == [broken, other, later]
    assert clock.getDelayedCalls() == []


def test_who_no_longer_waits_is_let_go():
    clock = Clock()
    expiry = Expiry(clock, 2)
    for _ in range(1000):
        waiter = Waiter([])
        expiry.add(waiter, clock.seconds())
        waiter.deadline = None
    assert len(expiry._queue) == 1


def test_stop_yields_who_still_waits():
    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    first, second = Waiter(log), Waiter(log)
    expiry.add(first, 0)
    expiry.add(second, 0)
    first.deadline = None
    assert list(expiry.stop()) == [second]
    assert list(expiry.stop()) == []
    assert clock.getDelayedCalls() == []
