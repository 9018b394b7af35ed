from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher

from dwaarx.config.model import (
    Address,
    Config,
    Console,
    ConsoleOff,
    ConsoleSsh,
    ConsoleUnix,
)
from dwaarx.console import switch
from dwaarx.console.errors import ConsoleError
from dwaarx.console.switch import ConsoleSwitch

SSH = ConsoleSsh(Address("127.0.0.1", 5199), Path("/keys"))


class Fake(Service):
    """A console that notes its life, and fails to start on demand."""

    def __init__(self, config: Console) -> None:
        self.config = config
        self.fails = False
        self.stopping: Deferred[None] | None = None

    def startService(self) -> None:
        if self.fails:
            raise ConsoleError("cannot listen")
        Service.startService(self)

    def stopService(self) -> Deferred[None] | None:
        Service.stopService(self)
        return self.stopping


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Fake] = []
        self.refused = False
        self.fails = False
        self.logged: list[str] = []
        monkeypatch.setattr(switch, "console_service", self.make)
        self.switch = ConsoleSwitch({}, MemoryReactorClock())

    def make(self, config: Console, *rest: object) -> Fake:
        if self.refused:
            raise ConsoleError("no usable key")
        self.made.append(Fake(config))
        self.made[-1].fails = self.fails
        return self.made[-1]

    def prepare(self, console: Console) -> None:
        self.switch.prepare(Config("Dwaarfile", (), (), Path("/storage"), console=console))

    def running(self) -> list[Console]:
        return [fake.config for fake in self.made if fake.running]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch)

    def observe(event: dict[str, object]) -> None:
        if event.get("log_namespace") == "dwaarx.console.switch":
            bench.logged.append(str(event["error"]))

    globalLogPublisher.addObserver(observe)
    bench.prepare(ConsoleUnix())
    bench.switch.change()
    assert bench.running() == []  # the service has not been started yet
    bench.switch.open()
    assert bench.running() == [ConsoleUnix()]
    yield bench
    globalLogPublisher.removeObserver(observe)


def test_an_unchanged_console_is_left_alone(bench: Bench) -> None:
    bench.prepare(ConsoleUnix())
    bench.switch.change()
    assert len(bench.made) == 1
    assert bench.running() == [ConsoleUnix()]


@pytest.mark.parametrize("console", [SSH, ConsoleOff()])
def test_a_change(bench: Bench, console: Console) -> None:
    bench.prepare(console)
    bench.switch.change()
    assert bench.running() == [console]


def test_what_cannot_be_made_refuses_the_reload(bench: Bench) -> None:
    bench.refused = True
    with pytest.raises(ConsoleError, match="no usable key"):
        bench.prepare(SSH)
    assert bench.running() == [ConsoleUnix()]


def test_what_cannot_listen_leaves_the_present_one(bench: Bench) -> None:
    bench.fails = True
    with pytest.raises(ConsoleError, match="cannot listen"):
        bench.prepare(SSH)
    bench.switch.abandon()
    assert bench.running() == [ConsoleUnix()]
    bench.fails = False
    # The next Dwaarfile may try again.
    bench.prepare(SSH)
    bench.switch.change()
    assert bench.running() == [SSH]


def test_a_reload_that_failed_later_is_forgotten(bench: Bench) -> None:
    bench.prepare(SSH)
    assert bench.running() == [ConsoleUnix(), SSH]
    bench.switch.abandon()
    assert bench.running() == [ConsoleUnix()]
    bench.prepare(ConsoleUnix())
    bench.switch.change()
    assert bench.running() == [ConsoleUnix()]


def test_one_address_is_given_up_before_it_is_taken(bench: Bench) -> None:
    bench.prepare(SSH)
    bench.switch.change()
    other = ConsoleSsh(SSH.address, Path("/other"))
    former = bench.made[-1]
    former.stopping = Deferred()
    bench.prepare(other)
    bench.switch.change()
    assert bench.running() == []
    former.stopping.callback(None)
    assert bench.running() == [other]


def test_an_address_that_was_given_up_in_vain(bench: Bench) -> None:
    bench.prepare(SSH)
    bench.switch.change()
    bench.prepare(ConsoleSsh(SSH.address, Path("/other")))
    bench.made[-1].fails = True
    bench.switch.change()
    assert bench.running() == []
    assert bench.logged == ["cannot listen"]
    # The next Dwaarfile may try again.
    bench.prepare(SSH)
    bench.switch.change()
    assert bench.running() == [SSH]


def test_a_close_while_an_address_is_being_given_up(bench: Bench) -> None:
    bench.prepare(SSH)
    bench.switch.change()
    former = bench.made[-1]
    former.stopping = Deferred()
    bench.prepare(ConsoleSsh(SSH.address, Path("/other")))
    bench.switch.change()
    bench.switch.close()
    former.stopping.callback(None)
    assert bench.running() == []


def test_close(bench: Bench) -> None:
    assert bench.switch.close().called
    assert bench.running() == []
    assert bench.switch.close().called


def test_the_start_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.prepare(SSH)
    bench.made[-1].fails = True
    with pytest.raises(ConsoleError, match="cannot listen"):
        bench.switch.open()
    assert bench.running() == []
