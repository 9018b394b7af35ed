"""Certificates that are obtained or brought live: so many at once, and each name by one alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dwaarx.certs.record import Held

# How many certificates are being obtained at once. Each takes a thread, and public CAs limit new
# orders to a few hundred in hours.
MAX_ORDERS = 8


class OrderQueue:
    """Those whose time has come, in their order: MAX_ORDERS of them are under way.

    `work(held, order)` does what is to be done (`order`: a certificate may be ordered; without it
    only one that waits is brought live); `done` is told when it ends, `inherited` whose name was
    being worked on for another that is dropped by now. `name_of` is the name of one.
    """

    def __init__(
        self,
        work: Callable[[Held, bool], Coroutine[Any, Any, None]],
        done: Callable[[Held, Failure | None], None],
        inherited: Callable[[Held], None],
        name_of: Callable[[Held], str],
    ) -> None:
        self._work = work
        self._done = done
        self._inherited = inherited
        self._name_of = name_of
        # A hundred thousand names may wait here, and all are taken from the front.
        self._waiting: OrderedDict[Held, bool] = OrderedDict()
        self._flying: dict[Held, Deferred[None]] = {}
        # The names that were dropped amid the work; and who took them up again.
        self._heirs: dict[str, Held | None] = {}
        self._starting = False
        self.stopped = False

    def __contains__(self, held: Held) -> bool:
        """Whether it is under way."""
        return held in self._flying

    def __len__(self) -> int:
        """Count those that wait."""
        return len(self._waiting)

    def add(self, held: Held, *, order: bool, first: bool = False) -> None:
        """Have it done, `first` before all others; nothing happens if it is under way."""
        if held in self._flying:
            return
        self._waiting[held] = order or self._waiting.get(held, False)
        if first:
            self._waiting.move_to_end(held, last=False)
        self._start()

    def drop(self, held: Held, *, finish: bool) -> None:
        """Let go of one that is no longer in use; what is under way may `finish`."""
        self._waiting.pop(held, None)
        name = self._name_of(held)
        if self._heirs.get(name) is held:
            self._heirs[name] = None
        flying = self._flying.get(held)
        if flying is not None and finish:
            self._heirs[name] = None
        elif flying is not None:
            flying.cancel()

    def stop(self) -> None:
        """Give everything up."""
        self.stopped = True
        self._waiting.clear()
        for flying in list(self._flying.values()):
            flying.cancel()

    def _start(self) -> None:
        if self._starting:
            return  # it is what ended at once, in the loop below
        self._starting = True
        try:
            while self._waiting and len(self._flying) < MAX_ORDERS and not self.stopped:
                held, order = self._waiting.popitem(last=False)
                name = self._name_of(held)
                if name in self._heirs:
                    self._heirs[name] = held
                    continue
                flying = Deferred.fromCoroutine(self._work(held, order))
                if not flying.called:
                    self._flying[held] = flying
                flying.addBoth(self._finished, held)
        finally:
            self._starting = False

    def _finished(self, result: Failure | None, held: Held) -> None:
        self._flying.pop(held, None)
        self._done(held, result)
        if held.dropped:
            heir = self._heirs.pop(self._name_of(held), None)
            if heir is not None:
                self._inherited(heir)
        self._start()
