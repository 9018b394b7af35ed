"""What the console says of each certificate, and why it is as it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from dwaarx.certs import manager
from dwaarx.certs.record import hexadecimal
from dwaarx.config.model import AcmeCertificate, AcmeSettings, InternalCertificate
from tests.certs import pki
from tests.certs.service import RESPONDER, Service, Site

ROOT = pki.make_ca("Root")
CRL = "http://crl.test/root.crl"
POINTS = x509.CRLDistributionPoints(
    [x509.DistributionPoint([x509.UniformResourceIdentifier(CRL)], None, None, None)]
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop()


def statuses(service: Service, *sources):
    service.manager.acquire(sources)
    service.times.ticks()
    return service.manager.status()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "00"),
        (1, "01"),
        (0x7F, "7f"),
        (0x80, "80"),
        (0x123, "0123"),
        (1 << 152, "01" + "00" * 19),
    ],
)
def test_serials_are_written_in_whole_bytes(number: int, text: str) -> None:
    assert hexadecimal(number) == text


def test_files_with_a_responder(service, tmp_path):
    site = Site(tmp_path, ROOT, responders=service.responders)
    [status] = statuses(service, site.source)
    assert status.source == f"files {site.certificate}"
    assert status.guard == f"OCSP {RESPONDER}"
    assert status.staple.startswith("good until 20")
    assert status.why_not_stapled == status.problem == ""
    assert status.next_attempt > service.times.now()


def test_a_responder_that_is_down(service, tmp_path):
    site = Site(tmp_path, ROOT, responders=service.responders)
    service.responders.fail()
    [status] = statuses(service, site.source)
    assert status.staple == "none"
    assert status.why_not_stapled == f"{RESPONDER}: nobody is there"
    assert status.next_attempt > service.times.now()
    [outcome] = service.manager.reload()
    assert outcome.description.endswith(f"(no staple: {RESPONDER}: nobody is there)")


def test_files_without_a_responder(service, tmp_path):
    site = Site(tmp_path, ROOT)
    [status] = statuses(service, site.source)
    assert status.guard == "none"
    assert status.why_not_stapled == "the certificate names no OCSP responder"
    assert status.next_attempt is None


def test_a_staple_file_and_a_list(service, tmp_path):
    site = Site(tmp_path, ROOT, extra=[(POINTS, False)])
    site.staple()
    service.manager.acquire([site.with_staple])
    [status] = service.manager.status()  # before the list is fetched
    assert status.guard == f"OCSP file {site.ocsp}, CRL {CRL}"
    service.manager.retain([])


def test_the_end_of_a_staple_file(service, tmp_path):
    site = Site(tmp_path, ROOT)
    site.staple()
    statuses(service, site.with_staple)
    service.times.pass_by(timedelta(days=3), 600.0)
    [status] = service.manager.status()
    assert status.staple == "none"
    assert status.why_not_stapled.startswith("the staple ended at 20")
    [outcome] = service.manager.reload()
    assert "no staple: " in outcome.description
    assert "the response expired at" in outcome.description


def test_internal(service):
    [status] = statuses(service, InternalCertificate(("a.test",)))
    assert status.guard == "internal CA"
    assert status.names == ("a.test",)


def test_one_by_acme_that_is_not_there_yet(tmp_path):
    service = Service(tmp_path)
    service.manager.stopService()
    source = AcmeCertificate("www.test", AcmeSettings(()))
    service.manager.acquire([source])
    [status] = service.manager.status()
    assert status.names == ("www.test",)
    assert status.source == "acme"
    assert status.serial == ""
    assert status.not_after is None
    assert status.why_not_stapled == "there is no certificate yet"
    assert status.next_attempt is not None
    [outcome] = service.manager.reload()
    assert outcome.description == "www.test (there is no certificate yet)"


# --- refreshing by name -------------------------------------------------------


def came(deferred):
    results = []
    deferred.addCallback(results.extend)
    return [(each.words, each.good) for each in results]


def test_a_refresh_by_name(service, tmp_path):
    site = Site(tmp_path, ROOT, responders=service.responders)
    statuses(service, site.source)
    for name in ("localhost", str(site.certificate)):
        deferred = service.manager.refresh(name)
        service.times.ticks(10)
        [(words, good)] = came(deferred)
        assert good
        assert words.startswith("stapled, good until 20")


def test_a_refresh_of_what_has_no_responder_says_why(service, tmp_path):
    site = Site(tmp_path, ROOT)
    statuses(service, site.source)
    assert came(service.manager.refresh("localhost")) == [
        ("nobody is asked: the certificate names no OCSP responder", False)
    ]
    assert came(service.manager.refresh()) == []


def test_a_refresh_of_what_was_not_looked_at_yet(service, monkeypatch):
    monkeypatch.setattr(manager, "READ_AT_ONCE", 0)
    source = InternalCertificate(("a.test",))
    service.manager.acquire([source])
    assert came(service.manager.refresh("a.test")) == [
        ("nobody is asked: the certificate names no OCSP responder", False)
    ]


def test_a_refresh_of_a_name_that_nothing_is_held_for(service):
    with pytest.raises(LookupError, match=r"there is no certificate for a\.test"):
        service.manager.refresh("a.test")
