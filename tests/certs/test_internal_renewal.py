"""Certificates of the local CA under a running manager, whether anybody asks for them or not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from OpenSSL import SSL
from twisted.logger import capturedLogs

from dwaarx.certs import manager as module
from dwaarx.certs import ocsp
from dwaarx.certs.errors import AcmeError, CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.internal_renewal import SOONEST
from dwaarx.config.model import CertificateFiles, InternalCertificate, OcspOptions
from dwaarx.tls import policy
from tests.certs import pki
from tests.certs.handshakes import handshake
from tests.certs.service import ERROR, INFO, Service, told

LOCALHOST = InternalCertificate(("localhost",))
DAY = timedelta(days=1)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop()


def serve(service: Service, source: InternalCertificate = LOCALHOST):
    return service.manager.acquire([source])[source]


def fails(deferred) -> Exception:
    failures = []
    deferred.addErrback(failures.append)
    return failures[0].value


def test_what_no_handshake_asks_for_is_renewed(service):
    service.manager.configure(OcspOptions(), 0, http=False)  # contexts are let go at once
    identity = serve(service)
    assert identity.slots == ()
    [first] = service.manager.status()
    path = service.storage.path(service.manager.internal.path_name(LOCALHOST.names))
    written = path.read_bytes()
    with capturedLogs() as logs:
        service.times.pass_by(5 * DAY, 600.0)
    [second] = service.manager.status()
    assert second.serial != first.serial
    assert path.read_bytes() != written
    [line] = [line for line in told(logs, INFO) if line.startswith("renewed")]
    assert line.startswith('renewed name="internal localhost" issuer=')
    assert "until=" in line
    assert "staple=good" in line
    certificate, staple, chain = handshake(identity)
    assert f"{certificate.serial_number:x}" == second.serial.lstrip("0")
    ocsp.verify(staple, certificate, chain[1], service.times.now())


def test_more_sources_than_are_read_at_once(service, monkeypatch):
    monkeypatch.setattr(module, "READ_AT_ONCE", 2)
    sources = [InternalCertificate((f"n{number}.test",)) for number in range(5)]
    identities = service.manager.acquire(sources)
    opened = [source for source in sources if identities[source].slots]
    assert opened == sources[:2]
    last = service.manager.status()[-1]
    assert last.names == ("n4.test",)
    assert last.why_not_stapled == "it was not looked at yet"
    assert last.next_attempt is None
    assert handshake(identities[sources[3]])[1] is not None  # before its turn
    service.manager.retain(sources[:4])
    service.times.ticks()
    assert len(service.manager.status()) == 4
    assert all(each.next_attempt is not None for each in service.manager.status())
    assert all(each.staple.startswith("good") for each in service.manager.status())
    assert not service.storage.path(service.manager.internal.path_name(("n4.test",))).exists()


def test_sources_that_were_acquired_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_AT_ONCE", 0)
    service = Service(tmp_path)
    other = service.make()
    other.acquire([LOCALHOST])
    service.times.ticks()
    assert other.status()[0].why_not_stapled == "it was not looked at yet"
    other.startService()
    service.times.ticks()
    assert other.status()[0].staple.startswith("good until")
    other.stopService()
    service.stop()


def test_an_error_in_one_that_is_read_later(service, monkeypatch):
    monkeypatch.setattr(module, "READ_AT_ONCE", 0)
    bad, good = InternalCertificate(("not a name",)), InternalCertificate(("good.test",))
    service.manager.acquire([bad, good])
    with capturedLogs() as logs:
        service.times.ticks()
    assert "cannot be made for these names" in told(logs, ERROR)[0]
    first, second = service.manager.status()
    assert first.why_not_stapled == "there is no certificate yet"
    assert first.next_attempt is not None
    assert second.staple.startswith("good until")
    service.times.pass_by(timedelta(minutes=11))
    assert "cannot be made for these names" in service.manager.status()[0].problem


def test_a_bug_in_one_that_is_read_later(service, monkeypatch):
    monkeypatch.setattr(module, "READ_AT_ONCE", 0)
    serve(service)

    def stumble(names):
        raise RuntimeError("a bug")

    with monkeypatch.context() as context:
        context.setattr(service.manager.internal, "issue", stumble)
        service.times.ticks()
    assert service.manager.status()[0].next_attempt is not None
    service.times.pass_by(timedelta(minutes=11))
    assert service.manager.status()[0].staple.startswith("good until")


def test_a_leaf_that_ends_with_its_issuer_is_not_made_again_and_again(service):
    """The root's key is away, and the intermediate ends within the hour."""
    serve(service)
    internal = service.manager.internal
    ends = internal.issuer().certificate.not_valid_after_utc
    root = service.storage.path("internal/root.pem")
    root.write_bytes(internal.root().certificate.public_bytes(pki.Encoding.PEM))
    service.manager.reload()
    service.times.pass_by(ends - service.times.now() - timedelta(hours=1), 3600.0)
    serials = set()
    for _ in range(59 * 6):
        service.times.pass_by(timedelta(seconds=10), 0.5)
        serials.add(service.manager.status()[0].serial)
    assert 1 <= len(serials) <= timedelta(hours=1) / SOONEST
    service.times.pass_by(timedelta(hours=1), 10.0)
    [status] = service.manager.status()
    assert "put the root's key back" in status.problem


