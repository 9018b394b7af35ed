"""Certificates by ACME through the manager: what handshakes, the disk and the log see."""

from __future__ import annotations

import errno
import stat
from datetime import timedelta

import attrs
import pytest
from OpenSSL import SSL
from twisted.logger import LogLevel, capturedLogs

from dwaarx.certs.acme.issuer import Obtained
from dwaarx.certs.order_queue import MAX_ORDERS
from dwaarx.certs.record import hexadecimal
from dwaarx.certs.renewal import MARGIN, TRIES
from dwaarx.config.model import AcmeCa, AcmeCertificate, AcmeSettings
from dwaarx.log import show_debug
from tests.certs import pki
from tests.certs.acme_world import (
    CA,
    CRL,
    LIFETIME,
    NAME,
    OTHER_CA,
    SETTINGS,
    SOURCE,
    Disk,
    listed,
    pair_of,
    watched,
)
from tests.certs.crls import entry, make_crl, reason
from tests.certs.handshakes import handshake
from tests.certs.responders import HOUR, MINUTE, ROOT, events, failing

HOST = "ocsp.test"
DAY = pki.DAY


@pytest.fixture
def world(tmp_path):
    """A world in which no error of our own comes up, not even one that nobody looks at."""
    with watched(tmp_path) as world:
        yield world


def served(identity):
    certificate, staple, _ = handshake(identity)
    return certificate, staple is not None


# --- the way of a certificate -----------------------------------------------


def test_a_name_without_certificate_is_obtained_and_stapled_from_its_first_handshake(world):
    identity = world.serve(SOURCE)
    assert identity.context is None
    [order] = world.orders
    assert (order.certificate, order.former, order.former_ca) == (SOURCE, None, None)
    world.rules[HOST] = lambda _: None
    with capturedLogs() as logs:
        made = world.issue()
        world.ticks()
        # It lies on the disk before anything else, and nobody is served it.
        assert world.waits().read_bytes() == pair_of(made).pem()
        assert stat.S_IMODE(world.waits().stat().st_mode) == 0o600
        assert identity.context is None
        world.answer(world.good(made))
    assert served(identity) == (made.certificate, True)
    assert not world.waits().exists()
    assert world.kept().read_bytes() == pair_of(made).pem()
    assert stat.S_IMODE(world.kept().stat().st_mode) == 0o600
    [line] = events(logs, "obtained", "renewed", "failed", "unstapled")
    assert line.startswith(f"obtained name={NAME} ")
    assert line.endswith(" staple=good")


def test_why_none_is_stapled_is_told_at_debug_level_after_a_restart_too(world):
    world.obtained(world.leaf(url=None))
    show_debug()
    try:
        with capturedLogs() as logs:
            world.restart()
            world.serve(SOURCE)
            world.pass_by(HOUR, 60)
    finally:
        show_debug(show=False)
    [line] = [log for log in logs if "names no OCSP responder" in str(log.get("reason"))]
    assert line["log_level"] is LogLevel.debug
    assert line["name"] == NAME


def test_a_renewal_goes_live_with_its_staple_and_no_handshake_lacks_one(world):
    identity, former = world.obtained()
    world.pass_by(61 * DAY, 3600)
    [_, order] = world.orders
    assert (order.former, order.former_ca) == (former.certificate, CA)
    assert served(identity) == (former.certificate, True)
    world.rules[HOST] = lambda _: None
    made = world.issue()
    for _ in range(10):
        world.ticks()
        assert served(identity) == (former.certificate, True)
    with capturedLogs() as logs:
        world.answer(world.good(made))
    assert served(identity) == (made.certificate, True)
    assert events(logs, "renewed")
    # The staple of the one that is gone is no use to anybody.
    assert len(world.staples()) == 1
    third = made.certificate.not_valid_after_utc - LIFETIME / 3
    assert world.renewal() == third


