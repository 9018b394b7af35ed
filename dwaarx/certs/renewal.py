"""Certificates by ACME: obtained when there is none, renewed in time, live with their staple."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Protocol

import attrs
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx.certs import acme_files, schedule
from dwaarx.certs.acme.issuer import Obtained
from dwaarx.certs.acme_files import file_name, pending_information_name, pending_name
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.ari_check import AriCheck
from dwaarx.certs.errors import (
    AcmeError,
    CertificateError,
    CertificateErrors,
    OcspError,
    Refusal,
)
from dwaarx.certs.events import tell
from dwaarx.certs.internal_renewal import same
from dwaarx.certs.order_queue import OrderQueue
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Held, Key, Record, hexadecimal, why_skipped
from dwaarx.certs.stapling import Stapling
from dwaarx.certs.store import Slot, openssl_reason
from dwaarx.config.model import AcmeCertificate
from dwaarx.words import utc

_log = Logger()

# How often the responder is asked at least for the staple of a new certificate before that goes
# live without one; with the back-off that is about a quarter of an hour.
TRIES = 5

# The former certificate serves meanwhile, and one that demands a staple waits for as long as that
# lasts; but not up to its last moment (seconds), because the clocks of clients differ.
MARGIN = 300.0


class Issues(Protocol):
    """What is asked of the issuer."""

    def obtain(
        self, certificate: AcmeCertificate, former: x509.Certificate | None, former_ca: str | None
    ) -> Deferred[Obtained]:
        """Obtain a certificate in place of a former one; fails with AcmeError."""


class Owner(Protocol):
    """Who looks after what has gone live: the manager."""

    def guard(self, record: Record) -> None:
        """Put a new certificate's staple and revocation on the agenda."""


@attrs.define(eq=False, weakref_slot=False)
class _State:
    """How the renewal of one certificate goes."""

    failures: int = 0
    problem: str = ""
    since: float = 0.0  # when its life here began, as POSIX time
    tries: int = 0  # for the staple of the successor
    moved: str = ""  # where one lies that is revoked, and served on
    ordering: bool = False
    waiting: list[Deferred[str]] | None = None  # who asked on the console


