"""A reactor of the test's own, as far as the issuer needs one: timers, and calls from threads."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

T = TypeVar("T")

PATIENCE = 60.0


class Loop(Clock):
    """Runs in the test's thread, for as long as `result` or `turn` is called; time is real."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: queue.Queue[Callable[[], object]] = queue.Queue()
        self._last = time.monotonic()

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
        self._calls.put(lambda: function(*arguments))

    def turn(self) -> None:
        """Make a call from a thread, or wait for one a little; then what time has come for."""
        with suppress(queue.Empty):
            self._calls.get(timeout=0.02)()
        now = time.monotonic()
        self.advance(now - self._last)
        self._last = now

    def result(self, awaited: Deferred[T]) -> T:
        """Run until it is there, and return it, or raise."""
        results: list[T | Failure] = []
        awaited.addBoth(results.append)
        end = time.monotonic() + PATIENCE
        while not results:
            assert time.monotonic() < end, "nothing came of it"
            self.turn()
        (result,) = results
        if isinstance(result, Failure):
            raise result.value
        return result
