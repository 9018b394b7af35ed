from __future__ import annotations

import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest
from OpenSSL import SSL
from twisted.logger import LogLevel, capturedLogs, formatEvent

from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.ocsp import verify
from dwaarx.certs.pair import load_pair
from dwaarx.certs.store import RETRY_LOAD, ContextCache, Identity, Slot, Stapler, openssl_reason
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


def test_an_end_that_comes_sooner(identity, time):
    """Fetched too long ago, by then."""
    slot = identity.slots[0]
    until = NOW + timedelta(minutes=1)
    slot.put(slot.staple, None, until)
    assert slot.until == until
    time.now = until - timedelta(microseconds=1)
    assert handshake(identity)[1] is not None
    time.now = until
    assert handshake(identity)[1] is None
    slot.put(slot.staple, None, slot.staple.end + timedelta(days=1))
    assert slot.until == slot.staple.end
    slot.put(None, None, until)
    assert (slot.until, slot.valid_staple(NOW)) == (None, None)


# --- loading -----------------------------------------------------------------


class Disk:
    """Counts how often it is read; gives what it is told to."""

    def __init__(self, *slots: Slot) -> None:
        self.slots = slots
        self.reads = 0
        self.error: Exception | None = None

    def __call__(self) -> tuple[Slot, ...]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.slots


@pytest.fixture(scope="module")
def p256(tmp_path_factory) -> Slot:
    written = LEAVES["p256"].write(tmp_path_factory.mktemp("p256"), "p256")
    return Slot(load_pair(written.certificate, written.key))


@pytest.fixture
def disk(p256):
    return Disk(p256)


SOURCE = (CertificateFiles(Path("a.pem"), Path("a.key")),)


def test_loaded_at_the_first_handshake_only(disk, time):
    identity = Identity(SOURCE, disk, time, ContextCache(10))
    assert (identity.slots, disk.reads) == ((), 0)
    context = identity.context
    assert context is not None
    assert identity.context is context
    assert identity.slots == disk.slots
    assert (disk.reads, identity.unavailable) == (1, None)


def test_reading_holds_nothing(disk, time):
    cache = ContextCache(10)
    identity = Identity(SOURCE, disk, time, cache)
    assert identity.read() == disk.slots
    assert (disk.reads, len(cache), identity.slots) == (1, 0, ())
    assert identity.context is not None
    assert identity.read() == disk.slots
    assert disk.reads == 2  # what is served is not read again
    disk.error = cannot("a.pem")
    identity.discard()
    with pytest.raises(CertificateErrors, match=r"a\.pem: cannot be read"):
        identity.read()
    assert identity.unavailable is None


def cannot(path: str) -> CertificateErrors:
    return CertificateErrors([CertificateError(Path(path), "cannot be read")])


def unfit() -> SSL.Error:
    return SSL.Error([("x509", "", "key values mismatch"), ("SSL", "", "internal error")])


@pytest.mark.parametrize(
    ("error", "reason", "level"),
    [
        (cannot("a.pem"), "a.pem: cannot be read", LogLevel.warn),
        (unfit(), "OpenSSL does not take it: key values mismatch; internal error", LogLevel.warn),
        (None, "there is no certificate yet", None),
        (KeyError("x"), "the log says", LogLevel.critical),
    ],
)
def test_what_cannot_be_loaded_is_not_tried_all_the_time(disk, time, error, reason, level):
    slots = disk.slots
    disk.error, disk.slots = error, ()
    cache = ContextCache(10)
    identity = Identity(SOURCE, disk, time, cache)
    with capturedLogs() as logs:
        for step in (timedelta(0), RETRY_LOAD - timedelta(microseconds=1)):
            time.now = NOW + step
            assert identity.context is None
            assert disk.reads == 1
        time.now = NOW + RETRY_LOAD
        assert identity.context is None
    assert disk.reads == 2
    assert identity.unavailable.startswith(reason)
    assert identity.slots == ()
    assert len(cache) == 0
    # An error of ours each time, one of the disk once.
    times = {LogLevel.critical: 2, LogLevel.warn: 1, None: 0}
    told = [event["log_level"] for event in logs]
    assert told.count(level) == times[level]
    assert told.count(LogLevel.critical) == (2 if level is LogLevel.critical else 0)
    time.now = NOW  # the clock was set back
    assert identity.context is None
    assert disk.reads == 3
    disk.error, disk.slots = None, slots
    identity.available()
    assert identity.unavailable is None
    assert identity.context is not None
    assert (disk.reads, identity.unavailable) == (4, None)


def test_a_pair_that_does_not_fit_is_a_reason(disk, time, slot):
    p256, rsa = slot("p256").pair, slot("rsa2048").pair
    disk.slots = (Slot(type(p256)(p256.certificate, p256.chain, rsa.key)),)
    identity = Identity(SOURCE, disk, time, ContextCache(10))
    with capturedLogs() as logs:
        assert identity.context is None
    assert identity.unavailable.startswith("OpenSSL does not take it: ")
    assert [formatEvent(event) for event in logs] == [f"no handshake: {identity.unavailable}"]
    assert openssl_reason(SSL.Error()) == "OpenSSL does not take it: no reason given"


