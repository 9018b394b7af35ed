from __future__ import annotations

import resource

import pytest

from dwaarx.tls import descriptors


class Limits:
    """The process's limits, for a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = (1024, 4096)
        monkeypatch.setattr(resource, "getrlimit", lambda _: self.now)
        monkeypatch.setattr(resource, "setrlimit", self.set)

    def set(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        self.now = limits


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    return Limits(monkeypatch)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), (4096, 4096)),
        ((512, 512), (512, 512)),
        ((256, resource.RLIM_INFINITY), (256, resource.RLIM_INFINITY)),
    ],
)
def test_the_limit_is_raised(
    limits: Limits, before: tuple[int, int], after: tuple[int, int]
) -> None:
    limits.now = before
    assert descriptors.raise_limit() == after[0]
    assert limits.now == after


@pytest.mark.parametrize(
    ("most", "clients"), [(65536, 57344), (1024, 896), (512, 384), (200, 100), (10, 5)]
)
def test_the_last_are_kept(limits: Limits, most: int, clients: int) -> None:
    limits.now = (most, most)
    assert descriptors.for_clients(most) == clients
    assert not descriptors.is_kept(clients - 1)
    assert descriptors.is_kept(clients)


def test_without_a_limit_none_is_kept(limits: Limits) -> None:
    limits.now = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert not descriptors.is_kept(1 << 20)
