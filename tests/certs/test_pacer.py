from __future__ import annotations

import pytest

from dwaarx.certs import pacer
from dwaarx.certs.agenda import JUMP
from dwaarx.certs.pacer import HORIZON, SPACING, URGENT_SPACING, Pacer

NOW = 1_900_000_000.0
HOST = "ocsp.example"


def slots(paced: Pacer, count: int, now: float = NOW, *, urgent: bool = False) -> list[float]:
    return [paced.slot(HOST, now, urgent) - now for _ in range(count)]


def test_routine_requests_to_one_host_are_a_second_apart():
    assert slots(Pacer(), 5) == [0, 1, 2, 3, 4]


def test_urgent_requests_are_closer():
    assert slots(Pacer(), 4, urgent=True) == pytest.approx([0, 0.2, 0.4, 0.6], abs=1e-5)


def test_a_host_that_was_left_alone_is_asked_at_once():
    paced = Pacer()
    slots(paced, 3)
    assert slots(paced, 2, NOW + 60) == [0, 1]


def test_no_host_waits_for_another():
    paced = Pacer()
    slots(paced, 10_000)
    assert paced.slot("other.example", NOW, urgent=False) == NOW


def test_what_is_urgent_waits_for_little_of_what_is_not():
    paced = Pacer()
    slots(paced, 10_000)
    assert slots(paced, 1, urgent=True)[0] < HORIZON + SPACING


def test_two_hundred_urgent_ones_have_their_time_within_a_minute():
    times = slots(Pacer(), 200, urgent=True)
    assert times == sorted(times)
    assert times[-1] < 45


def test_a_host_that_failed_is_asked_once_a_second_even_if_it_is_urgent():
    paced = Pacer()
    slots(paced, 1)
    paced.failed(HOST)
    assert slots(paced, 2, NOW + 5, urgent=True) == [0, SPACING]
    paced.succeeded(HOST)
    assert slots(paced, 2, NOW + 20, urgent=True) == pytest.approx([0, 0.2], abs=1e-5)


def test_only_the_next_seconds_are_reserved():
    paced = Pacer()
    far = [wait for wait in slots(paced, 5000, urgent=True) if wait > HORIZON]
    assert len(far) >= 5000 - HORIZON / URGENT_SPACING - 1
    # Those who come again at their times find a slot right then.
    for wait in far[:500]:
        assert paced.slot(HOST, NOW + wait, urgent=True) == pytest.approx(NOW + wait, abs=0.01)


def test_whoever_comes_again_later_comes_within_a_day():
    waits = slots(Pacer(), 200_000)
    assert max(waits) <= 86400
    # Evenly: no second calls more than three of them.
    assert max(waits.count(second) for second in (11.0, 3600.0, 7200.0, 86000.0)) <= 3


def test_a_host_that_asks_for_it_is_left_alone():
    paced = Pacer()
    slots(paced, 1)
    paced.failed(HOST, NOW + 100)
    waits = slots(paced, 3, NOW + 1)
    assert waits == [99, 100, 101]
    assert slots(paced, 2, NOW + 100) == [0, 1]


def test_it_is_left_alone_for_minutes_at_most():
    paced = Pacer()
    slots(paced, 1)
    paced.failed(HOST, NOW + 365 * 86400)
    paced.failed(HOST, NOW + 1)
    assert slots(paced, 1, NOW + 1) == [pacer.LONGEST_HOLD - 1]


def test_a_host_of_which_nothing_is_known_can_fail():
    paced = Pacer()
    paced.failed(HOST, NOW)
    assert slots(paced, 2, urgent=True) == [0, SPACING]


def test_a_clock_that_is_set_back_makes_nobody_wait_longer():
    paced = Pacer()
    assert slots(paced, 5)[-1] == 4
    paced.failed(HOST, NOW + 8)
    back = NOW - 365 * 86400
    assert slots(paced, 2, back) == [8, 9]


def test_a_small_step_back_is_no_jump():
    paced = Pacer()
    slots(paced, 1)
    assert paced.slot(HOST, NOW - JUMP, urgent=False) == NOW + SPACING


def test_a_clock_that_is_set_forward_frees_the_next_slot():
    paced = Pacer()
    slots(paced, 10_000)
    assert slots(paced, 2, NOW + 1e8) == [0, 1]


def test_idle_hosts_are_forgotten_and_busy_ones_are_not():
    paced = Pacer()
    for number in range(20_000):
        now = NOW + 10.0 * number
        paced.slot(f"{number}.example", now, urgent=False)
        paced.slot(HOST, now, urgent=False)
    assert len(paced) < 3000
    assert paced.slot(HOST, now, urgent=False) == now + SPACING


def test_that_a_host_failed_is_remembered_through_the_longest_back_off():
    paced = Pacer()
    slots(paced, 1)
    paced.failed(HOST)
    for number in range(5000):
        paced.slot(f"{number}.example", NOW + number, urgent=False)
    assert slots(paced, 2, NOW + 5400, urgent=True) == [0, SPACING]
