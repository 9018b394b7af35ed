from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.certs import schedule

START = datetime(2030, 1, 1, tzinfo=UTC)
NOW = START.timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
REFRESH = 12 * HOUR


class Least(Random):
    """Chance at one end of its range."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Most(Random):
    """Chance at the other end."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Middle(Random):
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def success(
    *,
    age: float = 0.0,
    left: float,
    fresh: float | None = None,
    refresh: float = REFRESH,
    rng: Random | None = None,
) -> float:
    """Return how long the next refresh waits, for a response signed `age` seconds ago."""
    fresh_until = None if fresh is None else NOW + fresh
    at = schedule.ocsp_success(NOW, NOW - age, NOW + left, fresh_until, refresh, rng or Middle())
    return at - NOW


def failure(
    failures: int = 1,
    *,
    retry_after: float | None = None,
    left: float | None = None,
    rng: Random | None = None,
) -> float:
    """Return how long the next try waits."""
    asked = None if retry_after is None else NOW + retry_after
    end = None if left is None else NOW + left
    return schedule.ocsp_failure(NOW, failures, asked, rng or Middle(), end) - NOW


# --- what the house makes itself ---


def test_a_leaf_is_renewed_when_a_third_of_its_life_is_left():
    assert schedule.leaf_renewal(START, START + timedelta(days=9)) == START + timedelta(days=6)


def test_a_staple_is_renewed_at_half_its_validity():
    assert schedule.staple_renewal(START, START + timedelta(hours=8)) == START + timedelta(hours=4)


def test_a_root_is_renewed_while_its_leaves_can_still_live_out():
    end = START + schedule.ROOT_LIFETIME
    assert end - schedule.root_renewal(end) > schedule.LEAF_LIFETIME


# --- after a staple came ---


def test_a_long_staple_is_refreshed_as_often_as_the_options_say():
    assert success(left=7 * DAY) == pytest.approx(REFRESH)


def test_a_short_staple_is_refreshed_at_half_its_validity():
    assert success(left=HOUR) == pytest.approx(30 * MINUTE)
    assert success(left=5 * MINUTE) == pytest.approx(2.5 * MINUTE)


def test_half_the_validity_counts_from_this_update():
    assert success(age=2 * HOUR, left=6 * HOUR) == pytest.approx(2 * HOUR)


def test_when_that_half_has_passed_the_rest_is_halved():
    assert success(age=10 * HOUR, left=8 * MINUTE) == pytest.approx(4 * MINUTE, rel=0.1)
    assert success(age=10 * DAY, left=2 * DAY) == pytest.approx(REFRESH)


def test_refreshes_are_spread_by_a_tenth_either_way():
    assert success(left=7 * DAY, rng=Least()) == pytest.approx(0.9 * REFRESH)
    assert success(left=7 * DAY, rng=Most()) == pytest.approx(1.1 * REFRESH)


def test_the_same_old_response_again_and_again_is_no_reason_for_a_loop():
    now, end = NOW, NOW + 30 * DAY
    for _ in range(25):
        now = schedule.ocsp_success(now, NOW - 40 * DAY, end, None, 40 * DAY, Least())
    assert now > end


@pytest.mark.parametrize("left", [0.0, -5.0, 1.0, 59.0, -DAY])
def test_the_next_refresh_is_a_minute_away_at_least(left: float):
    assert success(age=DAY, left=left) == pytest.approx(schedule.SOONEST_REFRESH)


def test_a_refresh_of_no_time_is_no_loop():
    assert success(left=DAY, refresh=0.0) == pytest.approx(schedule.SOONEST_REFRESH)


def test_a_response_from_the_near_future_is_refreshed_in_time():
    assert success(age=-5 * MINUTE, left=10 * MINUTE, rng=Most()) < 6 * MINUTE


def test_what_http_says_is_fresh_is_not_asked_for_again():
    for rng in (Least(), Middle(), Most()):
        assert success(left=7 * DAY, fresh=DAY, rng=rng) >= DAY


def test_what_http_says_has_been_fresh_changes_nothing():
    assert success(left=7 * DAY, fresh=-DAY) == success(left=7 * DAY)
    assert success(left=7 * DAY, fresh=HOUR) == success(left=7 * DAY)


@pytest.mark.parametrize("fresh", [4 * DAY, 365 * DAY, float("inf")])
def test_freshness_up_to_the_end_or_beyond_leaves_the_last_quarter(fresh: float):
    for rng in (Least(), Most()):
        wait = success(left=4 * DAY, fresh=fresh, rng=rng)
        assert 2.5 * DAY < wait <= 3 * DAY


def test_freshness_does_not_stop_what_is_urgent_already():
    assert success(age=9 * HOUR, left=HOUR, fresh=HOUR, rng=Most()) == 30 * MINUTE


def test_urgent_is_the_last_quarter():
    assert schedule.urgent_from(NOW, NOW + 4 * HOUR) == NOW + 3 * HOUR


