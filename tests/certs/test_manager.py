from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent

from dwaarx.certs import schedule
from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.manager import CertificateManager, utc_now
from dwaarx.certs.storage import Storage
from dwaarx.config.model import CertificateFiles, InternalCertificate, Location
from dwaarx.tls import policy
from dwaarx.words import utc
from tests.certs import pki
from tests.certs.handshakes import handshake

ROOT = pki.make_ca("Root")
LOCALHOST = InternalCertificate(("localhost", "127.0.0.1"))


class Times:
    """The reactor's clock and the time of day, which go together."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._start = pki.utc_now()

    def now(self):
        return self._start + timedelta(seconds=self.clock.seconds())

    def pass_by(self, span: timedelta) -> None:
        for _ in range(int(span.total_seconds() // schedule.INTERVAL)):
            self.clock.advance(schedule.INTERVAL)


@pytest.fixture
def times():
    return Times()


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "storage")


@pytest.fixture
def manager(storage, times):
    manager = CertificateManager(storage, times.clock, times.now)
    manager.startService()
    yield manager
    manager.stopService()
    assert times.clock.getDelayedCalls() == []


class Site:
    """A leaf in files, with its staple file."""

    def __init__(self, folder: Path, stem: str = "leaf", **kwargs) -> None:
        self.folder, self.stem, self.kwargs = folder, stem, kwargs
        self.ocsp = folder / f"{stem}.ocsp"
        self.renew()
        self.staple()

    def renew(self, leaf: pki.Entity | None = None) -> pki.Entity:
        self.leaf = leaf if leaf is not None else pki.make_leaf(ROOT, ["localhost"], **self.kwargs)
        written = self.leaf.write(self.folder, self.stem)
        self.certificate, self.key = written.certificate, written.key
        return self.leaf

    def staple(self, **kwargs) -> bytes:
        response = pki.make_response(self.leaf, **kwargs)
        self.ocsp.write_bytes(response)
        return response

    @property
    def files(self) -> CertificateFiles:
        return CertificateFiles(self.certificate, self.key, self.ocsp)

    @property
    def source(self):
        return (self.files,)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def told(logs, *levels) -> list[str]:
    return [formatEvent(event) for event in logs if event["log_level"] in levels]


WARN, ERROR = LogLevel.warn, LogLevel.error


# --- acquiring --------------------------------------------------------------


def test_files_with_a_staple(manager, site):
    with capturedLogs() as logs:
        identity = manager.acquire([site.source])[site.source]
    assert logs == []
    certificate, staple, chain = handshake(identity)
    assert certificate == site.leaf.certificate
    assert staple == site.ocsp.read_bytes()
    assert tuple(chain) == site.leaf.chain
    [status] = manager.status()
    assert status.names == ("localhost",)
    assert status.issuer == "CN=Root"
    assert int(status.serial, 16) == site.leaf.certificate.serial_number
    assert status.not_after == site.leaf.certificate.not_valid_after_utc
    assert status.key == "ECDSA P-256"
    assert status.source == f"files {site.certificate}"
    assert re.fullmatch(r"good until 20..-..-.. ..:..:.. UTC", status.staple)
    assert status.why_not_stapled == ""
    assert status.next_attempt is None


def test_without_a_staple_file(manager, site):
    source = (CertificateFiles(site.certificate, site.key),)
    with capturedLogs() as logs:
        identity = manager.acquire([source])[source]
    assert logs == []  # nobody asked for one
    assert handshake(identity)[1] is None
    [status] = manager.status()
    assert status.staple == "none"
    assert status.why_not_stapled == "the certificate names no OCSP responder"


def test_equal_sources_share_one_identity(manager, site):
    first = manager.acquire([site.source, (site.files,)])
    assert len(first) == 1
    located = (
        CertificateFiles(site.certificate, site.key, site.ocsp, Location("Dwaarfile", 9, 1)),
    )
    again = manager.acquire([located])
    assert again[located] is first[site.source]


def test_all_or_nothing(manager, site, tmp_path):
    bad = (CertificateFiles(tmp_path / "no.pem", tmp_path / "no.key"),)
    worse = (CertificateFiles(site.certificate, tmp_path / "no.key"),)
    with pytest.raises(CertificateErrors) as caught:
        manager.acquire([site.source, bad, worse, LOCALHOST, bad])
    assert [each.path.name for each in caught.value.errors] == ["no.pem", "no.key"]
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'no.pem'}: cannot be read: No such file or directory",
        f"{tmp_path / 'no.key'}: cannot be read: No such file or directory",
    ]
    assert manager.status() == []


def test_retain_forgets_the_others(manager, site):
    manager.acquire([site.source, LOCALHOST])
    manager.retain([LOCALHOST])
    assert [each.source for each in manager.status()] == ["internal"]


def test_two_types_of_keys_side_by_side(manager, tmp_path):
    one, two = Site(tmp_path, "ec"), Site(tmp_path, "rsa", key_type="rsa2048")
    source = (one.files, two.files)
    identity = manager.acquire([source])[source]
    assert handshake(identity, b"ECDHE-RSA-AES128-GCM-SHA256")[1] == two.ocsp.read_bytes()
    assert [each.key for each in manager.status()] == ["ECDSA P-256", "RSA 2048"]
    assert [each.source for each in manager.status()] == [
        f"files {one.certificate}",
        f"files {two.certificate}",
    ]


def test_two_keys_of_one_type(manager, tmp_path):
    one, two = Site(tmp_path, "one"), Site(tmp_path, "two", key_type="p384")
    with pytest.raises(CertificateErrors, match="different types") as caught:
        manager.acquire([(one.files, two.files)])
    [error] = caught.value.errors
    assert error.path == two.certificate
    assert str(one.certificate) in error.reason


def test_no_files_at_all(manager):
    with pytest.raises(CertificateErrors, match="no certificate is given"):
        manager.acquire([()])


@pytest.fixture
def picky_openssl(monkeypatch):
    """OpenSSL's security level can be raised by the system's configuration."""

    def refuse(entries, staple):
        raise SSL.Error([("SSL routines", "", "ca md too weak")])

    return lambda: monkeypatch.setattr(policy, "certificate_context", refuse)


@pytest.mark.parametrize("internal", [False, True])
def test_what_openssl_does_not_take(manager, site, picky_openssl, internal):
    picky_openssl()
    with pytest.raises(CertificateErrors, match="OpenSSL does not take it: ca md too weak"):
        manager.acquire([LOCALHOST if internal else site.source])
    assert manager.status() == []


def test_an_expired_certificate_is_told(manager, tmp_path, times):
    site = Site(tmp_path, not_before=times.now() - 3 * pki.DAY, lifetime=pki.DAY)
    with capturedLogs() as logs:
        manager.acquire([site.source])
    ends = utc(site.leaf.certificate.not_valid_after_utc)
    assert f'expired name="files {site.certificate}" at="{ends}"' in told(logs, WARN)


# --- staples that cannot be used --------------------------------------------

UNUSABLE = {
    "missing": (lambda site: site.ocsp.unlink(), "cannot be read: No such file or directory"),
    "empty": (lambda site: site.ocsp.write_bytes(b""), "is empty"),
    "huge": (lambda site: site.ocsp.write_bytes(bytes(70000)), "is larger than 65536 bytes"),
    "garbage": (lambda site: site.ocsp.write_bytes(b"garbage"), "cannot be read as an OCSP"),
    "expired": (
        lambda site: site.staple(this_update=pki.utc_now() - 9 * pki.DAY),
        "the response expired at",
    ),
    "just expired": (
        lambda site: site.staple(
            this_update=pki.utc_now() - pki.DAY, validity=pki.DAY - timedelta(minutes=1)
        ),
        "the response expired at",
    ),
    "of another": (
        lambda site: site.ocsp.write_bytes(pki.make_response(pki.make_leaf(ROOT))),
        "about another certificate",
    ),
    "unknown": (lambda site: site.staple(status="unknown"), "does not know"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_staple_is_a_warning_and_the_service_goes_on(manager, site, case):
    spoil, reason = UNUSABLE[case]
    spoil(site)
    with capturedLogs() as logs:
        identity = manager.acquire([site.source])[site.source]
    [line] = told(logs, WARN)
    assert str(site.ocsp) in line
    assert reason in line
    assert str(site.certificate) in line
    certificate, staple, _ = handshake(identity)
    assert certificate == site.leaf.certificate
    assert staple is None
    [status] = manager.status()
    assert status.staple == "none"
    assert reason in status.why_not_stapled


def test_dev_null_as_staple_file(manager, site):
    source = (CertificateFiles(site.certificate, site.key, Path("/dev/null")),)
    with capturedLogs() as logs:
        manager.acquire([source])
    [line] = told(logs, WARN)
    assert "/dev/null: is empty" in line


def test_revoked_is_an_error(manager, site):
    site.staple(status="revoked")
    with capturedLogs() as logs:
        identity = manager.acquire([site.source])[site.source]
    [line] = told(logs, ERROR)
    assert "the certificate is revoked since" in line
    assert handshake(identity)[1] is None


def test_no_issuer_in_the_file(manager, site):
    site.certificate.write_bytes(site.leaf.pem)
    with capturedLogs() as logs:
        manager.acquire([site.source])
    [line] = told(logs, WARN)
    assert f"no issuer in {site.certificate}: append the CA certificate" in line


def test_must_staple_without_a_staple_is_served_with_an_alarm(manager, tmp_path):
    site = Site(tmp_path, must_staple=True)
    site.ocsp.unlink()
    with capturedLogs() as logs:
        identity = manager.acquire([site.source])[site.source]
    [line] = told(logs, ERROR)
    assert line.startswith(f'unstapled name="files {site.certificate}" must_staple=yes reason=')
    assert handshake(identity)[0] == site.leaf.certificate


# --- reloading --------------------------------------------------------------


def test_reload_of_a_renewed_certificate(manager, site):
    """As dnsdist's users do it: new certificate at the same path, new response, reload."""
    identity = manager.acquire([site.source])[site.source]
    before = identity.context
    old = site.leaf.certificate
    new = site.renew()
    response = site.staple()
    [outcome] = manager.reload()
    assert outcome.source == site.source
    assert outcome.error is None
    assert re.search(r"leaf\.pem \(staple good until .*\)$", outcome.description)
    assert identity.context is not before
    certificate, staple, _ = handshake(identity)
    assert certificate == new.certificate != old
    assert staple == response


