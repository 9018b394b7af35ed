"""Asking responders for a pair, and what a record says after it; the rest is in test_manager_*."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from random import Random

import pytest
from twisted.internet.defer import CancelledError, Deferred

from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import FetchFailure, OcspError, Refusal
from dwaarx.certs.ocsp_client import OcspClient
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.pacer import HORIZON, SPACING, URGENT_SPACING
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Held, Key, Record
from dwaarx.certs.staple_store import StapleStore
from dwaarx.certs.stapling import LONGEST_TURN, Stapling, UnansweredError
from dwaarx.certs.store import ContextCache, Identity
from dwaarx.config.model import AcmeCertificate
from tests.certs import pki
from tests.certs.responders import MINUTE, ROOT, SETTINGS, World, failing, leaf

URL = "http://ocsp.test"
HOST = "ocsp.test"
TWO = ("http://one.test", "http://two.test")


class Bench(World):
    """Stapling alone, on a world's clock and network."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.manager.stopService()
        self.agenda: Agenda[Key] = Agenda()
        self.told: list[OcspError] = []
        client = OcspClient(self, self.now, self.clock, lambda: 10.0)
        store = StapleStore(Overlay(self.storage), self.now)
        self.stapling = Stapling(client, store, self.agenda, self.clock, self.now, self, Random(5))

    def revoked(self, record: Record, error: OcspError) -> None:
        self.told.append(error)
        record.revoked = str(error)
        record.until = None

    def pair(self, entity: pki.Entity) -> KeyPair:
        self.leaves[entity.certificate.serial_number] = entity
        return KeyPair(entity.certificate, (ROOT.certificate,), entity.key)

    def fetch_for(self, pair: KeyPair) -> list:
        results: list = []
        asked: Deferred = Deferred.fromCoroutine(self.stapling.fetch_for(pair))
        asked.addCallbacks(results.append, lambda failure: results.append(failure.value))
        return results

    def record(self, pair: KeyPair) -> Record:
        """A record whose certificate is read by every look, as one without a context is."""
        held = Held(AcmeCertificate("localhost", SETTINGS))
        held.identity = Identity(
            held.source,
            lambda: (self.stapling.slot(held.records[0], pair),),
            self.now,
            ContextCache(0),
        )
        held.learn((self.stapling.slot(held.records[0], pair),))
        return held.records[0]

    def run(self, seconds: float, step: float = 0.2) -> None:
        """Do what is due as the manager does."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            for duty, record in self.agenda.due(self.now().timestamp()):
                assert isinstance(record, Record)
                if duty is Duty.STAPLE:
                    self.stapling.due(record)
                else:
                    self.stapling.ended(record)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


# --- asking -----------------------------------------------------------------


def test_a_new_certificate_is_asked_about_at_once(bench):
    pair = bench.pair(leaf(URL))
    [answer] = bench.fetch_for(pair)
    assert answer.staple.end > bench.now()
    assert bench.stapling.counts == {"good": 1}


def test_many_new_certificates_wait_in_the_queue_of_their_responder(bench):
    pairs = [bench.pair(leaf(URL, name=f"n{number}")) for number in range(100)]
    results = [bench.fetch_for(pair) for pair in pairs]
    bench.pass_by(timedelta(seconds=100 * URGENT_SPACING + HORIZON), 0.1)
    assert all(result[0].staple.end > bench.now() for result in results)
    times = [at for at, _, _ in bench.asked]
    assert all(b - a > URGENT_SPACING - 0.11 for a, b in pairwise(times))


def test_a_queue_that_takes_long_is_not_waited_for(bench):
    """Else a new certificate would wait for a day, behind a hundred thousand others."""
    pairs = [bench.pair(leaf(URL)) for _ in range(3)]
    for _ in range(int(2 * LONGEST_TURN / URGENT_SPACING)):
        bench.stapling._pacer.slot(HOST, bench.now().timestamp(), urgent=True)
    before = bench.now().timestamp()
    [error] = bench.fetch_for(pairs[0])
    assert isinstance(error, UnansweredError)
    assert error.reason == f"{URL}: {HOST} is not to be asked now"
    assert error.retry_after > before + LONGEST_TURN
    assert bench.asked == []


def test_a_wait_can_be_given_up(bench):
    bench.fetch_for(bench.pair(leaf(URL)))
    asked: Deferred = Deferred.fromCoroutine(bench.stapling.fetch_for(bench.pair(leaf(URL))))
    failures = []
    asked.addErrback(failures.append)
    asked.cancel()
    assert failures[0].check(CancelledError)
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("kinds", "asked_later", "wait"),
    [
        ((FetchFailure.STATUS, FetchFailure.STATUS), (900, 300), 300),
        ((FetchFailure.STATUS, FetchFailure.STATUS), (900, None), None),
        ((FetchFailure.REFUSED, FetchFailure.STATUS), (None, 300), 300),
        ((FetchFailure.REFUSED, FetchFailure.REFUSED), (None, None), None),
    ],
)
def test_when_they_want_to_be_asked_again(bench, kinds, asked_later, wait):
    now = bench.now().timestamp()
    for host, kind, later in zip(("one.test", "two.test"), kinds, asked_later, strict=True):
        bench.rules[host] = failing(kind, "no", None if later is None else now + later)
    [error] = bench.fetch_for(bench.pair(leaf(*TWO)))
    assert error.kind is Refusal.UNREACHABLE
    expected = None if wait is None else now + wait
    assert error.retry_after == (None if expected is None else pytest.approx(expected, abs=3))
    assert "http://one.test: " in error.reason
    assert "http://two.test: " in error.reason


def test_a_responder_that_does_not_know_one_certificate_is_still_asked_fast(bench):
    """It answered, signed: the other certificates need not wait for it."""
    bench.rules[HOST] = lambda leaf: bench.response(leaf, status="unknown")
    pairs = [bench.pair(leaf(URL)) for _ in range(5)]
    for pair in pairs:
        bench.fetch_for(pair)
    bench.pass_by(timedelta(seconds=5), 0.1)
    assert bench.stapling.counts == {"unknown": 5}
    assert bench.asked[-1][0] < 5 * SPACING - 1


# --- records ----------------------------------------------------------------


def test_a_record_that_fails_keeps_its_time_when_its_files_are_read_again(bench):
    record = bench.record(bench.pair(leaf(URL)))
    bench.rules[HOST] = failing(FetchFailure.STATUS, "503", bench.now().timestamp() + 7200)
    bench.stapling.watch(record)
    bench.run(1)
    when = bench.agenda.when((Duty.STAPLE, record))
    assert when > bench.now().timestamp() + 7000
    bench.stapling.watch(record)
    assert bench.agenda.when((Duty.STAPLE, record)) == when


@pytest.mark.parametrize(("left", "at_once"), [(30, True), (70, True), (80, False), (299, False)])
def test_a_staple_of_the_disk_that_ends_soon_is_renewed_at_once(bench, left, at_once):
    """Such as after a restart, with responses that hold for five minutes."""
    bench.validity = timedelta(minutes=5)
    record = bench.record(bench.pair(leaf(URL)))
    bench.stapling.watch(record)
    bench.run(1)
    until = record.until
    assert until is not None
    bench.stapling.forget(record)
    bench.clock.advance(until - left - bench.now().timestamp())
    bench.stapling.watch(record)
    bench.run(1)
    assert (record.until > until) is at_once
    bench.run(left)
    assert record.until > until


def test_while_one_is_under_way_nothing_is_put_on_the_agenda(bench):
    record = bench.record(bench.pair(leaf(URL)))
    bench.rules[HOST] = lambda _: None
    bench.stapling.watch(record)
    bench.run(1)
    assert len(bench.pending) == 1
    bench.stapling.watch(record)
    assert bench.agenda.when((Duty.STAPLE, record)) is None
    assert bench.stapling.due(record) is False
    bench.stapling.stop()
    assert bench.agenda.when((Duty.STAPLE, record)) is not None


def test_a_certificate_found_by_reading_that_has_no_issuer(bench):
    """Its chain was cut on the disk; nothing can be asked, and nothing breaks."""
    entity = leaf(URL)
    record = bench.record(bench.pair(entity))
    bench.stapling.watch(record)
    cut = KeyPair(entity.certificate, (), entity.key)
    slot = bench.stapling.slot(record, cut)
    record.held.identity = Identity(record.held.source, lambda: (slot,), bench.now, ContextCache(0))
    done = []
    bench.stapling.refresh(record).addCallback(done.append)
    record.held.learn((slot,))
    bench.run(1)
    assert bench.asked == []
    assert [outcome.words for outcome in done] == [record.skip]
    assert record.skip
    assert len(bench.agenda) == 0


def test_revoked_is_told_and_asked_about_ever_more_seldom(bench):
    bench.rules[HOST] = lambda leaf: bench.response(leaf, status="revoked")
    record = bench.record(bench.pair(leaf(URL)))
    bench.stapling.watch(record)
    bench.run(4 * 3600, 5.0)
    assert 5 < len(bench.told) < 16
    assert record.since > 0


def test_the_end_of_a_staple_is_not_told_before_its_time(bench):
    record = bench.record(bench.pair(leaf(URL)))
    bench.stapling.watch(record)
    bench.run(1)
    until = record.until
    bench.stapling.ended(record)
    assert record.until == until
    assert bench.agenda.when((Duty.END, record)) == until
    record.until = None
    bench.stapling.ended(record)
    assert "ended" not in record.refusal


def test_a_staple_that_the_disk_lost_is_not_taken_from_handshakes(bench):
    pair = bench.pair(leaf(URL))
    record = bench.record(pair)
    bench.stapling.watch(record)
    bench.run(1)
    [slot] = record.held.identity.read()
    bench.stapling.store.forget(pair.certificate)
    bench.stapling.judge(record, slot)
    assert slot.valid_staple(bench.now()) is not None


def test_the_time_of_the_next_request_is_within_half_the_validity(bench):
    record = bench.record(bench.pair(leaf(URL)))
    bench.stapling.watch(record)
    bench.run(1)
    when = bench.agenda.when((Duty.STAPLE, record))
    assert when - bench.now().timestamp() < 0.56 * 3 * 86400
    assert bench.agenda.when((Duty.END, record)) is None  # nothing has failed
    bench.validity = timedelta(seconds=80)
    done = []
    bench.stapling.refresh(record).addCallback(done.append)
    bench.run(2)
    assert done[0].good
    assert bench.agenda.when((Duty.END, record)) == record.until  # before the next request
    assert record.until < bench.now().timestamp() + MINUTE.total_seconds()
