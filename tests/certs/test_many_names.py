"""The store with many names: who costs the disk what, and who waits for whom."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock

from dwaarx.certs import manager as manager_module
from dwaarx.certs.acme.issuer import Issuer
from dwaarx.certs.manager import READS_PER_TICK, TICK, CertificateManager
from dwaarx.certs.pair import load_pair
from dwaarx.certs.storage import Storage
from dwaarx.certs.store import RETRY_LOAD, Slot
from dwaarx.config.model import AcmeCa, AcmeCertificate, AcmeSettings, OcspOptions
from dwaarx.tls.listener import Endpoint, Listener
from tests.certs import pki
from tests.tls.recorder import Recorder

CA = pki.make_ca()
SETTINGS = AcmeSettings((AcmeCa("https://ca.test/directory"),))
NAMES = [f"host{number}.test" for number in range(30)]
MISSING = "missing.test"
# Made by one key, for keys take time.
KEY = pki.make_key()
LEAVES = {name: pki.make_leaf(CA, [name], key=KEY) for name in NAMES}
SOURCES = {name: AcmeCertificate(name, SETTINGS) for name in (*NAMES, MISSING)}


class Idle(Issuer):
    """Obtains nothing."""

    def obtain(self, *_: object) -> Deferred[object]:
        return Deferred()

    def stop(self) -> Deferred[None]:
        return succeed(None)


class Opened:
    """Which files below a folder the process opens and which folders it reads, while `on`."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.names: list[str] = []
        sys.addaudithook(self._heard)  # for the life of the process

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder is not None and event in ("open", "os.listdir", "os.scandir"):
            path = str(arguments[0])
            # open() with an opener is heard a second time, from within, without a mode.
            again = event == "open" and arguments[1] is None and self.names[-1:] == [path]
            if path.startswith(str(self.folder)) and not again:
                self.names.append(path)

    def taken(self) -> list[str]:
        names, self.names = self.names, []
        return names


OPENED = Opened()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    OPENED.folder = tmp_path
    OPENED.taken()
    yield OPENED
    OPENED.folder = None