def test_reload_of_what_has_not_changed_keeps_the_context(manager, site):
    identity = manager.acquire([site.source, LOCALHOST])
    before = {source: each.context for source, each in identity.items()}
    assert [each.error for each in manager.reload()] == [None, None]
    assert {source: each.context for source, each in identity.items()} == before


def test_reload_of_a_new_staple_keeps_the_context(manager, site):
    identity = manager.acquire([site.source])[site.source]
    before = identity.context
    response = site.staple(this_update=pki.utc_now())
    manager.reload()
    assert handshake(identity)[1] == response
    assert identity.context is before


@pytest.mark.parametrize("damage", ["missing", "half", "mismatch"])
def test_reload_keeps_the_whole_former_identity_if_a_file_fails(manager, tmp_path, damage):
    one, two = Site(tmp_path, "ec"), Site(tmp_path, "rsa", key_type="rsa2048")
    source = (one.files, two.files)
    identity = manager.acquire([source])[source]
    former, context = [slot.pair for slot in identity.slots], identity.context
    one.renew()
    one.staple()
    if damage == "missing":
        two.certificate.unlink()
    elif damage == "half":
        two.certificate.write_bytes(two.certificate.read_bytes()[:300])
    else:
        two.key.write_bytes(pki.make_leaf(ROOT).key_pem)
    with capturedLogs() as logs:
        [outcome] = manager.reload()
    assert str(two.certificate if damage != "mismatch" else two.key) in outcome.error
    assert outcome.error in told(logs, ERROR)[0]
    assert [slot.pair for slot in identity.slots] == former
    assert identity.context is context