def test_after_a_restart_nothing_is_ordered(world):
    _, made = world.obtained()
    world.rules[HOST] = failing()
    world.restart()
    identity = world.serve(SOURCE)
    assert served(identity) == (made.certificate, True)
    assert world.orders == []
    world.pass_by(61 * DAY, 3600)
    [order] = world.orders
    assert (order.former, order.former_ca) == (made.certificate, CA)


def test_eight_at_once_and_the_others_in_their_order(world):
    sources = [AcmeCertificate(f"n{index}.test", SETTINGS) for index in range(20)]
    world.manager.acquire(sources)
    world.ticks(10)
    assert [order.certificate for order in world.orders] == sources[:MAX_ORDERS]
    for index in range(20):
        world.issue(index=index)
        world.ticks(10)
    assert [order.certificate for order in world.orders] == sources
    assert all(each.not_after for each in world.manager.status())


def test_what_cannot_wait_goes_before_all_that_wait_for_their_turn(world):
    _, former = world.obtained()
    world.manager.acquire(AcmeCertificate(f"n{index}.test", SETTINGS) for index in range(20))
    world.ticks(10)
    assert len(world.orders) == 1 + MAX_ORDERS
    revoke(world, former)
    world.issue(index=1)
    world.ticks(10)
    assert world.orders[1 + MAX_ORDERS].certificate == SOURCE


# --- the staple of a new certificate ----------------------------------------


def test_the_former_one_stays_while_the_responder_is_down_and_not_for_ever(world):
    identity, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = failing()
    asked = len(world.asked)
    with capturedLogs() as logs:
        made = world.issue()
        world.pass_by(3 * MINUTE)
        assert served(identity) == (former.certificate, True)
        assert "waits for its staple" in world.status().problem
        world.pass_by(DAY, 10)
        assert served(identity) == (former.certificate, True)  # the best that there is
        world.pass_by(3 * DAY, 10)
    assert served(identity) == (made.certificate, False)
    waits = [line for line in events(logs, "failed") if "so the former one stays" in line]
    assert TRIES <= len(waits) < 10  # in days of tries, every hour
    [line] = events(logs, "renewed")
    assert "nobody is there" in line
    assert len(world.orders) == 2
    assert len(world.asked) < asked + 4 * 24 * 4
    del world.rules[HOST]
    world.pass_by(2 * HOUR)
    assert served(identity) == (made.certificate, True)


def test_it_goes_live_stapled_as_soon_as_the_responder_is_back(world):
    identity, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = lambda each: world.response(each, status="unknown")
    made = world.issue()
    world.pass_by(2 * MINUTE)
    assert served(identity)[0] == former.certificate
    del world.rules[HOST]
    world.pass_by(10 * MINUTE)
    assert served(identity) == (made.certificate, True)
    assert len(world.orders) == 2


def test_without_a_former_one_it_goes_live_at_once_and_is_stapled_later(world):
    world.rules[HOST] = failing()
    identity = world.serve(SOURCE)
    with capturedLogs() as logs:
        made = world.issue(world.leaf(must_staple=True))
        world.ticks()
    assert served(identity) == (made.certificate, False)
    assert [event["log_level"] for event in logs if event.get("certificate_event") == "unstapled"]
    [line] = events(logs, "unstapled")
    assert "must_staple=yes" in line
    del world.rules[HOST]
    world.pass_by(5 * MINUTE)
    assert served(identity) == (made.certificate, True)


def test_what_demands_a_staple_waits_until_the_former_one_ends(world):
    identity, former = world.obtained(world.leaf(must_staple=True))
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = failing(retry_after=world.now().timestamp() + 7 * 86400)
    made = world.issue(world.leaf(must_staple=True))
    left = former.certificate.not_valid_after_utc - world.now()
    world.pass_by(left - timedelta(seconds=MARGIN + 60), 600)
    assert served(identity)[0] == former.certificate
    with capturedLogs() as logs:
        world.pass_by(timedelta(seconds=180))
    # A responder that wants to be left alone for a day does not keep an expired one in use.
    assert served(identity) == (made.certificate, False)
    assert events(logs, "unstapled")
    assert len(world.orders) == 2


