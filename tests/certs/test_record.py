from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dwaarx.certs import ocsp
from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import (
    NO_ISSUER,
    NO_RESPONDER,
    SELF_SIGNED,
    Held,
    Record,
    host_of,
    name_of,
    why_skipped,
)
from dwaarx.certs.store import Slot
from dwaarx.config.model import (
    AcmeCertificate,
    AcmeSettings,
    CertificateFiles,
    InternalCertificate,
)
from tests.certs import pki

ROOT = pki.make_ca("Root")
FILES = (CertificateFiles(Path("/a.pem"), Path("/a.key")),)
ACME = AcmeCertificate("www.test", AcmeSettings(()))
INTERNAL = InternalCertificate(("a.test", "b.test"))


def pair_of(leaf: pki.Entity, *, chain: bool = True) -> KeyPair:
    return KeyPair(leaf.certificate, leaf.chain[1:] if chain else (), leaf.key)


def slot_of(leaf: pki.Entity, *, chain: bool = True) -> Slot:
    return Slot(pair_of(leaf, chain=chain), None, OcspError(Refusal.NONE, "none yet"))


def stapled(leaf: pki.Entity) -> Slot:
    response = pki.make_response(leaf)
    staple = ocsp.verify(response, leaf.certificate, ROOT.certificate, pki.utc_now())
    return Slot(pair_of(leaf), staple)


@pytest.fixture
def record() -> Record:
    [record] = Held(FILES).records
    return record


def test_before_anything_was_read(record) -> None:
    assert not record.known
    assert record.good_until(0.0) is None
    assert record.urgent(0.0)


def test_what_a_certificate_says(record) -> None:
    leaf = pki.make_leaf(ROOT, ["a.test"], ocsp_url="http://ocsp.test", must_staple=True)
    record.learn(slot_of(leaf))
    assert record.known
    assert record.names == ("a.test",)
    assert record.issuer == "CN=Root"
    assert record.serial == leaf.certificate.serial_number
    assert record.not_after == leaf.certificate.not_valid_after_utc.timestamp()
    assert record.key == "ECDSA P-256"
    assert record.must_staple
    assert record.responders == ("http://ocsp.test",)
    assert record.skip == ""
    assert record.refusal == "none yet"


def test_the_state_of_a_staple(record) -> None:
    leaf = pki.make_leaf(ROOT, ocsp_url="http://ocsp.test")
    slot = stapled(leaf)
    record.learn(slot)
    assert slot.until is not None
    end = slot.until.timestamp()
    assert record.good_until(end - 1) == slot.until
    assert record.good_until(end) is None
    assert not record.urgent(end - 2 * 86400)
    assert record.urgent(end - 3600)
    record.learn(slot_of(leaf))
    assert record.until is None
    assert record.refusal == "none yet"


def test_a_chain_that_was_completed_counts(record) -> None:
    leaf = pki.make_leaf(ROOT, ocsp_url="http://ocsp.test")
    record.learn(slot_of(leaf, chain=False))
    assert record.skip == NO_ISSUER
    record.learn(slot_of(leaf))
    assert record.skip == ""


def test_another_certificate_begins_anew(record) -> None:
    record.learn(slot_of(pki.make_leaf(ROOT)))
    record.failures, record.revoked = 3, "it is revoked"
    record.learn(slot_of(pki.make_leaf(ROOT)))
    assert (record.failures, record.revoked) == (0, "")


def test_the_same_one_does_not(record) -> None:
    leaf = pki.make_leaf(ROOT)
    record.learn(slot_of(leaf))
    record.failures, record.revoked = 3, "it is revoked"
    record.learn(slot_of(leaf))
    assert (record.failures, record.revoked) == (3, "it is revoked")


def test_the_same_serial_number_is_not_the_same_certificate(record) -> None:
    record.learn(slot_of(pki.make_leaf(ROOT, ["a.test"], serial=1)))
    record.revoked = "it is revoked"
    later = pki.make_leaf(ROOT, ["b.test"], serial=1, lifetime=timedelta(days=31))
    record.learn(slot_of(later))
    assert record.names == ("b.test",)
    assert record.revoked == ""
    other = pki.make_ca("Other")
    record.learn(slot_of(pki.make_leaf(other, serial=1, lifetime=timedelta(days=31))))
    assert record.issuer == "CN=Other"


def test_a_good_staple_refutes_a_revocation(record) -> None:
    leaf = pki.make_leaf(ROOT)
    record.learn(slot_of(leaf))
    record.revoked = "it is revoked"
    record.learn(stapled(leaf))
    assert record.revoked == ""


@pytest.mark.parametrize(
    ("leaf", "chain", "why"),
    [
        (pki.make_leaf(ROOT, ocsp_url="http://ocsp.test"), True, ""),
        (pki.make_leaf(ROOT, ocsp_url="http://ocsp.test"), False, NO_ISSUER),
        (pki.make_leaf(ROOT), True, NO_RESPONDER),
        (ROOT, True, SELF_SIGNED),
    ],
)
def test_why_no_staple_is_fetched(leaf: pki.Entity, chain: bool, why: str) -> None:
    assert why_skipped(pair_of(leaf, chain=chain)) == why


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (FILES, "files /a.pem"),
        (ACME, "www.test"),
        (INTERNAL, "internal a.test b.test"),
    ],
)
def test_names_for_people(source, name: str) -> None:
    assert name_of(source) == name
    assert Held(source).records[0].name == name


@pytest.mark.parametrize(
    ("source", "name", "fits"),
    [
        (FILES, "/a.pem", True),
        (FILES, "a.test", True),  # by the certificate
        (FILES, "/a.key", False),
        (ACME, "www.test", True),
        (ACME, "a.test", False),
        (INTERNAL, "b.test", True),
        (INTERNAL, "www.test", False),
    ],
)
def test_which_one_an_operator_means(source, name: str, fits: bool) -> None:
    [record] = Held(source).records
    record.names = ("a.test",)
    assert record.is_for(name) is fits


def test_a_source_has_a_record_for_each_pair() -> None:
    two = (*FILES, CertificateFiles(Path("/b.pem"), Path("/b.key")))
    assert [record.name for record in Held(two).records] == ["files /a.pem", "files /b.pem"]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://OCSP.test:8080/x", "ocsp.test:8080"),
        ("ldap:nothing", ""),
        ("http://[::1", "http://[::1"),
    ],
)
def test_whom_a_url_asks(url: str, host: str) -> None:
    assert host_of(url) == host
