from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from dwaarx.certs.agenda import JUMP, Agenda

NOW = 1_900_000_000.0


class Thing:
    """Hashable, and with no order."""


def test_nothing_is_due_of_nothing():
    agenda: Agenda[str] = Agenda()
    assert agenda.due(NOW) == []
    assert len(agenda) == 0
    assert agenda.earliest() is None
    assert agenda.when("a") is None
    agenda.discard("a")


def test_what_is_due_comes_earliest_first_and_once():
    agenda: Agenda[str] = Agenda()
    for key, delay in (("c", 3), ("a", 1), ("d", 4), ("b", 2)):
        agenda.put(key, NOW + delay)
    assert agenda.earliest() == NOW + 1
    assert agenda.due(NOW) == []
    assert agenda.due(NOW + 3) == ["a", "b", "c"]
    assert agenda.due(NOW + 3) == []
    assert (len(agenda), agenda.when("d"), agenda.when("a")) == (1, NOW + 4, None)


def test_no_more_come_than_are_wanted():
    agenda: Agenda[int] = Agenda()
    for key in range(5):
        agenda.put(key, NOW + key)
    assert agenda.due(NOW + 9, limit=2) == [0, 1]
    assert agenda.due(NOW + 9, limit=0) == []
    assert agenda.due(NOW + 9) == [2, 3, 4]


def test_keys_of_one_time_come_in_the_order_in_which_they_were_put_and_are_not_compared():
    agenda: Agenda[Thing] = Agenda()
    things = [Thing() for _ in range(20)]
    for thing in things:
        agenda.put(thing, NOW)
    assert agenda.due(NOW) == things


def test_a_key_has_one_time():
    agenda: Agenda[str] = Agenda()
    agenda.put("a", NOW + 1)
    agenda.put("a", NOW + 9)
    agenda.put("b", NOW + 9)
    agenda.put("b", NOW + 2)
    assert len(agenda) == 2
    assert agenda.earliest() == NOW + 2
    assert agenda.due(NOW + 5) == ["b"]
    assert agenda.due(NOW + 9) == ["a"]


def test_a_discarded_key_is_not_due():
    agenda: Agenda[str] = Agenda()
    agenda.put("a", NOW)
    agenda.put("b", NOW + 1)
    agenda.discard("a")
    assert agenda.earliest() == NOW + 1
    assert agenda.due(NOW + 1) == ["b"]


def test_what_is_put_elsewhere_for_ever_does_not_fill_the_memory():
    agenda: Agenda[int] = Agenda()
    for turn in range(20_000):
        agenda.put(turn % 10, NOW + turn)
        if turn % 3 == 0:
            agenda.discard(turn % 7)
    assert len(agenda._heap) < 200


def test_a_clock_that_is_set_back_takes_the_waiting_with_it():
    agenda: Agenda[str] = Agenda()
    agenda.due(NOW)
    agenda.put("a", NOW + 60)
    agenda.put("b", NOW + 600)
    agenda.discard("b")
    agenda.put("c", NOW + 90)
    year = 365 * 86400.0
    assert agenda.due(NOW - year) == []
    assert agenda.when("a") == NOW - year + 60
    assert agenda.due(NOW - year + 60) == ["a"]
    assert agenda.due(NOW - year + 90) == ["c"]


def test_a_clock_that_is_set_forward_makes_due_what_then_is():
    agenda: Agenda[str] = Agenda()
    agenda.put("a", NOW + 60)
    agenda.put("b", NOW + 1e6)
    assert agenda.due(NOW + 3600) == ["a"]


def test_the_small_steps_of_a_clock_are_no_jump_until_they_add_up():
    agenda: Agenda[str] = Agenda()
    agenda.put("a", NOW + 60)
    agenda.due(NOW)
    agenda.due(NOW - JUMP)
    assert agenda.when("a") == NOW + 60
    agenda.due(NOW - JUMP - 1)
    assert agenda.when("a") == NOW + 60 - JUMP - 1


Step = st.tuples(st.sampled_from(["put", "discard", "due"]), st.integers(0, 8), st.integers(0, 50))


@given(st.lists(Step, max_size=200))
def test_it_does_what_a_plain_dict_would_do(steps: list[tuple[str, int, int]]):
    agenda: Agenda[int] = Agenda()
    model: dict[int, float] = {}
    now = NOW
    for what, key, number in steps:
        if what == "put":
            agenda.put(key, now + number)
            model[key] = now + number
        elif what == "discard":
            agenda.discard(key)
            model.pop(key, None)
        else:
            now += number
            due = agenda.due(now)
            times = [model.pop(each) for each in due]
            assert times == sorted(times)
            assert all(when > now for when in model.values())
        assert len(agenda) == len(model)
        assert agenda.when(key) == model.get(key)
        assert agenda.earliest() == (min(model.values()) if model else None)


def test_a_hundred_thousand_keys_take_25_megabytes_at_most():
    keys = [f"{number}.example" for number in range(100_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        agenda: Agenda[str] = Agenda()
        for turn in range(2):
            for number, key in enumerate(keys):
                agenda.put(key, NOW + turn + number / 7)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(agenda) == 100_000
    assert after - before < 25e6