def test_one_day_is_long_enough_a_life_for_waiting(world):
    identity, former = world.obtained(world.leaf(lifetime=DAY))
    world.pass_by(17 * HOUR, 60)
    world.rules[HOST] = failing()
    made = world.issue(world.leaf(lifetime=DAY))
    world.pass_by(3 * MINUTE)
    assert served(identity)[0] == former.certificate
    del world.rules[HOST]
    world.pass_by(10 * MINUTE)
    assert served(identity) == (made.certificate, True)


def test_a_new_certificate_that_is_revoked_is_not_used_and_not_ordered_in_a_loop(world):
    identity, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = lambda each: world.response(
        each, status="good" if each is former else "revoked"
    )
    with capturedLogs() as logs:
        for _ in range(24 * 60):
            world.pass_by(MINUTE)
            if not world.orders[-1].outcome.called:
                world.issue()
    assert served(identity) == (former.certificate, True)
    # 15 minutes, 30, 1 h, 2 h, 4 h, 6 h …
    assert 8 <= len(world.orders) <= 11
    assert not world.waits().exists()
    assert "the new certificate: the certificate is revoked" in events(logs, "failed")[0]
    # It replaces the one that is in use, and not the one that was refused.
    assert {order.former for order in world.orders[1:]} == {former.certificate}
    assert {order.former_ca for order in world.orders[1:]} == {CA}


def test_where_the_former_one_comes_from_is_known_after_one_of_another_ca_was_refused(world):
    _, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = lambda each: world.response(
        each, status="good" if each is former else "revoked"
    )
    world.issue(ca=OTHER_CA)
    world.pass_by(HOUR)
    assert world.orders[-1].former_ca == CA
    world.restart()
    world.serve(SOURCE)
    assert [order.former_ca for order in world.orders] == [CA]


# --- pending, and a restart -------------------------------------------------


def waiting(world):
    """A renewed certificate waits for its staple; the service stands still."""
    _, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = failing()
    made = world.issue()
    world.ticks()
    assert world.waits().exists()
    return former, made


def test_a_restart_takes_up_what_waits_and_orders_nothing(world):
    former, made = waiting(world)
    world.restart()
    identity = world.serve(SOURCE)
    assert served(identity)[0] == former.certificate
    assert world.orders == []
    del world.rules[HOST]
    world.pass_by(10 * MINUTE)
    assert served(identity) == (made.certificate, True)
    assert world.orders == []
    assert not world.waits().exists()
    world.pass_by(61 * DAY, 3600)
    [order] = world.orders
    assert (order.former, order.former_ca) == (made.certificate, CA)


def test_a_restart_before_the_first_one_was_live_orders_nothing(world):
    made = world.leaf()
    world.put(world.waits(), made)
    identity = world.serve(SOURCE)
    assert served(identity) == (made.certificate, True)
    assert world.orders == []


@pytest.mark.parametrize("damage", [b"garbage", b"", "another name", "another key", "expired"])
def test_what_waits_and_is_of_no_use_is_removed(world, damage):
    former = world.leaf()
    world.put(world.kept(), former)
    if damage == "another name":
        world.put(world.waits(), world.leaf("other.test"))
    elif damage == "another key":
        other = attrs.evolve(world.leaf(), key=pki.make_key())
        world.put(world.waits(), other)
    elif damage == "expired":
        begin = world.now().replace(microsecond=0) - 3 * DAY
        world.put(world.kept(), world.leaf(not_before=begin - HOUR, lifetime=4 * LIFETIME))
        world.put(world.waits(), world.leaf(not_before=begin, lifetime=DAY))
    else:
        world.waits().parent.mkdir()
        world.waits().write_bytes(damage)
    identity = world.serve(SOURCE)
    assert not world.waits().exists()
    assert world.orders == []  # the one in use is good for long
    assert served(identity)[1]
    assert world.renewal() > world.now() + 20 * DAY


