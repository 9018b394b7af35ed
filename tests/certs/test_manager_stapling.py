"""The failure table of stapling, through the manager, as handshakes and the log see it."""

from __future__ import annotations

import contextlib
import gc
import os
from datetime import timedelta
from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, globalLogPublisher

from dwaarx.certs import schedule
from dwaarx.certs.errors import FetchFailure
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.manager import DUTIES_PER_TICK, TICK
from dwaarx.certs.pacer import SPACING, URGENT_SPACING
from dwaarx.certs.staple_store import KEPT
from dwaarx.certs.stapling import LONGEST_TURN
from dwaarx.config.model import InternalCertificate
from dwaarx.log import show_debug
from tests.certs import pki
from tests.certs.handshakes import handshake
from tests.certs.responders import DAY, HOUR, MINUTE, World, age, events, failing, leaf

URL = "http://ocsp.test"
HOST = "ocsp.test"

OTHER_ROOT = pki.make_ca("Another Root")


@contextlib.contextmanager
def no_error_of_our_own():
    critical = []

    def observe(event):
        if event["log_level"] is LogLevel.critical:
            critical.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    assert critical == []


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_unhandled():
    """A Deferred that fails and that nobody looks at says so when it is collected."""
    yield
    with no_error_of_our_own():
        gc.collect()


@pytest.fixture
def world(tmp_path):
    with no_error_of_our_own():
        world = World(tmp_path)
        yield world
        world.manager.stopService()
        assert world.clock.getDelayedCalls() == []


def stapled(identity) -> bool:
    return handshake(identity)[1] is not None


# --- as it should be --------------------------------------------------------


def test_the_first_staple_comes_at_once(world):
    with capturedLogs() as logs:
        identity = world.serve(world.files(leaf(URL)))
    assert handshake(identity)[1] == world.staples()[0].read_bytes()
    [line] = events(logs, "stapled", "failed", "unstapled")
    assert line.startswith("stapled ")
    assert world.manager.stapling.counts == {"good": 1}
    assert world.status().guard == f"OCSP {URL}"


def test_weeks_of_good_answers_are_not_a_storm(world):
    identity = world.serve(world.files(leaf(URL, lifetime=90 * DAY)))
    with capturedLogs() as logs:
        for _ in range(14):
            world.pass_by(DAY, 600)
            assert stapled(identity)
    # Each 12 h, +-10 %.
    assert 24 <= len(world.asked) <= 33
    assert events(logs, "failed", "unstapled") == []


def test_what_http_says_is_fresh_is_not_asked_for(world):
    headers = {"cache-control": f"max-age={30 * 3600}"}
    world.rules[HOST] = lambda leaf: Fetched(200, headers, world.good(leaf), URL)
    world.serve(world.files(leaf(URL)))
    world.pass_by(30 * HOUR)
    assert len(world.asked) == 1
    world.pass_by(4 * HOUR)
    assert len(world.asked) == 2


# --- the failure table ------------------------------------------------------

