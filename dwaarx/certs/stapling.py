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
from dwaarx.certs.pacer import HORIZON, Pacer
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Key, Record, hexadecimal, host_of, why_skipped
from dwaarx.certs.staple_store import StapleStore
from dwaarx.certs.store import Slot
from dwaarx.certs.turns import Turns
from dwaarx.config.model import OcspOptions
from dwaarx.words import utc

_log = Logger()

# How long a request waits among those of its responder when something else waits for it (a
# certificate that is to go live, a request to a responder that failed). In seconds.
LONGEST_TURN = 60.0

_GONE = "the certificate is no longer in use"
_STOPPING = "the service is stopping"


class UnansweredError(OcspError):
    """None of the responders gave a staple; `retry_after` is what they asked for, POSIX time.

    `cause` is what became of the last one that was tried, as it is counted.
    """

    def __init__(self, kind: Refusal, reason: str, retry_after: float | None, cause: str) -> None:
        super().__init__(kind, reason)
        self.retry_after = retry_after
        self.cause = cause


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
        self._waiting: dict[Record, list[Deferred[Outcome]]] = {}  # who asked on the console

    def stop(self) -> None:
        """Give up what is under way."""
        for deferred in list(self._flying.values()):
            deferred.cancel()
        for record in list(self._waiting):
            self._answer(Outcome(record, _STOPPING, good=False))

    # --- when ---------------------------------------------------------------

    def watch(self, record: Record, *, last: bool = False) -> None:
        """Put a certificate's next fetch on the agenda, by the staple that it has.

        `last`: others bring staples, and the responders are asked only when those are late.
        """
        key = (Duty.STAPLE, record)
        if record.skip or not record.responders:
            self.forget(record)
            return
        if record in self._flying:
            return  # it puts itself on the agenda when it is done
        if record.failures and self._agenda.when(key) is not None:
            self._notice_end(record)
            return  # its responders are left alone for as long as was settled then
        self._turns.forget(key)
        when = now = self._now().timestamp()
        good = record.good_until(now) is not None
        if good and record.until is not None and record not in self._waiting:
            if last:
                when = max(now, schedule.urgent_from(record.since, record.until))
            elif not record.urgent(now):  # else it might end within SOONEST_REFRESH
                when = schedule.ocsp_success(
                    now, record.since, record.until, None, self.options.refresh, self._rng
                )
        self._plan(record, when)

    def forget(self, record: Record) -> None:
        """Take a certificate off the agenda; no staple is fetched for it any more."""
        self._turns.forget((Duty.STAPLE, record))
        self._agenda.discard((Duty.END, record))
        if record not in self._flying:
            words = _GONE if record.held.dropped else record.skip or "its staple is not fetched"
            self._answer(Outcome(record, words, good=False))

    def due(self, record: Record) -> bool:
        """Fetch a staple that is due, or put it behind the others of its responder.

        Returns whether it is being fetched; the other takes no time.
        """
        if record in self._flying:
            return False  # it puts itself on the agenda when it is done
        if record.skip or not record.responders:
            self.forget(record)  # another certificate was found when a handshake wanted it
            return False
        self._notice_end(record)
        now = self._now().timestamp()
        host = host_of(record.responders[0])
        key, urgent = (Duty.STAPLE, record), record.urgent(now)
        soon = record.urgent_from
        if not self._turns.may_go(key, host, now, urgent=urgent, urgent_from=soon):
            held = self._pacer.held_until(host, now)
            if held is not None and record in self._waiting:
                when = utc(datetime.fromtimestamp(held, UTC))
                words = f"{host} asked not to be asked before {when}"
                self._answer(Outcome(record, words, good=False))
            return False
        self._start(record)
        return True

    def refresh(self, record: Record) -> Deferred[Outcome]:
        """Fetch a staple as soon as its responder may be asked, whenever it was due.

        Fires, and never fails, with what came of it.
        """
        key = (Duty.STAPLE, record)
        waiting: Deferred[Outcome] = Deferred()
        if record in self._waiting:
            self._waiting[record].append(waiting)  # asked for already
            return waiting
        self._waiting[record] = [waiting]
        if record not in self._flying and not self._turns.is_placed(key):
            self._agenda.put(key, self._now().timestamp())
        return waiting

    def judge(self, record: Record, slot: Slot) -> None:
        """Apply options that have changed to a fetched staple, and to the time of the next."""
        judged = self.slot(record, slot.pair)
        expired = judged.refusal is not None and judged.refusal.kind is Refusal.EXPIRED
        if judged.staple is not None or (expired and slot.staple is not None):
            slot.put(judged.staple, judged.refusal, judged.until)
            record.stapled(slot)
        self.watch(record)

    def _plan(self, record: Record, when: float) -> None:
        """Ask for the next staple then; that the present one ends is noticed if it ends before."""
        self._agenda.put((Duty.STAPLE, record), when)
        if record.until is not None and (record.failures or when >= record.until):
            self._notice_end(record)
        else:
            self._agenda.discard((Duty.END, record))

    def _notice_end(self, record: Record) -> None:
        """Put the end of the present staple on the agenda, until there is a newer one."""
        if record.until is not None:
            self._agenda.put((Duty.END, record), record.until)

    def ended(self, record: Record) -> None:
        """Say once that a staple may not be sent any more."""
        now = self._now().timestamp()
        if record.until is None:
            return
        if now < record.until:
            self._notice_end(record)  # the clock was set back
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
        kind, cause = Refusal.UNREACHABLE, "waiting"
        # When those that may be asked at all want to be asked again; None if they did not say.
        later: list[float | None] = []
        for responder in responders:
            host = host_of(responder)
            if not placed:
                at = await self._turn(host, urgent=urgent)
                if at is not None:
                    problems.append(f"{responder}: {host} is not to be asked now")
                    later.append(at)
                    continue
            placed = False
            try:
                answer = await self._client.ask(pair.certificate, pair.issuer, responder)
            except OcspError as error:
                cause = error.kind.name.lower()
                self.counts[cause] += 1
                if error.kind is Refusal.REVOKED:
                    self._pacer.succeeded(host)
                    raise
                kind = error.kind
                problems.append(f"{responder}: {error}")
                later.append(None)
                if kind is Refusal.UNKNOWN:
                    self._pacer.succeeded(host)  # it works, and is asked about others
                else:
                    self._pacer.failed(host)
            except FetchError as error:
                cause = error.kind.name.lower()
                self.counts[cause] += 1
                problems.append(f"{responder}: {error}")
                if error.kind is not FetchFailure.REFUSED:  # then nobody was asked
                    later.append(error.retry_after)
                    self._pacer.failed(host, error.retry_after)
            else:
                self._pacer.succeeded(host)
                self.counts["good"] += 1
                return answer
        # The first of them to be ready again is reason enough to ask.
        waits = [at for at in later if at is not None]
        wait = min(waits) if waits and len(waits) == len(later) else None
        raise UnansweredError(kind, "; ".join(problems), wait, cause)

    async def fetch_for(self, pair: KeyPair) -> Answer:
        """Fetch the staple that a new certificate goes live with; raises OcspError."""
        return await self.fetch(pair, responders(pair.certificate), urgent=True)

    async def _turn(self, host: str, *, urgent: bool) -> float | None:
        """Wait until a host may be asked; return when to come again if that is a long time."""
        now = self._now().timestamp()
        longest = now + LONGEST_TURN
        while (at := self._pacer.slot(host, now, urgent)) <= longest:
            if at > now:
                await deferLater(self._clock, at - now)
            if at - now <= HORIZON:
                return None
            now = self._now().timestamp()
        return at

    def _start(self, record: Record) -> None:
        flying = Deferred.fromCoroutine(self._refresh(record))
        if not flying.called:
            self._flying[record] = flying
        flying.addBoth(self._finished, record)

    def _finished(self, result: Outcome | Failure, record: Record) -> None:
        self._flying.pop(record, None)
        if not isinstance(result, Failure):
            self._answer(result)
            return
        words = _STOPPING
        if not result.check(CancelledError):
            # An error of our own, which must not end all refreshing.
            _log.failure("the staple of {name} cannot be fetched", result, name=record.name)
            record.failures += 1
            words = f"given up: {result.getErrorMessage()}"
        if not record.held.dropped:
            self._plan(record, self._failed_until(record, None))
        self._answer(Outcome(record, words, good=False))

    def _answer(self, outcome: Outcome) -> None:
        """Tell those who wait on the console."""
        for waiting in self._waiting.pop(outcome.record, ()):
            waiting.callback(outcome)

    async def _refresh(self, record: Record) -> Outcome:
        now = self._now().timestamp()
        try:
            slots = record.held.identity.read()
        except CertificateErrors as error:
            return self._failure(record, None, OcspError(Refusal.NO_ISSUER, str(error)))
        if not slots:
            reason = "the certificate is not there any more"
            return self._failure(record, None, OcspError(Refusal.NO_ISSUER, reason))
        pair = slots[record.index].pair
        if why_skipped(pair):
            return self._gone(record)  # another one, as was found by reading it
        urgent = record.urgent(now)
        try:
            answer = await self.fetch(pair, record.responders, urgent=urgent, placed=True)
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
        if record.held.dropped:
            return Outcome(record, _GONE, good=False)
        self._flying.pop(record, None)
        self.watch(record)
        good = record.good_until(self._now().timestamp()) is not None
        return Outcome(record, "the certificate was replaced meanwhile", good=good)

    def _success(self, record: Record, pair: KeyPair, answer: Answer) -> Outcome:
        staple = answer.staple
        if record.revoked and staple.this_update.timestamp() <= record.since:
            # Caches on the way have it still; it is refuted.
            reason = f"it is older than what was heard before: {record.revoked}"
            return self._failure(record, pair, OcspError(Refusal.EXPIRED, reason))
        kept = self._fresh(pair, answer)
        slot = live_slot(record, pair)
        if slot is not None:
            slot.put(kept.staple, None, kept.until)
        self.store.save(pair, staple)  # memory first: a disk may be slow, or full
        record.stapled(kept)
        record.failures = 0
        record.revoked = ""
        tell("stapled", name=record.name, serial=hexadecimal(record.serial), until=utc(staple.end))
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
        self._plan(record, when)
        return Outcome(record, f"stapled, good until {utc(staple.end)}", good=True)

    # --- slots --------------------------------------------------------------

    def slot(self, record: Record, pair: KeyPair) -> Slot:
        """Make the slot of a pair that was read, with the staple that lies on the disk."""
        if record.revoked and record.serial == pair.certificate.serial_number:
            return Slot(pair, None, OcspError(Refusal.REVOKED, record.revoked))
        skipped = why_skipped(pair)
        if skipped:
            return Slot(pair, None, OcspError(Refusal.NONE, skipped))
        # Why there is no newer one is not forgotten when a handshake has it read again.
        failed = record.failures and record.serial == pair.certificate.serial_number
        newer = OcspError(Refusal.UNREACHABLE, record.refusal) if failed else None
        try:
            fetched = self.store.load(pair)
        except OcspError as error:
            none = error.kind is Refusal.NONE
            return Slot(pair, None, newer if none and newer is not None else error)
        until = fetched.until(self.options.max_age)
        if until <= self._now():
            reason = f"the response was fetched too long ago, at {utc(fetched.at)}"
            return Slot(pair, None, OcspError(Refusal.EXPIRED, reason))
        return Slot(pair, fetched.staple, newer, until)

    def kept(self, pair: KeyPair, answer: Answer) -> Slot:
        """Make the slot of a pair with a staple that was fetched now, and keep that."""
        slot = self._fresh(pair, answer)
        self.store.save(pair, answer.staple)
        return slot

    def _fresh(self, pair: KeyPair, answer: Answer) -> Slot:
        oldest = datetime.fromtimestamp(self._now().timestamp() + self.options.max_age, UTC)
        return Slot(pair, answer.staple, None, min(answer.staple.end, oldest))

    def _failure(self, record: Record, pair: KeyPair | None, error: OcspError) -> Outcome:
        record.failures += 1
        if error.kind is Refusal.REVOKED:
            # It is asked ever more seldom: a certificate that was only put on hold comes back.
            self._plan(record, self._failed_until(record, None))
            self._owner.revoked(record, error)
            if record.revoked:
                record.since = self._now().timestamp()  # what is older is refuted
            return Outcome(record, str(error), good=False)
        now = self._now().timestamp()
        good = record.good_until(now)
        slot = None if pair is None else live_slot(record, pair)
        if not record.revoked:  # which nobody takes back by not answering
            if slot is not None:
                slot.refusal = error
            record.refusal = str(error)
        when = self._failed_until(record, getattr(error, "retry_after", None))
        self._plan(record, when)
        # The first failures, then ever fewer of them: a responder may be down for days. That the
        # staple ends is told when it does.
        if record.failures & (record.failures - 1) == 0:
            tell(
                "failed",
                LogLevel.error if good is None and record.must_staple else LogLevel.warn,
                what="staple",
                name=record.name,
                kind=getattr(error, "cause", error.kind.name.lower()),
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