def test_without_one_in_use_another_is_ordered_for_what_is_damaged(world):
    world.waits().parent.mkdir()
    world.waits().write_bytes(b"garbage")
    world.serve(SOURCE)
    assert len(world.orders) == 1


def test_what_waits_does_not_replace_a_newer_one(world):
    """A backup was put back, or a kill came between going live and tidying up."""
    older = world.leaf()
    world.pass_by(MINUTE)
    newer = world.leaf(lifetime=DAY)  # of another profile: it ends before the older one
    world.put(world.kept(), newer)
    world.put(world.waits(), older)
    with capturedLogs() as logs:
        identity = world.serve(SOURCE)
    assert served(identity) == (newer.certificate, True)
    assert not world.waits().exists()
    assert world.orders == []
    assert events(logs, "renewed", "obtained") == []
    assert world.renewal() < world.now() + 16 * HOUR


def test_what_waits_and_is_in_use_already_is_removed(world):
    made = world.leaf()
    world.put(world.kept(), made)
    world.put(world.waits(), made)
    with capturedLogs() as logs:
        world.serve(SOURCE)
    assert not world.waits().exists()
    assert events(logs, "renewed", "obtained") == []


def test_an_operator_who_asks_for_a_new_one_gets_the_one_that_waits(world):
    _, made = waiting(world)
    results = []
    world.manager.renew(NAME).addBoth(results.append)
    world.ticks()
    assert "waits for its staple" in results[0].getErrorMessage()
    del world.rules[HOST]
    world.pass_by(MINUTE)
    world.manager.renew(NAME).addBoth(results.append)
    world.pass_by(MINUTE)
    assert "good until" in str(results[-1])
    assert len(world.orders) == 2
    [status] = world.manager.status()
    assert int(status.serial, 16) == made.certificate.serial_number


# --- revocation -------------------------------------------------------------


def revoke(world, made):
    """Let the responder say so, and be asked."""
    world.rules[HOST] = lambda each: world.response(
        each, status="revoked" if each is made else "good"
    )
    world.manager.refresh(NAME)
    world.ticks(15)


def test_a_revoked_certificate_is_moved_aside_and_replaced_at_once(world):
    identity, former = world.obtained()
    with capturedLogs() as logs:
        revoke(world, former)
        [line] = events(logs, "revoked")
        assert "signal=ocsp" in line
        assert "keyCompromise" in line
        assert f"serial={hexadecimal(former.certificate.serial_number)}" in line
        [aside] = world.set_aside()
        assert aside.read_bytes() == pair_of(former).pem()
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
        assert not world.kept().exists()
        assert world.staples() == []
        assert len(world.orders) == 2
        # It is served on, without a staple, also from a context that was let go.
        assert served(identity) == (former.certificate, False)
        identity.discard()
        assert served(identity) == (former.certificate, False)
        made = world.issue()
        world.ticks(15)
    assert served(identity) == (made.certificate, True)
    assert events(logs, "renewed")
    identity.discard()
    assert served(identity) == (made.certificate, True)
    assert world.set_aside() == [aside]
    world.pass_by(DAY, 3600)
    assert len(world.orders) == 2


def test_a_revoked_certificate_is_not_loaded_after_a_restart(world):
    _, former = world.obtained()
    revoke(world, former)
    world.restart()
    identity = world.serve(SOURCE)
    assert identity.context is None
    assert len(world.orders) == 1
    made = world.issue()
    world.ticks(15)
    assert served(identity) == (made.certificate, True)


def test_two_revocations_within_a_second(world):
    identity, first = world.obtained()
    world.rules[HOST] = lambda each: world.response(
        each, status="revoked" if each is first else "good"
    )
    began = int(world.now().timestamp())
    world.revoke()
    second = world.issue()
    world.ticks(2)
    assert served(identity)[0] == second.certificate
    world.revoke()
    assert int(world.now().timestamp()) == began
    assert {path.read_bytes() for path in world.set_aside()} == {
        pair_of(first).pem(),
        pair_of(second).pem(),
    }


