from __future__ import annotations

from datetime import timedelta

import pytest

from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.ocsp import verify
from dwaarx.certs.pair import load_pair
from dwaarx.certs.store import RETRY_LOAD, ContextCache, Identity, Slot, Stapler
from dwaarx.config.model import CertificateFiles
from tests.certs import pki
from tests.certs.handshakes import begin, handshake, pump, server_connection

ECDSA, RSA = b"ECDHE-ECDSA-AES128-GCM-SHA256", b"ECDHE-RSA-AES128-GCM-SHA256"
NOW = pki.utc_now()
ROOT = pki.make_ca("Root")
INTERMEDIATE = pki.make_ca("Intermediate", ROOT)
NAMES = ["a.test", "b.test"]
LEAVES = {
    "p256": pki.make_leaf(INTERMEDIATE, NAMES),
    "rsa2048": pki.make_leaf(ROOT, ["b.test", "c.test"], key_type="rsa2048"),
    "other": pki.make_leaf(INTERMEDIATE, NAMES),
}


class Time:
    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def slot(tmp_path):
    def make(which: str) -> Slot:
        leaf = LEAVES[which]
        written = leaf.write(tmp_path, which)
        pair = load_pair(written.certificate, written.key)
        response = pki.make_response(leaf)
        return Slot(
            pair, verify(response, leaf.certificate, leaf.issuer.certificate, pki.utc_now())
        )

    return make


@pytest.fixture
def identity(slot, time, tmp_path):
    source = (CertificateFiles(tmp_path / "p256.pem", tmp_path / "p256.key"),)
    identity = Identity(source, lambda: [slot("p256")], time, ContextCache(10))
    assert identity.context is not None
    return identity


def der(slot: Slot) -> bytes:
    assert slot.staple is not None
    return slot.staple.der


def test_certificate_chain_and_staple(identity):
    leaf = LEAVES["p256"]
    certificate, staple, chain = handshake(identity)
    assert certificate == leaf.certificate
    assert tuple(chain) == leaf.chain
    assert staple == der(identity.slots[0])


def test_a_client_that_does_not_ask_gets_no_staple(identity):
    _, staple, _ = handshake(identity, ask=False)
    assert staple is None


def test_no_staple(identity):
    identity.slots[0].put(None, OcspError(Refusal.NONE, "none"))
    certificate, staple, _ = handshake(identity)
    assert certificate == LEAVES["p256"].certificate
    assert staple is None


def test_never_past_its_end(identity, time):
    end = identity.slots[0].staple.end
    time.now = end - timedelta(microseconds=1)
    assert handshake(identity)[1] is not None
    time.now = end
    assert handshake(identity)[1] is None


def test_a_new_staple_keeps_the_context(identity):
    context = identity.context
    leaf = LEAVES["p256"]
    response = pki.make_response(leaf)
    staple = verify(response, leaf.certificate, leaf.issuer.certificate, NOW)
    identity.slots[0].put(staple)
    assert handshake(identity)[1] == response
    assert identity.context is context


def test_a_renewed_certificate_is_a_new_context(identity, slot):
    context = identity.context
    handshake(identity)
    identity.replace([slot("other")])
    assert identity.context is not context
    certificate, staple, _ = handshake(identity)
    assert certificate == LEAVES["other"].certificate
    assert staple == der(identity.slots[0])


def test_two_types_of_keys_each_with_its_staple(identity, slot):
    both = [slot("rsa2048"), slot("p256")]
    identity.replace(both)
    for ciphers, which, its_slot in ((ECDSA, "p256", both[1]), (RSA, "rsa2048", both[0])):
        certificate, staple, chain = handshake(identity, ciphers)
        assert certificate == LEAVES[which].certificate
        assert tuple(chain) == LEAVES[which].chain
        assert staple == der(its_slot)
    both[1].put(None)
    assert handshake(identity, ECDSA)[1] is None
    assert handshake(identity, RSA)[1] == der(both[0])


def test_a_handshake_begun_before_a_renewal_gets_what_belongs_together(identity, slot):
    """The context is chosen, then swapped, then the staple is asked for."""
    client, staples = begin()
    server = server_connection(identity)
    old = identity.slots[0]
    chosen = identity.context
    server.get_app_data().choose = lambda _: chosen
    identity.replace([slot("other")])
    pump(client, server)
    assert client.get_peer_certificate(as_cryptography=True) == old.pair.certificate
    assert staples == [der(old)]


def test_the_look_up_cannot_fail(slot):
    class Nothing:
        def get_certificate(self, *, as_cryptography):
            return None

    one = slot("p256")
    assert Stapler([one], pki.utc_now).staple(Nothing()) == der(one)  # one pair: not even asked
    assert Stapler([one, slot("rsa2048")], pki.utc_now).staple(Nothing()) == b""
