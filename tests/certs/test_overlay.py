from __future__ import annotations

import errno
import os
import stat

import pytest
from twisted.logger import LogLevel, capturedLogs, formatEvent

from dwaarx.certs.overlay import FLUSH_AT_ONCE, Overlay
from dwaarx.certs.storage import Storage

NOW = 1_800_000_000.0


class Disk:
    """What refuses, when it is told to."""

    def __init__(self, storage, monkeypatch):
        self.refused: set[str] = set()  # "write", "remove", "move", or a file
        for method in ("write", "remove", "move"):
            monkeypatch.setattr(storage, method, self._guarded(method, getattr(storage, method)))

    def _guarded(self, method, real):
        def call(name, *arguments):
            if {method, name} & self.refused:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return real(name, *arguments)

        return call

    def fail(self):
        self.refused = {"write", "remove", "move"}


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "storage")


@pytest.fixture
def disk(storage, monkeypatch):
    return Disk(storage, monkeypatch)


@pytest.fixture
def overlay(storage, disk):
    return Overlay(storage)


def warnings(logs):
    return [formatEvent(each) for each in logs if each["log_level"] is LogLevel.warn]


def test_a_disk_that_takes_everything(overlay, storage):
    assert overlay.write("a/x.pem", b"one", NOW)
    assert "a/x.pem" not in overlay
    assert overlay.read("a/x.pem") == storage.read("a/x.pem") == b"one"
    assert overlay.exists("a/x.pem")
    assert overlay.modified("a/x.pem") == NOW
    assert stat.S_IMODE(storage.path("a/x.pem").stat().st_mode) == 0o600
    overlay.move("a/x.pem", "a/y.pem")
    assert not overlay.exists("a/x.pem")
    assert overlay.read("a/y.pem") == b"one"
    overlay.remove("a/y.pem")
    assert not overlay.exists("a/y.pem")
    overlay.remove("a/y.pem")
    overlay.move("a/y.pem", "a/z.pem")  # what is not there
    assert not overlay.exists("a/z.pem")
    assert not overlay.flush()


def test_what_is_not_there(overlay):
    for look in (overlay.read, overlay.modified):
        with pytest.raises(FileNotFoundError):
            look("a/x.pem")


def test_what_cannot_be_written_is_held_and_written_later(overlay, storage, disk):
    disk.fail()
    with capturedLogs() as logs:
        assert not overlay.write("a/x.pem", b"key", NOW)
        assert not overlay.write("a/y.der", b"staple", NOW + 1, 0o644)
        overlay.remove("a/z.pem")  # there is none: a read-only disk says no all the same
    [line] = warnings(logs)
    assert "x.pem cannot be written: Read-only file system" in line
    assert "key" not in repr(overlay.__dict__)
    assert "a/x.pem" in overlay
    assert overlay.read("a/x.pem") == b"key"
    assert overlay.exists("a/x.pem")
    assert overlay.modified("a/x.pem") == NOW
    with capturedLogs() as logs:
        assert not overlay.flush()
        disk.refused = set()
        assert not overlay.flush()
    assert ["takes files again" in formatEvent(each) for each in logs] == [True]
    assert "a/x.pem" not in overlay
    for name, data, mode, at in (
        ("a/x.pem", b"key", 0o600, NOW),
        ("a/y.der", b"staple", 0o644, NOW + 1),
    ):
        assert storage.read(name) == data
        assert stat.S_IMODE(storage.path(name).stat().st_mode) == mode
        assert storage.modified(name) == at
    disk.fail()
    with capturedLogs() as logs:
        overlay.write("a/x.pem", b"newer", NOW)
    assert len(warnings(logs)) == 1  # of this time


def test_a_later_write_goes_before_what_is_held(overlay, storage, disk):
    disk.fail()
    overlay.write("a/x.pem", b"one", NOW)
    disk.refused = set()
    overlay.write("a/x.pem", b"two", NOW)
    overlay.flush()
    assert storage.read("a/x.pem") == overlay.read("a/x.pem") == b"two"


def test_what_cannot_be_removed_is_not_seen_any_more(overlay, storage, disk):
    overlay.write("a/x.pem", b"one", NOW)
    disk.fail()
    with capturedLogs() as logs:
        overlay.remove("a/x.pem")
        overlay.remove("a/x.pem")
    assert len(warnings(logs)) == 1
    assert not overlay.exists("a/x.pem")
    with pytest.raises(FileNotFoundError):
        overlay.read("a/x.pem")
    assert storage.read("a/x.pem") == b"one"
    assert not overlay.flush()
    disk.refused = set()
    assert not overlay.flush()
    assert not storage.path("a/x.pem").exists()