def test_revoked_while_its_renewal_is_under_way(world):
    identity, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    assert len(world.orders) == 2
    revoke(world, former)
    assert len(world.orders) == 2
    made = world.issue()
    world.ticks(15)
    assert served(identity) == (made.certificate, True)
    assert len(world.set_aside()) == 1
    assert world.kept().read_bytes() == pair_of(made).pem()


def test_revoked_while_its_successor_waits(world):
    """The responder speaks of the one, and does not know of the other yet."""
    identity, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = lambda each: world.response(
        each, status="good" if each is former else "unknown"
    )
    made = world.issue()
    world.ticks()
    assert served(identity)[0] == former.certificate
    world.revoke()
    world.ticks(15)
    assert served(identity) == (made.certificate, False)
    assert len(world.orders) == 2
    assert world.kept().read_bytes() == pair_of(made).pem()


def test_a_renewal_of_what_is_revoked_that_fails_is_an_error(world):
    _, former = world.obtained()
    revoke(world, former)
    with capturedLogs() as logs:
        world.refuse()
    [event] = [each for each in logs if each.get("certificate_event") == "failed"]
    assert event["log_level"] is LogLevel.error
    world.pass_by(2 * MINUTE)
    assert len(world.orders) == 3


def test_a_revocation_amid_failures_begins_their_back_off_anew(world):
    world.obtained()
    world.pass_by(61 * DAY, 3600)
    for _ in range(8):
        world.refuse("the CA is down")
        world.pass_by(6 * HOUR * 1.3, 60)
    world.refuse("the CA is down")
    assert world.renewal() - world.now() > 2 * HOUR
    world.revoke()
    world.refuse("the CA is down")
    assert world.renewal() - world.now() < 2 * MINUTE


def test_one_that_was_put_in_place_of_the_revoked_one_is_not_moved(world):
    world.obtained()
    other = world.leaf()
    world.put(world.kept(), other)
    world.revoke()
    assert world.kept().read_bytes() == pair_of(other).pem()
    assert world.set_aside() == []


def test_an_operator_replaces_what_is_revoked_by_hand(world):
    identity, former = world.obtained()
    revoke(world, former)
    world.refuse()
    other = world.leaf()
    world.put(world.kept(), other)
    [outcome] = world.manager.reload()
    assert outcome.error is None
    world.ticks(15)
    assert served(identity) == (other.certificate, True)


def test_a_revoked_certificate_whose_file_is_gone_is_replaced(world):
    identity, _ = world.obtained()
    world.kept().unlink()
    identity.discard()
    with capturedLogs() as logs:
        world.revoke()
    assert events(logs, "revoked")
    assert len(world.orders) == 2
    assert identity.context is None


def test_a_list_revokes_as_well(world):
    made = listed()
    identity = world.serve(SOURCE)
    serial = made.certificate.serial_number
    world.lists[CRL] = make_crl(ROOT, [entry(serial, reason(1))])
    with capturedLogs() as logs:
        world.issue(made)
        world.pass_by(2 * MINUTE)
    [line] = events(logs, "revoked")
    assert "signal=crl" in line
    assert "keyCompromise" in line
    assert len(world.orders) == 2
    assert len(world.set_aside()) == 1
    successor = world.issue(listed())
    world.pass_by(2 * MINUTE)
    assert served(identity)[0] == successor.certificate
    assert world.asked_lists == [CRL]


