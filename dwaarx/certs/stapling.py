"""Fetching staples: for each certificate when it is due, from its responders in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx.certs import schedule
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import CertificateErrors, FetchError, FetchFailure, OcspError, Refusal
from dwaarx.certs.events import tell
from dwaarx.certs.ocsp_client import Answer, OcspClient
from dwaarx.certs.ocsp_request import responders
from dwaarx.certs.pacer import Pacer
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Key, Record, host_of, why_skipped
from dwaarx.certs.staple_store import StapleStore
from dwaarx.certs.store import Slot
from dwaarx.certs.turns import Turns
from dwaarx.config.model import OcspOptions
from dwaarx.words import utc

_log = Logger()


class UnansweredError(OcspError):
    """None of the responders gave a staple; `retry_after` is what they asked for, POSIX time."""

    def __init__(self, kind: Refusal, reason: str, retry_after: float | None) -> None:
        super().__init__(kind, reason)
        self.retry_after = retry_after


class Owner(Protocol):
    """Who is told what came of it: the manager."""

    def revoked(self, record: Record, error: OcspError) -> None:
        """Hear that a responder says, signed, that a certificate is revoked."""


@attrs.frozen
class Outcome:
    """What came of one refresh: the staple's state in words, and whether it is a new one."""

    record: Record
    words: str
    good: bool


