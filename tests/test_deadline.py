from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dwaarx.deadline import Deadline


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def struck() -> list[float]:
    return []


@pytest.fixture
def deadline(clock: Clock, struck: list[float]) -> Deadline:
    return Deadline(clock, lambda: struck.append(clock.seconds()))


def test_strikes_once(clock: Clock, deadline: Deadline, struck: list[float]) -> None:
    deadline.set(10)
    clock.pump([1] * 30)
    assert struck == [10]
    assert not clock.getDelayedCalls()


def test_moving_it_later_makes_no_new_call(
    clock: Clock, deadline: Deadline, struck: list[float]
) -> None:
    deadline.set(10)
    for _ in range(20):
        clock.advance(5)
        deadline.set(10)
        assert len(clock.getDelayedCalls()) == 1
    assert struck == []
    clock.pump([1] * 10)
    assert struck == [110]


def test_moving_it_earlier(clock: Clock, deadline: Deadline, struck: list[float]) -> None:
    deadline.set(60)
    clock.advance(1)
    deadline.set(2)
    clock.pump([1] * 5)
    assert struck == [3]


def test_cleared_it_does_not_strike(clock: Clock, deadline: Deadline, struck: list[float]) -> None:
    deadline.set(10)
    deadline.clear()
    clock.advance(20)
    assert struck == []
    deadline.set(5)
    clock.advance(5)
    assert struck == [25]


def test_set_again_after_clear_uses_the_call_that_is_left(
    clock: Clock, deadline: Deadline, struck: list[float]
) -> None:
    deadline.set(10)
    deadline.clear()
    clock.advance(4)
    deadline.set(10)
    assert len(clock.getDelayedCalls()) == 1
    clock.pump([1] * 10)
    assert struck == [14]


def test_stopped_it_leaves_nothing_behind(
    clock: Clock, deadline: Deadline, struck: list[float]
) -> None:
    deadline.set(10)
    deadline.stop()
    deadline.stop()
    assert not clock.getDelayedCalls()
    assert struck == []


def test_it_may_be_set_while_it_strikes(clock: Clock) -> None:
    struck: list[float] = []

    def expired() -> None:
        struck.append(clock.seconds())
        deadline.set(1)

    deadline = Deadline(clock, expired)
    deadline.set(1)
    clock.pump([1] * 3)
    assert struck == [1, 2, 3]