# --- a disk that takes nothing ----------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_everything_goes_on_from_memory_with_one_warning(world, monkeypatch, code):
    disk = Disk(world, monkeypatch)
    disk.fail(code)
    identity = world.serve(SOURCE)
    with capturedLogs() as logs:
        made = world.issue()
        world.ticks(15)
        world.pass_by(DAY, 60)
        identity.discard()
        assert served(identity) == (made.certificate, True)
    lines = [each for each in logs if "cannot be" in str(each.get("log_format"))]
    assert len(lines) == 1
    assert not world.kept().exists()
    disk.recover()
    written = world.now()
    world.pass_by(2 * MINUTE)
    assert world.kept().read_bytes() == pair_of(made).pem()
    assert stat.S_IMODE(world.kept().stat().st_mode) == 0o600
    assert world.kept().stat().st_mtime < written.timestamp() - 80_000
    assert not world.waits().exists()
    world.rules[HOST] = failing()
    world.restart()
    assert served(world.serve(SOURCE)) == (made.certificate, True)
    assert world.orders == []


def test_a_disk_that_is_full_when_it_goes_live_keeps_what_waited(world, monkeypatch):
    identity, _ = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)
    world.rules[HOST] = lambda _: None
    made = world.issue()
    world.ticks()
    disk = Disk(world, monkeypatch)
    disk.fail(errno.ENOSPC)
    world.answer(world.good(made))
    assert served(identity) == (made.certificate, True)
    disk.recover()  # by a restart: what was in memory is lost
    del world.rules[HOST]
    world.restart()
    assert served(world.serve(SOURCE)) == (made.certificate, True)
    assert world.orders == []


def test_revoked_on_a_read_only_disk(world, monkeypatch):
    identity, former = world.obtained()
    disk = Disk(world, monkeypatch)
    disk.fail(errno.EROFS)
    revoke(world, former)
    identity.discard()
    assert served(identity) == (former.certificate, False)
    made = world.issue()
    world.ticks(15)
    identity.discard()
    assert served(identity) == (made.certificate, True)
    assert world.kept().read_bytes() == pair_of(former).pem()  # the disk knows nothing
    disk.recover()
    world.pass_by(2 * MINUTE)
    [aside] = world.set_aside()
    assert aside.read_bytes() == pair_of(former).pem()
    assert world.kept().read_bytes() == pair_of(made).pem()
    assert len(world.staples()) == 1


# --- failures ---------------------------------------------------------------


def test_failures_back_off_and_a_time_to_come_back_is_honoured(world):
    identity = world.serve(SOURCE)
    for _ in range(8):
        world.refuse("the CA is down")
        world.pass_by(6 * HOUR * 1.3, 60)
    assert len(world.orders) == 9
    world.refuse("come again", retry_after=world.now().timestamp() + 3 * 86400)
    world.pass_by(3 * DAY - MINUTE, 60)
    assert len(world.orders) == 9
    world.pass_by(5 * MINUTE)
    assert len(world.orders) == 10
    world.issue()
    world.ticks()
    assert served(identity)[1]
    assert world.status().problem == ""


def test_what_a_ca_refuses_is_not_tried_often(world):
    world.serve(SOURCE)
    for _ in range(60):
        if not world.orders[-1].outcome.called:
            world.refuse(rejected=True)
        world.pass_by(MINUTE)
    assert 2 <= len(world.orders) <= 3


def test_an_error_of_our_own_is_told_and_tried_again(world, monkeypatch):
    world.serve(SOURCE)
    with capturedLogs() as logs:
        world.orders[-1].outcome.errback(RuntimeError("a bug"))
    [event] = [each for each in logs if each["log_level"] is LogLevel.critical]
    assert event["log_failure"].check(RuntimeError)
    world.critical.clear()
    assert "given up" in world.status().problem
    world.pass_by(2 * MINUTE)
    assert len(world.orders) == 2