def test_what_cannot_be_moved_is_seen_where_it_belongs(overlay, storage, disk):
    overlay.write("a/x.pem", b"revoked", NOW)
    disk.fail()
    overlay.move("a/x.pem", "a/x.revoked.pem")
    assert not overlay.exists("a/x.pem")
    assert overlay.exists("a/x.revoked.pem")
    assert overlay.read("a/x.revoked.pem") == b"revoked"
    assert overlay.modified("a/x.revoked.pem") == NOW
    overlay.write("a/x.pem", b"new", NOW + 5)
    assert overlay.read("a/x.pem") == b"new"
    assert overlay.read("a/x.revoked.pem") == b"revoked"
    disk.refused = {"write"}  # as it becomes better little by little
    overlay.flush()
    assert overlay.read("a/x.pem") == b"new"
    assert overlay.read("a/x.revoked.pem") == storage.read("a/x.revoked.pem") == b"revoked"
    disk.refused = set()
    overlay.flush()
    assert storage.read("a/x.pem") == b"new"
    assert storage.read("a/x.revoked.pem") == b"revoked"


def test_a_write_before_the_move_was_done(overlay, storage, disk):
    overlay.write("a/x.pem", b"revoked", NOW)
    disk.refused = {"move"}
    overlay.move("a/x.pem", "a/x.revoked.pem")
    # The new one must not take the place of what is only seen elsewhere.
    assert not overlay.write("a/x.pem", b"new", NOW)
    assert storage.read("a/x.pem") == b"revoked"
    assert overlay.read("a/x.pem") == b"new"
    disk.refused = set()
    assert overlay.write("a/x.pem", b"newer", NOW)
    assert storage.read("a/x.pem") == b"newer"
    assert storage.read("a/x.revoked.pem") == b"revoked"


def test_what_was_to_be_moved_is_moved_on_or_removed_or_written(overlay, storage, disk):
    for name in ("a/1", "a/2", "a/3"):
        overlay.write(name, name.encode(), NOW)
    disk.refused = {"move", "remove"}
    for name in ("a/1", "a/2", "a/3"):
        overlay.move(name, f"{name}.b")
    overlay.move("a/1.b", "a/1.c")
    overlay.remove("a/2.b")
    overlay.write("a/3.b", b"other", NOW)
    seen = {name: overlay.read(name) for name in ("a/1.c", "a/3.b")}
    assert seen == {"a/1.c": b"a/1", "a/3.b": b"other"}
    for name in ("a/1", "a/1.b", "a/2", "a/2.b", "a/3"):
        assert not overlay.exists(name)
    disk.refused = set()
    overlay.flush()
    assert storage.names("a") == {"1.c", "3.b"}
    assert {name: storage.read(name) for name in seen} == seen


def test_what_is_held_goes_by_its_new_name(overlay, storage, disk):
    overlay.write("a/x.pem", b"old", NOW)
    disk.fail()
    overlay.write("a/x.pem", b"new", NOW)
    overlay.move("a/x.pem", "a/y.pem")
    assert not overlay.exists("a/x.pem")
    assert overlay.read("a/y.pem") == b"new"
    disk.refused = set()
    overlay.flush()
    assert storage.names("a") == {"y.pem"}
    assert storage.read("a/y.pem") == b"new"


def test_what_somebody_else_did_meanwhile(overlay, storage, disk):
    overlay.write("a/x.pem", b"one", NOW)
    overlay.write("a/y.pem", b"two", NOW)
    disk.fail()
    overlay.move("a/x.pem", "a/z.pem")
    overlay.remove("a/y.pem")
    disk.refused = set()
    storage.path("a/x.pem").unlink()
    storage.path("a/y.pem").unlink()
    assert not overlay.flush()
    assert storage.names("a") == set()
    assert not overlay.exists("a/z.pem")


def test_a_little_at_a_time_and_one_bad_file_keeps_no_other_back(overlay, storage, disk):
    disk.fail()
    names = [f"a/{index}" for index in range(3 * FLUSH_AT_ONCE)]
    for name in names:
        overlay.write(name, b"x", NOW)
    disk.refused = set()
    assert overlay.flush()
    assert len(storage.names("a")) == FLUSH_AT_ONCE
    disk.refused = {names[FLUSH_AT_ONCE]}
    assert not overlay.flush()
    assert overlay.flush()
    assert not overlay.flush()
    assert len(storage.names("a")) == len(names) - 1
    assert overlay.read(names[FLUSH_AT_ONCE]) == b"x"


def test_what_cannot_be_looked_for_is_not_there(overlay, storage):
    assert not overlay.exists(f"a/{'x' * 300}")
    storage.path("a").write_bytes(b"no folder")
    assert not overlay.exists("a/x.pem")
    assert not overlay.write("a/x.pem", b"one", NOW)
    assert overlay.read("a/x.pem") == b"one"