class World:
    def __init__(self, folder: Path) -> None:
        self.clock = MemoryReactorClock()
        storage = Storage(folder)
        for name, leaf in LEAVES.items():
            data = leaf.key_pem + pki.pem_of(leaf.chain)
            storage.write(f"certificates/{name}.pem", data)
        self.start = pki.utc_now()
        self.manager = CertificateManager(
            storage, self.clock, self.now, issuer=Idle(storage, None, None)
        )
        self.listener = Listener(Recorder, self.clock)

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.clock.seconds())

    def serve(self, *names: str) -> None:
        identities = self.manager.acquire(SOURCES[name] for name in names)
        self.listener.set_endpoints(
            (name, Endpoint(identities[SOURCES[name]], (b"h2",))) for name in names
        )

    def shake(self, name: str | None) -> bool:
        """Do what a handshake does with the name that the client sent; whether it goes on."""
        endpoint, _ = self.listener.endpoint(name)
        return endpoint.certificate.context is not None

    def held(self) -> set[str]:
        """The names whose contexts are held."""
        identities = self.manager.acquire(SOURCES[name] for name in (*NAMES, MISSING))
        return {source.name for source, identity in identities.items() if identity.slots}


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read while it is acquired, as with those after the first two hundred."""
    monkeypatch.setattr(manager_module, "READ_AT_ONCE", 0)


@pytest.fixture
def world(tmp_path: Path, unread: None) -> World:
    return World(tmp_path)


def test_unknown_names_cost_no_disk_access(world: World, opened: Opened) -> None:
    world.serve(*NAMES)
    assert world.shake(NAMES[0])
    assert opened.taken() != []
    for number in range(1000):
        assert world.shake(f"nobody{number}.test")  # by the first site's
    assert world.shake(None)
    assert opened.taken() == []
    assert world.held() == {NAMES[0]}


def test_unknown_names_of_a_default_that_has_no_certificate(world: World, opened: Opened) -> None:
    """All of them together look for it once in a while, not each of them."""
    world.serve(MISSING, *NAMES)
    for number in range(1000):
        assert not world.shake(f"nobody{number}.test")
    missing = str(world.manager.overlay.storage.path(f"certificates/{MISSING}.pem"))
    assert opened.taken() == [missing]
    world.clock.advance(RETRY_LOAD.total_seconds() - 1)
    assert not world.shake("nobody.test")
    assert opened.taken() == []
    world.clock.advance(1)
    for _ in range(1000):
        assert not world.shake(MISSING)
    assert opened.taken() == [missing]


def test_a_warm_name_costs_no_disk_access_either(world: World, opened: Opened) -> None:
    world.serve(*NAMES)
    assert all(world.shake(name) for name in NAMES)
    assert len(opened.taken()) >= len(NAMES)
    assert all(world.shake(name) for name in NAMES)
    assert opened.taken() == []


def test_the_bound_holds_and_maintenance_does_not_disturb_the_order(world: World) -> None:
    world.manager.configure(OcspOptions(), 10, http=False)
    world.serve(*NAMES)
    for name in NAMES[:20]:
        assert world.shake(name)
    assert world.held() == set(NAMES[10:20])
    world.manager.startService()
    for _ in range(10):
        world.clock.advance(TICK)  # all are read
    assert sum(bool(each.serial) for each in world.manager.status()) == len(NAMES)
    world.manager.reload()
    assert world.held() == set(NAMES[10:20])
    assert world.shake(NAMES[20])
    assert world.held() == set(NAMES[11:21])
    world.manager.stopService()


def test_reading_lets_others_have_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake waits for one certificate, not for all of an interval."""
    seen: list[str] = []
    read = CertificateManager._read

    def noted(manager: CertificateManager, held: object) -> None:
        seen.append("read")
        read(manager, held)

    def other(turns: int) -> None:
        seen.append("other")
        if turns:
            world.clock.callLater(0, other, turns - 1)

    monkeypatch.setattr(CertificateManager, "_read", noted)
    world.serve(*NAMES)
    world.clock.callLater(TICK, other, 50)
    world.manager.startService()
    del seen[:]  # the start itself is one interval
    world.clock.advance(TICK)
    text = " ".join(seen)
    assert "read other read" in text
    assert seen.count("read") > 2
    assert "read read read" not in text
    for _ in range(len(NAMES) // READS_PER_TICK):
        world.clock.advance(TICK)
    assert all(each.serial for each in world.manager.status())
    before = len(seen)
    world.manager.stopService()
    world.clock.advance(TICK)
    assert len(seen) == before


def test_nothing_is_read_after_the_stop(world: World, opened: Opened) -> None:
    world.serve(*NAMES)
    world.manager.startService()
    world.manager.stopService()
    opened.taken()
    world.clock.advance(10 * TICK)
    assert opened.taken() == []


def test_names_are_shown_as_the_certificate_has_them(world: World, tmp_path: Path) -> None:
    """Though those that the source says are not held twice."""
    both = ["a.test", "b.test"]
    leaf = pki.make_leaf(CA, both, key=KEY)
    world.manager.overlay.storage.write(
        "certificates/a.test.pem", leaf.key_pem + pki.pem_of(leaf.chain)
    )
    world.manager.acquire([AcmeCertificate("a.test", SETTINGS), SOURCES[NAMES[0]]])
    world.manager.startService()
    world.clock.advance(TICK)
    assert [each.names for each in world.manager.status()] == [tuple(both), (NAMES[0],)]
    world.manager.stopService()


def test_what_is_served_shares_its_chain(tmp_path: Path) -> None:
    pairs = []
    for name in NAMES[:2]:
        written = LEAVES[name].write(tmp_path, name)
        pairs.append(load_pair(written.certificate, written.key))
    first, second = (pair.lean() for pair in pairs)
    assert [first, second] == pairs
    assert first.names == (NAMES[0],)
    assert pairs[0].chain[0] is not pairs[1].chain[0]
    assert first.chain[0] is second.chain[0]


def test_what_is_served_is_lean(world: World) -> None:
    """What was worked out of a certificate when it was read is not kept for each."""
    identity = world.manager.acquire([SOURCES[NAMES[0]]])[SOURCES[NAMES[0]]]
    pair = load_pair(*_written(world, NAMES[0]))
    slot = Slot(pair)
    identity.replace([slot], eager=True)
    assert identity.slots == (slot,)
    assert slot.pair == pair
    assert slot.pair.certificate is not pair.certificate
    assert slot.pair.key is pair.key


def test_what_is_let_go_is_freed_at_once(world: World) -> None:
    """Not when Python looks for circles: there would be thousands of them by then."""
    identity = world.manager.acquire([SOURCES[NAMES[0]]])[SOURCES[NAMES[0]]]
    gc.collect()
    gc.disable()
    try:
        assert identity.context is not None
        pair = weakref.ref(identity.slots[0].pair)
        assert pair() is not None
        identity.discard()
        assert pair() is None
    finally:
        gc.enable()


def _written(world: World, name: str) -> tuple[Path, Path]:
    path = world.manager.overlay.storage.path(f"certificates/{name}.pem")
    return path, path
