"""Timeouts of one length for thousands of waiters, by one DelayedCall."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Waiter(Protocol):
    """What waits; `deadline` is when its wait ends, None while it does not wait."""

    deadline: float | None

    def timed_out(self) -> None:
        """Hear that the deadline has passed; must not raise."""


class Expiry:
    """Tells waiters that their time is up, in the order in which they came.

    All wait equally long, so a queue is sorted by itself; one that no longer waits, or waits
    anew, is passed over when its place comes up.
    """

    __slots__ = ("_call", "_clock", "_queue", "_seconds")

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._queue: deque[tuple[float, Waiter]] = deque()
        self._call: IDelayedCall | None = None

    def add(self, waiter: Waiter, now: float) -> None:
        """Let a waiter wait from now on, instead of whatever it waited for before."""
        queue = self._queue
        # Most waits end early: what they hold must not stay for the whole time.
        while queue and queue[0][1].deadline != queue[0][0]:
            queue.popleft()
        waiter.deadline = deadline = now + self._seconds
        queue.append((deadline, waiter))
        if self._call is None:
            self._call = self._clock.callLater(self._seconds, self._look)

    def stop(self) -> Iterator[Waiter]:
        """Stop, and yield all who still wait."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        queue, self._queue = self._queue, deque()
        for deadline, waiter in queue:
            if waiter.deadline == deadline:
                yield waiter

    def _look(self) -> None:
        # The spent call stays while this works, so that a waiter that waits anew sets no other:
        # there may be one before it in the queue.
        queue = self._queue
        now = self._clock.seconds()
        try:
            while queue:
                deadline, waiter = queue[0]
                waits = waiter.deadline == deadline
                if waits and deadline > now:
                    break
                queue.popleft()
                if waits:
                    waiter.deadline = None
                    waiter.timed_out()
        finally:
            # Even after a waiter that raised: without it the others would wait for ever.
            self._call = None
            if queue:
                self._call = self._clock.callLater(max(0.0, queue[0][0] - now), self._look)
