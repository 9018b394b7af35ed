from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from dwaarx import collector


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.enable()
    yield
    gc.unfreeze()
    (gc.enable if enabled else gc.disable)()


class Circle:
    def __init__(self) -> None:
        self.circle = self


def test_paused() -> None:
    frozen = gc.get_freeze_count()
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
        assert gc.get_freeze_count() == frozen
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(made)


def test_paused_ends_with_what_ended_the_block() -> None:
    with pytest.raises(KeyError), collector.paused():
        raise KeyError
    assert gc.isenabled()


def test_sweep() -> None:
    with collector.paused():
        circle = Circle()
        seen = weakref.ref(circle)
    del circle
    gc.collect()
    assert seen() is not None
    collector.sweep()
    assert seen() is None
    assert gc.get_freeze_count() > 0


def test_sweep_within_a_pause_leaves_it_paused() -> None:
    with collector.paused():
        collector.sweep()
        assert not gc.isenabled()
    assert gc.isenabled()
