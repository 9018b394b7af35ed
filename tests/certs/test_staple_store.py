from __future__ import annotations

import os
from datetime import timedelta

import pytest
from twisted.logger import LogLevel, capturedLogs, formatEvent

from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.staple_store import KEPT, StapleStore, verified
from dwaarx.certs.storage import Storage
from tests.certs import pki

NOW = pki.utc_now()
ROOT = pki.make_ca("Root")
LEAF = pki.make_leaf(ROOT)
PAIR = KeyPair(LEAF.certificate, (ROOT.certificate,), LEAF.key)
ALONE = KeyPair(LEAF.certificate, (), LEAF.key)
GOOD = pki.make_response(LEAF)
STAPLE = verified(GOOD, PAIR, NOW)
DAY = 86400.0


class Now:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self):
        return self.time


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


@pytest.fixture
def store(storage, now):
    return StapleStore(Overlay(storage), now)


def only(storage):
    [path] = (storage.root / "ocsp").iterdir()
    return path


def refused(store) -> OcspError:
    with pytest.raises(OcspError) as caught:
        store.load(PAIR)
    return caught.value


def test_what_is_saved_is_found(store, storage, now):
    store.save(PAIR, STAPLE)
    now.time += timedelta(hours=1)
    fetched = store.load(PAIR)
    assert fetched.staple.der == GOOD
    assert fetched.at == NOW
    assert fetched.until(3600.0) == now.time
    assert fetched.until(30 * DAY) == STAPLE.end
    assert only(storage).stat().st_mode & 0o777 == 0o644


def test_there_is_none_of_another(store):
    store.save(PAIR, STAPLE)
    other = pki.make_leaf(ROOT)
    with pytest.raises(OcspError, match="no response was fetched yet") as caught:
        store.load(KeyPair(other.certificate, (ROOT.certificate,), other.key))
    assert caught.value.kind is Refusal.NONE


def test_what_is_forgotten_is_gone(store):
    store.save(PAIR, STAPLE)
    store.forget(LEAF.certificate)
    store.forget(LEAF.certificate)
    assert refused(store).kind is Refusal.NONE


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Refusal.MALFORMED),
        (GOOD[:-1], Refusal.MALFORMED),
        (bytes(70000), Refusal.MALFORMED),
        (pki.make_response(pki.make_leaf(ROOT)), Refusal.MISMATCH),
        (pki.make_response(LEAF, key=pki.make_key()), Refusal.SIGNATURE),
        (pki.make_response(LEAF, status="revoked"), Refusal.REVOKED),
        (pki.make_response(LEAF, status="unknown"), Refusal.UNKNOWN),
        (pki.make_response(LEAF, this_update=NOW + timedelta(hours=1)), Refusal.NOT_YET),
        (
            pki.make_response(
                LEAF, this_update=NOW - timedelta(hours=1), validity=timedelta(minutes=58)
            ),
            Refusal.EXPIRED,  # though verification forgives five minutes
        ),
    ],
    # The data is another in each process, and so no name for a test.
    ids=lambda value: value.name.lower() if isinstance(value, Refusal) else "",
)
def test_a_file_is_believed_no_more_than_a_responder(store, storage, data, kind):
    store.save(PAIR, STAPLE)
    only(storage).write_bytes(data)
    error = refused(store)
    assert error.kind is kind
    assert str(only(storage)) in error.reason


def test_a_file_that_cannot_be_read(store, storage):
    store.save(PAIR, STAPLE)
    path = only(storage)
    path.unlink()
    path.mkdir()
    error = refused(store)
    assert error.kind is Refusal.UNREADABLE
    assert error.reason == f"{path}: cannot be read: Is a directory"


def test_without_the_issuer_nothing_is_verified(store):
    store.save(PAIR, STAPLE)
    with pytest.raises(OcspError) as caught:
        store.load(ALONE)
    assert caught.value.kind is Refusal.NO_ISSUER


@pytest.mark.parametrize("at", [2.0**33, 9e11])
def test_a_file_of_the_future_is_as_new_as_can_be(store, storage, at):
    store.save(PAIR, STAPLE)
    os.utime(only(storage), (at, at))
    assert store.load(PAIR).at == NOW


@pytest.mark.parametrize("at", [0.0, -1e9, -1e11])
def test_a_file_from_before_all_times_is_old(store, storage, at):
    store.save(PAIR, STAPLE)
    os.utime(only(storage), (at, at))
    assert store.load(PAIR).at.year == 1970


# --- sweeping ---------------------------------------------------------------


def sweep(store, max_age=7 * DAY) -> int:
    return sum(1 for _ in store.sweep(lambda: max_age))


def test_nothing_to_sweep(store):
    assert sweep(store) == 0


def test_what_is_old_goes_one_by_one(store, storage, now):
    store.save(PAIR, STAPLE)
    now.time += timedelta(seconds=7 * DAY + KEPT - 10)
    assert sweep(store) == 1
    assert only(storage).exists()
    now.time += timedelta(seconds=20)
    assert sweep(store, 8 * DAY) == 1  # with a larger max_age it could still be wanted
    sweeping = store.sweep(lambda: 7 * DAY)
    next(sweeping)
    assert only(storage).exists()
    assert list(sweeping) == []
    assert list((storage.root / "ocsp").iterdir()) == []


def test_what_is_not_ours_stays(store, storage, now):
    folder = storage.root / "ocsp"
    folder.mkdir()
    for name in ("README", "a.der", f"{'A' * 64}.der", f"{'a' * 64}.der.bak"):
        (folder / name).write_bytes(b"")
    now.time += timedelta(days=1000)
    assert sweep(store) == 4
    assert len(list(folder.iterdir())) == 4


def test_a_folder_that_cannot_be_swept_is_told(store, storage):
    (storage.root / "ocsp").write_bytes(b"")
    with capturedLogs() as logs:
        assert sweep(store) == 0
    [event] = logs
    assert event["log_level"] is LogLevel.warn
    assert formatEvent(event) == f"{storage.root / 'ocsp'} cannot be swept: Not a directory"
