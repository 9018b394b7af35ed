"""A storage that a full or read-only disk does not stop: memory first, disk second."""

from __future__ import annotations

import attrs
from twisted.logger import Logger

from dwaarx.certs.storage import Storage
from dwaarx.words import reason_of

_log = Logger()


@attrs.frozen
class _Held:
    """What waits for the disk."""

    data: bytes = attrs.field(repr=False)  # it may be a key
    mode: int
    written: float


class Overlay:
    """Files of the storage, and over them those that could not be written yet.

    Reading sees what was written last, wherever it is. Only certificates, staples and what is
    known about them go here, all of which a restart could get again; one warning tells of a
    disk that does not take them, not one for each.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._held: dict[str, _Held] = {}
        self._told = False

    def __contains__(self, name: str) -> bool:
        """Whether a file is held in memory, because the disk did not take it."""
        return name in self._held

    def write(self, name: str, data: bytes, now: float, mode: int = 0o600) -> bool:
        """Write a file, or hold it in memory; return whether the disk has it. Never raises."""
        try:
            self.storage.write(name, data, mode, now)
        except OSError as error:
            self._held[name] = _Held(data, mode, now)
            self._tell(name, error)
            return False
        self._held.pop(name, None)
        return True

    def read(self, name: str) -> bytes:
        """Return a file's contents; raises FileNotFoundError, or another OSError."""
        held = self._held.get(name)
        return self.storage.read(name) if held is None else held.data

    def exists(self, name: str) -> bool:
        """Whether there is such a file; one that cannot be looked for is not there."""
        return name in self._held or self.storage.path(name).exists()

    def modified(self, name: str) -> float:
        """Return when a file was written, as POSIX time; raises OSError."""
        held = self._held.get(name)
        return self.storage.modified(name) if held is None else held.written

    def remove(self, name: str) -> None:
        """Remove a file; one that the disk does not give up is told and left."""
        self._held.pop(name, None)
        try:
            self.storage.remove(name)
        except OSError as error:
            _log.warn(
                "{path} cannot be removed: {reason}",
                path=str(self.storage.path(name)),
                reason=reason_of(error),
            )

    def move(self, name: str, new: str) -> bool:
        """Give a file another name in its folder; return whether the disk took it."""
        held = self._held.pop(name, None)
        if held is not None:
            self._held[new] = held
        try:
            self.storage.move(name, new)
        except FileNotFoundError:
            return held is not None  # in memory only
        except OSError as error:
            self._tell(name, error)
            return False
        return True

    def flush(self) -> None:
        """Try again to write what is held."""
        for name, held in list(self._held.items()):
            if not self.write(name, held.data, held.written, held.mode):
                return  # the disk is no better than before
        if self._told:
            self._told = False
            _log.info("the storage {path} takes files again", path=str(self.storage.root))

    def _tell(self, name: str, error: OSError) -> None:
        if not self._told:
            self._told = True
            _log.warn(
                "{path} cannot be written: {reason}; it is used from memory, as are others after "
                "it, and written when the storage takes files again",
                path=str(self.storage.path(name)),
                reason=reason_of(error),
            )
