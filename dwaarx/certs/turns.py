"""Requests that are due at once go to one host one after another."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from dwaarx.certs.agenda import Agenda
from dwaarx.certs.pacer import HORIZON, Pacer

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Sends the keys that are due back to the agenda until their host may be asked."""

    def __init__(self, agenda: Agenda[K], pacer: Pacer) -> None:
        self._agenda = agenda
        self._pacer = pacer
        self._placed: set[K] = set()  # the agenda has them at a time that is theirs

    def may_go(
        self, key: K, host: str, now: float, *, urgent: bool, urgent_from: float | None = None
    ) -> bool:
        """Whether a key that is due may be sent now; else it will be due again. POSIX time.

        `urgent_from` is when a key that is not urgent yet will be: it does not wait for longer
        among those that are not.
        """
        if key in self._placed:
            self._placed.discard(key)
            return True
        at = self._pacer.slot(host, now, urgent)
        if at <= now:
            return True
        if at - now <= HORIZON:
            self._placed.add(key)
        elif urgent_from is not None and not urgent:
            at = min(at, urgent_from)
        self._agenda.put(key, at)
        return False

    def is_placed(self, key: K) -> bool:
        """Whether a key has its place already, and will be due in seconds."""
        return key in self._placed

    def forget(self, key: K) -> None:
        """Take a key off the agenda; its place is left empty."""
        self._placed.discard(key)
        self._agenda.discard(key)
