from __future__ import annotations

import time

from cryptography import x509

from dwaarx.certs.record import Held
from dwaarx.certs.signals import Guard, Signals
from dwaarx.config.model import AcmeCertificate, AcmeSettings

WHY = x509.ReasonFlags.key_compromise


def record(name: str = "a.test", serial: int = 1):
    [made] = Held(AcmeCertificate(name, AcmeSettings(()))).records
    made.serial = serial
    return made


def test_in_their_order_and_once():
    signals = Signals()
    one, two = record(), record("b.test")
    signals.put(one, Guard.OCSP, "first", WHY)
    signals.put(two, Guard.ARI, "late", None)
    signals.put(one, Guard.OCSP, "again", None)
    signals.put(one, Guard.CRL, "listed", None)
    taken = list(signals.taken())
    assert [(each.record, each.guard, each.words) for each in taken] == [
        (one, Guard.OCSP, "first"),
        (two, Guard.ARI, "late"),
        (one, Guard.CRL, "listed"),
    ]
    assert [each.revokes for each in taken] == [True, False, True]
    assert taken[0].reason is WHY
    assert list(signals.taken()) == []
    signals.put(one, Guard.OCSP, "once more", None)
    assert [each.words for each in signals.taken()] == ["once more"]


def test_what_is_no_longer_in_use_is_not_heard():
    signals = Signals()
    dropped, replaced, kept = record(), record("b.test"), record("c.test")
    for each in (dropped, replaced, kept):
        signals.put(each, Guard.OCSP, "revoked", None)
    dropped.held.dropped = True
    replaced.serial = 2
    assert [each.record for each in signals.taken()] == [kept]


def test_what_comes_in_while_others_are_acted_on():
    signals = Signals()
    one, two = record(), record("b.test")
    signals.put(one, Guard.OCSP, "revoked", None)
    heard = []
    for signal in signals.taken():
        heard.append(signal.record)
        if signal.record is one:
            signals.put(two, Guard.OCSP, "revoked", None)
    assert heard == [one, two]


def test_a_whole_ca_at_once_takes_no_time():
    signals = Signals()
    records = [record(serial=serial) for serial in range(20_000)]
    began = time.process_time()
    for each in records:
        signals.put(each, Guard.CRL, "revoked", None)
    assert len(list(signals.taken())) == 20_000
    assert time.process_time() - began < 2  # each against each other would take minutes
