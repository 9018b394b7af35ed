from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dwaarx.certs import schedule

START = datetime(2030, 1, 1, tzinfo=UTC)


def test_a_leaf_is_renewed_when_a_third_of_its_life_is_left():
    assert schedule.leaf_renewal(START, START + timedelta(days=9)) == START + timedelta(days=6)


def test_a_staple_is_renewed_at_half_its_validity():
    assert schedule.staple_renewal(START, START + timedelta(hours=8)) == START + timedelta(hours=4)


def test_a_root_is_renewed_while_its_leaves_can_still_live_out():
    end = START + schedule.ROOT_LIFETIME
    assert end - schedule.root_renewal(end) > schedule.LEAF_LIFETIME