def test_a_new_certificate_goes_out_without_the_old_ones_staple(manager, site):
    identity = manager.acquire([site.source])[site.source]
    new = site.renew()
    with capturedLogs() as logs:
        [outcome] = manager.reload()
    assert outcome.error is None
    assert "no staple" in outcome.description
    assert "about another certificate" in outcome.description
    assert "about another certificate" in told(logs, WARN)[0]
    assert handshake(identity)[:2] == (new.certificate, None)


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_good_staple_stays_when_its_file_turns_bad(manager, site, case):
    identity = manager.acquire([site.source])[site.source]
    good = site.ocsp.read_bytes()
    UNUSABLE[case][0](site)
    with capturedLogs() as logs:
        [outcome] = manager.reload()
    assert outcome.error is None
    assert "the newer one is not used" in outcome.description
    assert UNUSABLE[case][1] in outcome.description
    [line] = told(logs, WARN)
    assert line.startswith('failed what="staple file"')
    assert 'present="stays until 20' in line
    assert handshake(identity)[1] == good
    [status] = manager.status()
    assert status.staple.startswith("good until")
    assert UNUSABLE[case][1] in status.why_not_stapled
    site.staple()
    manager.reload()
    assert manager.status()[0].why_not_stapled == ""


def test_a_revocation_takes_the_good_staple_away(manager, site):
    identity = manager.acquire([site.source])[site.source]
    site.staple(status="revoked")
    with capturedLogs() as logs:
        manager.reload()
    assert "is revoked" in told(logs, ERROR)[0]
    assert handshake(identity)[1] is None


