"""Files that are whole or absent: bounded reads, atomic writes, and the storage folder."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from itertools import chain
from pathlib import Path, PurePosixPath
from secrets import token_hex

from twisted.logger import Logger

from dwaarx.words import reason_of

_log = Logger()

# A chain of RSA 4096 certificates is about 10 KiB, a CA bundle of the web 250 KiB; the limit
# only keeps a wrong path (a log file, /dev/zero) from filling the memory.
MAX_FILE = 1 << 20


# What write_atomic calls its temporary files.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


class FileTooLargeError(OSError):
    """The file holds more than the reader is willing to take."""


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """Return the contents of a file of at most `limit` bytes; raises OSError.

    Opened without blocking: a path that names a FIFO must not stop the service.
    """
    with open(path, "rb", opener=_open_without_blocking) as file:
        data = file.read(limit + 1) or b""
    if len(data) > limit:
        raise FileTooLargeError(f"is larger than {limit} bytes")
    return data


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def write_atomic(path: Path, data: bytes, mode: int) -> None:
    """Write a file so that a reader, and a crash, see the old contents or the new, nothing else.

    The file gets exactly `mode`, whatever the umask; a symbolic link at `path` is replaced, not
    followed. Raises OSError, and then leaves what was there: also if `path` names something
    that is no regular file (renaming over /dev/null would break the machine).
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(0, "is not a regular file")
    # In the same folder, because only within a file system is rename atomic.
    temporary = path.with_name(f".{path.name[:64]}.{token_hex(8)}.tmp")  # see _TEMPORARY
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Storage:
    """The folder that dwaarx keeps its own files in; made with mode 0700, as are its folders.

    Names are relative POSIX paths ("internal/root.pem"). A folder that exists already keeps the
    mode its owner gave it, with a warning if others may write there: each file with a key is 0600
    by itself.
    """

    def __init__(self, root: Path) -> None:
        """Make the folder if need be; raises OSError."""
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _log.warn(
                "others than its owner can write to {path}, and so put their own keys and console "
                "there: chmod go-w {path}",
                path=str(root),
            )

    def path(self, name: str) -> Path:
        """Return where `name` is kept; raises ValueError for a name that leaves the storage."""
        pure = PurePosixPath(name)
        if pure.is_absolute() or not pure.parts or ".." in pure.parts:
            raise ValueError(f"{name!r} is not a name within the storage")
        return self.root / pure

    def read(self, name: str, limit: int = MAX_FILE) -> bytes:
        """Return the contents of a file of at most `limit` bytes; raises OSError."""
        return read_file(self.path(name), limit)

    def write(
        self, name: str, data: bytes, mode: int = 0o600, modified: float | None = None
    ) -> None:
        """Write a file atomically, making its folder if need be; raises OSError.

        `modified` is what the file is to say of its age, as POSIX time; None: now.
        """
        path = self.path(name)
        # One by one: of those that mkdir makes on the way, everyone gets what the umask leaves.
        for folder in reversed(path.relative_to(self.root).parents):
            (self.root / folder).mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, data, mode)
        if modified is not None:
            os.utime(path, (modified, modified))

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder, without the folder; raises OSError."""
        try:
            with os.scandir(self.path(folder)) as entries:
                return {entry.name for entry in entries}
        except FileNotFoundError:
            return set()

    def modified(self, name: str) -> float:
        """Return when a file was written, as POSIX time; raises OSError."""
        return self.path(name).stat().st_mtime

    def remove(self, name: str) -> None:
        """Remove a file if it is there; raises OSError."""
        self.path(name).unlink(missing_ok=True)

    def move(self, name: str, new: str) -> None:
        """Give a file another name in the same folder; raises OSError."""
        path = self.path(new)
        self.path(name).rename(path)
        _sync_folder(path.parent)

    def clear(self) -> None:
        """Remove what writes left behind that were interrupted by a kill; keys are among it."""
        for path in chain(self.root.glob("*/.*.tmp"), self.root.glob("acme/*/.*.tmp")):
            if _TEMPORARY.fullmatch(path.name):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    _log.warn(
                        "{path}, left by an interrupted write, cannot be removed: {reason}",
                        path=str(path),
                        reason=reason_of(error),
                    )
