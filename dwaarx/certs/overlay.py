"""A storage that a full or read-only disk does not stop: memory first, disk second."""

from __future__ import annotations

import errno
import os

import attrs
from twisted.logger import Logger

from dwaarx.certs.storage import Storage
from dwaarx.words import reason_of

_log = Logger()

# How much is brought to the disk in one turn of the reactor, which handshakes wait for: each
# write is flushed, which takes some milliseconds.
FLUSH_AT_ONCE = 10


@attrs.frozen
class _Held:
    """What waits for the disk."""

    data: bytes = attrs.field(repr=False)  # it may be a key
    mode: int
    written: float


class Overlay:
    """Files of the storage, and over them what could not be done to them yet.

    Reading sees what was written, moved and removed last, whether the disk took it or not. Only
    certificates, staples and what is known about them go here, all of which a restart could get
    again; one warning tells of a disk that does not take them, not one for each.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._held: dict[str, _Held] = {}
        # What the disk still has under a name where nothing is to be seen: by its new name, or
        # by "" if it is to be removed; and where those with a new name lie.
        self._gone: dict[str, str] = {}
        self._lies_at: dict[str, str] = {}
        self._told = False

    def __contains__(self, name: str) -> bool:
        """Whether a file is held in memory, because the disk did not take it."""
        return name in self._held

    def write(self, name: str, data: bytes, now: float, mode: int = 0o600) -> bool:
        """Write a file, or hold it in memory; return whether the disk has it. Never raises."""
        try:
            if self._gone.get(name):
                self._settle(name)  # what lies there is wanted, by another name
            self.storage.write(name, data, mode, now)
        except OSError as error:
            self._held[name] = _Held(data, mode, now)
            self._tell(name, error)
            return False
        self._held.pop(name, None)
        self._gone.pop(name, None)
        old = self._lies_at.pop(name, None)
        if old is not None:
            self._gone[old] = ""
        return True

    def read(self, name: str) -> bytes:
        """Return a file's contents; raises FileNotFoundError, or another OSError."""
        held = self._held.get(name)
        return self.storage.read(self._place(name)) if held is None else held.data

    def exists(self, name: str) -> bool:
        """Whether there is such a file; one that cannot be looked for is not there."""
        if name in self._held:
            return True
        try:
            return self.storage.path(self._place(name)).exists()
        except OSError:
            return False

    def modified(self, name: str) -> float:
        """Return when a file was written, as POSIX time; raises OSError."""
        held = self._held.get(name)
        return self.storage.modified(self._place(name)) if held is None else held.written

    def remove(self, name: str) -> None:
        """Remove a file; what the disk does not give up is not seen any more, and removed later."""
        self._held.pop(name, None)
        old = self._lies_at.pop(name, None)
        if old is not None:
            self._gone[old] = ""
        elif name not in self._gone:
            self._take_away(name, "")

    def move(self, name: str, new: str) -> None:
        """Give a file another name in its folder, in place of what is there; never raises.

        If the disk refuses, it is seen under the new name all the same, until a restart.
        """
        held = self._held.pop(name, None)
        if held is not None:
            self._held[new] = held
        # What is held goes before what the disk has under its name.
        new = "" if held is not None else new
        old = self._lies_at.pop(name, None)
        if old is not None:
            self._gone[old] = new
            if new:
                self._lies_at[new] = old
        elif name not in self._gone:
            self._take_away(name, new)

    def flush(self) -> bool:
        """Try again a little of what the disk did not take; return whether there is more to do.

        False too if the disk is no better than before.
        """
        better = True
        for name in [*self._held, *self._gone][:FLUSH_AT_ONCE]:
            held = self._held.get(name)
            if held is not None:
                better &= self.write(name, held.data, held.written, held.mode)
            elif name in self._gone:
                try:
                    self._settle(name)
                except OSError:
                    better = False
            # The others' turn is next, should it be this file alone.
            if name in self._held:
                self._held[name] = self._held.pop(name)
            if name in self._gone:
                self._gone[name] = self._gone.pop(name)
        if self._gone or self._held:
            return better
        if self._told:
            self._told = False
            _log.info("the storage {path} takes files again", path=str(self.storage.root))
        return False

    def _place(self, name: str) -> str:
        """Return where a file lies on the disk; raises FileNotFoundError if it is gone."""
        if name in self._gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._lies_at.get(name, name)

    def _take_away(self, name: str, new: str) -> None:
        """Move a file of the disk, or remove it if there is no new name; later if need be."""
        if not os.path.lexists(self.storage.path(name)):
            return  # a read-only disk refuses that too
        self._gone[name] = new
        if new:
            self._lies_at[new] = name
        try:
            self._settle(name)
        except OSError as error:
            self._tell(name, error)

    def _settle(self, name: str) -> None:
        """Do to the disk what is already seen; raises OSError."""
        new = self._gone[name]
        try:
            if new:
                self.storage.move(name, new)
            else:
                self.storage.remove(name)
        except FileNotFoundError:
            pass  # somebody was before us
        del self._gone[name]
        self._lies_at.pop(new, None)

    def _tell(self, name: str, error: OSError) -> None:
        if not self._told:
            self._told = True
            _log.warn(
                "{path} cannot be written: {reason}; it is used from memory, as are others after "
                "it, and written when the storage takes files again",
                path=str(self.storage.path(name)),
                reason=reason_of(error),
            )
