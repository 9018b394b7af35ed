from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent

from dwaarx.certs.storage import FileTooLargeError, Storage, read_file, write_atomic
from dwaarx.words import reason_of


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_storage_makes_its_folder_for_the_owner_only(tmp_path):
    root = tmp_path / "a" / "b"
    Storage(root)
    assert mode_of(root) == 0o700


def test_an_existing_folder_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o750)
    Storage(tmp_path)
    assert mode_of(tmp_path) == 0o750


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_to_is_told(tmp_path, mode):
    tmp_path.chmod(0o755)
    with capturedLogs() as logs:
        Storage(tmp_path)
        assert logs == []
        tmp_path.chmod(mode)
        Storage(tmp_path)
    [line] = [formatEvent(event) for event in logs]
    assert line.endswith(f"chmod go-w {tmp_path}")


def test_write_then_read(tmp_path):
    storage = Storage(tmp_path)
    storage.write("internal/root.pem", b"secret")
    storage.write("internal/root.crt", b"public", 0o644)
    assert storage.read("internal/root.pem") == b"secret"
    assert mode_of(tmp_path / "internal") == 0o700
    assert mode_of(tmp_path / "internal/root.pem") == 0o600
    assert mode_of(tmp_path / "internal/root.crt") == 0o644


def test_folders_within_folders_are_for_the_owner_only(tmp_path):
    before = os.umask(0)
    try:
        Storage(tmp_path).write("acme/host/account.json", b"secret")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "acme") == mode_of(tmp_path / "acme/host") == 0o700


def test_a_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        Storage(tmp_path).read("nothing")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x"])
def test_names_stay_within_the_storage(tmp_path, name):
    with pytest.raises(ValueError, match="not a name within"):
        Storage(tmp_path).path(name)


def test_write_replaces_whole_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"first", 0o644)
    write_atomic(path, b"second", 0o600)
    assert path.read_bytes() == b"second"
    assert mode_of(path) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_umask_changes_nothing(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "file", b"", 0o644)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "file") == 0o644


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(path, b"new", 0o600)
    assert reason_of(caught.value) == "No space left on device"
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_is_written_outlives_a_power_cut(tmp_path, monkeypatch):
    synced = []

    def sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(("folder" if is_folder else "file", (tmp_path / "new").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write_atomic(tmp_path / "new", b"data", 0o600)
    # The file before it has its name, the folder after.
    assert synced == [("file", False), ("folder", True)]


def test_only_regular_files_are_replaced(tmp_path):
    with pytest.raises(OSError, match="not a regular file"):
        write_atomic(Path("/dev/null"), b"", 0o644)
    with pytest.raises(OSError, match="not a regular file"):
        write_atomic(tmp_path, b"", 0o644)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_symbolic_link_is_replaced_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"target")
    link.symlink_to(target)
    write_atomic(link, b"new", 0o644)
    assert target.read_bytes() == b"target"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_reading_is_bounded(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)
    assert read_file(path, 11) == b"x" * 11
    with pytest.raises(FileTooLargeError) as caught:
        read_file(path, 10)
    assert reason_of(caught.value) == "is larger than 10 bytes"
    with pytest.raises(FileTooLargeError):
        read_file(Path("/dev/zero"))


def test_reading_a_fifo_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert read_file(tmp_path / "fifo") == b""
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        assert read_file(tmp_path / "fifo") == b""
    finally:
        os.close(writer)


def test_reading_a_folder_leaves_nothing_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_a_kill_left_behind_is_removed(tmp_path, monkeypatch):
    storage = Storage(tmp_path)

    def kill(self, target):
        raise SystemError

    with monkeypatch.context() as killing:
        killing.setattr(Path, "replace", kill)
        killing.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemError):
            storage.write("certificates/a.pem", b"key")
    [left] = (tmp_path / "certificates").iterdir()
    others = [tmp_path / "certificates" / name for name in ("a.tmp", ".vimrc.tmp", "a.pem")]
    for other in others:
        other.touch()
    storage.clear()
    assert not left.exists()
    assert sorted((tmp_path / "certificates").iterdir()) == sorted(others)


def test_what_cannot_be_removed_is_told(tmp_path):
    storage = Storage(tmp_path)
    folder = tmp_path / "certificates" / f".a.pem.{'0' * 16}.tmp"
    folder.mkdir(parents=True)  # even root cannot unlink a folder
    with capturedLogs() as logs:
        storage.clear()
    [line] = map(formatEvent, logs)
    assert line == f"{folder}, left by an interrupted write, cannot be removed: Is a directory"


def test_what_a_kill_left_of_an_acme_account_is_removed(tmp_path):
    storage = Storage(tmp_path)
    storage.write("acme/ca.example/account.json", b"{}")
    left = tmp_path / "acme" / "ca.example" / ".account.json.0123456789abcdef.tmp"
    left.write_bytes(b"a key")
    storage.clear()
    assert not left.exists()
    assert storage.names("acme/ca.example") == {"account.json"}


def test_moving_and_removing(tmp_path):
    storage = Storage(tmp_path)
    storage.write("certificates/a.pem", b"a", modified=1000.0)
    assert storage.modified("certificates/a.pem") == 1000.0
    storage.move("certificates/a.pem", "certificates/b.pem")
    assert storage.names("certificates") == {"b.pem"}
    storage.remove("certificates/b.pem")
    storage.remove("certificates/b.pem")  # it is gone already
    assert storage.names("certificates") == set()
    assert storage.names("nowhere") == set()
