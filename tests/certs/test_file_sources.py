"""Certificates in files, as an operator and his renewals change them under a running manager."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from dwaarx.certs import files, pair
from dwaarx.certs.errors import CertificateErrors
from dwaarx.certs.file_watch import PATIENCE
from dwaarx.certs.record import hexadecimal
from dwaarx.config.model import CertificateFiles, OcspOptions
from tests.certs import pki
from tests.certs.handshakes import handshake
from tests.certs.service import ERROR, WARN, Service, Site, told

ROOT = pki.make_ca("Root")
MINUTES = timedelta(minutes=1)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def site(tmp_path: Path, service: Service) -> Site:
    """A certificate with a responder."""
    return Site(tmp_path, ROOT, responders=service.responders)


@pytest.fixture
def plain(tmp_path: Path) -> Site:
    """A certificate without."""
    return Site(tmp_path, ROOT)


def serve(service: Service, source):
    identity = service.manager.acquire([source])[source]
    service.times.ticks()
    return identity


def served(identity) -> tuple[int, bool]:
    """Serial number, and whether a staple came along."""
    certificate, staple, _ = handshake(identity)
    return certificate.serial_number, staple is not None


def status(service: Service):
    [status] = service.manager.status()
    return status


def events(logs, name: str) -> list:
    return [event for event in logs if event.get("certificate_event") == name]


# --- a changed pair ---------------------------------------------------------


def test_a_renewed_pair_goes_live_by_itself(service, plain):
    identity = serve(service, plain.source)
    plain.renew()
    with capturedLogs() as logs:
        service.times.look()
    assert served(identity) == (plain.serial, False)
    [event] = events(logs, "loaded")
    assert event["serial"] == hexadecimal(plain.serial)
    assert event["name"] == f"files {plain.certificate}"
    with capturedLogs() as logs:
        service.times.look(10)
    assert logs == []


def test_a_pair_goes_live_when_its_key_has_come_too(service, plain):
    identity = serve(service, plain.source)
    former, new = plain.serial, plain.make()
    plain.write(plain.certificate, pki.pem_of(new.chain))
    with capturedLogs() as logs:
        service.times.look(3)
    assert logs == []  # it is being written
    assert served(identity)[0] == former
    assert "is not the key of" in status(service).problem
    plain.renew(new)
    service.times.look()
    assert served(identity)[0] == new.certificate.serial_number
    assert status(service).problem == ""


BROKEN = {
    "truncated": lambda site: site.write(site.certificate, site.certificate.read_bytes()[:300]),
    "missing": lambda site: site.certificate.unlink(),
    "empty": lambda site: site.write(site.key, b""),
    "folder": lambda site: (site.key.unlink(), site.key.mkdir()),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_stays_broken_is_told_once(service, plain, how):
    identity = serve(service, plain.source)
    former = plain.serial
    BROKEN[how](plain)
    with capturedLogs() as logs:
        service.times.pass_by(timedelta(seconds=PATIENCE - 1), 1.0)
    assert logs == []
    with capturedLogs() as logs:
        service.times.pass_by(timedelta(hours=1), 5.0)
    [line] = told(logs, ERROR)
    assert len(logs) == 1
    assert line.startswith(f'failed what=load name="files {plain.certificate}" reason=')
    assert "the former one is served on, good until 20" in line
    assert served(identity)[0] == former
    if plain.key.is_dir():
        plain.key.rmdir()
    with capturedLogs() as logs:
        plain.renew()
        service.times.look()
    assert len(events(logs, "loaded")) == 1
    assert served(identity)[0] == plain.serial


def test_the_end_of_what_was_told_is_told(service, plain):
    """The operator puts the former files back."""
    serve(service, plain.source)
    former = plain.leaf
    plain.key.unlink()
    service.times.look(20)
    with capturedLogs() as logs:
        plain.renew(former)
        service.times.look()
    assert len(events(logs, "loaded")) == 1


def test_files_that_become_readable_without_a_change(service, plain, monkeypatch):
    """After `chmod`: neither time nor inode nor size are different."""
    identity = serve(service, plain.source)
    plain.renew()
    real = pair.read_file

    def refuse(path, *limit):
        if path == plain.key:
            raise PermissionError(13, "Permission denied")
        return real(path, *limit)

    with monkeypatch.context() as context:
        context.setattr(pair, "read_file", refuse)
        [outcome] = service.manager.reload()
        assert "Permission denied" in outcome.error
    service.times.look()
    assert served(identity)[0] == plain.serial


def test_a_failed_reload_is_not_told_twice(service, plain):
    serve(service, plain.source)
    plain.key.unlink()
    with capturedLogs() as logs:
        service.manager.reload()
        service.times.pass_by(timedelta(hours=1), 5.0)
    assert len(told(logs, WARN, ERROR)) == 1


def test_only_the_chain_changes(service, plain):
    identity = serve(service, plain.source)
    plain.write(plain.certificate, plain.leaf.pem)
    service.times.look()
    assert handshake(identity)[2] == [plain.x509]


def test_a_chain_that_is_completed_gets_its_staple(service, site):
    site.write(site.certificate, site.leaf.pem)
    identity = serve(service, site.source)
    assert "append it" in status(service).why_not_stapled
    assert service.responders.asked == []
    site.write(site.certificate, pki.pem_of(site.leaf.chain))
    service.times.look()
    assert served(identity) == (site.serial, True)


def test_only_the_staple_file_changes(service, plain):
    plain.staple()
    identity = serve(service, plain.with_staple)
    context = identity.context
    newer = plain.staple(service.times.now().replace(microsecond=0))
    with capturedLogs() as logs:
        service.times.look()
    assert handshake(identity)[1] == newer
    assert identity.context is context
    assert len(events(logs, "stapled")) == 1


def test_two_pairs_of_which_one_changes(service, tmp_path):
    one = Site(tmp_path, ROOT, "ec", responders=service.responders)
    two = Site(tmp_path, ROOT, "rsa", responders=service.responders, key_type="rsa2048")
    source = one.source + two.source
    identity = serve(service, source)
    service.times.ticks()
    asked = len(service.responders.asked)
    one.renew()
    with capturedLogs() as logs:
        service.times.look()
    assert [slot.pair.certificate for slot in identity.slots] == [one.x509, two.x509]
    assert [slot.staple is not None for slot in identity.slots] == [True, True]
    assert service.responders.asked[asked:] == [one.serial]
    assert [event["name"] for event in events(logs, "loaded")] == [f"files {one.certificate}"]


def test_one_source_with_a_bug_does_not_keep_the_others(service, tmp_path, monkeypatch):
    one, two = Site(tmp_path, ROOT, "one"), Site(tmp_path, ROOT, "two")
    identities = service.manager.acquire([one.source, two.source])
    one.renew()
    two.renew()
    real = files.load_pairs

    def stumble(source):
        if source == one.source:
            raise RuntimeError("a bug")
        return real(source)

    monkeypatch.setattr(files, "load_pairs", stumble)
    with capturedLogs() as logs:
        service.times.look()
    assert told(logs, LogLevel.critical) == [f"files {one.certificate} cannot be looked at"]
    assert served(identities[two.source])[0] == two.serial


@pytest.mark.parametrize("shift", [-40 * pki.DAY, 2 * pki.DAY])
def test_a_certificate_that_is_not_valid_now_replaces_none_that_is(service, plain, shift):
    """A backup was put back; or a certificate was made for tomorrow."""
    identity = serve(service, plain.source)
    former = plain.serial
    plain.renew(not_before=service.times.now().replace(microsecond=0) + shift)
    [outcome] = service.manager.reload()
    assert "so the former one stays" in outcome.error
    assert served(identity)[0] == former
    service.times.pass_by(timedelta(days=2, minutes=1), 600.0)
    assert (served(identity)[0] == plain.serial) is (shift > timedelta())


# --- the first staple of a new pair -----------------------------------------


def test_a_new_pair_goes_live_with_its_staple(service, site):
    identity = serve(service, site.source)
    former = site.serial
    service.responders.holding = True
    site.renew()
    service.times.look()
    assert served(identity) == (former, True)
    assert "which is being fetched" in status(service).problem
    service.responders.holding = False
    service.responders.release()
    assert served(identity) == (site.serial, True)
    assert status(service).problem == ""
    assert service.responders.asked.count(site.serial) == 1


def test_a_reload_says_that_the_staple_is_waited_for(service, site):
    identity = serve(service, site.source)
    service.responders.holding = True
    former = site.serial
    site.renew()
    [outcome] = service.manager.reload()
    assert outcome.error is None
    assert "(staple good until " in outcome.description
    assert outcome.description.endswith(
        "; the new certificate goes live with its first staple, which is being fetched"
    )
    assert served(identity)[0] == former
    service.manager.reload()
    service.times.look()
    service.responders.release()
    assert served(identity) == (site.serial, True)
    assert service.responders.asked.count(site.serial) == 1


def test_a_pair_that_changes_while_its_staple_is_fetched(service, site):
    identity = serve(service, site.source)
    service.responders.holding = True
    first = site.renew()
    service.times.look()
    second = site.renew()
    service.times.look()
    assert service.responders.asked[-2:] == [
        first.certificate.serial_number,
        second.certificate.serial_number,
    ]
    service.responders.holding = False
    service.responders.release()
    assert served(identity) == (second.certificate.serial_number, True)
    service.times.look()
    assert served(identity) == (second.certificate.serial_number, True)


def test_a_pair_that_changes_just_before_its_staple_comes(service, site):
    """Between two looks."""
    identity = serve(service, site.source)
    service.responders.holding = True
    site.renew()
    service.times.look()
    new = site.renew()
    service.responders.release()
    service.responders.release()
    assert served(identity) == (new.certificate.serial_number, True)


def test_a_pair_that_is_half_written_when_its_staple_comes(service, site):
    identity = serve(service, site.source)
    former = site.serial
    service.responders.holding = True
    new = site.renew()
    service.times.look()
    site.key.unlink()
    service.responders.holding = False
    service.responders.release()
    assert served(identity) == (former, True)
    site.renew(new)
    service.times.look()
    assert served(identity) == (new.certificate.serial_number, True)
    assert service.responders.asked.count(new.certificate.serial_number) == 1


def test_the_former_pair_is_put_back_while_the_staple_is_fetched(service, site):
    identity = serve(service, site.source)
    former = site.leaf
    service.responders.holding = True
    site.renew()
    service.times.look()
    site.renew(former)
    service.times.look()
    service.responders.release()
    service.times.look()
    assert served(identity) == (former.certificate.serial_number, True)
    assert status(service).problem == ""


def test_a_source_that_is_dropped_while_the_staple_is_fetched(service, site):
    serve(service, site.source)
    service.responders.holding = True
    site.renew()
    service.times.look()
    service.manager.retain([])
    with capturedLogs() as logs:
        service.responders.release()
        service.times.look(5)
    assert logs == []
    assert service.manager.status() == []


def test_a_stop_while_the_staple_is_fetched(service, site):
    identity = serve(service, site.source)
    former = site.serial
    service.responders.holding = True
    site.renew()
    service.times.look()
    service.manager.stopService()
    service.responders.release()
    assert served(identity)[0] == former
    service.manager.startService()


def test_a_dropped_source_serves_no_more(service, plain):
    identity = serve(service, plain.source)
    service.manager.retain([])
    assert identity.context is None
    assert identity.unavailable == "there is no certificate yet"


def test_without_its_staple_it_goes_live_if_that_is_not_demanded(service, site):
    identity = serve(service, site.source)
    service.responders.fail()
    site.renew()
    with capturedLogs() as logs:
        service.times.look()
    assert served(identity) == (site.serial, False)
    assert any("nobody is there" in line for line in told(logs, WARN))
    service.responders.down = None
    service.times.pass_by(5 * MINUTES, 1.0)
    assert served(identity) == (site.serial, True)


def test_must_staple_waits_for_its_staple(service, site):
    identity = serve(service, site.source)
    former = site.serial
    service.responders.fail()
    site.renew(must_staple=True)
    with capturedLogs() as logs:
        service.times.look()
    [event] = events(logs, "failed")
    assert event["log_level"] is ERROR
    assert event["must_staple"] == "yes"
    assert "nobody is there" in event["reason"]
    assert event["present"].startswith("good until 20")
    assert "next_attempt" in event
    assert served(identity) == (former, True)
    assert "waits for its staple" in status(service).problem
    assert status(service).next_attempt is not None
    [outcome] = service.manager.reload()  # another try, at once
    assert outcome.error is None
    assert "is being fetched" in outcome.description
    service.times.ticks(10)
    assert "waits for its staple: " in status(service).problem
    with capturedLogs() as logs:
        service.times.pass_by(timedelta(hours=12), 5.0)
    assert 2 <= len(events(logs, "failed")) < 10  # ever fewer
    assert served(identity) == (former, True)
    service.responders.down = None
    with capturedLogs() as logs:
        service.times.pass_by(timedelta(hours=2), 5.0)
    assert served(identity) == (site.serial, True)
    assert len(events(logs, "loaded")) == 1
    assert status(service).problem == ""


def test_must_staple_does_not_wait_beyond_the_end_of_the_former_one(service, tmp_path):
    site = Site(tmp_path, ROOT, responders=service.responders, lifetime=timedelta(hours=1.5))
    identity = serve(service, site.source)
    service.responders.fail(service.times.now().timestamp() + 80000)
    site.renew(must_staple=True, lifetime=pki.DAY)
    service.times.look()
    former = served(identity)[0]
    assert former != site.serial
    with capturedLogs() as logs:
        service.times.pass_by(31 * MINUTES, 1.0)
    assert served(identity) == (site.serial, False)
    assert any("must_staple=yes" in line for line in told(logs, ERROR))


def test_must_staple_does_not_wait_once_the_former_one_is_revoked(service, site):
    identity = serve(service, site.source)
    former = site.serial
    service.responders.fail()
    site.renew(must_staple=True)
    service.times.look()
    service.responders.down = None
    service.responders.status = {former: "revoked"}
    service.manager.refresh()
    service.times.ticks(20)
    assert served(identity) == (site.serial, True)


def test_a_new_pair_that_is_revoked_replaces_none_that_is_good(service, site):
    identity = serve(service, site.source)
    former = site.serial
    new = site.renew()
    service.responders.status[new.certificate.serial_number] = "revoked"
    with capturedLogs() as logs:
        service.times.look()
    assert "is revoked" in told(logs, ERROR)[0]
    assert served(identity) == (former, True)


def test_a_responder_that_must_not_be_asked(service, site):
    """Which is known at once."""
    identity = serve(service, site.source)
    service.responders.fail()
    site.renew(ocsp_url="ldap://ocsp.test/x")
    [outcome] = service.manager.reload()
    assert outcome.error is None
    assert "being fetched" not in outcome.description
    assert served(identity) == (site.serial, False)


def test_two_new_pairs_of_which_one_cannot_be_stapled(service, tmp_path):
    one = Site(tmp_path, ROOT, "ec", responders=service.responders)
    two = Site(tmp_path, ROOT, "rsa", key_type="rsa2048")
    identity = serve(service, one.source + two.source)
    former = [slot.pair.certificate for slot in identity.slots]
    one.renew()
    two.renew(must_staple=True)
    [outcome] = service.manager.reload()
    assert "demands a staple" in outcome.error
    service.times.look(2)
    assert [slot.pair.certificate for slot in identity.slots] == former


def test_a_bug_while_a_staple_is_fetched(service, site, monkeypatch):
    identity = serve(service, site.source)

    site.renew()
    with monkeypatch.context() as context, capturedLogs() as logs:

        async def later(pair):
            await Deferred().addTimeout(1, service.times.clock, lambda *_: None)
            raise RuntimeError("a bug")

        context.setattr(service.manager.stapling, "fetch_for", later)
        service.times.look()
        service.times.ticks(10)
    assert told(logs, LogLevel.critical) == [f"files {site.certificate} cannot be brought in"]
    service.times.pass_by(11 * MINUTES, 1.0)
    assert served(identity) == (site.serial, True)


# --- staples in files -------------------------------------------------------


def test_the_staple_file_may_come_after_the_pair(service, plain):
    plain.staple()
    identity = serve(service, plain.with_staple)
    former = plain.serial
    plain.renew()
    with capturedLogs() as logs:
        service.times.look(3)
    assert logs == []
    assert served(identity) == (former, True)
    assert "waits for its staple" in status(service).problem
    plain.staple()
    service.times.look()
    assert served(identity) == (plain.serial, True)


def test_a_staple_file_that_does_not_come(service, plain):
    plain.staple()
    identity = serve(service, plain.with_staple)
    plain.renew()
    with capturedLogs() as logs:
        service.times.pass_by(timedelta(seconds=PATIENCE + 10), 1.0)
    assert served(identity) == (plain.serial, False)
    [line] = told(logs, WARN, ERROR)
    assert line.startswith("unstapled ")


def test_the_network_helps_out_where_a_staple_file_ends(service, site):
    site.staple()
    identity = serve(service, site.with_staple)
    assert service.responders.asked == []
    with capturedLogs() as logs:
        for _ in range(80):
            service.times.pass_by(timedelta(hours=1), 60.0)
            assert served(identity) == (site.serial, True)
    assert told(logs, WARN, ERROR) == []
    assert service.responders.asked


def test_a_staple_from_the_network_is_renewed_in_time_beside_a_bad_file(service, site):
    site.staple()
    site.write(site.ocsp, b"bad")
    identity = serve(service, site.with_staple)
    for _ in range(100):
        service.times.pass_by(timedelta(hours=1), 60.0)
        assert served(identity) == (site.serial, True)


def test_the_newer_of_two_staples_is_sent(service, site):
    site.staple()
    identity = serve(service, site.with_staple)
    old = handshake(identity)[1]
    service.times.pass_by(timedelta(hours=2), 600.0)
    service.manager.refresh("localhost")
    service.times.ticks(10)
    fetched = handshake(identity)[1]
    assert fetched != old
    service.manager.reload()
    assert handshake(identity)[1] == fetched
    newer = site.staple(service.times.now().replace(microsecond=0))
    service.times.look()
    assert handshake(identity)[1] == newer


def test_staples_are_fetched_for_contexts_that_were_let_go(service, site):
    identity = serve(service, site.source)
    service.manager.configure(OcspOptions(), 0, http=False)
    assert identity.slots == ()
    first = handshake(identity)[1]
    service.times.pass_by(timedelta(days=2.5), 600.0)
    second = handshake(identity)[1]
    assert None not in (first, second)
    assert first != second


# --- revocation -------------------------------------------------------------


def test_a_revoked_certificate(service, site):
    identity = serve(service, site.source)
    service.responders.status = {site.serial: "revoked"}
    with capturedLogs() as logs:
        service.manager.refresh()
        service.times.ticks()
        assert served(identity) == (site.serial, False)
        asked = len(service.responders.asked)
        service.times.pass_by(timedelta(days=3), 20.0)
    [event] = events(logs, "revoked")
    assert event["log_level"] is ERROR
    assert event["name"] == f"files {site.certificate}"
    assert len(told(logs, WARN, ERROR)) == 1
    assert len(service.responders.asked) - asked < 100  # not each minute
    assert "is revoked since" in status(service).why_not_stapled
    service.responders.fail()
    service.times.pass_by(timedelta(hours=2), 20.0)
    assert "is revoked since" in status(service).why_not_stapled
    service.manager.reload()
    assert "is revoked since" in status(service).why_not_stapled
    service.responders.down = None
    site.renew()
    service.times.look()
    assert served(identity) == (site.serial, True)
    assert status(service).why_not_stapled == ""


def test_a_hold_that_is_removed(service, site):
    identity = serve(service, site.source)
    service.responders.status = {site.serial: "revoked"}
    service.manager.refresh()
    service.times.ticks(10)
    assert served(identity) == (site.serial, False)
    service.responders.status = {}
    service.times.pass_by(timedelta(hours=2), 20.0)
    assert served(identity) == (site.serial, True)
    assert status(service).why_not_stapled == ""


def test_a_good_file_from_before_does_not_take_a_revocation_back(service, site):
    site.staple()
    identity = serve(service, site.with_staple)
    service.responders.status = {site.serial: "revoked"}
    service.manager.refresh()
    service.times.ticks(10)
    assert served(identity) == (site.serial, False)
    service.manager.reload()
    site.staple()
    service.times.look()
    assert served(identity) == (site.serial, False)
    assert "is revoked since" in status(service).why_not_stapled
    site.staple(service.times.now().replace(microsecond=0))
    service.times.look()
    assert served(identity) == (site.serial, True)
    assert status(service).why_not_stapled == ""


def test_a_file_that_says_revoked(service, plain):
    plain.staple()
    identity = serve(service, plain.with_staple)
    plain.staple(status="revoked")
    with capturedLogs() as logs:
        service.times.look()
        service.manager.reload()
        service.manager.reload()
    assert len(events(logs, "revoked")) == 1
    assert served(identity) == (plain.serial, False)
    plain.staple()
    service.times.look()
    assert served(identity) == (plain.serial, True)


def test_a_new_pair_that_its_file_says_is_revoked(service, plain):
    plain.staple()
    identity = serve(service, plain.with_staple)
    former = plain.serial
    plain.renew()
    plain.staple(status="revoked")
    [outcome] = service.manager.reload()
    assert "the new certificate is revoked, so the former one stays" in outcome.error
    assert served(identity) == (former, True)


# --- loading ----------------------------------------------------------------


def test_a_failed_acquisition_leaves_nothing_behind(service, site, tmp_path):
    bad = (CertificateFiles(tmp_path / "no.pem", tmp_path / "no.key"),)
    with pytest.raises(CertificateErrors):
        service.manager.acquire([site.source, bad])
    site.renew()
    with capturedLogs() as logs:
        service.times.look(3)
    assert logs == []
    assert service.responders.asked == []


def test_a_serial_number_that_is_used_again(service, tmp_path):
    """As `openssl x509 -set_serial 1` does it."""
    site = Site(tmp_path, ROOT, serial=1, lifetime=20 * pki.DAY)
    serve(service, site.source)
    site.renew(lifetime=30 * pki.DAY)
    service.times.look()
    assert status(service).not_after == site.x509.not_valid_after_utc


def test_what_is_fetched_for_the_former_pair_does_not_hinder_the_new_one(service, site):
    identity = serve(service, site.source)
    service.responders.holding = True
    service.manager.refresh()
    service.times.ticks(20)
    [(_, slow)] = service.responders.held
    service.responders.held.clear()
    service.responders.holding = False
    site.renew()
    service.times.look()
    assert served(identity) == (site.serial, True)
    asked = len(service.responders.asked)
    with contextlib.suppress(AssertionError):
        slow.errback(OSError("too late"))
    service.times.pass_by(timedelta(days=2), 60.0)
    assert served(identity) == (site.serial, True)
    assert len(service.responders.asked) > asked


def test_an_expired_certificate_is_replaced_by_any(service, tmp_path):
    site = Site(tmp_path, ROOT, lifetime=timedelta(hours=1.1))
    identity = serve(service, site.source)
    service.times.pass_by(10 * MINUTES, 60.0)
    site.renew(must_staple=True, lifetime=pki.DAY)
    service.times.look()
    assert served(identity) == (site.serial, False)