def test_a_staple_that_cannot_be_signed_for_a_handshake(service, monkeypatch):
    """It is tried again soon, not at the next day."""
    service.manager.configure(OcspOptions(), 0, http=False)
    identity = serve(service)

    def fail(pair):
        raise OcspError(Refusal.UNSUPPORTED, "for a test")

    service.manager.configure(OcspOptions(), 10, http=False)
    with monkeypatch.context() as context:
        context.setattr(service.manager.internal, "sign_staple", fail)
        assert handshake(identity)[1] is None
    [status] = service.manager.status()
    assert status.staple == "none"
    assert status.why_not_stapled == "for a test"
    service.times.pass_by(timedelta(minutes=11))
    assert handshake(identity)[1] is not None


def damage(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be issued any more."""

    def fail():
        raise CertificateError(Path("root.pem"), "the internal root is damaged")

    monkeypatch.setattr(service.manager.internal, "issuer", fail)


def test_the_end_of_a_staple_shows_while_leaves_cannot_be_issued(service, monkeypatch):
    serve(service)
    damage(service, monkeypatch)
    service.times.pass_by(timedelta(days=2, hours=1), 600.0)
    [status] = service.manager.status()
    assert status.staple == "none"
    assert status.why_not_stapled.startswith("the staple ended at 20")
    assert "the internal root is damaged" in status.problem


def test_openssls_refusal_of_a_renewed_leaf(service, monkeypatch):
    identity = serve(service)
    former = identity.slots[0].pair.certificate

    def refuse(entries, staple):
        raise SSL.Error([("SSL routines", "", "ca md too weak")])

    with monkeypatch.context() as context:
        context.setattr(policy, "certificate_context", refuse)
        service.times.pass_by(5 * DAY, 600.0)
    assert identity.slots[0].pair.certificate == former
    problem = service.manager.status()[0].problem
    path = service.storage.path(service.manager.internal.path_name(LOCALHOST.names))
    assert problem == f"{path}: OpenSSL does not take it: ca md too weak"


def test_a_clock_that_is_set_back(service):
    """A leaf from the future is replaced within a day."""
    service.times.pass_by(30 * DAY, 86400.0)
    identity = serve(service)
    former = identity.slots[0].pair.certificate
    service.times.set_back(20 * DAY)
    service.times.pass_by(timedelta(hours=25), 60.0)
    certificate, staple, chain = handshake(identity)
    assert certificate != former
    assert certificate.not_valid_before_utc <= service.times.now()
    assert chain[1].not_valid_before_utc <= service.times.now()
    ocsp.verify(staple, certificate, chain[1], service.times.now())


def test_a_clock_that_jumps_ahead(service):
    identity = serve(service)
    service.times.set_back(-400 * DAY)
    service.times.ticks()
    certificate, staple, chain = handshake(identity)
    assert certificate.not_valid_after_utc > service.times.now()
    ocsp.verify(staple, certificate, chain[1], service.times.now())


# --- on request -------------------------------------------------------------


def test_renewal_on_request(service):
    identity = serve(service)
    former = identity.slots[0].pair.certificate
    done = service.manager.renew("localhost")
    assert done.result == ["internal localhost: a new certificate is in use"]
    assert handshake(identity)[0] == identity.slots[0].pair.certificate != former


def test_renewal_of_a_name_that_nothing_is_held_for(service):
    serve(service)
    with pytest.raises(LookupError, match=r"there is no certificate for other\.test"):
        service.manager.renew("other.test")


def test_what_cannot_be_renewed_on_request_stays(service, monkeypatch):
    identity = serve(service)
    former = identity.slots[0].pair.certificate
    path = service.storage.path(service.manager.internal.path_name(LOCALHOST.names))
    damage(service, monkeypatch)
    error = fails(service.manager.renew("localhost"))
    assert isinstance(error, AcmeError)
    assert "the internal root is damaged" in str(error)
    assert path.exists()
    assert handshake(identity)[0] == former


def test_of_several_for_a_name_all_are_told(service, tmp_path, monkeypatch):
    """Files are not renewed, and do not hinder the others."""
    other = InternalCertificate(("localhost", "other.test"))
    written = pki.make_leaf(pki.make_ca(), ["localhost"]).write(tmp_path)
    files = (CertificateFiles(written.certificate, written.key),)
    service.manager.acquire([files, LOCALHOST, other])
    assert service.manager.renew("localhost").result == [
        "internal localhost: a new certificate is in use",
        "internal localhost other.test: a new certificate is in use",
    ]
    forget = service.manager.internal.forget

    def one_fails(names):
        if names == other.names:
            raise CertificateError(tmp_path, "for a test")
        forget(names)

    monkeypatch.setattr(service.manager.internal, "forget", one_fails)
    assert str(fails(service.manager.renew("localhost"))).splitlines() == [
        "internal localhost: a new certificate is in use",
        f"{tmp_path}: for a test",
    ]
    with pytest.raises(CertificateErrors, match="is a file of yours"):
        service.manager.renew(str(written.certificate))