class Renewal:
    """Everything about certificates by ACME but the protocol itself.

    A certificate lies in `certificates/<name>.pem`; one that was obtained and waits for its
    staple in `pending/<name>.pem`.
    """

    def __init__(
        self,
        issuer: Issues,
        ari_check: AriCheck,
        stapling: Stapling,
        overlay: Overlay,
        agenda: Agenda[Key],
        now: Callable[[], datetime],
        owner: Owner,
        rng: Random,
    ) -> None:
        self._issuer = issuer
        self._ari = ari_check
        self._stapling = stapling
        self._overlay = overlay
        self._agenda = agenda
        self._now = now
        self._owner = owner
        self._rng = rng
        self._states: dict[Held, _State] = {}
        self._queue = OrderQueue(self._renew, self._done, self._inherit, _name)

    def stop(self) -> None:
        """Give up what is under way."""
        self._queue.stop()
        for state in self._states.values():
            _answer(state, "the service is stopping", failed=True)

    # --- loading ------------------------------------------------------------

    def load(self, held: Held) -> Sequence[Slot]:
        """Read the certificate of a name, with its staple; () if there is none yet.

        Raises CertificateErrors.
        """
        [record] = held.records
        state = self._states.get(held)
        name = _name(held)
        pair = acme_files.read(
            self._overlay, (state.moved if state is not None else "") or file_name(name), name
        )
        if pair is None:
            return ()
        slot = self._stapling.slot(record, pair)
        former = record.serial if record.known else None
        held.learn((slot,))
        if former not in (None, record.serial):  # somebody put another one there
            self.watch(held, (slot,))
            self._owner.guard(record)
        return (slot,)

    def reload(self, held: Held) -> None:
        """Serve what the file holds now, if it is served at all; raises CertificateErrors."""
        held.identity.available()
        live = held.identity.slots
        if not live or held in self._queue:
            return  # the next handshake reads it
        state = self._states.get(held)
        if state is not None and self._overlay.exists(file_name(_name(held))):
            state.moved = ""  # somebody replaced what is revoked
        slots = self.load(held)
        if not slots or same(slots[0].pair, live[0].pair):
            return
        try:
            held.identity.replace(slots)
        except SSL.Error as error:
            held.learn(live)
            path = self._overlay.storage.path(file_name(_name(held)))
            raise CertificateErrors([CertificateError(path, openssl_reason(error))]) from error
        self.watch(held, slots)
        self._owner.guard(held.records[0])

    # --- when ---------------------------------------------------------------

    def watch(self, held: Held, slots: Sequence[Slot]) -> None:
        """Put the renewal of a certificate that was read, or is missing, on the agenda."""
        now = self._now().timestamp()
        state = self._states.setdefault(held, _State())
        if held in self._queue:
            return
        when = now
        if slots:
            certificate = slots[0].pair.certificate
            state.since = self._since(held, certificate)
            self._ari.watch(held, certificate)
            when = self._due_at(held, state)
            if held.records[0].not_after <= now:
                ended = _until(held.records[0].not_after)
                tell("expired", LogLevel.warn, name=_name(held), at=ended)
        if self._overlay.exists(pending_name(_name(held))):
            # It cost an order: no other is placed before it is known to be of no use.
            self._agenda.discard((Duty.RENEW, held))
            self._agenda.put((Duty.PENDING, held), now)
        else:
            self._agenda.put((Duty.RENEW, held), when)

    def forget(self, held: Held) -> None:
        """Renew a certificate no more.

        An order that is under way is seen to its end: the certificate is kept, in case that the
        name comes back.
        """
        self._ari.forget(held)
        for duty in (Duty.RENEW, Duty.PENDING):
            self._agenda.discard((duty, held))
        state = self._states.pop(held, None)
        self._queue.drop(held, finish=state is not None and state.ordering)
        if state is not None:
            _answer(state, "the name is no longer in use", failed=True)

    def moved(self, held: Held) -> None:
        """Hear that the CA has named another moment for the renewal."""
        state = self._states.get(held)
        if state is not None and not state.failures and not self._is_begun(held):
            self._agenda.put((Duty.RENEW, held), self._due_at(held, state))

    def overdue(self, held: Held) -> None:
        """Hear that the CA wanted the certificate renewed by now."""
        state = self._states.get(held)
        # After a failure it is tried again when that was settled, not whenever the CA says so.
        if state is not None and not state.failures and not self._is_begun(held):
            self._renew_first(held)

    def renew(self, held: Held) -> Deferred[str]:
        """Renew now; fires with what came of it, in words."""
        state = self._states.setdefault(held, _State())
        waiting: Deferred[str] = Deferred()
        if state.waiting is None:
            state.waiting = []
        state.waiting.append(waiting)
        self._renew_first(held)
        return waiting

    def due(self, held: Held) -> None:
        """Renew a certificate whose time has come."""
        state = self._states.setdefault(held, _State())
        [record] = held.records
        if record.known and not record.revoked and not state.failures:
            when = self._due_at(held, state)
            if when > self._now().timestamp():  # the clock was set back
                self._agenda.put((Duty.RENEW, held), when)
                return
        self._enqueue(held, order=True)

    def pending(self, held: Held) -> None:
        """Try again to bring in a certificate that waits for its staple."""
        self._enqueue(held, order=False)

    def problem(self, held: Held) -> str:
        """Say why the last attempt to renew failed, "" if it did not."""
        state = self._states.get(held)
        return "" if state is None else state.problem

    def _renew_first(self, held: Held) -> None:
        """Renew before all that only wait for their time, which may be a hundred thousand."""
        self._enqueue(held, order=True, first=True)

    def _enqueue(self, held: Held, *, order: bool, first: bool = False) -> None:
        for duty in (Duty.RENEW, Duty.PENDING):
            self._agenda.discard((duty, held))
        self._queue.add(held, order=order, first=first)

    def _inherit(self, held: Held) -> None:
        """Go on where one for the same name ended, which was dropped meanwhile."""
        kept = self._overlay.exists(pending_name(_name(held)))
        duty = Duty.PENDING if kept else Duty.RENEW
        self._agenda.put((duty, held), self._now().timestamp())

    def _done(self, held: Held, result: Failure | None) -> None:
        if isinstance(result, Failure) and not held.dropped and not self._queue.stopped:
            _log.failure("{name} cannot be renewed", result, name=_name(held))
            state = self._states.setdefault(held, _State())
            self._failed(held, state, f"given up: {result.getErrorMessage()}", None)

    def _is_begun(self, held: Held) -> bool:
        """Whether a successor is being obtained, or waits for its staple."""
        return held in self._queue or self._agenda.when((Duty.PENDING, held)) is not None

    def _since(self, held: Held, certificate: x509.Certificate) -> float:
        """Return since when a certificate's life is counted, as POSIX time.

        One that came with less than a third of it left (backdated, or cut short by its issuer's
        end) would be due at once, and so would its successor: for it, since it was kept here.
        """
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        try:
            kept = self._overlay.modified(file_name(_name(held)))
        except OSError:
            return begin.timestamp()  # it lies elsewhere, being revoked
        if schedule.leaf_renewal(begin, end).timestamp() > kept:
            return begin.timestamp()
        return min(kept, self._now().timestamp())

    def _due_at(self, held: Held, state: _State) -> float:
        moment = self._ari.moment(held)
        return schedule.acme_renewal(
            datetime.fromtimestamp(state.since, UTC),
            datetime.fromtimestamp(held.records[0].not_after, UTC),
            None if moment is None else datetime.fromtimestamp(moment, UTC),
        ).timestamp()

    # --- obtaining ----------------------------------------------------------

    async def _renew(self, held: Held, order: bool) -> None:
        """Bring in what waits for its staple, else what is obtained now."""
        state = self._states.setdefault(held, _State())
        pair = self._waiting(held)
        if pair is None:
            if not order:
                # What waited is of no use; when the next one is due is known.
                when = max(self._due_at(held, state), self._now().timestamp())
                self._agenda.put((Duty.RENEW, held), when)
                return
            pair = await self._obtain(held, state)
        if pair is not None and not held.dropped:
            await self._bring(held, state, pair)

    def _waiting(self, held: Held) -> KeyPair | None:
        """Return the certificate that waits for its staple; one that is of no use is removed."""
        name = _name(held)
        pending = pending_name(name)
        try:
            pair = acme_files.read(self._overlay, pending, name)
        except CertificateErrors as error:
            _log.warn("the new certificate is damaged, and removed: {error}", error=str(error))
        else:
            if pair is None:
                return None
            former = self._former(held)
            newer = former is None or acme_files.is_newer(pair.certificate, former)
            if newer and pair.certificate.not_valid_after_utc > self._now():
                return pair
        self._remove_pending(name)
        return None

    def _remove_pending(self, name: str) -> None:
        for file in (pending_name(name), pending_information_name(name)):
            self._overlay.remove(file)

    async def _obtain(self, held: Held, state: _State) -> KeyPair | None:
        assert isinstance(held.source, AcmeCertificate)
        former = self._former(held)
        former_ca = None if former is None else self._ari.ca(held, former)
        state.ordering = True
        try:
            obtained = await self._issuer.obtain(held.source, former, former_ca)
        except AcmeError as error:
            self._failed(held, state, str(error), error)
            return None
        finally:
            state.ordering = False
        state.tries = 0
        # Kept before anything else happens: a CA does not give out the same one again.
        now = self._now().timestamp()
        self._overlay.write(pending_name(_name(held)), obtained.pair.pem(), now)
        self._ari.obtained(held, obtained.pair.certificate, obtained.ca, obtained.renewal_info)
        return obtained.pair

    def _former(self, held: Held) -> x509.Certificate | None:
        try:
            slots = held.identity.read()
        except CertificateErrors:
            return None
        return slots[0].pair.certificate if slots else None

    def _failed(self, held: Held, state: _State, reason: str, error: AcmeError | None) -> None:
        if held.dropped or self._queue.stopped:
            return
        state.failures += 1
        state.problem = reason
        now = self._now().timestamp()
        retry_after = None if error is None else error.retry_after
        rejected = error is not None and error.rejected
        when = schedule.acme_failure(now, state.failures, retry_after, self._rng, rejected=rejected)
        self._agenda.put((Duty.RENEW, held), when)
        [record] = held.records
        served = record.known and record.not_after > now
        tell(
            "failed",
            LogLevel.warn if served and not record.revoked else LogLevel.error,
            what="certificate",
            name=_name(held),
            reason=reason,
            present=_until(record.not_after) if served else "none",
            next_attempt=_until(when),
        )
        _answer(state, f"{_name(held)}: {reason}", failed=True)

    # --- going live ---------------------------------------------------------

    async def _bring(self, held: Held, state: _State, pair: KeyPair) -> None:
        """Let a new certificate go live with its staple, or wait for that."""
        [record] = held.records
        skipped = why_skipped(pair)
        if skipped:
            slot = Slot(pair, None, OcspError(Refusal.NONE, skipped))
        else:
            try:
                answer = await self._stapling.fetch_for(pair)
            except OcspError as error:
                if error.kind is Refusal.REVOKED:
                    self._refuse(held, state, f"the new certificate: {error}")
                    return
                state.tries += 1
                if self._may_wait(record, pair, state):
                    self._wait(held, state, pair, error)
                    return
                slot = Slot(pair, None, error)
            else:
                slot = self._stapling.kept(pair, answer)
        self._activate(held, state, slot)

    def _refuse(self, held: Held, state: _State, reason: str) -> None:
        """Give up a new certificate; the next is ordered as seldom as if the CA had refused it."""
        self._remove_pending(_name(held))
        self._failed(held, state, reason, AcmeError(reason, rejected=True))

    def _may_wait(self, record: Record, pair: KeyPair, state: _State) -> bool:
        """Whether the former certificate is better than the new one without a staple."""
        if not record.known or record.revoked:
            return False
        now = self._now().timestamp()
        if now >= record.not_after - MARGIN:
            return False
        stapled = record.good_until(now) is not None
        return pair.must_staple or stapled or state.tries < TRIES

    def _wait(self, held: Held, state: _State, pair: KeyPair, error: OcspError) -> None:
        now = self._now().timestamp()
        retry_after = getattr(error, "retry_after", None)
        when = schedule.ocsp_failure(now, state.tries, retry_after, self._rng, None)
        when = min(when, held.records[0].not_after - MARGIN)
        self._agenda.put((Duty.PENDING, held), when)
        state.problem = f"the new certificate waits for its staple: {error}"
        _answer(state, f"{_name(held)}: {state.problem}", failed=True)
        if state.tries & (state.tries - 1):
            return  # the first times are told, then ever fewer: it may take days
        tell(
            "failed",
            LogLevel.error if pair.must_staple else LogLevel.warn,
            what="staple of the new certificate, so the former one stays",
            name=_name(held),
            must_staple="yes" if pair.must_staple else None,
            reason=str(error),
            next_attempt=_until(when),
        )

    def _activate(self, held: Held, state: _State, slot: Slot) -> None:
        """Serve a new certificate from the next handshake on."""
        [record] = held.records
        name = _name(held)
        pair = slot.pair
        certificate = pair.certificate
        former = self._former(held)
        try:
            held.identity.replace([slot], eager=True)
        except SSL.Error as error:
            self._refuse(held, state, openssl_reason(error))
            return
        now = self._now().timestamp()
        written = self._overlay.write(file_name(name), pair.pem(), now)
        if written or pending_name(name) in self._overlay:
            self._overlay.remove(pending_name(name))
        # (Else it is on the disk there, and a restart finds it.)
        if former is not None and former != certificate:
            self._stapling.store.forget(former)
        state.moved = state.problem = ""
        state.failures = state.tries = 0
        state.since = self._since(held, certificate)
        for duty in (Duty.RENEW, Duty.PENDING):
            self._agenda.discard((duty, held))
        held.learn((slot,))
        self._ari.watch(held, certificate)
        self._agenda.put((Duty.RENEW, held), self._due_at(held, state))
        self._owner.guard(record)
        tell(
            "obtained" if former is None else "renewed",
            name=name,
            issuer=record.issuer,
            serial=hexadecimal(record.serial),
            until=_until(record.not_after),
            staple="good" if slot.staple is not None else record.refusal,
        )
        if record.must_staple and slot.staple is None:
            tell("unstapled", LogLevel.error, name=name, must_staple="yes", reason=record.refusal)
        _answer(state, f"{name}: good until {_until(record.not_after)}")

    # --- revocation ---------------------------------------------------------

    def revoked(self, held: Held) -> None:
        """Take a revoked certificate out of use: its successor is obtained at once.

        Until that is there it is served on, without a staple; its file gets another name, under
        which nothing but this looks for it, and not after a restart.
        """
        state = self._states.setdefault(held, _State())
        if not state.moved:
            serial = held.records[0].serial
            state.moved = acme_files.set_aside(self._overlay, _name(held), serial, self._now())
        state.failures = 0
        self._renew_first(held)


def _answer(state: _State, words: str, *, failed: bool = False) -> None:
    """Tell those who wait on the console."""
    waiting, state.waiting = state.waiting, None
    for deferred in waiting or ():
        if failed:
            deferred.errback(AcmeError(words))
        else:
            deferred.callback(words)


def _until(moment: float) -> str:
    return utc(datetime.fromtimestamp(moment, UTC))


def _name(held: Held) -> str:
    assert isinstance(held.source, AcmeCertificate)
    return held.source.name
