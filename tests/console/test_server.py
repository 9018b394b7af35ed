import json
import os
import socket
import stat
from pathlib import Path

import pytest

from dwaarx.config.model import ConsoleOff, ConsoleUnix
from dwaarx.console.errors import ConsoleError
from dwaarx.console.server import console_service

from .running import PATIENCE

UNIX = ConsoleUnix()


@pytest.fixture
def start(running, tmp_path):
    started = []

    def start(config=UNIX, namespace=None, storage=tmp_path / "storage"):
        service = console_service(config, storage, namespace or {}, running.reactor)
        running.call(service.startService)
        started.append(service)
        return service

    yield start
    for service in started:
        if service.running:
            running.call(service.stopService)


def ask(path, expression):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(json.dumps({"mode": "eval", "expression": expression}).encode() + b"\n")
        with connection.makefile("rb") as answers:
            return json.loads(answers.read())


def test_it_answers_on_a_socket_that_only_its_owner_may_open(start, running, tmp_path):
    service = start(namespace={"f": lambda: 7})
    path = tmp_path / "storage" / "console.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert ask(path, "f()")["result"] == "7"
    running.call(service.stopService)
    assert not path.exists()


def test_the_socket_is_born_with_its_mode(start, monkeypatch):
    modes = []
    chmod = os.chmod

    def seen(path, mode):
        modes.append((stat.S_IMODE(Path(os.fsdecode(path)).stat().st_mode), mode))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", seen)
    before = os.umask(0)
    try:
        start()
    finally:
        left = os.umask(before)
    assert modes == [(0o600, 0o600)]
    assert left == 0


def test_the_socket_of_a_dead_process_is_replaced(start, tmp_path):
    path = tmp_path / "storage" / "console.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    start()
    assert ask(path, "1")["ok"]


def test_the_socket_of_a_living_process_stays(start, tmp_path):
    start(namespace={"who": "first"})
    with pytest.raises(ConsoleError, match="another dwaarx runs with this storage"):
        start(namespace={"who": "second"})
    assert ask(tmp_path / "storage" / "console.sock", "who")["result"] == "'first'"


def test_what_is_no_socket_is_left_alone(start, tmp_path):
    path = tmp_path / "storage" / "console.sock"
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(ConsoleError, match="is no socket"):
        start()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_in_which_others_may_put_a_socket_is_refused(start, tmp_path, mode):
    storage = tmp_path / "storage"
    storage.mkdir()
    storage.chmod(mode)
    with pytest.raises(ConsoleError, match="others than its owner may write there"):
        start()
    assert list(storage.iterdir()) == []


def test_a_folder_that_others_may_only_read_will_do(start, tmp_path):
    storage = tmp_path / "storage"
    storage.mkdir()
    storage.chmod(0o755)
    start()
    assert stat.S_IMODE((storage / "console.sock").stat().st_mode) == 0o600


def test_a_path_too_long_for_a_socket_is_told(start, tmp_path):
    with pytest.raises(ConsoleError, match="at most 107 bytes"):
        start(storage=tmp_path / ("x" * 100))


def test_a_storage_that_cannot_be_made_is_told(start, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConsoleError, match="the console cannot listen"):
        start(storage=tmp_path / "file" / "storage")


def test_it_can_be_stopped_and_started_again(start, running, tmp_path):
    running.call(start().stopService)
    start(namespace={"who": "second"})
    assert ask(tmp_path / "storage" / "console.sock", "who")["result"] == "'second'"


def test_off_offers_nothing(start, tmp_path):
    service = start(ConsoleOff())
    assert service.running
    assert not (tmp_path / "storage").exists()