# --- replacing ---------------------------------------------------------------


def test_what_nobody_asks_for_is_not_made(disk, time, slot):
    cache = ContextCache(10)
    identity = Identity(SOURCE, disk, time, cache)
    disk.error = cannot("a.pem")
    assert identity.context is None
    renewed = slot("other")
    identity.replace([renewed])
    assert (identity.unavailable, identity.slots, len(cache)) == (None, (), 0)
    disk.error, disk.slots = None, (renewed,)
    assert handshake(identity)[0] == LEAVES["other"].certificate


def test_the_former_stays_if_the_new_does_not_fit(identity, slot):
    former, context = identity.slots, identity.context
    p256, rsa = former[0].pair, slot("rsa2048").pair
    with pytest.raises(SSL.Error):
        identity.replace([Slot(type(p256)(p256.certificate, p256.chain, rsa.key))])
    assert identity.slots == former
    assert identity.context is context


def test_eager(disk, time, p256):
    cache = ContextCache(1)
    identity = Identity(SOURCE, disk, time, cache)
    identity.replace([p256], eager=True)
    assert identity.slots == (p256,)
    assert identity.context is not None
    assert (disk.reads, len(cache)) == (0, 1)
    other = Identity(SOURCE, disk, time, cache)
    other.replace([p256], eager=True)  # there is no room: whoever has had handshakes stays
    assert (len(cache), other.slots, identity.slots) == (1, (), (p256,))


# --- the cache ---------------------------------------------------------------


@pytest.fixture
def cache():
    return ContextCache(3)


@pytest.fixture
def four(disk, time, cache):
    return [Identity(SOURCE, disk, time, cache) for _ in range(4)]


def held(identities: list[Identity]) -> list[int]:
    return [index for index, each in enumerate(identities) if each.slots]


def test_the_one_used_longest_ago_is_let_go(four, cache, disk):
    for each in four[:3]:
        assert each.context is not None
    assert four[0].context is not None
    assert four[3].context is not None
    assert held(four) == [0, 2, 3]
    assert len(cache) == 3
    assert disk.reads == 4
    assert four[1].context is not None
    assert held(four) == [0, 1, 3]


def test_maintenance_does_not_count_as_use(four, cache, slot):
    for each in four[:3]:
        assert each.context is not None
    four[0].read()
    assert four[0].slots
    four[0].replace([slot("other")])
    four[0].available()
    four[3].read()
    assert held(four) == [0, 1, 2]
    assert four[3].context is not None
    assert held(four) == [1, 2, 3]


def test_an_eager_one_goes_first(four, cache, p256):
    cache.set_limit(2)
    assert four[0].context is not None
    four[1].replace([p256], eager=True)
    assert held(four) == [0, 1]
    assert four[2].context is not None
    assert held(four) == [0, 2]


def test_pinned_ones_stay_and_are_not_counted(four, cache, p256):
    cache.set_limit(1)
    four[0].pinned = True
    four[0].replace([p256])
    assert four[1].context is not None
    four[1].pinned = True
    assert four[2].context is not None
    assert four[3].context is not None
    assert four[0].context is not None
    assert (held(four), len(cache)) == ([0, 1, 3], 1)
    assert four[1].pinned
    four[1].pinned = False
    assert held(four) == [0, 1]
    four[2].pinned = True
    assert four[2].context is not None
    assert held(four) == [0, 1, 2]
    four[2].discard()
    four[2].pinned = False
    assert (held(four), len(cache)) == ([0, 1], 1)


def test_a_smaller_limit_holds_at_once(four, cache):
    for each in four[:3]:
        assert each.context is not None
    cache.set_limit(1)
    assert held(four) == [2]
    cache.set_limit(0)
    assert held(four) == []
    assert four[0].context is not None  # for this one handshake
    assert (held(four), len(cache)) == ([], 0)


def test_what_is_let_go_amid_a_handshake_is_stapled_all_the_same(slot, time):
    one = slot("p256")
    identity = Identity(SOURCE, lambda: [one], time, ContextCache(0))
    certificate, staple, _ = handshake(identity)
    assert certificate == LEAVES["p256"].certificate
    assert staple == der(one)


def test_discarded(four, cache, disk):
    assert four[0].context is not None
    four[0].discard()
    assert (held(four), len(cache)) == ([], 0)
    assert four[0].context is not None
    assert disk.reads == 2


def test_a_hundred_thousand_are_small(disk, time):
    cache = ContextCache(10)
    Identity(SOURCE, disk, time, cache)
    tracemalloc.start()
    try:
        many = [Identity(SOURCE, disk, time, cache) for _ in range(1000)]
        assert tracemalloc.get_traced_memory()[0] / len(many) < 200
    finally:
        tracemalloc.stop()
