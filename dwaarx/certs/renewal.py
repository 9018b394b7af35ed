"""Certificates by ACME: obtained when there is none, renewed in time, live with their staple."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol

import attrs
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx.certs import schedule
from dwaarx.certs.acme.issuer import Obtained
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
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.pair import KeyPair, parse_pair
from dwaarx.certs.record import Duty, Held, Key, Record, why_skipped
from dwaarx.certs.stapling import Stapling
from dwaarx.certs.store import Slot, openssl_reason
from dwaarx.config.model import AcmeCertificate, CertificateSource
from dwaarx.words import reason_of, utc

_log = Logger()

# How many certificates are being obtained at once. Each takes a thread, and public CAs limit new
# orders to a few hundred in hours.
MAX_ORDERS = 8

# How often the responder is asked for the staple of a new certificate before that goes live
# without one; with the back-off that is about a quarter of an hour. Only while the former one,
# which serves meanwhile, has LEAST_LEFT seconds to live.
TRIES = 5
LEAST_LEFT = 86400.0


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


@attrs.define(eq=False)
class _State:
    """How the renewal of one certificate goes."""

    failures: int = 0
    problem: str = ""
    not_before: float = 0.0
    tries: int = 0  # for the staple of the successor
    moved: str = ""  # where one lies that is revoked, and served on
    waiting: list[Deferred[str]] = attrs.Factory(list)  # who asked on the console


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
        self._flying: dict[Held, Deferred[None]] = {}
        self._queue: dict[Held, None] = {}  # those that wait to be one of MAX_ORDERS, in order

    def stop(self) -> None:
        """Give up what is under way."""
        self._queue.clear()
        for deferred in list(self._flying.values()):
            deferred.cancel()

    # --- loading ------------------------------------------------------------

    def load(self, held: Held) -> Sequence[Slot]:
        """Read the certificate of a name, with its staple; () if there is none yet.

        Raises CertificateErrors.
        """
        state = self._states.get(held)
        moved = state.moved if state is not None else ""
        pair = self._read(held, moved or file_name(held.source))
        if pair is None:
            return ()
        slot = self._stapling.slot(held.records[0], pair)
        held.learn((slot,))
        return (slot,)

    def _read(self, held: Held, name: str) -> KeyPair | None:
        """Read a pair; None if there is no such file. Raises CertificateErrors."""
        path = self._overlay.storage.path(name)
        try:
            pair = parse_pair(self._overlay.read(name), path)
        except FileNotFoundError:
            return None
        except OSError as error:
            message = f"cannot be read: {reason_of(error)}"
            raise CertificateErrors([CertificateError(path, message)]) from error
        except CertificateError as error:
            raise CertificateErrors([error]) from error
        if _name(held) not in pair.names:
            message = f"is not a certificate for {_name(held)}"
            raise CertificateErrors([CertificateError(path, message)])
        return pair

    def reload(self, held: Held) -> None:
        """Serve what the file holds now, if it is served at all; raises CertificateErrors."""
        held.identity.available()
        live = held.identity.slots
        if not live or held in self._flying:
            return  # the next handshake reads it
        slots = self.load(held)
        if not slots or same(slots[0].pair, live[0].pair):
            return
        try:
            held.identity.replace(slots)
        except SSL.Error as error:
            path = self._overlay.storage.path(file_name(held.source))
            raise CertificateErrors([CertificateError(path, openssl_reason(error))]) from error
        self.watch(held, slots)
        self._owner.guard(held.records[0])

    # --- when ---------------------------------------------------------------

    def watch(self, held: Held, slots: Sequence[Slot]) -> None:
        """Put the renewal of a certificate that was read, or is missing, on the agenda."""
        now = self._now().timestamp()
        state = self._states.setdefault(held, _State())
        if held in self._flying:
            return
        if slots:
            certificate = slots[0].pair.certificate
            state.not_before = certificate.not_valid_before_utc.timestamp()
            self._ari.watch(held, certificate)
            self._agenda.put((Duty.RENEW, held), self._due_at(held, state))
        else:
            self._agenda.put((Duty.RENEW, held), now)
        if self._overlay.exists(pending_name(held.source)):
            self._agenda.put((Duty.PENDING, held), now)

    def forget(self, held: Held) -> None:
        """Renew a certificate no more."""
        self._ari.forget(held)
        self._queue.pop(held, None)
        for duty in (Duty.RENEW, Duty.PENDING):
            self._agenda.discard((duty, held))
        state = self._states.pop(held, None)
        if state is not None:
            _answer(state, "the name is no longer in use")
        flying = self._flying.get(held)
        if flying is not None:
            flying.cancel()

    def moved(self, held: Held) -> None:
        """Hear that the CA has named another moment for the renewal."""
        state = self._states.get(held)
        if state is not None and held not in self._flying and not state.failures:
            self._agenda.put((Duty.RENEW, held), self._due_at(held, state))

    def renew(self, held: Held) -> Deferred[str]:
        """Renew now; fires with what came of it, in words."""
        state = self._states.setdefault(held, _State())
        waiting: Deferred[str] = Deferred()
        state.waiting.append(waiting)
        self.renew_soon(held)
        return waiting

    def renew_soon(self, held: Held) -> None:
        """Renew as soon as there is room, whenever it was due."""
        self._agenda.discard((Duty.RENEW, held))
        if held not in self._flying:
            self._queue[held] = None
            self._next()

    def due(self, held: Held) -> None:
        """Renew a certificate whose time has come."""
        state = self._states.setdefault(held, _State())
        [record] = held.records
        if record.known and not record.revoked and not state.failures:
            when = self._due_at(held, state)
            if when > self._now().timestamp():  # the clock was set back
                self._agenda.put((Duty.RENEW, held), when)
                return
        self.renew_soon(held)

    def problem(self, held: Held) -> str:
        """Say why the last attempt to renew failed, "" if it did not."""
        state = self._states.get(held)
        return "" if state is None else state.problem

    def _due_at(self, held: Held, state: _State) -> float:
        moment = self._ari.moment(held)
        return schedule.acme_renewal(
            datetime.fromtimestamp(state.not_before, UTC),
            datetime.fromtimestamp(held.records[0].not_after, UTC),
            None if moment is None else datetime.fromtimestamp(moment, UTC),
        ).timestamp()

    # --- obtaining ----------------------------------------------------------

    def _next(self) -> None:
        while self._queue and len(self._flying) < MAX_ORDERS:
            held = next(iter(self._queue))
            del self._queue[held]
            self._start(held, self._obtain)

    def _start(self, held: Held, work: Callable[[Held, _State], Coroutine[Any, Any, None]]) -> None:
        state = self._states.setdefault(held, _State())
        flying: Deferred[None] = Deferred.fromCoroutine(work(held, state))
        if not flying.called:
            self._flying[held] = flying
        flying.addBoth(self._finished, held, state)

    def _finished(self, result: Failure | None, held: Held, state: _State) -> None:
        self._flying.pop(held, None)
        if isinstance(result, Failure) and not held.dropped:
            if not result.check(CancelledError):
                _log.failure("{name} cannot be renewed", result, name=_name(held))
            self._failed(held, state, f"given up: {result.getErrorMessage()}", None)
        self._next()

    async def _obtain(self, held: Held, state: _State) -> None:
        assert isinstance(held.source, AcmeCertificate)
        former = self._former(held)
        try:
            obtained = await self._issuer.obtain(held.source, former, self._ari.ca(held))
        except AcmeError as error:
            self._failed(held, state, str(error), error)
            return
        if held.dropped:
            return
        state.tries = 0
        # Kept before anything else happens: a CA does not give out the same one again.
        now = self._now().timestamp()
        self._overlay.write(pending_name(held.source), obtained.pair.pem(), now)
        self._ari.obtained(held, obtained.pair.certificate, obtained.ca, obtained.renewal_info)
        await self._bring(held, state, obtained.pair)

    def _former(self, held: Held) -> x509.Certificate | None:
        try:
            slots = held.identity.read()
        except CertificateErrors:
            return None
        return slots[0].pair.certificate if slots else None

    def _failed(self, held: Held, state: _State, reason: str, error: AcmeError | None) -> None:
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
            LogLevel.warn if served else LogLevel.error,
            what="certificate",
            name=_name(held),
            reason=reason,
            present=_until(record.not_after) if served else "none",
            next_attempt=utc(datetime.fromtimestamp(when, UTC)),
        )
        _answer(state, f"{_name(held)}: {reason}", failed=True)

    # --- going live ---------------------------------------------------------

    def pending(self, held: Held) -> None:
        """Try again to bring in a certificate that waits for its staple."""
        if held not in self._flying:
            self._start(held, self._resume)

    async def _resume(self, held: Held, state: _State) -> None:
        name = pending_name(held.source)
        try:
            pair = self._read(held, name)
        except CertificateErrors as error:
            _log.warn(
                "the new certificate is damaged, another is obtained: {error}", error=str(error)
            )
            self._overlay.remove(name)
            self._agenda.put((Duty.RENEW, held), self._now().timestamp())
            return
        if pair is not None:
            await self._bring(held, state, pair)

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
                    self._overlay.remove(pending_name(held.source))
                    self._failed(held, state, f"the new certificate: {error}", None)
                    return
                state.tries += 1
                if self._may_wait(record, pair, state):
                    self._wait(held, state, pair, error)
                    return
                slot = Slot(pair, None, error)
            else:
                slot = self._stapling.kept(pair, answer)
        if not held.dropped:
            self._activate(held, state, slot)

    def _may_wait(self, record: Record, pair: KeyPair, state: _State) -> bool:
        """Whether the former certificate is better than the new one without a staple."""
        left = record.not_after - self._now().timestamp()
        if not record.known or record.revoked:
            return False
        if pair.must_staple:
            return left > 0
        return state.tries < TRIES and left > LEAST_LEFT

    def _wait(self, held: Held, state: _State, pair: KeyPair, error: OcspError) -> None:
        now = self._now().timestamp()
        retry_after = getattr(error, "retry_after", None)
        when = schedule.ocsp_failure(now, state.tries, retry_after, self._rng, None)
        self._agenda.put((Duty.PENDING, held), when)
        state.problem = f"the new certificate waits for its staple: {error}"
        tell(
            "failed",
            LogLevel.error if pair.must_staple else LogLevel.warn,
            what="staple of the new certificate, so the former one stays",
            name=_name(held),
            must_staple="yes" if pair.must_staple else None,
            reason=str(error),
            next_attempt=utc(datetime.fromtimestamp(when, UTC)),
        )
        _answer(state, f"{_name(held)}: {state.problem}", failed=True)

    def _activate(self, held: Held, state: _State, slot: Slot) -> None:
        """Serve a new certificate from the next handshake on."""
        [record] = held.records
        pair = slot.pair
        certificate = pair.certificate
        former = self._former(held)
        now = self._now().timestamp()
        try:
            held.identity.replace([slot], eager=True)
        except SSL.Error as error:
            self._overlay.remove(pending_name(held.source))
            self._failed(held, state, openssl_reason(error), None)
            return
        self._overlay.write(file_name(held.source), pair.pem(), now)
        self._overlay.remove(pending_name(held.source))
        if former is not None and former != certificate:
            self._stapling.store.forget(former)
        state.moved = state.problem = ""
        state.failures = state.tries = 0
        state.not_before = certificate.not_valid_before_utc.timestamp()
        self._agenda.discard((Duty.PENDING, held))
        held.learn((slot,))
        self._ari.watch(held, certificate)
        self._agenda.put((Duty.RENEW, held), self._due_at(held, state))
        self._owner.guard(record)
        tell(
            "obtained" if former is None else "renewed",
            name=_name(held),
            issuer=record.issuer,
            serial=f"{record.serial:x}",
            until=_until(record.not_after),
            staple="good" if slot.staple is not None else record.refusal,
        )
        if record.must_staple and slot.staple is None:
            tell(
                "unstapled",
                LogLevel.error,
                name=_name(held),
                must_staple="yes",
                reason=record.refusal,
            )
        _answer(state, f"{_name(held)}: good until {_until(record.not_after)}")

    # --- revocation ---------------------------------------------------------

    def revoked(self, held: Held) -> None:
        """Take a revoked certificate out of use: its successor is obtained at once.

        Until that is there it is served on, without a staple; its file gets another name, under
        which nothing but this looks for it, and not after a restart.
        """
        state = self._states.setdefault(held, _State())
        name = file_name(held.source)
        if not state.moved and self._overlay.exists(name):
            stamp = f"{self._now():%Y%m%dT%H%M%SZ}"
            aside = f"{name.removesuffix('.pem')}.revoked-{stamp}.pem"
            if self._overlay.move(name, aside):
                state.moved = aside
        state.failures = 0
        self.renew_soon(held)


def _answer(state: _State, words: str, *, failed: bool = False) -> None:
    """Tell those who wait on the console."""
    waiting, state.waiting = state.waiting, []
    for deferred in waiting:
        if failed:
            deferred.errback(AcmeError(words))
        else:
            deferred.callback(words)


def _until(not_after: float) -> str:
    return utc(datetime.fromtimestamp(not_after, UTC))


def _name(held: Held) -> str:
    assert isinstance(held.source, AcmeCertificate)
    return held.source.name


def file_name(source: CertificateSource) -> str:
    """Return where the certificate of a name is kept."""
    return f"certificates/{_base(source)}.pem"


def pending_name(source: CertificateSource) -> str:
    """Return where a certificate waits for its staple."""
    return f"pending/{_base(source)}.pem"


def _base(source: CertificateSource) -> str:
    # An asterisk in a file's name is a danger to whoever types it into a shell.
    assert isinstance(source, AcmeCertificate)
    return source.name.replace("*", "wildcard_", 1)