def test_a_kept_staple_is_not_kept_past_its_end(manager, site, times):
    identity = manager.acquire([site.source])[site.source]
    site.ocsp.unlink()
    times.clock.advance(4 * 86400)
    [outcome] = manager.reload()
    assert "no staple" in outcome.description
    assert handshake(identity)[1] is None


def test_a_new_must_staple_certificate_without_staple_is_not_activated(manager, tmp_path):
    site = Site(tmp_path)
    identity = manager.acquire([site.source])[site.source]
    old = site.leaf.certificate
    site.renew(pki.make_leaf(ROOT, ["localhost"], must_staple=True))
    [outcome] = manager.reload()
    assert "must-staple" in outcome.error
    assert str(site.certificate) in outcome.error
    assert handshake(identity)[0] == old
    site.staple()
    [outcome] = manager.reload()
    assert outcome.error is None
    assert handshake(identity)[0] == site.leaf.certificate


def test_the_present_must_staple_certificate_is_served_on_with_an_alarm(manager, tmp_path, times):
    site = Site(tmp_path, must_staple=True)
    identity = manager.acquire([site.source])[site.source]
    times.clock.advance(4 * 86400)
    with capturedLogs() as logs:
        [outcome] = manager.reload()
    assert outcome.error is None
    assert "must_staple=yes" in told(logs, ERROR)[0]
    assert handshake(identity)[0] == site.leaf.certificate


def test_a_chain_that_changed_is_a_new_context(manager, site):
    identity = manager.acquire([site.source])[site.source]
    before = identity.context
    site.certificate.write_bytes(site.leaf.pem)
    manager.reload()
    assert identity.context is not before
    assert handshake(identity)[2] == [site.leaf.certificate]


def test_openssls_refusal_at_a_reload(manager, site, picky_openssl):
    identity = manager.acquire([site.source])[site.source]
    old = site.leaf
    site.renew()
    site.staple()
    picky_openssl()
    [outcome] = manager.reload()
    assert f"{site.certificate}: OpenSSL does not take it" in outcome.error
    assert handshake(identity)[0] == old.certificate


def test_the_end_of_a_staple_is_told_once(manager, site, times):
    identity = manager.acquire([site.source])[site.source]
    with capturedLogs() as logs:
        times.pass_by(timedelta(days=3))
        for _ in range(3):
            assert handshake(identity)[1] is None
        times.pass_by(timedelta(minutes=5))
    [line] = told(logs, WARN)
    assert line.startswith("unstapled")
    assert "the staple ended at" in line
    assert "the staple ended at" in manager.status()[0].why_not_stapled


