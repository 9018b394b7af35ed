from collections import Counter

import attrs
import pytest

from dwaarx.dns.policies import policy


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
