"""What is due when, for a hundred thousand keys; a pure data structure."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# A clock that is set back by more than this has jumped. Less is the daily work of NTP, and costs
# nobody anything.
JUMP = 5.0

# Entries that were put elsewhere or discarded stay in the heap until they come up or are this
# share of it. A fourth keeps a hundred thousand keys in 25 MB, and sweeping a cheap habit.
_STALE_SHARE = 4

# Below this many stale entries nobody sweeps.
_STALE_MIN = 64


class Agenda(Generic[K]):
    """Says which keys are due. Times are POSIX seconds of the wall clock.

    Keys are hashable and each has one time. When the clock is set back (`due` sees it), every
    time moves back with it: who waited for ten minutes goes on to wait for what was left of
    them, instead of until the wrong time comes again. So a key can come up before a date that
    was meant absolutely: who acts on it looks at that date, and puts the key again.
    """

    __slots__ = ("_entries", "_heap", "_latest", "_order")

    def __init__(self) -> None:
        # An entry of the heap counts only if it is the one that the key has here.
        self._entries: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = count()  # so that keys are never compared, and equal times stay in order
        self._latest = float("-inf")  # the latest time that `due` was told

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, when: float) -> None:
        """Let the key be due at `when`, instead of whenever it was due before."""
        entry = (when, next(self._order), key)
        self._entries[key] = entry
        heapq.heappush(self._heap, entry)
        self._sweep()

    def discard(self, key: K) -> None:
        """Forget the key, if it is there."""
        if self._entries.pop(key, None) is not None:
            self._sweep()

    def when(self, key: K) -> float | None:
        """Return when the key is due; None if it is not here."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def earliest(self) -> float | None:
        """Return when the first key is due; None if there is none."""
        self._drop_stale_head()
        return self._heap[0][0] if self._heap else None

    def due(self, now: float, limit: int | None = None) -> list[K]:
        """Remove and return the keys that are due, earliest first, at most `limit` of them."""
        self._notice_jump(now)
        due: list[K] = []
        while limit is None or len(due) < limit:
            self._drop_stale_head()
            if not self._heap or self._heap[0][0] > now:
                break
            key = heapq.heappop(self._heap)[2]
            del self._entries[key]
            due.append(key)
        return due

    def _drop_stale_head(self) -> None:
        while self._heap and self._entries.get(self._heap[0][2]) is not self._heap[0]:
            heapq.heappop(self._heap)

    def _sweep(self) -> None:
        stale = len(self._heap) - len(self._entries)
        if stale > _STALE_MIN and stale * _STALE_SHARE > len(self._heap):
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def _notice_jump(self, now: float) -> None:
        jump = self._latest - now
        if 0 < jump <= JUMP:
            return  # many small steps still add up to a jump, as `_latest` stays
        self._latest = now
        if jump <= 0 or not self._entries:
            return
        for key, (when, order, _) in self._entries.items():
            self._entries[key] = (when - jump, order, key)
        self._heap = list(self._entries.values())
        heapq.heapify(self._heap)