def test_a_certificate_that_openssl_refuses(world, monkeypatch):
    identity, former = world.obtained()
    world.pass_by(60 * DAY + HOUR, 3600)

    def refuse(*_):
        raise SSL.Error([("SSL routines", "", "ca md too weak")])

    monkeypatch.setattr("dwaarx.tls.policy.certificate_context", refuse)
    world.issue()
    world.ticks()
    monkeypatch.undo()
    assert served(identity)[0] == former.certificate
    assert "ca md too weak" in world.status().problem
    assert not world.waits().exists()
    world.pass_by(10 * MINUTE)
    assert len(world.orders) == 2  # as seldom as if the CA had refused


def test_stopping_amid_an_order_is_no_failure(world):
    world.serve(SOURCE)
    results = []
    world.manager.renew(NAME).addErrback(results.append)
    with capturedLogs() as logs:
        world.manager.stopService()
    assert events(logs, "failed") == []
    assert "stopping" in results[0].getErrorMessage()
    assert world.issuer.stopped
    world.manager = world.make()


# --- what is stored ---------------------------------------------------------


def test_one_that_has_expired_is_served_and_renewed_at_once(world):
    begin = world.now().replace(microsecond=0) - 2 * LIFETIME
    former = world.leaf(not_before=begin)
    world.put(world.kept(), former)
    with capturedLogs() as logs:
        identity = world.serve(SOURCE)
    assert served(identity)[0] == former.certificate
    assert events(logs, "expired")
    assert len(world.orders) == 1


@pytest.mark.parametrize("wrong", ["damaged", "another name", "another key"])
def test_what_cannot_be_used_is_told_and_replaced(world, wrong):
    world.kept().parent.mkdir()
    if wrong == "damaged":
        world.kept().write_bytes(b"garbage")
    elif wrong == "another name":
        world.put(world.kept(), world.leaf("other.test"))
    else:
        world.put(world.kept(), attrs.evolve(world.leaf(), key=pki.make_key()))
    with capturedLogs() as logs:
        identity = world.serve(SOURCE)
    assert any(str(world.kept()) in each.get("error", "") for each in logs)
    assert identity.context is None
    made = world.issue()
    world.ticks(15)
    assert served(identity) == (made.certificate, True)
    assert world.kept().read_bytes() == pair_of(made).pem()


def test_one_that_openssl_refuses_at_the_start_keeps_no_other_from_being_served(world, monkeypatch):
    def refuse(*_):
        raise SSL.Error([("SSL routines", "", "ca md too weak")])

    world.put(world.kept(), world.leaf())
    monkeypatch.setattr("dwaarx.tls.policy.certificate_context", refuse)
    identity = world.serve(SOURCE)
    assert identity.context is None
    assert "ca md too weak" in world.status().problem


def test_a_reload_takes_up_what_lies_on_the_disk(world, monkeypatch):
    identity, made = world.obtained()
    before = identity.context
    [outcome] = world.manager.reload()
    assert outcome.error is None
    assert identity.context is before
    other = world.leaf(lifetime=DAY)
    world.put(world.kept(), other)

    def refuse(*_):
        raise SSL.Error([("SSL routines", "", "ca md too weak")])

    monkeypatch.setattr("dwaarx.tls.policy.certificate_context", refuse)
    [outcome] = world.manager.reload()
    assert f"{world.kept()}: OpenSSL does not take it: ca md too weak" in outcome.error
    assert handshake(identity)[0] == made.certificate
    assert int(world.status().serial, 16) == made.certificate.serial_number
    monkeypatch.undo()
    [outcome] = world.manager.reload()
    assert outcome.error is None
    world.ticks(15)
    assert served(identity) == (other.certificate, True)
    assert world.renewal() < world.now() + 16 * HOUR


def test_a_reload_amid_a_renewal_leaves_that_alone(world):
    identity, _ = world.obtained()
    world.manager.renew(NAME)
    world.put(world.kept(), world.leaf())
    world.manager.reload()
    made = world.issue()
    world.ticks(15)
    assert served(identity) == (made.certificate, True)


