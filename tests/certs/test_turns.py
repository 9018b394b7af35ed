from __future__ import annotations

from itertools import pairwise

from dwaarx.certs.agenda import Agenda
from dwaarx.certs.pacer import HORIZON, SPACING, URGENT_SPACING, Pacer
from dwaarx.certs.turns import Turns

NOW = 1_900_000_000.0


class Line:
    """Keys that are looked at as the manager does; `went` is when each was sent."""

    def __init__(self) -> None:
        self.agenda: Agenda[int] = Agenda()
        self.turns = Turns(self.agenda, Pacer())
        self.went: dict[int, float] = {}

    def put(self, *keys: int) -> None:
        for key in keys:
            self.agenda.put(key, NOW)

    def run(self, seconds: float, *, urgent: bool = False, hosts=lambda _: "one.test") -> None:
        for tick in range(int(seconds / 0.1)):
            now = NOW + tick * 0.1
            for key in self.agenda.due(now):
                if self.turns.may_go(key, hosts(key), now, urgent=urgent):
                    assert key not in self.went
                    self.went[key] = now


def test_one_goes_at_once():
    line = Line()
    line.put(1)
    line.run(0.1)
    assert line.went == {1: NOW}
    assert len(line.agenda) == 0


def test_the_others_come_again_in_their_order():
    line = Line()
    line.put(*range(40))
    line.run(60)
    assert list(line.went) == list(range(40))
    assert all(b - a > SPACING - 0.11 for a, b in pairwise(line.went.values()))


def test_two_hundred_urgent_ones_go_within_a_minute():
    line = Line()
    line.put(*range(200))
    line.run(60, urgent=True)
    assert len(line.went) == 200
    times = list(line.went.values())
    assert all(b - a > URGENT_SPACING - 0.11 for a, b in pairwise(times))


def test_no_host_waits_for_another():
    line = Line()
    line.put(*range(100))
    line.run(0.2, hosts=lambda key: f"{key}.test")
    assert len(line.went) == 100


def test_who_has_a_place_keeps_it_and_others_ask_anew():
    line = Line()
    line.put(1, 2, *range(3, 30))
    line.run(0.1)
    assert not line.turns.is_placed(1)  # it went
    assert line.turns.is_placed(2)
    assert not line.turns.is_placed(29)
    when = line.agenda.when(29)
    assert when is not None
    assert when > NOW + HORIZON
    assert line.turns.may_go(2, "one.test", NOW + 1, urgent=False)
    assert not line.turns.is_placed(2)
    assert not line.turns.may_go(2, "one.test", NOW + 1, urgent=False)


def test_who_is_forgotten_leaves_the_agenda_and_has_no_place():
    line = Line()
    line.put(1, 2)
    line.run(0.1)
    line.turns.forget(2)
    line.turns.forget(3)  # who was never there
    assert len(line.agenda) == 0
    assert not line.turns.is_placed(2)
    line.put(2)
    line.run(5)
    assert line.went[2] > NOW


def test_who_becomes_urgent_does_not_wait_at_the_end_of_a_long_queue():
    agenda: Agenda[int] = Agenda()
    turns = Turns(agenda, Pacer())
    soon = NOW + 60
    for key in range(500):
        turns.may_go(key, "one.test", NOW, urgent=False)
    assert not turns.may_go(1000, "one.test", NOW, urgent=False, urgent_from=soon)
    assert agenda.when(1000) == soon
    assert not turns.may_go(1001, "one.test", NOW, urgent=False)
    assert agenda.when(1001) > soon
