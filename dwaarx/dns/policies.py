"""How a pool picks the upstream for a query; pure but for the turn of round_robin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from operator import attrgetter
from typing import Protocol, TypeVar
from zlib import crc32

from dwaarx.dns.randomness import random16


class Candidate(Protocol):
    """An upstream, as far as a policy looks at it."""

    @property
    def outstanding(self) -> int:
        """How many queries it has not answered yet."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Picks one of some candidates (at least one) for a name, lower-case on the wire."""

    def __call__(self, candidates: Sequence[C], name: bytes, /) -> C:
        """Pick."""


_outstanding = attrgetter("outstanding")


def least_outstanding(candidates: Sequence[C], _name: bytes, /) -> C:
    """The one that owes the fewest answers; the first written of several."""
    return min(candidates, key=_outstanding)


def first(candidates: Sequence[C], _name: bytes, /) -> C:
    """The first written; the others only when it fails."""
    return candidates[0]


def random(candidates: Sequence[C], _name: bytes, /) -> C:
    """Any one of them."""
    return candidates[int.from_bytes(random16(), "big") % len(candidates)]


def hash_of_name(candidates: Sequence[C], name: bytes, /) -> C:
    """Always the same one for a name, so that its cache serves."""
    return candidates[crc32(name) % len(candidates)]


class RoundRobin:
    """Each in turn."""

    def __init__(self) -> None:
        self._turns = count()

    def __call__(self, candidates: Sequence[C], _name: bytes, /) -> C:
        """The next one."""
        return candidates[next(self._turns) % len(candidates)]


_MAKERS: dict[str, Callable[[], Policy]] = {
    "least_outstanding": lambda: least_outstanding,
    "first": lambda: first,
    "random": lambda: random,
    "hash": lambda: hash_of_name,
    "round_robin": RoundRobin,
}


def policy(name: str) -> Policy:
    """Return a pool's policy by its name in a Dwaarfile; raises KeyError for an unknown one."""
    return _MAKERS[name]()
