"""Renewal information through the manager: when certificates are renewed because of it."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from dwaarx.certs.acme import ari
from dwaarx.certs.ari_check import LONGEST_POLL, POLL, SHORTEST_POLL
from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.pacer import SPACING
from dwaarx.certs.record import Duty
from dwaarx.config.model import AcmeCertificate
from tests.certs import pki
from tests.certs.acme_world import (
    CA,
    INFORMATION,
    LIFETIME,
    NAME,
    OTHER_CA,
    SETTINGS,
    SOURCE,
    AcmeWorld,
    Disk,
    watched,
)
from tests.certs.handshakes import handshake
from tests.certs.responders import HOUR, MINUTE, events

DAY = pki.DAY
FILE = f"acme/renewal/{NAME}.json"


@pytest.fixture
def world(tmp_path):
    with watched(tmp_path) as world:
        yield world


def fixed(world, begin, end):
    """A window that stays where it is."""
    said = world.now() + begin, world.now() + end
    world.information = lambda: said


def down(world, retry_after=None):
    world.information = lambda: FetchError(FetchFailure.STATUS, "it answers 503", retry_after)


def document(world):
    return json.loads(world.file(FILE).read_bytes())


def polls(world):
    """How long it was from each question to the next."""
    times = [moment for moment, _ in world.asked_information]
    return [later - sooner for sooner, later in pairwise(times)]


def third(made):
    return made.certificate.not_valid_after_utc - LIFETIME / 3


# --- when -------------------------------------------------------------------


def test_the_window_goes_before_the_third_of_the_lifetime(world):
    fixed(world, 10 * DAY, 12 * DAY)
    begin = world.now()
    _, made = world.obtained()
    world.ticks()
    assert begin + 10 * DAY <= world.renewal() <= begin + 12 * DAY
    [(_, url)] = world.asked_information
    assert url == f"{INFORMATION}/{ari.certificate_id(made.certificate)}"
    assert world.status().guard.endswith("ARI")
    world.pass_by(13 * DAY, 3600)
    [_, order] = world.orders
    assert (order.former, order.former_ca) == (made.certificate, CA)


def test_a_window_behind_the_third_changes_nothing(world):
    fixed(world, 80 * DAY, 85 * DAY)
    _, made = world.obtained()
    world.ticks()
    assert world.renewal() == third(made)


def test_a_ca_without_renewal_information_is_not_asked(world):
    _, made = world.obtained()
    world.pass_by(2 * DAY, 3600)
    assert world.asked_information == []
    assert world.renewal() == third(made)
    assert "ARI" not in world.status().guard
    # But who issued it is known, and told to the CA at the renewal.
    assert document(world)["ca"] == CA


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        (None, POLL),
        ("7200", 7200.0),
        ("1", SHORTEST_POLL),
        ("9999999", LONGEST_POLL),
        ("nonsense", POLL),
    ],
)
def test_it_is_polled_as_often_as_the_ca_wants_within_bounds(world, said, wait):
    fixed(world, 50 * DAY, 55 * DAY)
    world.retry_after = said
    world.obtained()
    world.pass_by(timedelta(seconds=2.5 * wait), wait / 20)
    assert [each for each in polls(world) if not wait - 0.1 < each < 1.06 * wait] == []
    assert len(world.asked_information) == 3


def test_the_moment_is_kept_over_polls_and_restarts(world):
    fixed(world, 20 * DAY, 40 * DAY)
    world.retry_after = "7200"
    world.obtained()
    world.ticks()
    moment = world.renewal()
    world.pass_by(DAY, 3600)
    assert world.renewal() == moment
    for _ in range(3):
        world.restart()
        world.serve(SOURCE)
        assert world.renewal() == moment
        world.pass_by(3 * HOUR, 600)
        assert world.renewal() == moment
    assert world.orders == []


def test_a_restart_does_not_ask_before_it_is_time(world):
    fixed(world, 20 * DAY, 40 * DAY)
    world.obtained()
    world.pass_by(HOUR, 60)
    world.restart()
    world.serve(SOURCE)
    world.pass_by(4 * HOUR, 60)
    assert len(world.asked_information) == 1
    world.pass_by(2 * HOUR, 60)
    assert len(world.asked_information) == 2


def test_a_window_that_moves_is_followed(world):
    fixed(world, 20 * DAY, 40 * DAY)
    world.obtained()
    world.ticks()
    fixed(world, 5 * DAY, 6 * DAY)
    begin = world.now()
    world.pass_by(7 * HOUR, 600)
    assert begin + 5 * DAY <= world.renewal() <= begin + 6 * DAY
    fixed(world, 30 * DAY, 31 * DAY)
    world.pass_by(7 * HOUR, 600)
    assert world.renewal() >= begin + 30 * DAY


# --- late -------------------------------------------------------------------


def test_a_window_that_has_passed_renews_at_once(world):
    fixed(world, 50 * DAY, 55 * DAY)
    identity, _ = world.obtained()
    fixed(world, -2 * DAY, -DAY)
    with capturedLogs() as logs:
        world.pass_by(7 * HOUR, 600)
    [line] = events(logs, "overdue")
    assert "signal=ari" in line
    assert len(world.orders) == 2
    fixed(world, 50 * DAY, 55 * DAY)
    made = world.issue()
    world.ticks(15)
    assert handshake(identity)[0] == made.certificate
    world.pass_by(DAY, 3600)
    assert len(world.orders) == 2
    assert world.renewal() > world.now() + 40 * DAY


def test_a_window_that_has_passed_is_told_though_time_goes_on_meanwhile(world, monkeypatch):
    fixed(world, 50 * DAY, 55 * DAY)
    world.obtained()
    steady = AcmeWorld.now

    def now(self):
        self.start += timedelta(microseconds=1)
        return steady(self)

    monkeypatch.setattr(AcmeWorld, "now", now)
    world.restart()
    world.serve(SOURCE)
    fixed(world, -2 * DAY, -DAY)
    with capturedLogs() as logs:
        world.pass_by(7 * HOUR, 600)
    assert len(events(logs, "overdue")) == 1
    assert len(world.orders) == 1


@pytest.mark.parametrize("end", [-DAY, timedelta(seconds=5)], ids=["passed", "in a moment"])
def test_a_ca_that_wants_each_one_renewed_at_once_gets_no_storm(world, end):
    world.information = lambda: (world.now() - 2 * DAY, world.now() + end)
    world.retry_after = "1"
    world.obtained()
    counts = []
    for _ in range(3):
        before = len(world.orders)
        for _ in range(24 * 6):
            world.pass_by(10 * MINUTE, 600)
            if not world.orders[-1].outcome.called:
                world.issue()
        counts.append(len(world.orders) - before)
    assert counts[0] <= 7
    assert counts[2] <= 2
    # A restart begins no new one.
    world.restart()
    world.serve(SOURCE)
    world.pass_by(2 * HOUR)
    assert len(world.orders) <= 1


def test_one_renewal_that_is_early_does_not_delay_the_next_that_is_not(world):
    fixed(world, -2 * DAY, -DAY)
    world.obtained()
    world.ticks(15)
    fixed(world, 20 * DAY, 21 * DAY)
    world.issue()
    world.pass_by(25 * DAY, 3600)
    assert len(world.orders) == 3
    fixed(world, -2 * DAY, -DAY)
    world.issue()
    world.pass_by(2 * HOUR)
    # It was the first in a row again, by its age; so it waits for an hour at most.
    assert len(world.orders) == 4


def test_failures_to_renew_what_is_late_back_off_however_often_the_ca_says_so(world):
    # A window that is another one each time, and always past.
    world.information = lambda: (world.now() - 2 * DAY, world.now() - DAY)
    world.retry_after = "1"
    world.obtained()
    world.ticks(15)
    assert len(world.orders) == 2
    world.refuse(retry_after=world.now().timestamp() + 3 * 3600)
    world.pass_by(3 * HOUR - MINUTE)
    assert len(world.asked_information) > 100
    assert len(world.orders) == 2
    world.pass_by(5 * MINUTE)
    assert len(world.orders) == 3


def test_what_is_late_while_its_successor_waits_is_not_ordered_again(world):
    fixed(world, 50 * DAY, 55 * DAY)
    world.retry_after = "60"
    identity, former = world.obtained()
    world.rules["ocsp.test"] = lambda each: world.response(
        each, status="good" if each is former else "unknown"
    )
    world.manager.renew(NAME).addErrback(lambda _: None)
    world.ticks()
    made = world.issue()
    world.ticks(15)
    assert world.waits().exists()
    fixed(world, -2 * DAY, -DAY)
    world.pass_by(4 * MINUTE)
    assert len(world.asked_information) >= 3
    assert len(world.orders) == 2
    assert handshake(identity)[0] == former.certificate
    fixed(world, 50 * DAY, 55 * DAY)
    del world.rules["ocsp.test"]
    world.pass_by(10 * MINUTE)
    assert handshake(identity)[0] == made.certificate
    assert len(world.orders) == 2


# --- failures ---------------------------------------------------------------


def test_a_ca_that_says_nothing_leaves_the_third_of_the_lifetime(world):
    down(world)
    _, made = world.obtained()
    with capturedLogs() as logs:
        world.pass_by(DAY, 60)
    assert world.renewal() == third(made)
    # 1 min doubling to 1 h, +-50 %; the first are told, then ever fewer.
    assert 24 <= len(world.asked_information) <= 40
    assert 3 <= len(events(logs, "failed")) <= 5
    assert "what=ari" in events(logs, "failed")[0]
    fixed(world, 10 * DAY, 11 * DAY)
    world.pass_by(2 * HOUR)
    assert world.renewal() < third(made)


def test_what_was_said_before_holds_while_the_ca_is_down(world):
    fixed(world, 10 * DAY, 11 * DAY)
    world.obtained()
    world.ticks()
    moment = world.renewal()
    down(world)
    world.pass_by(2 * DAY, 3600)
    assert world.renewal() == moment


def test_retry_after_of_a_failure_is_honoured(world):
    world.information = lambda: FetchError(
        FetchFailure.STATUS, "busy", world.now().timestamp() + 5 * 3600
    )
    world.obtained()
    world.pass_by(DAY, 60)
    assert len(world.asked_information) == 5


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"suggestedWindow": 3}'])
def test_an_answer_that_is_none(world, body):
    fixed(world, 10 * DAY, 11 * DAY)
    real = world._inform

    def garbled(url):
        return real(url).addCallback(lambda fetched: type(fetched)(200, {}, body, url))

    world._inform = garbled
    _, made = world.obtained()
    with capturedLogs() as logs:
        world.pass_by(5 * MINUTE)
    assert "holds no window" in events(logs, "failed")[0]
    assert world.renewal() == third(made)


def test_windows_at_the_ends_of_time(world):
    said = []
    real = world._inform

    def inform(url):
        start, end = said[-1]
        body = json.dumps({"suggestedWindow": {"start": start, "end": end}}).encode()
        return real(url).addCallback(lambda fetched: type(fetched)(200, {}, body, url))

    world._inform = inform
    fixed(world, DAY, 2 * DAY)
    said.append(("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"))
    world.obtained()
    world.pass_by(2 * MINUTE)
    assert world.manager.status()
    said.append(("9999-12-31T23:59:58Z", "9999-12-31T23:59:59.999Z"))
    world.pass_by(7 * HOUR, 600)
    world.restart()
    with capturedLogs() as logs:
        world.serve(SOURCE)
    assert not [each for each in logs if "cannot be used" in str(each.get("log_format"))]
    assert world.status().next_attempt is not None


def test_many_names_at_a_ca_that_is_down_are_asked_about_one_after_another(world):
    sources = [AcmeCertificate(f"n{index}.test", SETTINGS) for index in range(40)]
    fixed(world, 10 * DAY, 11 * DAY)
    world.manager.acquire(sources)
    down(world)
    for index in range(len(sources)):
        world.ticks(2)
        world.issue(world.leaf(sources[index].name, url=None), index=index)
    began = len(world.asked_information)
    world.pass_by(20 * MINUTE, 1)
    assert len(world.asked_information) > began + 40
    assert all(each >= SPACING - 0.01 for each in polls(world)[began:])


def test_an_error_of_our_own_is_told_and_tried_again(world, monkeypatch):
    def bug(_):
        raise RuntimeError("a bug")

    fixed(world, 10 * DAY, 11 * DAY)
    monkeypatch.setattr(ari, "parse", bug)
    world.obtained()
    world.ticks()
    assert len(world.critical) == 1
    world.critical.clear()
    monkeypatch.undo()
    world.pass_by(2 * MINUTE)
    assert world.renewal() < world.now() + 11 * DAY


# --- the disk ---------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"serial": 5},
        {"serial": "x"},
        {"window": None},
        {"window": [1.0]},
        {"window": [1.0, float("nan")]},
        {"moment": float("inf")},
        {"moment": -1.0},
        {"moment": 10**400},
        {"moment": "soon"},
        {"poll": 1e300},
        {"obtained": None},
        {"hurried": []},
        b"",
        b"[]",
        b"null",
        pytest.param(b"[" * 100_000, id="deep"),
        b"\xff",
    ],
    ids=str,
)
def test_a_document_that_is_damaged_is_told_and_the_third_holds(world, change):
    fixed(world, 10 * DAY, 11 * DAY)
    _, made = world.obtained()
    world.ticks()
    data = change
    if isinstance(change, dict):
        data = json.dumps({**document(world), **change}).encode()
    world.file(FILE).write_bytes(data)
    world.restart()
    with capturedLogs() as logs:
        world.serve(SOURCE)
    [line] = [each for each in logs if "is not asked when" in str(each.get("log_format"))]
    assert line["path"] == str(world.file(FILE))
    assert world.renewal() == third(made)
    world.pass_by(61 * DAY, 3600)
    assert world.orders[-1].former_ca is None


def test_a_poll_in_the_far_future_is_of_a_clock_that_was_wrong(world):
    fixed(world, 20 * DAY, 30 * DAY)
    world.obtained()
    world.ticks()
    later = document(world)["poll"] + 400 * 86400
    world.file(FILE).write_text(json.dumps({**document(world), "poll": later}))
    world.restart()
    world.serve(SOURCE)
    world.pass_by(DAY + HOUR, 3600)
    assert len(world.asked_information) >= 2


def test_what_was_written_before_there_was_a_count_is_understood(world):
    fixed(world, 20 * DAY, 30 * DAY)
    world.obtained()
    world.ticks()
    moment = world.renewal()
    old = document(world)
    del old["obtained"], old["hurried"]
    world.file(FILE).write_text(json.dumps(old))
    world.restart()
    world.serve(SOURCE)
    assert world.renewal() == moment
    fixed(world, -2 * DAY, -DAY)
    world.pass_by(7 * HOUR, 600)
    assert len(world.orders) == 1


def test_the_document_of_another_certificate_is_not_believed(world):
    fixed(world, 10 * DAY, 11 * DAY)
    world.obtained()
    world.ticks()
    other = world.leaf()
    world.put(world.kept(), other)
    world.restart()
    world.serve(SOURCE)
    assert world.renewal() == third(other)
    world.pass_by(61 * DAY, 3600)
    assert world.orders[-1].former_ca is None


def test_it_is_not_written_again_when_nothing_is_new(world, monkeypatch):
    fixed(world, 20 * DAY, 40 * DAY)
    world.obtained()
    world.ticks()
    Disk(world, monkeypatch).fail()
    with capturedLogs() as logs:
        world.pass_by(2 * HOUR, 600)
        asked = len(world.asked_information)
        world.pass_by(6 * HOUR, 600)
    assert len(world.asked_information) > asked
    assert not [each for each in logs if "cannot be written" in str(each.get("log_format"))]


def test_one_of_another_ca_brings_its_own(world):
    fixed(world, 10 * DAY, 11 * DAY)
    world.obtained()
    world.manager.renew(NAME)
    made = world.issue(ca=OTHER_CA)
    world.ticks(15)
    assert document(world)["ca"] == OTHER_CA
    assert world.renewal() == third(made)
    asked = len(world.asked_information)
    world.pass_by(DAY, 3600)
    assert len(world.asked_information) == asked


def test_a_name_that_is_dropped_is_asked_about_no_more(world):
    fixed(world, 10 * DAY, 11 * DAY)
    world.obtained()
    world.manager.retain([])
    world.pass_by(2 * DAY, 3600)
    assert len(world.asked_information) <= 1


def test_an_answer_after_the_certificate_was_replaced_is_not_its_successors(world):
    fixed(world, 10 * DAY, 11 * DAY)
    held = []
    real = world._inform

    def hold(url):
        answer = real(url)
        waiting = type(answer)()
        held.append((waiting, answer))
        return waiting

    world._inform = hold
    world.obtained()
    world.ticks()
    [(waiting, _)] = held
    world.manager.renew(NAME)
    world.issue()
    world.ticks(15)
    assert waiting.called  # cancelled
    # And the new one is asked about, though the other was under way when it came.
    [_, (again, answer)] = held
    answer.chainDeferred(again)
    world.ticks()
    assert world.renewal() < world.now() + 11 * DAY
    assert world.manager._agenda.when((Duty.ARI, world.record().held)) is not None


def test_stopping_amid_a_question(world):
    fixed(world, 10 * DAY, 11 * DAY)
    world._inform = lambda _: Deferred()
    world.obtained()
    world.ticks()
    with capturedLogs() as logs:
        world.restart()
    assert events(logs, "failed") == []
