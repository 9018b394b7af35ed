"""Lists of revoked certificates through the manager: fetched, kept, shared, acted on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from dwaarx.certs.crl_check import GATHER, HEARD_AT_ONCE, MAX_CHECKS
from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.record import hexadecimal
from tests.certs import pki
from tests.certs.acme_world import (
    CRL,
    NAME,
    SOURCE,
    URL,
    listed,
    pair_of,
    watched,
)
from tests.certs.crls import entry, make_crl, reason
from tests.certs.handshakes import handshake
from tests.certs.responders import HOUR, MINUTE, ROOT, events

DAY = pki.DAY
OTHER_ROOT = pki.make_ca("Another Root")
DOWN = FetchError(FetchFailure.UNREACHABLE, "nobody is there")


@pytest.fixture
def world(tmp_path):
    with watched(tmp_path) as world:
        yield world


def list_of(world, *revoked, ca=ROOT, **options):
    options.setdefault("this_update", world.now().replace(microsecond=0) - MINUTE)
    entries = [entry(each.certificate.serial_number, reason(1)) for each in revoked]
    return make_crl(ca, entries, **options)


def serve(world, *made):
    """Serve these from files."""
    sources = [world.files(each, f"leaf{index}") for index, each in enumerate(made)]
    identities = world.manager.acquire(sources)
    world.ticks()
    return list(identities.values())


def problems(world):
    return [each.problem for each in world.manager.status()]


# --- looked up --------------------------------------------------------------


def test_a_certificate_without_responder_is_guarded_by_its_list(world):
    world.lists[CRL] = list_of(world)
    serve(world, listed())
    assert world.asked_lists == [CRL]
    [status] = world.manager.status()
    assert status.guard == f"CRL {CRL}"
    assert status.problem == ""
    assert status.next_attempt is not None


def test_one_with_a_responder_is_not(world):
    made = world.leaf()
    serve(world, made)
    world.pass_by(DAY, 600)
    assert world.asked_lists == []
    assert world.status().guard == f"OCSP {URL}"


def test_one_with_a_responder_that_nobody_can_ask_is(world):
    made = listed(ocsp_url="ldap://ocsp.test/")
    world.lists[CRL] = list_of(world, made)
    with capturedLogs() as logs:
        serve(world, made)
    [line] = events(logs, "revoked")
    assert "signal=crl" in line
    assert world.asked_lists == [CRL]
    assert world.status().guard == f"CRL {CRL}"


def test_a_revoked_one_is_told_with_the_reason(world):
    good, bad = listed("good.test"), listed("bad.test")
    world.lists[CRL] = list_of(world, bad)
    with capturedLogs() as logs:
        serve(world, good, bad)
    [line] = events(logs, "revoked")
    assert f"serial={hexadecimal(bad.certificate.serial_number)}" in line
    assert "keyCompromise" in line
    assert "signal=crl" in line
    assert "ReasonFlags" not in line
    assert world.asked_lists == [CRL]  # for both of them
    with capturedLogs() as logs:
        world.pass_by(3 * DAY, 600)
    assert events(logs, "revoked") == []


def test_what_is_revoked_later_is_found_within_a_day(world):
    made = listed()
    world.lists[CRL] = list_of(world, validity=9 * DAY)
    serve(world, made)
    world.lists[CRL] = list_of(world, made, validity=9 * DAY)
    with capturedLogs() as logs:
        world.pass_by(DAY + MINUTE, 60)
    assert events(logs, "revoked")


def test_thousands_at_once_are_acted_on_little_by_little(world, monkeypatch):
    made = [listed(f"n{index}.test", key=_KEY) for index in range(3 * HEARD_AT_ONCE + 1)]
    world.lists[CRL] = list_of(world, *made)
    counts = []
    with capturedLogs() as logs:
        sources = [world.files(each, f"leaf{index}") for index, each in enumerate(made)]
        world.manager.acquire(sources)
        for _ in range(8):
            world.ticks(1)
            counts.append(len(events(logs, "revoked")))
        world.pass_by(2 * MINUTE)
    steps = [later - sooner for sooner, later in zip([0, *counts], counts, strict=False)]
    assert max(steps) == HEARD_AT_ONCE
    assert len(events(logs, "revoked")) == len(made)
    assert world.asked_lists == [CRL]
    # And then it is not looked at each minute for those that stay revoked.
    [known] = world.manager._crl._lists.values()
    checked = known.checked
    world.pass_by(HOUR)
    assert known.checked == checked


_KEY = pki.make_key()


# --- kept -------------------------------------------------------------------


def test_a_restart_looks_at_the_disk_and_asks_nobody(world):
    made = listed()
    world.lists[CRL] = list_of(world, made)
    serve(world, made)
    world.lists[CRL] = DOWN
    world.restart()
    with capturedLogs() as logs:
        serve(world, made)
    assert len(world.asked_lists) == 1
    assert events(logs, "revoked")
    assert problems(world) == [""]


def test_it_is_asked_for_again_when_it_ends_or_is_a_day_old(world):
    world.lists[CRL] = list_of(world, validity=5 * HOUR)
    serve(world, listed())
    world.pass_by(4 * HOUR, 60)
    assert len(world.asked_lists) == 1
    world.lists[CRL] = list_of(world, validity=9 * DAY)
    world.pass_by(HOUR, 60)
    assert len(world.asked_lists) == 2
    world.pass_by(23 * HOUR, 60)
    assert len(world.asked_lists) == 2
    world.restart()  # which makes it no younger
    serve(world, listed())
    world.pass_by(2 * HOUR, 60)
    assert len(world.asked_lists) == 3


def test_a_list_that_is_about_to_end_again_and_again_is_no_storm(world):
    world.lists[CRL] = list_of(world, validity=timedelta(seconds=90))
    serve(world, listed())
    for _ in range(60):
        world.lists[CRL] = list_of(world, validity=timedelta(seconds=70))
        world.pass_by(MINUTE, 5)
    assert len(world.asked_lists) <= 62


@pytest.mark.parametrize("data", [b"", b"garbage", "another issuer's"])
def test_what_lies_on_the_disk_is_believed_no_more_than_an_answer(world, data):
    made = listed()
    world.lists[CRL] = list_of(world)
    serve(world, made)
    [kept] = world.file("crl").iterdir()
    kept.write_bytes(data if isinstance(data, bytes) else list_of(world, made, ca=OTHER_ROOT))
    world.restart()
    with capturedLogs() as logs:
        serve(world, made)
    assert len(world.asked_lists) == 2
    assert events(logs, "revoked") == []


def test_a_disk_that_is_full_is_told_and_that_is_all(world, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.storage, "write", full)
    made = listed()
    world.lists[CRL] = list_of(world, made)
    with capturedLogs() as logs:
        serve(world, made)
    assert events(logs, "revoked")
    assert [each for each in logs if "cannot be written" in str(each.get("log_format"))]


# --- failures ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (DOWN, "nobody is there"),
        (b"garbage", "cannot be read"),
        ("another issuer's", "of another CA"),
        ("expired", "expired at"),
    ],
)
def test_failures_are_told_and_back_off(world, said, reason):
    if said == "another issuer's":
        said = list_of(world, ca=OTHER_ROOT)
    elif said == "expired":
        said = list_of(world, this_update=world.now() - 2 * DAY, validity=DAY)
    world.lists[CRL] = said
    with capturedLogs() as logs:
        serve(world, listed())
        assert reason in problems(world)[0]
        world.pass_by(DAY, 60)
    assert 24 <= len(world.asked_lists) <= 40
    lines = events(logs, "failed")
    assert 4 <= len(lines) <= 6
    assert f"what=crl url={CRL} certificates=1" in lines[0]
    world.lists[CRL] = list_of(world)
    world.pass_by(2 * HOUR)
    assert problems(world) == [""]


def test_retry_after_is_honoured(world):
    world.lists[CRL] = FetchError(FetchFailure.STATUS, "busy", world.now().timestamp() + 12 * 3600)
    serve(world, listed())
    world.pass_by(12 * HOUR - MINUTE, 60)
    assert len(world.asked_lists) == 1


def test_the_last_list_is_looked_at_while_its_server_is_down(world):
    made = listed()
    world.lists[CRL] = list_of(world, made, validity=9 * DAY)
    serve(world, made)
    world.lists[CRL] = DOWN
    world.manager.stopService()
    world.clock.advance(2 * 86400)  # a long time without us
    world.manager = world.make()
    with capturedLogs() as logs:
        serve(world, made)
    assert len(world.asked_lists) == 2
    assert events(logs, "revoked")
    assert problems(world) == ["nobody is there"]


def test_when_the_last_one_has_ended_it_is_told(world):
    made = listed()
    world.lists[CRL] = list_of(world, validity=2 * HOUR)
    serve(world, made)
    world.lists[CRL] = DOWN
    with capturedLogs() as logs:
        world.pass_by(DAY, 60)
    line = events(logs, "failed")[0]
    assert "nobody is there" in line
    assert "known_until=" in line
    assert problems(world) == ["nobody is there"]


def test_certificates_whose_issuer_is_not_known(world):
    made = listed()
    source = world.files(made)
    source[0].certificate.write_bytes(made.pem)
    world.lists[CRL] = list_of(world)
    world.serve(source)
    assert "has its issuer" in problems(world)[0]
    assert world.asked_lists == []


def test_one_that_is_of_another_issuer_does_not_spoil_the_list_for_the_others(world):
    made = [listed(f"n{index}.test") for index in range(5)]
    strangers = [listed(f"s{index}.test", ca=OTHER_ROOT) for index in range(5)]
    world.lists[CRL] = list_of(world, made[0])
    with capturedLogs() as logs:
        serve(world, *strangers, *made)
    assert len(events(logs, "revoked")) == 1
    assert set(problems(world)) == {""}


def test_a_certificate_whose_file_cannot_be_read_does_not_keep_others_from_being_looked_up(world):
    world.put(world.kept(), listed())
    other = listed("other.test")
    world.lists[CRL] = DOWN
    identity = world.serve(SOURCE)
    world.serve(world.files(other))
    world.kept().write_bytes(b"garbage")
    identity.discard()
    world.lists[CRL] = list_of(world, other)
    with capturedLogs() as logs:
        world.pass_by(2 * HOUR)
    assert f"serial={hexadecimal(other.certificate.serial_number)}" in events(logs, "revoked")[0]


def test_an_error_of_our_own_is_told_and_tried_again(world, monkeypatch):
    def bug(*_):
        raise RuntimeError("a bug")

    made = listed()
    world.lists[CRL] = list_of(world, made)
    monkeypatch.setattr("dwaarx.certs.crl.verify", bug)
    serve(world, made)
    assert len(world.critical) == 1
    world.critical.clear()
    monkeypatch.undo()
    with capturedLogs() as logs:
        world.pass_by(2 * MINUTE)
    assert events(logs, "revoked")


# --- amid changes -----------------------------------------------------------


def hold(world):
    waiting = Deferred()
    world.lists[CRL] = waiting
    return waiting


def let_go(waiting, data):
    waiting.callback(Fetched(200, {}, data, CRL))


def test_certificates_that_turn_up_are_looked_up_together(world):
    first = listed("first.test")
    world.lists[CRL] = list_of(world)
    serve(world, first)
    later = [listed(f"n{index}.test", key=_KEY) for index in range(30)]
    world.manager._crl._storage.write(_kept(world), list_of(world, later[-1]), 0o644)
    checks = []
    real = world.manager._crl._kept

    def counted(known, issuers):
        checks.append(world.clock.seconds())
        return real(known, issuers)

    world.manager._crl._kept = counted
    with capturedLogs() as logs:
        for each in later:
            world.serve(world.files(each, each.certificate.serial_number.__str__()))
        world.pass_by(timedelta(seconds=GATHER + 30), 1)
    assert len(events(logs, "revoked")) == 1
    assert len(checks) <= 2
    assert len(world.asked_lists) == 1


def _kept(world):
    [file] = world.file("crl").iterdir()
    return f"crl/{file.name}"


def test_one_that_turns_up_while_the_list_is_fetched_is_looked_up(world):
    waiting = hold(world)
    serve(world, listed("first.test"))
    late = listed("late.test")
    world.serve(world.files(late, "late"))
    with capturedLogs() as logs:
        let_go(waiting, list_of(world, late))
        world.ticks()
    assert len(events(logs, "revoked")) == 1


def test_one_that_turns_up_while_the_list_is_searched_is_looked_up(world):
    late = listed("late.test")
    world.lists[CRL] = list_of(world, late)
    searches = []
    real = world.manager._crl._in_thread

    def in_thread(work):
        done = real(work)
        if not isinstance(getattr(done, "result", None), list) or searches:
            return done
        waiting = Deferred()
        searches.append((waiting, done))
        return waiting

    world.manager._crl._in_thread = in_thread
    serve(world, listed("first.test"))
    world.serve(world.files(late, "late"))
    [(waiting, done)] = searches
    done.chainDeferred(waiting)
    with capturedLogs() as logs:
        world.pass_by(timedelta(seconds=GATHER + 1), 1)
    assert len(events(logs, "revoked")) == 1
    assert len(world.asked_lists) == 1


def test_a_list_that_is_let_go_and_wanted_again_amid_a_fetch(world):
    waiting = hold(world)
    first = listed("first.test")
    serve(world, first)
    world.manager.retain([])
    second = listed("second.test")
    world.serve(world.files(second, "second"))
    with capturedLogs() as logs:
        let_go(waiting, list_of(world, second))
        world.pass_by(MINUTE, 1)
    assert len(events(logs, "revoked")) == 1
    assert len(world.asked_lists) == 1


def test_what_was_replaced_meanwhile_is_not_revoked(world):
    made = listed()
    world.put(world.kept(), made)
    waiting = hold(world)
    identity = world.serve(SOURCE)
    other = listed()
    world.put(world.kept(), other)
    world.manager.reload()
    with capturedLogs() as logs:
        let_go(waiting, list_of(world, made))
        world.pass_by(2 * MINUTE)
    assert events(logs, "revoked") == []
    assert handshake(identity)[0] == other.certificate
    assert world.set_aside() == []


def test_a_renewed_certificate_with_another_list(world):
    other = f"{CRL}?2"
    world.lists[CRL] = list_of(world)
    made = listed(url=other)
    world.lists[other] = list_of(world, made)
    source = world.files(listed(), NAME)
    world.serve(source)
    made.write(world.folder, NAME)
    with capturedLogs() as logs:
        world.pass_by(MINUTE, 1)
    assert len(events(logs, "revoked")) == 1
    assert world.asked_lists == [CRL, other]
    assert list(world.manager._crl._lists) == [other]
    world.manager.retain([])
    assert world.manager._crl._lists == {}


def test_few_lists_are_in_memory_at_once(world):
    urls = [f"{CRL}?{index}" for index in range(3 * MAX_CHECKS)]
    waiting = {url: Deferred() for url in urls}
    world.lists.update(waiting)
    serve(world, *(listed(f"n{index}.test", url) for index, url in enumerate(urls)))
    world.pass_by(MINUTE, 1)
    assert len(world.asked_lists) == MAX_CHECKS
    data = list_of(world)
    while len(world.asked_lists) < len(urls):
        before = len(world.asked_lists)
        for url in world.asked_lists:
            if not waiting[url].called:
                let_go(waiting[url], data)
        world.pass_by(timedelta(seconds=5), 0.5)
        assert before < len(world.asked_lists) <= before + MAX_CHECKS
    for url in urls:
        if not waiting[url].called:
            let_go(waiting[url], data)
    assert set(problems(world)) == {""}


def test_a_clock_that_was_set_back_does_not_put_it_off(world):
    world.lists[CRL] = list_of(world, this_update=world.now() - 30 * DAY, validity=60 * DAY)
    serve(world, listed("first.test"))
    world.jump(-20 * DAY)
    late = listed("late.test", not_before=world.now() - HOUR)
    world.lists[CRL] = list_of(world, late, this_update=world.now() - 2 * DAY, validity=60 * DAY)
    with capturedLogs() as logs:
        world.serve(world.files(late, "late"))
        world.pass_by(25 * HOUR, 60)
    assert len(events(logs, "revoked")) == 1


def test_stopping_amid_a_fetch(world):
    hold(world)
    serve(world, listed())
    with capturedLogs() as logs:
        world.restart()
    assert events(logs, "failed") == []


def test_one_by_acme_is_replaced(world):
    made = listed()
    world.put(world.kept(), made)
    world.lists[CRL] = list_of(world, made)
    identity = world.serve(SOURCE)
    assert len(world.orders) == 1
    assert [path.read_bytes() for path in world.set_aside()] == [pair_of(made).pem()]
    assert handshake(identity)[0] == made.certificate