FAILURES = {
    "down": (failing(), "unreachable", "nobody is there"),
    "slow": (failing(FetchFailure.TIMEOUT, "no answer within 10 s"), "timeout", "within 10 s"),
    "error": (failing(FetchFailure.STATUS, "answers 500"), "status", "answers 500"),
    "too large": (failing(FetchFailure.TOO_LARGE, "too many octets"), "too_large", "too many"),
    "broken": (failing(FetchFailure.BROKEN, "is no HTTP"), "broken", "is no HTTP"),
    "refused": (
        failing(FetchFailure.REFUSED, "a loopback address"),
        "refused",
        "a loopback address",
    ),
    "garbage": (lambda _: b"<html>", "malformed", "looks like a page"),
    "try later": (lambda _: pki.error_response(), "unsuccessful", "answered with an error"),
    "of another": (
        lambda leaf: pki.make_response(pki.make_leaf(leaf.issuer)),
        "mismatch",
        "about another certificate",
    ),
    "bad signature": (
        lambda leaf: pki.make_response(leaf, key=pki.make_key()),
        "signature",
        "the signature",
    ),
    "another signer": (
        lambda leaf: pki.make_response(leaf, OTHER_ROOT, issuer=leaf.issuer),
        "signer",
        "was not issued by",
    ),
    "expired": (
        lambda leaf: pki.make_response(leaf, this_update=pki.utc_now() - 9 * DAY),
        "expired",
        "the response expired",
    ),
    "unknown": (lambda leaf: pki.make_response(leaf, status="unknown"), "unknown", "not know"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_row_of_the_failure_table(world, case):
    """The present staple stays while it is valid, then none is sent; each is told, not often."""
    rule, count, reason = FAILURES[case]
    identity = world.serve(world.files(leaf(URL)))
    first = handshake(identity)[1]
    world.pass_by(6 * HOUR, 600)
    world.rules[HOST] = rule
    counts = world.manager.stapling.counts
    with capturedLogs() as logs:
        world.pass_by(2 * DAY, 60)
    assert counts["good"] == 1
    assert counts[count] == counts.total() - 1 > 30  # counted apart
    assert handshake(identity)[1] == first
    assert "good until" in world.status().staple
    assert reason in world.status().why_not_stapled
    lines = events(logs, "failed", "unstapled")
    assert 4 <= len(lines) <= 8  # of about forty
    assert all(reason in line and "stays until" in line for line in lines)
    tries = [at for at, _, _ in world.asked]
    if case not in {"error", "garbage"}:  # which are asked twice, by GET and by POST
        assert all(b - a >= schedule.FIRST_BACKOFF / 2 for a, b in pairwise(tries))
    # It ends.
    with capturedLogs() as logs:
        world.pass_by(DAY, 60)
        for _ in range(3):
            assert not stapled(identity)
    [line] = events(logs, "unstapled")
    assert reason in line
    assert len(events(logs, "failed")) <= 2
    assert world.status().staple == "none"
    # It is back.
    del world.rules[HOST]
    with capturedLogs() as logs:
        world.pass_by(2 * HOUR, 60)
    assert len(events(logs, "stapled")) == 1
    assert stapled(identity)
    assert world.status().why_not_stapled == ""


def test_a_hundred_days_without_a_responder_are_not_a_hundred_warnings(world):
    world.rules[HOST] = failing()
    with capturedLogs() as logs:
        world.serve(world.files(leaf(URL, lifetime=200 * DAY)))
        world.pass_by(100 * DAY, 300)
    assert 1600 < len(world.asked) < 5000
    assert 10 <= len(events(logs, "failed", "unstapled")) <= 14


def test_the_end_of_a_staple_is_an_alarm_if_the_certificate_demands_one(world):
    world.serve(world.files(leaf(URL, must_staple=True)))
    world.rules[HOST] = failing()
    with capturedLogs() as logs:
        world.pass_by(4 * DAY, 60)
    [event] = [event for event in logs if event.get("certificate_event") == "unstapled"]
    assert event["log_level"] is LogLevel.error
    assert event["must_staple"] == "yes"


@pytest.mark.parametrize("url", ["ldap://ocsp.test/", "ftp://ocsp.test", "http://[::1", "nothing"])
def test_a_responder_that_is_none_does_no_harm(world, url):
    """The guarded fetcher refuses it; here it is only that nothing raises on the way."""
    world.rules = dict.fromkeys(
        (HOST, ""), failing(FetchFailure.REFUSED, "is asked by http and https only")
    )
    source = world.files(leaf(url))
    fetch = world.manager._fetcher.fetch
    world.fetch = lambda url, **rest: fetch(f"{URL}/{url.rpartition('/')[2]}", **rest)
    identity = world.serve(source)
    world.pass_by(HOUR)
    assert not stapled(identity)
    assert "http and https only" in world.status().why_not_stapled


def test_an_expired_certificate_is_no_storm_whatever_its_responder_says(world):
    with capturedLogs() as logs:
        world.serve(world.files(leaf(URL, lifetime=DAY)))
        world.pass_by(9 * DAY, 60)
    assert len(events(logs, "unstapled")) == 1
    assert len(events(logs, "failed")) < 12
    assert len(world.asked) < 9 * 24 + 60
    assert "the certificate expired" in world.status().why_not_stapled


# --- what is not asked about ------------------------------------------------


@pytest.mark.parametrize(
    ("entity", "chain", "reason"),
    [
        (leaf(), True, "names no OCSP responder"),
        (leaf(URL), False, "append it"),
        (pki.make_ca("localhost"), True, "self-signed"),
    ],
)
def test_certificates_without_a_way_to_a_staple(world, entity, chain, reason):
    source = world.files(entity)
    if not chain:
        entity.write(world.folder, chain=False)
    show_debug()
    try:
        with capturedLogs() as logs:
            identity = world.serve(source)
            world.pass_by(2 * DAY, 60)
    finally:
        show_debug(show=False)
    assert events(logs, "failed", "unstapled", "stapled") == []
    [line] = [log for log in logs if reason in str(log.get("reason"))]
    assert line["log_level"] is LogLevel.debug
    assert world.asked == []
    assert not stapled(identity)
    assert reason in world.status().why_not_stapled


# --- revoked ----------------------------------------------------------------


def test_revoked_is_told_once_and_the_staple_is_withdrawn(world):
    identity = world.serve(world.files(leaf(URL)))
    world.rules[HOST] = lambda leaf: world.response(leaf, status="revoked")
    with capturedLogs() as logs:
        world.pass_by(3 * DAY, 60)
    [line] = events(logs, "revoked")
    assert "key_compromise" in line or "keyCompromise" in line
    assert not stapled(identity)
    assert world.staples() == []
    assert world.manager.stapling.counts["revoked"] < 100  # with the back-off, not each minute


def test_an_older_good_answer_does_not_undo_a_revocation(world):
    """Caches on the way, or somebody who kept it: it is still valid, and it is refuted."""
    identity = world.serve(world.files(leaf(URL)))
    old = handshake(identity)[1]
    world.rules[HOST] = lambda leaf: world.response(leaf, status="revoked")
    world.pass_by(14 * HOUR)
    assert not stapled(identity)
    world.rules[HOST] = lambda _: old
    with capturedLogs() as logs:
        world.pass_by(6 * HOUR)
        world.manager.reload()
        world.ticks()
    assert not stapled(identity)
    assert events(logs, "revoked", "stapled") == []
    assert "revoked" in world.status().why_not_stapled
    del world.rules[HOST]  # it was only put on hold
    world.pass_by(3 * HOUR)
    assert stapled(identity)


# --- several responders -----------------------------------------------------

TWO = ("http://one.test", "http://two.test/ocsp")


def test_the_first_that_answers_is_enough(world):
    world.serve(world.files(leaf(*TWO)))
    assert world.hosts() == ["one.test"]


@pytest.mark.parametrize("case", FAILURES)
def test_the_second_is_asked_when_the_first_fails(world, case):
    world.rules["one.test"] = FAILURES[case][0]
    with capturedLogs() as logs:
        identity = world.serve(world.files(leaf(*TWO)))
    assert list(dict.fromkeys(world.hosts())) == ["one.test", "two.test"]
    assert stapled(identity)
    assert events(logs, "failed") == []


def test_revoked_by_the_first_is_revoked(world):
    world.rules["one.test"] = lambda leaf: world.response(leaf, status="revoked")
    with capturedLogs() as logs:
        identity = world.serve(world.files(leaf(*TWO)))
    assert world.hosts() == ["one.test"]
    assert not stapled(identity)
    assert len(events(logs, "revoked")) == 1


def test_two_urls_at_one_host_keep_their_distance(world):
    world.rules[HOST] = failing()
    world.serve(world.files(leaf(f"{URL}/a", f"{URL}/b")))
    world.pass_by(timedelta(seconds=5), TICK)
    [(first, *_), (second, *_)] = world.asked
    assert SPACING <= second - first <= SPACING + TICK


def asks_to_wait(world, *hosts, seconds):
    at = world.now().timestamp() + seconds
    for host in hosts:
        world.rules[host] = failing(FetchFailure.STATUS, "answers 503", at)


def test_retry_after_of_both(world):
    asks_to_wait(world, "one.test", "two.test", seconds=7200)
    world.serve(world.files(leaf(*TWO)))
    assert len(world.asked) == 2
    world.pass_by(timedelta(seconds=7100))
    assert len(world.asked) == 2
    world.pass_by(timedelta(seconds=200))
    assert len(world.asked) == 4


def test_retry_after_of_one_does_not_speak_for_the_other(world):
    asks_to_wait(world, "one.test", seconds=7200)
    world.rules["two.test"] = failing()
    world.serve(world.files(leaf(*TWO)))
    world.pass_by(20 * MINUTE)
    assert len(world.asked) >= 4


def test_who_must_not_be_asked_does_not_speak_for_the_other_either(world):
    """A first responder at a refused address must not make the second one's wish void."""
    world.rules["one.test"] = failing(FetchFailure.REFUSED, "a private address")
    asks_to_wait(world, "two.test", seconds=7200)
    world.serve(world.files(leaf(*TWO)))
    world.pass_by(timedelta(seconds=7100))
    assert world.hosts().count("two.test") == 1
    world.pass_by(timedelta(seconds=200))
    assert world.hosts().count("two.test") == 2


def waiting_for_the_second(world):
    """One certificate whose second responder has a queue."""
    world.rules["one.test"] = failing()
    many = [leaf("http://two.test", name=f"many{number}") for number in range(30)]
    world.manager.acquire([world.files(each, f"many{n}") for n, each in enumerate(many)])
    source = world.files(leaf(*TWO))
    world.manager.acquire([source])
    world.ticks(2)
    assert "one.test" in world.hosts()
    return source


def test_a_stop_while_the_second_one_is_waited_for(world):
    source = waiting_for_the_second(world)
    done = []
    world.manager.refresh(str(source[0].certificate)).addCallback(done.append)
    world.manager.stopService()
    assert [outcome.words for outcome in done[0]] == ["the service is stopping"]
    assert world.clock.getDelayedCalls() == []


def test_a_certificate_that_goes_while_the_second_one_is_waited_for(world):
    waiting_for_the_second(world)
    before = world.staples()
    world.manager.retain([])
    with capturedLogs() as logs:
        world.pass_by(5 * MINUTE, TICK)
    assert events(logs, "stapled", "failed") == []
    assert world.staples() == before
    assert world.manager.status() == []


def test_a_second_one_that_is_to_be_left_alone_is_not_waited_for(world):
    asks_to_wait(world, "two.test", seconds=3600)
    world.serve(world.files(leaf("http://two.test", name="other"), "other"))
    world.rules["one.test"] = failing()
    done = []
    world.manager.acquire([world.files(leaf(*TWO))])
    world.manager.refresh("localhost").addCallback(done.extend)
    world.pass_by(timedelta(seconds=30), TICK)
    assert world.hosts().count("two.test") == 1
    assert any("two.test is not to be asked now" in outcome.words for outcome in done)
    assert LONGEST_TURN < 300  # for which it is left alone


# --- refreshOCSP() ----------------------------------------------------------


def refreshed(world, name=None):
    done = []
    world.manager.refresh(name).addCallback(done.append)
    return done


def test_nobody_waits_any_more(world):
    """Whoever asked has left the console: the staple is fetched, and nothing is said of it."""
    identity = world.serve(world.files(leaf(URL)))
    asked = len(world.hosts())
    done = []
    waiting = world.manager.refresh()
    waiting.addCallback(done.extend)
    waiting.cancel()
    assert done == []
    world.pass_by(timedelta(seconds=2), TICK)
    assert len(world.hosts()) == asked + 1
    assert stapled(identity)
    gc.collect()


def test_a_refresh_is_a_request(world):
    world.serve(world.files(leaf(URL)))
    done = refreshed(world)
    world.pass_by(timedelta(seconds=2), TICK)
    [[outcome]] = done
    assert outcome.good
    assert outcome.words.startswith("stapled, good until")
    assert len(world.asked) == 2


def test_refreshes_while_one_is_under_way_are_one(world):
    world.rules[HOST] = lambda _: None
    world.serve(world.files(leaf(URL)))
    first, second = refreshed(world), refreshed(world)
    world.ticks()
    assert first == second == []
    [pending] = world.pending
    pending.errback(failing()(None))
    assert [outcome.good for outcome in (*first[0], *second[0])] == [False, False]
    assert "nobody is there" in first[0][0].words
    assert len(world.asked) == 1


def test_a_refresh_while_one_is_due_is_that(world):
    source = world.files(leaf(URL))
    world.manager.acquire([source])
    done = [refreshed(world) for _ in range(3)]
    world.pass_by(timedelta(seconds=10), TICK)
    assert len(world.asked) == 1
    assert all(outcome.good for each in done for outcome in each[0])


def test_a_refresh_tries_again_before_the_back_off_ends(world):
    world.rules[HOST] = failing()
    world.serve(world.files(leaf(URL)))
    del world.rules[HOST]
    done = refreshed(world)
    world.pass_by(timedelta(seconds=2), TICK)
    assert done[0][0].good


def test_a_refresh_of_many_is_spread_and_blocks_nothing(world):
    sources = [world.files(leaf(URL, name=f"n{n}"), f"n{n}") for n in range(40)]
    world.manager.acquire(sources)
    world.pass_by(MINUTE, TICK)
    assert len(world.asked) == 40
    world.asked.clear()
    done = refreshed(world)
    assert world.asked == []  # not in the turn that asks
    world.pass_by(2 * MINUTE, TICK)
    assert len(done[0]) == 40
    assert all(b - a >= SPACING - 1e-6 for (a, *_), (b, *_) in pairwise(world.asked))


def test_a_refresh_of_a_certificate_that_goes(world):
    world.rules[HOST] = lambda _: None
    for start in (True, False):
        source = world.files(leaf(URL))
        world.manager.acquire([source])
        if start:
            world.ticks()
            assert len(world.pending) == 1
        done = refreshed(world)
        world.manager.retain([])
        for pending in world.pending:
            pending.errback(failing()(None))
        world.pending.clear()
        assert [outcome.words for outcome in done[0]] == ["the certificate is no longer in use"]


def test_a_refresh_of_a_certificate_that_is_replaced_meanwhile(world):
    first = world.files(leaf(URL))
    identity = world.serve(first)
    held_back = []

    def later(leaf):
        held_back.append(leaf)

    world.rules[HOST] = later
    done = refreshed(world)
    world.pass_by(timedelta(seconds=2), TICK)
    [old] = held_back
    new = leaf(URL)
    world.rules[HOST] = world.good
    world.files(new)
    world.manager.reload()
    world.pass_by(timedelta(seconds=10), TICK)
    assert handshake(identity)[0] == new.certificate
    assert stapled(identity)
    world.pending[0].callback(Fetched(200, {}, world.good(old), URL))
    [[outcome]] = done
    assert outcome.words == "the certificate was replaced meanwhile"
    assert outcome.good
    assert stapled(identity)
    # And it is looked after: it has its time on the agenda.
    assert world.status().next_attempt is not None
    count = len(world.asked)
    world.pass_by(14 * HOUR)
    assert len(world.asked) == count + 1


# --- max_age and refresh ----------------------------------------------------


def test_a_staple_is_not_sent_when_it_was_fetched_too_long_ago(world):
    world.options(max_age=DAY.total_seconds())
    identity = world.serve(world.files(leaf(URL)))
    world.rules[HOST] = failing()
    with capturedLogs() as logs:
        world.pass_by(DAY - MINUTE)
        assert stapled(identity)
        world.pass_by(2 * MINUTE)
        assert not stapled(identity)
        world.pass_by(DAY)
    [line] = events(logs, "unstapled")
    assert "nobody is there" in line
    assert not stapled(identity)


def test_a_smaller_max_age_holds_for_the_staples_there_are(world):
    identity = world.serve(world.files(leaf(URL)))
    world.rules[HOST] = failing()
    world.pass_by(HOUR)
    assert stapled(identity)
    world.options(max_age=1800.0)
    assert not stapled(identity)
    world.options(max_age=7200.0)  # and back: the staple is still there
    assert stapled(identity)
    world.pass_by(HOUR + MINUTE)
    assert not stapled(identity)


def test_a_smaller_max_age_holds_for_staples_that_no_handshake_asked_for(world):
    world.options(cache=0)
    entity = leaf(URL, name="lazy.test")
    identity = world.serve(world.stored(entity, "lazy.test"))
    world.pass_by(HOUR)
    world.rules[HOST] = failing()
    assert stapled(identity)
    world.options(cache=0, max_age=1800.0)
    world.ticks()
    assert not stapled(identity)
    assert world.status().staple == "none"


def test_a_smaller_refresh_moves_the_next_request(world):
    world.serve(world.files(leaf(URL)))
    world.options(refresh=3600.0)
    world.pass_by(3 * HOUR + 30 * MINUTE)
    assert len(world.asked) == 4
    world.options(refresh=3600.0)  # the same again changes nothing
    world.pass_by(HOUR)
    assert len(world.asked) == 5


def test_other_options_leave_what_dwaarx_did_not_fetch_alone(world):
    entity = leaf(URL)
    [files] = world.files(entity)
    path = world.folder / "staple"
    path.write_bytes(world.response(entity))
    source = (type(files)(files.certificate, files.key, path),)
    identity = world.serve(source)
    local = InternalCertificate(("localhost",))
    internal = world.serve(local)
    world.options(max_age=1.0)
    world.pass_by(MINUTE)
    assert stapled(identity)
    assert stapled(internal)
    assert world.asked == []


# --- the disk, and starting again -------------------------------------------


def test_a_staple_on_the_disk_is_used_at_once_and_its_responder_left_alone(world):
    source = world.files(leaf(URL))
    first = handshake(world.serve(source))[1]
    world.pass_by(HOUR)
    world.rules[HOST] = failing()
    world.restart()
    identity = world.manager.acquire([source])[source]
    assert handshake(identity)[1] == first
    world.pass_by(10 * HOUR)
    assert len(world.asked) == 1


def spoil(how):
    def done(world, path, entity):
        if how == "corrupted":
            path.write_bytes(path.read_bytes()[:-3])
        elif how == "expired":
            path.write_bytes(pki.make_response(entity, this_update=world.now() - 9 * DAY))
        elif how == "of another":
            path.write_bytes(pki.make_response(leaf(URL)))
        elif how == "revoked":
            path.write_bytes(pki.make_response(entity, status="revoked"))
        elif how == "a folder":
            path.unlink()
            path.mkdir()
        else:
            age(path, 8 * DAY, world.now())

    return done


@pytest.mark.parametrize(
    "how", ["corrupted", "expired", "of another", "revoked", "a folder", "too old"]
)
def test_a_staple_on_the_disk_that_is_no_good_is_not_sent_and_another_fetched(world, how):
    entity = leaf(URL)
    source = world.files(entity)
    world.serve(source)
    [path] = world.staples()
    world.rules[HOST] = failing()
    spoil(how)(world, path, entity)
    world.restart()
    identity = world.manager.acquire([source])[source]
    assert not stapled(identity)
    world.ticks()
    assert len(world.asked) == 2
    del world.rules[HOST]
    world.pass_by(3 * MINUTE)
    assert stapled(identity)


@pytest.mark.parametrize("at", [2.0**33, 9e11, -1e10])
def test_a_staple_on_the_disk_with_an_impossible_time(world, at):
    source = world.files(leaf(URL))
    world.serve(source)
    [path] = world.staples()
    os.utime(path, (at, at))
    world.rules[HOST] = failing()
    world.restart()
    identity = world.manager.acquire([source])[source]
    assert stapled(identity) is (at > 0)  # of the future: as new as can be


def test_the_staples_of_certificates_long_gone_are_removed(world):
    world.serve(world.files(leaf(URL)))
    [kept] = world.staples()
    folder = kept.parent
    old, recent, other = (folder / f"{char * 64}.der" for char in "abc")
    foreign = folder / "notes.txt"
    for path, days in ((old, 38), (recent, 36), (other, -100), (foreign, 400)):
        path.write_bytes(b"x")
        age(path, timedelta(days=days), world.now())
    assert KEPT == 30 * 86400.0
    world.restart()
    world.ticks(10)
    assert set(world.staples()) == {kept, recent, other, foreign}


def test_a_disk_that_fails_is_no_reason_to_serve_no_staple(world, monkeypatch):
    """Of a certificate, too, whose context no handshake has asked for or the cache let go."""

    def full(*args):
        raise OSError(28, "No space left on device")

    world.options(cache=0)
    source = world.stored(leaf(URL, name="lazy.test"), "lazy.test")
    monkeypatch.setattr(world.storage, "write", full)
    with capturedLogs() as logs:
        identity = world.serve(source)
    assert identity.slots == ()
    assert world.staples() == []
    assert stapled(identity)
    assert len([e for e in logs if e["log_level"] is LogLevel.warn]) == 1
    monkeypatch.undo()
    world.pass_by(2 * MINUTE)
    assert len(world.staples()) == 1


# --- certificates that no handshake has asked for ---------------------------


def test_a_staple_for_a_certificate_without_context_is_there_at_the_first_handshake(world):
    world.options(cache=0)
    identity = world.serve(world.stored(leaf(URL, name="lazy.test"), "lazy.test"))
    assert identity.slots == ()
    assert handshake(identity)[1] == world.staples()[0].read_bytes()
    assert "good until" in world.status().staple


def test_files_whose_context_the_cache_let_go_get_the_newer_staple(world):
    world.options(cache=0)
    identity = world.serve(world.files(leaf(URL)))
    assert stapled(identity)
    world.pass_by(14 * HOUR)
    assert len(world.asked) == 2
    assert handshake(identity)[1] == world.staples()[0].read_bytes()


def test_why_there_is_no_staple_is_still_known_after_a_handshake(world):
    world.options(cache=0)
    world.rules[HOST] = failing()
    identity = world.serve(world.stored(leaf(URL, name="lazy.test"), "lazy.test"))
    assert not stapled(identity)
    assert "nobody is there" in world.status().why_not_stapled


def test_why_the_newer_staple_is_not_used_is_still_known_after_a_handshake(world):
    world.options(cache=0)
    identity = world.serve(world.stored(leaf(URL, name="lazy.test"), "lazy.test"))
    world.rules[HOST] = failing()
    world.pass_by(14 * HOUR)
    assert stapled(identity)
    assert "nobody is there" in world.status().why_not_stapled


def test_a_certificate_whose_file_is_gone_is_no_error_of_our_own(world):
    world.options(cache=0)
    world.rules[HOST] = failing()
    world.serve(world.stored(leaf(URL, name="lazy.test"), "lazy.test"))
    world.storage.remove("certificates/lazy.test.pem")
    world.pass_by(10 * MINUTE)
    assert "not there any more" in world.status().why_not_stapled


def test_another_certificate_without_a_responder_is_found_by_a_handshake(world):
    world.options(cache=0)
    source = world.stored(leaf(URL, name="lazy.test"), "lazy.test")
    identity = world.serve(source)
    world.stored(leaf(name="lazy.test"), "lazy.test")
    assert not stapled(identity)
    world.pass_by(DAY)
    assert len(world.asked) == 1
    assert "names no OCSP responder" in world.status().why_not_stapled


# --- clocks -----------------------------------------------------------------


def test_a_year_forward_is_no_storm(world):
    sources = [world.files(leaf(URL, name=f"n{n}"), f"n{n}") for n in range(20)]
    identities = world.manager.acquire(sources)
    world.pass_by(MINUTE, TICK)
    world.asked.clear()
    with capturedLogs() as logs:
        world.jump(timedelta(days=365))
        world.pass_by(HOUR, TICK)
    assert not any(stapled(identity) for identity in identities.values())
    assert len(events(logs, "unstapled")) == 20  # each once
    assert all(b - a >= URGENT_SPACING - 1e-6 for (a, *_), (b, *_) in pairwise(world.asked))
    assert len(world.asked) <= 20 * 16
    # The clock was wrong.
    world.jump(timedelta(days=-365))
    world.pass_by(2 * HOUR, TICK * 5)
    assert all(stapled(identity) for identity in identities.values())


def test_an_hour_back_while_a_responder_is_down(world):
    identity = world.serve(world.files(leaf(URL)))
    world.rules[HOST] = failing()
    world.pass_by(14 * HOUR)
    world.jump(-HOUR)
    with capturedLogs() as logs:
        world.pass_by(2 * DAY + 14 * HOUR)
    assert not stapled(identity)
    assert len(events(logs, "unstapled")) == 1  # when it ended, and not an hour before


def test_a_short_gap_before_the_next_request_is_told(world):
    """The staple ends in less time than passes between two requests."""
    world.validity = timedelta(seconds=90)
    identity = world.serve(world.files(leaf(URL)))
    assert stapled(identity)
    with capturedLogs() as logs:
        world.pass_by(timedelta(seconds=50), TICK)
        assert not stapled(identity)
    assert len(events(logs, "unstapled")) == 1


# --- many -------------------------------------------------------------------


def test_one_responder_that_hangs_delays_no_other(world):
    world.rules["hangs.test"] = lambda _: None
    hanging = [world.files(leaf("http://hangs.test", name=f"h{n}"), f"h{n}") for n in range(60)]
    good = [world.files(leaf(URL, name=f"g{n}"), f"g{n}") for n in range(200)]
    identities = world.manager.acquire([*hanging, *good])
    world.pass_by(MINUTE, TICK)
    assert world.manager.stapling.counts["good"] == 200
    assert all(stapled(identities[source]) for source in good[::20])


def test_thousands_that_are_due_at_once_do_not_keep_another_one_waiting(world, monkeypatch):
    many = world.manager.acquire([world.files(leaf(URL, name="many"), "many")])
    world.ticks()
    stapling = world.manager.stapling
    [held] = world.manager._held.values()
    del many
    begun = []
    records = [type(held.records[0])(held, 0) for _ in range(5000)]
    for record in records:
        record.responders = held.records[0].responders
    late = type(held.records[0])(held, 0)
    late.responders = ("http://other.test",)
    monkeypatch.setattr(stapling, "_start", begun.append)
    for record in (*records, late):
        stapling.watch(record)
    seconds = 0.0
    most = 0
    while late not in begun:
        before = len(begun)
        world.ticks(1)
        seconds += TICK
        most = max(most, len(begun) - before)
    assert seconds <= 3
    assert most <= DUTIES_PER_TICK
    world.pass_by(MINUTE, TICK)
    begun.remove(late)
    assert begun[:50] == records[:50]  # those of one responder in their order
    assert 250 <= len(begun) <= 310


# --- errors of our own ------------------------------------------------------


def test_an_error_of_our_own_ends_nothing(tmp_path, monkeypatch):
    world = World(tmp_path)
    identity = world.serve(world.files(leaf(URL)))
    stapling = world.manager.stapling
    fresh = stapling._fresh

    def broken(pair, answer):
        raise RuntimeError("a bug")

    monkeypatch.setattr(stapling, "_fresh", broken)
    done = refreshed(world)
    with capturedLogs() as logs:
        world.pass_by(DAY)
    assert done[0][0].words == "given up: a bug"
    lines = [event for event in logs if event["log_level"] is LogLevel.critical]
    assert 10 < len(lines) < 40  # with the back-off
    monkeypatch.setattr(stapling, "_fresh", fresh)
    world.pass_by(2 * HOUR)
    assert stapled(identity)
    assert world.status().why_not_stapled == ""
    world.manager.stopService()


def test_a_stop_leaves_nothing_behind(world):
    world.rules[HOST] = lambda _: None
    world.serve(world.files(leaf(URL)))
    done = refreshed(world)
    world.manager.stopService()
    assert [outcome.words for outcome in done[0]] == ["the service is stopping"]
    assert all(isinstance(pending, Deferred) and pending.called for pending in world.pending)


def test_refresh_of_a_responder_that_wants_to_be_left_alone_is_answered_at_once(world):
    world.rules["one.test"] = failing(FetchFailure.STATUS, "503", world.now().timestamp() + 3600)
    world.serve(world.files(leaf("http://one.test/")))
    world.pass_by(MINUTE)
    asked = len(world.asked)
    done = refreshed(world)
    world.pass_by(timedelta(seconds=1))
    [[outcome]] = done
    assert not outcome.good
    assert "one.test asked not to be asked before" in outcome.words
    assert len(world.asked) == asked