def test_a_clock_that_is_set_back_renews_nothing_early(world):
    world.obtained()
    world.pass_by(59 * DAY, 3600)
    world.jump(-30 * DAY)
    world.pass_by(10 * DAY, 3600)
    assert len(world.orders) == 1
    world.pass_by(22 * DAY, 3600)
    assert len(world.orders) == 2


def test_one_that_was_replaced_on_the_disk_is_looked_after_from_its_first_handshake(world):
    identity, _ = world.obtained()
    identity.discard()
    other = world.leaf(lifetime=DAY)
    world.put(world.kept(), other)
    assert served(identity)[0] == other.certificate
    world.ticks(15)
    assert served(identity) == (other.certificate, True)
    assert world.renewal() < world.now() + 16 * HOUR


# --- changes of the Dwaarfile -----------------------------------------------


def test_a_name_that_is_dropped_amid_its_order_keeps_the_certificate_for_later(world):
    world.serve(SOURCE)
    with capturedLogs() as logs:
        world.manager.retain([])
        made = world.issue()
        world.ticks()
    assert events(logs, "failed", "obtained") == []
    assert world.waits().exists()
    identity = world.serve(SOURCE)
    assert len(world.orders) == 1
    assert served(identity) == (made.certificate, True)


def test_a_name_that_comes_back_amid_its_order_waits_for_that(world):
    world.serve(SOURCE)
    world.manager.retain([])
    identity = world.serve(SOURCE)
    world.pass_by(MINUTE)
    assert len(world.orders) == 1
    made = world.issue()
    world.ticks(15)
    assert len(world.orders) == 1
    assert served(identity) == (made.certificate, True)


def test_a_name_that_comes_back_amid_an_order_that_fails(world):
    world.serve(SOURCE)
    world.manager.retain([])
    world.serve(SOURCE)
    world.refuse()
    world.ticks()
    assert len(world.orders) == 2
    # And once more, to and fro.
    world.manager.retain([])
    world.serve(SOURCE)
    world.manager.retain([])
    world.refuse()
    world.pass_by(DAY, 3600)
    assert len(world.orders) == 2


def test_a_name_that_is_dropped_while_its_staple_is_fetched(world):
    world.serve(SOURCE)
    world.rules[HOST] = lambda _: None
    made = world.issue()
    world.ticks()
    world.manager.retain([])
    del world.rules[HOST]
    identity = world.serve(SOURCE)
    world.ticks(15)
    assert len(world.orders) == 1
    assert served(identity) == (made.certificate, True)


def test_other_settings_hold_from_the_next_order_on(world):
    world.obtained()
    newer = AcmeSettings((AcmeCa(OTHER_CA),), must_staple=True)
    world.manager.acquire([AcmeCertificate(NAME, newer)])
    world.pass_by(61 * DAY, 3600)
    assert world.orders[-1].certificate.settings is newer


def test_who_waits_on_the_console_hears_that_a_name_was_dropped(world):
    world.serve(SOURCE)
    results = []
    world.manager.renew(NAME).addErrback(results.append)
    world.manager.retain([])
    assert "no longer in use" in results[0].getErrorMessage()


@pytest.mark.parametrize(("age", "left"), [(HOUR, 20 * MINUTE), (DAY, 6 * HOUR)])
def test_a_ca_whose_certificates_are_born_old_sets_off_no_storm(world, age, left):
    """Each has less than a third of its life left when it comes; also after a restart."""

    def deliver():
        for order in world.orders:
            if not order.outcome.called:
                begin = world.now().replace(microsecond=0) - age
                made = world.leaf(not_before=begin, lifetime=age + left)
                order.outcome.callback(Obtained(pair_of(made), CA, None))

    world.serve(SOURCE)
    for _ in range(30):
        deliver()
        world.pass_by(MINUTE)
    placed = len(world.orders)
    world.restart()
    world.serve(SOURCE)
    for _ in range(30):
        deliver()
        world.pass_by(MINUTE)
    assert 1 <= placed + len(world.orders) <= 60 * MINUTE / (left * 2 / 3) + 2
