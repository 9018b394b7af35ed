from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.application.service import IService, IServiceMaker
from twisted.internet import reactor as installed_reactor
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError

from dwaarx import __version__, tap
from dwaarx.config import load
from dwaarx.reactor import Reactor
from dwaarx.tap import DwaarxService, Options, StartError, makeService
from tests.system.processes import free_port
from tests.test_frontend import Reactor as MemoryReactor


class QueueingReactor(MemoryReactor):
    """Runs what signal handlers ask for only when it is told to, as a reactor does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Callable[[], object]] = []

    def callFromThread(self, f: Callable[[], object], *args: Any, **kwargs: Any) -> None:
        self.asked.append(f)

    def turn(self) -> None:
        asked, self.asked = self.asked, []
        for call in asked:
            call()


@pytest.fixture
def reactor() -> QueueingReactor:
    return QueueingReactor()


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """The signal handlers that were set, in place of the process's own."""
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(tap.signal, "signal", handlers.__setitem__)
    return handlers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, "hello")


def write(folder: Path, text: str) -> Path:
    file = folder / "Dwaarfile"
    head = f"{{\n storage {folder}/storage\n http_port 0\n bind 127.0.0.1\n console off\n}}\n"
    file.write_text(f"{head}http://a.test:{free_port()} {{\n respond {text}\n}}\n")
    return file


@pytest.fixture
def service(
    reactor: QueueingReactor, file: Path, handlers: dict[int, Any]
) -> Iterator[DwaarxService]:
    service = DwaarxService(load(file), cast("Reactor", reactor))
    service.privilegedStartService()
    service.startService()
    yield service
    if service.running:
        service.stopService()
        reactor.pump([0.1] * 3)


@pytest.fixture
def told() -> Iterator[list[str]]:
    told: list[str] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "dwaarx.tap":
            level = cast("Any", event["log_level"])
            assert level in (LogLevel.info, LogLevel.error)
            told.append(f"{level.name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield told
    globalLogPublisher.removeObserver(observe)


def options(*words: str, **twistd: object) -> Options:
    options = Options()
    options.parent = cast("Any", twistd)
    options.parseOptions(words)
    return options


def test_debug_is_logged_only_when_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(tap, "show_debug", lambda: asked.append(True))
    makeService(options("--config", str(file)))
    assert not asked
    makeService(options("--config", str(file), "--debug"))
    assert asked


# --- the command line -----------------------------------------------------------


def test_twistd_finds_it() -> None:
    (plugin,) = (each for each in getPlugins(IServiceMaker) if each.tapname == "dwaarx")
    assert plugin.options is Options
    assert plugin.makeService is makeService


def test_options() -> None:
    assert options()["config"] is None
    assert options("--config", "x")["config"] == "x"
    assert options("-c", "x")["config"] == "x"
    with pytest.raises(UsageError):
        options("--confg", "x")


def test_version() -> None:
    with pytest.raises(SystemExit, match=f"dwaarx {__version__}"):
        options("--version")


def test_the_service_reads_the_same_file_from_any_folder(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    for words in ((), ("--config", "Dwaarfile")):
        service = makeService(options(*words, uid=None, gid=None))
        assert IService.providedBy(service)
        assert isinstance(service, DwaarxService)
        assert service.frontend.config.file == str(file)
    assert service._reactor is installed_reactor


def test_what_is_wrong_with_the_dwaarfile_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "Dwaarfile"
    file.write_text("localhost {\n respnd x\n}\n")
    with pytest.raises(SystemExit) as caught:
        makeService(options("--config", str(file)))
    assert str(caught.value).startswith(f"dwaarx: {file}:2:2: ")
    assert "\n" not in str(caught.value)


def test_a_dwaarfile_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="none"):
        makeService(options("--config", str(tmp_path / "none")))


@pytest.mark.parametrize("twistd", [{"uid": 65534}, {"gid": 0}])
def test_privileges_cannot_be_given_up_later(file: Path, twistd: dict[str, int]) -> None:
    with pytest.raises(SystemExit, match="start it as that user"):
        makeService(options("--config", str(file), **twistd))


# --- the start ------------------------------------------------------------------


def test_the_start_fails_with_the_reason(tmp_path: Path, reactor: QueueingReactor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        file = write(tmp_path, "x")
        file.write_text(file.read_text().rpartition("http:")[0] + f"http://a.test:{port} {{\n}}\n")
        service = DwaarxService(load(file), cast("Reactor", reactor))
        with pytest.raises(StartError, match=f"^dwaarx: cannot listen on 127.0.0.1:{port}: "):
            service.privilegedStartService()


def test_a_console_that_cannot_be_opened_ends_the_start(
    file: Path, reactor: QueueingReactor
) -> None:
    file.write_text(file.read_text().replace(" console off\n", ""))
    (file.parent / "storage").mkdir()
    (file.parent / "storage" / "console.sock").touch()
    service = DwaarxService(load(file), cast("Reactor", reactor))
    service.privilegedStartService()
    with pytest.raises(StartError, match=r"console\.sock: is no socket"):
        service.startService()


def test_twistd_hears_of_a_failed_start() -> None:
    # twistd takes its pidfile back, and tells the parent process, for an Exception only.
    assert issubclass(StartError, Exception)
    assert issubclass(StartError, SystemExit)


# --- signals --------------------------------------------------------------------


def call(handlers: dict[int, Any], number: int) -> None:
    handlers[number](number, None)


def test_sighup_reads_the_dwaarfile_again(
    service: DwaarxService,
    reactor: QueueingReactor,
    handlers: dict[int, Any],
    file: Path,
    told: list[str],
) -> None:
    before = service.frontend.config
    write(file.parent, "other")
    call(handlers, signal.SIGHUP)
    assert service.frontend.config is before  # not within the signal's handler
    reactor.turn()
    assert service.frontend.config is not before
    (line,) = told
    assert line.startswith(f"info: reloaded {file}: 1 site, 1 listener, now listening on 127.0.0.1")


def test_a_storm_of_sighups_is_one_reload_a_turn(
    service: DwaarxService, reactor: QueueingReactor, handlers: dict[int, Any], told: list[str]
) -> None:
    for _ in range(100):
        call(handlers, signal.SIGHUP)
    reactor.turn()
    assert len(told) == 1
    call(handlers, signal.SIGHUP)
    reactor.turn()
    assert len(told) == 2


def test_a_refused_reload_is_told_and_the_next_one_works(
    service: DwaarxService,
    reactor: QueueingReactor,
    handlers: dict[int, Any],
    file: Path,
    told: list[str],
) -> None:
    good = file.read_text()
    file.write_text(good + "x {\n nonsense\n}\n")
    call(handlers, signal.SIGHUP)
    reactor.turn()
    assert told[0].startswith("error: reload refused, nothing has changed: ")
    assert f"{file}:11:2: `nonsense`" in told[0]
    file.write_text(good)
    call(handlers, signal.SIGHUP)
    reactor.turn()
    assert told[1] == f"info: reloaded {file}: 1 site, 1 listener"


def test_while_it_stops_sighup_is_ignored_and_a_second_sigterm_hurries(
    service: DwaarxService,
    reactor: QueueingReactor,
    handlers: dict[int, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurried: list[bool] = []
    monkeypatch.setattr(service.frontend, "hurry", lambda: hurried.append(True))
    stopping = service.stopService()
    assert handlers[signal.SIGHUP] is signal.SIG_IGN
    for number in (signal.SIGTERM, signal.SIGINT):
        call(handlers, number)
        reactor.turn()
    assert hurried == [True, True]
    reactor.pump([0.1] * 3)
    assert stopping.called
