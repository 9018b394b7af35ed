"""Noticing that files of certificates, keys and staples have changed on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dwaarx.config.model import CertificateFiles

# How often the files are looked at, in seconds: soon after a renewal's hook has written them,
# and cheap: a stat of a file takes microseconds.
INTERVAL = 5.0

# How long a pair may be half-written before that is told, in seconds.
PATIENCE = 60.0

Signature = tuple[tuple[int, int, int] | None, ...]


def signature(source: Iterable[CertificateFiles]) -> Signature:
    """Return what changes with the files: time, inode and size of each, None for a missing one."""
    return tuple(
        _of(path)
        for files in source
        for path in (files.certificate, files.key, files.ocsp)
        if path is not None
    )


def _of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # it was taken away, or cannot be seen: reading it says why
    return status.st_mtime_ns, status.st_ino, status.st_size


class FileWatch:
    """The files of each source as they were when they were last looked at.

    `waiting` sources have changed into something that cannot be used: perhaps the pair is
    half-written. They are tried again at each look; after PATIENCE that is told, once.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[CertificateFiles, ...], Signature] = {}
        self._waiting: dict[tuple[CertificateFiles, ...], float] = {}
        self._told: set[tuple[CertificateFiles, ...]] = set()

    def note(self, source: tuple[CertificateFiles, ...]) -> None:
        """Take the files as they are for what is going to be read now."""
        self._seen[source] = signature(source)

    def remove(self, source: tuple[CertificateFiles, ...]) -> None:
        """Look no more at these files."""
        self._seen.pop(source, None)
        self.used(source)

    def changed(self) -> list[tuple[CertificateFiles, ...]]:
        """Return the sources whose files are to be read: changed since, or waiting."""
        found = []
        for source, before in self._seen.items():
            now = signature(source)
            if now != before or source in self._waiting:
                self._seen[source] = now
                found.append(source)
        return found

    def used(self, source: tuple[CertificateFiles, ...]) -> bool:
        """Hear that the files can be used; return whether it was told that they could not."""
        told = source in self._told
        self._waiting.pop(source, None)
        self._told.discard(source)
        return told

    def waited(self, source: tuple[CertificateFiles, ...], now: float) -> float:
        """Return for how many seconds the files have been waited for."""
        since = self._waiting.get(source, now)
        if since > now:  # the clock was set back
            since = self._waiting[source] = now
        return now - since

    def failed(self, source: tuple[CertificateFiles, ...], now: float) -> bool:
        """Hear that the files cannot be used; return whether it is time to say so, once."""
        self._waiting.setdefault(source, now)
        if source in self._told or self.waited(source, now) < PATIENCE:
            return False
        self._told.add(source)
        return True

    def told(self, source: tuple[CertificateFiles, ...], now: float) -> None:
        """Hear that the files cannot be used, and that whoever asked was told so."""
        self._waiting.setdefault(source, now)
        self._told.add(source)