# --- what the house makes itself --------------------------------------------


def test_internal(manager, times):
    identity = manager.acquire([LOCALHOST])[LOCALHOST]
    certificate, staple, chain = handshake(identity)
    assert staple == identity.slots[0].staple.der
    assert chain == [certificate, manager.internal.issuer().certificate]
    [status] = manager.status()
    assert status.source == "internal"
    assert status.names == LOCALHOST.names
    assert status.why_not_stapled == ""
    assert times.now() < status.next_attempt < times.now() + timedelta(days=2)


def test_internal_staples_and_leaves_renew_themselves(manager, times):
    """Three weeks, looked at every hour."""
    identity = manager.acquire([LOCALHOST])[LOCALHOST]
    serials, staples = set(), set()
    for _ in range(21 * 24):
        times.clock.advance(3600)
        certificate, staple = identity.slots[0].pair.certificate, identity.slots[0].staple
        assert certificate.not_valid_after_utc - times.now() > timedelta(days=2)
        assert staple.end - times.now() > timedelta(hours=22)
        serials.add(certificate.serial_number)
        staples.add(staple.der)
    assert 4 <= len(serials) <= 6
    assert 20 <= len(staples) <= 28
    assert handshake(identity)[1] == identity.slots[0].staple.der


def test_a_new_manager_takes_the_leaf_again(manager, storage, times):
    first = manager.acquire([LOCALHOST])[LOCALHOST]
    again = CertificateManager(storage, times.clock, times.now).acquire([LOCALHOST])[LOCALHOST]
    assert again.slots[0].pair.certificate == first.slots[0].pair.certificate


def test_a_renewal_that_fails_is_tried_again(manager, times, monkeypatch):
    identity = manager.acquire([LOCALHOST])[LOCALHOST]
    first = identity.slots[0].pair.certificate

    def fail(names):
        raise CertificateError(Path("leaf.pem"), "for a test")

    times.clock.advance(4 * 86400)
    monkeypatch.setattr(manager.internal, "issue", fail)
    with capturedLogs() as logs:
        times.pass_by(timedelta(days=1))
    lines = told(logs, ERROR)
    assert 30 < len(lines) < 60  # some hours, at every tenth minute
    assert lines[0].startswith(
        'failed what=certificate name="internal localhost 127.0.0.1" reason="leaf.pem: for a test"'
    )
    assert identity.slots[0].pair.certificate == first
    [status] = manager.status()
    assert status.problem == "leaf.pem: for a test"
    assert times.now() < status.next_attempt <= times.now() + schedule.RETRY
    monkeypatch.undo()
    times.pass_by(schedule.RETRY)
    assert identity.slots[0].pair.certificate != first
    assert manager.status()[0].problem == ""
    assert manager.status()[0].next_attempt > times.now() + schedule.RETRY


def test_a_staple_that_cannot_be_made(manager, times, monkeypatch):
    identity = manager.acquire([LOCALHOST])[LOCALHOST]
    good = identity.slots[0].staple

    def fail(pair):
        raise OcspError(Refusal.UNSUPPORTED, "for a test")

    monkeypatch.setattr(manager.internal, "sign_staple", fail)
    with capturedLogs() as logs:
        times.pass_by(timedelta(hours=25))
    assert 'reason="for a test"' in told(logs, ERROR)[0]
    assert identity.slots[0].staple is good
    assert manager.status()[0].why_not_stapled == "for a test"
    times.pass_by(timedelta(hours=25))
    assert handshake(identity)[1] is None
    monkeypatch.undo()
    [outcome] = manager.reload()
    assert "staple good until" in outcome.description
    assert manager.status()[0].next_attempt > times.now() + schedule.RETRY


def test_reload_renews_nothing_internal_before_its_time(manager, times):
    identity = manager.acquire([LOCALHOST])[LOCALHOST]
    staple = identity.slots[0].staple
    times.clock.advance(3600)
    [outcome] = manager.reload()
    assert outcome.description.startswith("internal localhost 127.0.0.1 (staple good until")
    assert identity.slots[0].staple is staple