@given(
    validity=st.floats(5 * MINUTE, 30 * DAY),
    share=st.floats(0, 1),
    fresh=st.none() | st.floats(-DAY, 400 * DAY),
    refresh=st.floats(1, 60 * DAY),
    seed=st.integers(0, 99),
)
def test_a_refresh_is_never_a_loop_and_never_too_late(
    validity: float, share: float, fresh: float | None, refresh: float, seed: int
):
    left = validity * (1 - share)
    wait = success(age=validity * share, left=left, fresh=fresh, refresh=refresh, rng=Random(seed))
    assert wait >= schedule.SOONEST_REFRESH - 1e-5
    quarter = left - validity / 4
    assert wait <= max(schedule.SOONEST_REFRESH, 0.55 * left, quarter) + 1e-5


# --- after a failure ---


def test_the_back_off_doubles_from_a_minute_to_an_hour():
    waits = [schedule.backoff(n, Middle()) / MINUTE for n in range(1, 10)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_back_off_is_spread_by_half_either_way():
    assert schedule.backoff(1, Least()) == 30
    assert schedule.backoff(1, Most()) == 90
    assert schedule.backoff(99, Most()) == 1.5 * HOUR


@pytest.mark.parametrize("failures", [-1, 0, 1])
def test_the_back_off_begins_at_a_minute_however_it_is_counted(failures: int):
    assert schedule.backoff(failures, Middle()) == MINUTE


def test_a_century_of_failures_is_an_hour_of_back_off():
    assert schedule.backoff(10**9, Middle()) == HOUR


def test_without_a_staple_the_back_off_alone_counts():
    assert failure(3) == 4 * MINUTE
    assert failure(3, left=-HOUR) == 4 * MINUTE


def test_the_last_time_of_a_staple_is_used():
    assert failure(9, left=HOUR) == 30 * MINUTE
    assert failure(9, left=2 * MINUTE) == MINUTE
    assert failure(9, left=MINUTE / 2) == schedule.FIRST_BACKOFF / 2


def test_a_staple_with_much_time_left_shortens_nothing():
    assert failure(9, left=DAY) == HOUR


def test_retry_after_is_honoured():
    assert failure(1, retry_after=3 * HOUR) == 3 * HOUR
    assert failure(9, retry_after=3 * HOUR, left=30 * DAY) == 3 * HOUR


@pytest.mark.parametrize("retry_after", [-365 * DAY, 0.0, 1.0, 59.0])
def test_retry_after_shortens_no_back_off(retry_after: float):
    assert failure(1, retry_after=retry_after) == MINUTE


@pytest.mark.parametrize("retry_after", [365 * DAY, float("inf")])
def test_retry_after_of_a_year_is_a_day(retry_after: float):
    assert failure(1, retry_after=retry_after) == DAY


def test_retry_after_beyond_the_staples_end_leaves_one_last_try():
    assert failure(1, retry_after=DAY, left=5 * HOUR) == 5 * HOUR - schedule.LAST_TRY
    # That one has failed too, and now it is as the responder wants it.
    assert failure(2, retry_after=DAY, left=schedule.LAST_TRY) == DAY


def tries_in_an_hour(times: list[float]) -> int:
    return max(sum(at <= other < at + HOUR for other in times) for at in times)


@given(seed=st.integers(), left=st.none() | st.floats(0, 8 * HOUR), low=st.booleans())
def test_what_only_fails_is_asked_sixteen_times_an_hour_at_most(
    seed: int, left: float | None, low: bool
):
    rng = Least() if low else Random(seed)
    end = None if left is None else NOW + left
    now, times = NOW, [NOW]
    while now < NOW + 12 * HOUR:
        now = schedule.ocsp_failure(now, len(times), None, rng, end)
        times.append(now)
    assert tries_in_an_hour(times) <= 16
    assert all(b - a >= 29.99 for a, b in pairwise(times))


@given(seed=st.integers(), back=st.floats(0, 12 * HOUR), validity=st.floats(5 * MINUTE, 30 * DAY))
def test_a_responder_that_is_back_three_minutes_before_the_end_is_in_time(
    seed: int, back: float, validity: float
):
    rng, end = Random(seed), NOW + validity
    back = min(NOW + back, end - 3 * MINUTE)
    now, failures = NOW, 0
    while now < back:
        failures += 1
        now = schedule.ocsp_failure(now, failures, None, rng, end)
    assert now <= end - MINUTE


# --- ACME ---


def test_a_certificate_is_renewed_by_the_sooner_of_ari_and_a_third():
    end = START + timedelta(days=90)
    third = START + timedelta(days=60)
    assert schedule.acme_renewal(START, end, None) == third
    assert schedule.acme_renewal(START, end, START + timedelta(days=20)).day == 21
    assert schedule.acme_renewal(START, end, START + timedelta(days=80)) == third


def test_a_ca_that_is_down_is_tried_after_one_minute_to_six_hours():
    waits = [schedule.acme_backoff(n, Middle()) / MINUTE for n in range(12)]
    assert waits == [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]


def test_a_ca_that_said_no_is_tried_three_times_an_hour_at_most():
    times = [NOW]
    for failures in range(1, 8):
        times.append(schedule.acme_failure(times[-1], failures, None, Least(), rejected=True))
    assert tries_in_an_hour(times) == 3


def test_a_cas_retry_after_is_honoured_wholly():
    assert schedule.acme_failure(NOW, 1, NOW + 7 * DAY, Middle()) == NOW + 7 * DAY
    assert schedule.acme_failure(NOW, 1, NOW - DAY, Middle()) == NOW + MINUTE
