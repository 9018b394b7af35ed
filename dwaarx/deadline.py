"""One lazy timer per connection: moving its deadline costs an assignment, not a DelayedCall."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Deadline:
    """Calls `expired` once, when the time last given to `set` has passed without a new `set`.

    A deadline moves with every request and every read, while it almost never strikes. So the
    DelayedCall is left where it is when the deadline moves later, and looks again when it fires.
    """

    __slots__ = ("_at", "_call", "_clock", "_expired")

    def __init__(self, clock: IReactorTime, expired: Callable[[], None]) -> None:
        self._clock = clock
        self._expired = expired
        self._at: float | None = None
        self._call: IDelayedCall | None = None

    def set(self, seconds: float) -> None:
        """Strike `seconds` from now, instead of whenever was set before."""
        at = self._at = self._clock.seconds() + seconds
        call = self._call
        if call is None:
            self._call = self._clock.callLater(seconds, self._look)
        elif call.getTime() > at:
            call.reset(seconds)

    def clear(self) -> None:
        """Strike no more, until the next `set`; the DelayedCall is kept for it."""
        self._at = None

    def stop(self) -> None:
        """Forget all, the DelayedCall too: the connection is gone."""
        self._at = None
        if self._call is not None:
            call, self._call = self._call, None
            call.cancel()

    def _look(self) -> None:
        self._call = None
        at = self._at
        if at is None:
            return
        left = at - self._clock.seconds()
        if left > 0:
            self._call = self._clock.callLater(left, self._look)
        else:
            self._at = None
            self._expired()