def test_reload_after_the_root_was_removed(manager, storage):
    identity = manager.acquire([LOCALHOST])[LOCALHOST]
    first = identity.slots[0].pair.issuer
    storage.path("internal/root.pem").unlink()
    [outcome] = manager.reload()
    assert outcome.error is None
    assert identity.slots[0].pair.issuer != first
    assert handshake(identity)[1] is not None


def test_reload_with_a_damaged_root_goes_on_with_the_present_one(manager, storage, times, site):
    identity = manager.acquire([LOCALHOST, site.source])[LOCALHOST]
    root = identity.slots[0].pair.issuer
    storage.path("internal/root.pem").write_bytes(b"damaged")
    internal, files = manager.reload()
    assert "the internal root is damaged" in internal.error
    assert files.error is None
    times.pass_by(timedelta(days=2))
    assert identity.slots[0].pair.issuer == root
    assert handshake(identity)[1] is not None


def test_a_damaged_root_at_the_start(manager, storage):
    storage.write("internal/root.pem", b"damaged")
    with pytest.raises(CertificateErrors, match="the internal root is damaged"):
        manager.acquire([LOCALHOST])


def test_a_root_near_its_end_takes_all_leaves_along(manager, storage, times):
    old = pki.make_ca("Old", lifetime=33 * pki.DAY)
    storage.write("internal/root.pem", old.key_pem + old.pem)
    other = InternalCertificate(("other.test",))
    identities = manager.acquire([LOCALHOST, other])
    intermediate = manager.internal.issuer()
    assert intermediate.chain == (old.certificate,)
    assert {each.slots[0].pair.chain for each in identities.values()} == {
        (intermediate.certificate,)
    }
    times.pass_by(timedelta(days=3, hours=1))
    [new] = {each.slots[0].pair.issuer for each in identities.values()}
    assert new == manager.internal.issuer().certificate != intermediate.certificate
    assert storage.read("internal/root.old.pem") == old.key_pem + old.pem
    for identity in identities.values():
        assert handshake(identity)[1] is not None


def test_names_that_no_certificate_can_have(manager):
    with pytest.raises(CertificateErrors, match="cannot be made for these names"):
        manager.acquire([InternalCertificate(("not a name",))])


def test_a_bug_with_one_certificate_is_told_and_ends_no_renewal(manager, times, monkeypatch):
    other = InternalCertificate(("other.test",))
    identities = manager.acquire([LOCALHOST, other])
    first = {source: identity.slots[0].staple for source, identity in identities.items()}
    sign = manager.internal.sign_staple

    def stumble(pair):
        if "localhost" in pair.names:
            raise RuntimeError("a bug")
        return sign(pair)

    monkeypatch.setattr(manager.internal, "sign_staple", stumble)
    with capturedLogs() as logs:
        times.pass_by(timedelta(hours=25))
    lines = told(logs, LogLevel.critical)
    assert 3 < len(lines) < 10  # an hour, at every tenth minute
    assert lines[0] == "cannot renew it: internal localhost 127.0.0.1"
    assert logs[0]["log_failure"].check(RuntimeError)
    assert identities[LOCALHOST].slots[0].staple is first[LOCALHOST]
    assert identities[other].slots[0].staple is not first[other]
    monkeypatch.undo()
    times.pass_by(schedule.RETRY)
    assert identities[LOCALHOST].slots[0].staple is not first[LOCALHOST]


def test_the_end_of_the_loop_is_told(manager, times, monkeypatch):
    def stopped():
        raise RuntimeError("a bug")

    manager.acquire([LOCALHOST])
    monkeypatch.setattr(manager, "_now", stopped)
    with capturedLogs() as logs:
        times.clock.advance(schedule.INTERVAL)
    assert told(logs, LogLevel.critical) == ["certificates are looked after no more"]


def test_the_time_of_day_has_a_zone():
    assert utc_now().tzinfo is not None