class Stapling:
    """The staples of all certificates with a responder, from the network to handshake and disk."""

    def __init__(
        self,
        client: OcspClient,
        store: StapleStore,
        agenda: Agenda[Key],
        clock: IReactorTime,
        now: Callable[[], datetime],
        owner: Owner,
        rng: Random,
    ) -> None:
        self.options = OcspOptions()
        # How often each thing happened: "good", "revoked", "unknown", "unreachable", …
        self.counts: Counter[str] = Counter()
        self.store = store
        self._client = client
        self._agenda = agenda
        self._clock = clock
        self._now = now
        self._owner = owner
        self._rng = rng
        self._pacer = Pacer()
        self._turns = Turns(agenda, self._pacer)
        self._flying: dict[Record, Deferred[Outcome]] = {}

    def stop(self) -> None:
        """Give up what is under way."""
        for deferred in list(self._flying.values()):
            deferred.cancel()

    # --- when ---------------------------------------------------------------

    def watch(self, record: Record) -> None:
        """Put a certificate's next fetch on the agenda, by the staple that it has."""
        self.forget(record)
        if record.skip or not record.responders:
            return
        now = self._now().timestamp()
        when = now
        if record.good_until(now) is not None and record.until is not None:
            when = schedule.ocsp_success(
                now, record.since, record.until, None, self.options.refresh, self._rng
            )
        self._agenda.put((Duty.STAPLE, record), when)

    def forget(self, record: Record) -> None:
        """Take a certificate off the agenda."""
        self._turns.forget((Duty.STAPLE, record))
        self._agenda.discard((Duty.END, record))

    def due(self, record: Record) -> None:
        """Fetch a staple that is due, or put it behind the others of its responder."""
        if record in self._flying:
            return  # it puts itself on the agenda when it is done
        now = self._now().timestamp()
        host = host_of(record.responders[0])
        if self._turns.may_go((Duty.STAPLE, record), host, now, urgent=record.urgent(now)):
            self._start(record, placed=True)

    def refresh(self, record: Record) -> Deferred[Outcome]:
        """Fetch a staple now; fires, and never fails, with what came of it."""
        flying = self._flying.get(record)
        if flying is None:
            self.forget(record)
            flying = self._start(record, placed=False)
        waiting: Deferred[Outcome] = Deferred()

        def done(outcome: Outcome) -> Outcome:
            waiting.callback(outcome)
            return outcome

        flying.addCallback(done)
        return waiting

    def ended(self, record: Record) -> None:
        """Say once that a staple may not be sent any more."""
        now = self._now().timestamp()
        if record.until is None or now < record.until:
            return
        if not record.refusal:
            ended = utc(datetime.fromtimestamp(record.until, UTC))
            record.refusal = f"the staple ended at {ended}, and there is no newer one"
        record.until = None
        tell(
            "unstapled",
            LogLevel.error if record.must_staple else LogLevel.warn,
            name=record.name,
            must_staple="yes" if record.must_staple else None,
            reason=record.refusal,
        )

    # --- how ----------------------------------------------------------------

    async def fetch(
        self, pair: KeyPair, responders: tuple[str, ...], *, urgent: bool, placed: bool = False
    ) -> Answer:
        """Ask the responders of a pair in their order; raises OcspError if none has a staple.

        `placed` says that the place in the first one's queue was waited for already.
        """
        assert pair.issuer is not None
        problems: list[str] = []
        kind = Refusal.UNREACHABLE
        later: list[float] = []
        for responder in responders:
            host = host_of(responder)
            asked_later: float | None = None
            if not placed:
                await self._turn(host, urgent=urgent)
            placed = False
            try:
                answer = await self._client.ask(pair.certificate, pair.issuer, responder)
            except OcspError as error:
                self.counts[error.kind.name.lower()] += 1
                if error.kind is Refusal.REVOKED:
                    self._pacer.succeeded(host)
                    raise
                kind = error.kind
                problems.append(f"{responder}: {error}")
            except FetchError as error:
                self.counts[error.kind.name.lower()] += 1
                problems.append(f"{responder}: {error}")
                asked_later = error.retry_after
                if asked_later is not None:
                    later.append(asked_later)
                if error.kind is FetchFailure.REFUSED:
                    continue  # nobody was asked
            else:
                self._pacer.succeeded(host)
                self.counts["good"] += 1
                return answer
            self._pacer.failed(host, asked_later)
        # The first of them to be ready again is reason enough to ask.
        wait = min(later) if len(later) == len(responders) else None
        raise UnansweredError(kind, "; ".join(problems), wait)

    async def fetch_for(self, pair: KeyPair) -> Answer:
        """Fetch the staple that a new certificate goes live with; raises OcspError."""
        return await self.fetch(pair, responders(pair.certificate), urgent=True)

    async def _turn(self, host: str, *, urgent: bool) -> None:
        now = self._now().timestamp()
        delay = self._pacer.slot(host, now, urgent) - now
        if delay > 0:
            await deferLater(self._clock, delay)

    def _start(self, record: Record, *, placed: bool) -> Deferred[Outcome]:
        flying = Deferred.fromCoroutine(self._refresh(record, placed=placed))
        if not flying.called:
            self._flying[record] = flying
        return flying.addBoth(self._finished, record)

    def _finished(self, result: Outcome | Failure, record: Record) -> Outcome:
        self._flying.pop(record, None)
        if not isinstance(result, Failure):
            return result
        # Cancelled at the stop; or an error of our own, which must not end all refreshing.
        if not result.check(CancelledError):
            _log.failure("the staple of {name} cannot be fetched", result, name=record.name)
        self._agenda.put((Duty.STAPLE, record), self._failed_until(record, None))
        return Outcome(record, f"given up: {result.getErrorMessage()}", good=False)

    async def _refresh(self, record: Record, *, placed: bool) -> Outcome:
        now = self._now().timestamp()
        try:
            slot = record.held.identity.read()[record.index]
        except CertificateErrors as error:
            return self._failure(record, None, OcspError(Refusal.NO_ISSUER, str(error)))
        pair = slot.pair
        urgent = record.urgent(now)
        try:
            answer = await self.fetch(pair, record.responders, urgent=urgent, placed=placed)
        except OcspError as error:
            if self._is_gone(record, pair):
                return self._gone(record)
            return self._failure(record, pair, error)
        if self._is_gone(record, pair):
            return self._gone(record)
        return self._success(record, pair, answer)

    def _is_gone(self, record: Record, pair: KeyPair) -> bool:
        if record.held.dropped or record.serial != pair.certificate.serial_number:
            return True
        live = record.held.identity.slots
        return bool(live) and live[record.index].pair.certificate != pair.certificate

    def _gone(self, record: Record) -> Outcome:
        """Turn to the certificate that took the place of the one that was asked about."""
        if not record.held.dropped and self._agenda.when((Duty.STAPLE, record)) is None:
            self.watch(record)  # it was due, and found this one under way
        return Outcome(record, "the certificate is no longer in use", good=False)

    def _success(self, record: Record, pair: KeyPair, answer: Answer) -> Outcome:
        staple = answer.staple
        kept = self.kept(pair, answer)
        slot = live_slot(record, pair)
        if slot is not None:
            slot.put(kept.staple, None, kept.until)
        record.stapled(kept)
        record.failures = 0
        record.revoked = ""
        tell("stapled", name=record.name, serial=f"{record.serial:x}", until=utc(staple.end))
        assert record.until is not None
        now, until = self._now().timestamp(), record.until
        when = schedule.ocsp_success(
            now,
            staple.this_update.timestamp(),
            until,
            answer.fresh_until,
            self.options.refresh,
            self._rng,
        )
        self._agenda.put((Duty.STAPLE, record), when)
        self._agenda.discard((Duty.END, record))
        return Outcome(record, f"stapled, good until {utc(staple.end)}", good=True)

    # --- slots --------------------------------------------------------------

    def slot(self, record: Record, pair: KeyPair) -> Slot:
        """Make the slot of a pair that was read, with the staple that lies on the disk."""
        if record.revoked and record.serial == pair.certificate.serial_number:
            return Slot(pair, None, OcspError(Refusal.REVOKED, record.revoked))
        skipped = why_skipped(pair)
        if skipped:
            return Slot(pair, None, OcspError(Refusal.NONE, skipped))
        try:
            fetched = self.store.load(pair)
        except OcspError as error:
            return Slot(pair, None, error)
        until = fetched.until(self.options.max_age)
        if until <= self._now():
            reason = f"the response was fetched too long ago, at {utc(fetched.at)}"
            return Slot(pair, None, OcspError(Refusal.EXPIRED, reason))
        return Slot(pair, fetched.staple, None, until)

    def kept(self, pair: KeyPair, answer: Answer) -> Slot:
        """Make the slot of a pair with a staple that was fetched now, and keep that."""
        until = answer.staple.end
        oldest = datetime.fromtimestamp(self._now().timestamp() + self.options.max_age, UTC)
        slot = Slot(pair, answer.staple, None, min(until, oldest))
        self.store.save(pair, answer.staple)
        return slot

    def _failure(self, record: Record, pair: KeyPair | None, error: OcspError) -> Outcome:
        record.failures += 1
        if error.kind is Refusal.REVOKED:
            # It is asked ever more seldom: a certificate that was only put on hold comes back.
            self._agenda.put((Duty.STAPLE, record), self._failed_until(record, None))
            self._owner.revoked(record, error)
            return Outcome(record, str(error), good=False)
        now = self._now().timestamp()
        good = record.good_until(now)
        slot = None if pair is None else live_slot(record, pair)
        if not record.revoked:  # which nobody takes back by not answering
            if slot is not None:
                slot.refusal = error
            record.refusal = str(error)
        when = self._failed_until(record, getattr(error, "retry_after", None))
        self._agenda.put((Duty.STAPLE, record), when)
        if record.until is not None:
            # Told when it ends, not when the next attempt fails.
            self._agenda.put((Duty.END, record), record.until)
        # The first failures, then ever fewer of them: a responder may be down for days.
        if record.failures & (record.failures - 1) == 0 or good is None:
            tell(
                "failed",
                LogLevel.error if good is None and record.must_staple else LogLevel.warn,
                what="staple",
                name=record.name,
                kind=error.kind.name.lower(),
                reason=str(error),
                present=f"stays until {utc(good)}" if good is not None else "no staple",
                next_attempt=utc(datetime.fromtimestamp(when, UTC)),
            )
        return Outcome(record, str(error), good=False)

    def _failed_until(self, record: Record, retry_after: float | None) -> float:
        now = self._now().timestamp()
        return schedule.ocsp_failure(
            now, max(record.failures, 1), retry_after, self._rng, record.until
        )


def live_slot(record: Record, pair: KeyPair) -> Slot | None:
    """Return the slot that handshakes look at, if it is the one of this pair.

    Pairs from files are held in memory, whether a context is held for them or not.
    """
    held = record.held
    slots = held.identity.read() if isinstance(held.source, tuple) else held.identity.slots
    slot = slots[record.index] if slots else None
    return slot if slot is not None and slot.pair.certificate == pair.certificate else None
