"""Certificates that an operator brings as files: loaded, watched, and live with their staple."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Protocol

import attrs
from OpenSSL import SSL
from twisted.logger import Logger, LogLevel

from dwaarx.certs import files
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.events import tell
from dwaarx.certs.file_staging import FETCHING, New, Staged, Staging, is_revoked
from dwaarx.certs.file_watch import INTERVAL, PATIENCE, FileWatch
from dwaarx.certs.internal_renewal import same
from dwaarx.certs.ocsp import SKEW
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Held, Key, Record, hexadecimal
from dwaarx.certs.stapling import Stapling
from dwaarx.certs.store import Slot, openssl_reason
from dwaarx.config.model import CertificateFiles
from dwaarx.log import quiet_logger
from dwaarx.words import utc

_log = Logger()
_quiet = quiet_logger(__name__)

_Files = tuple[CertificateFiles, ...]


class Owner(Protocol):
    """Who looks after what has gone live: the manager."""

    def guard(self, record: Record) -> None:
        """Put a new certificate's staple and revocation on the agenda."""

    def revoked(self, record: Record, error: OcspError) -> None:
        """Hear that a staple file says, signed, that a certificate is revoked."""


@attrs.define(eq=False)
class _State:
    """How it goes with the files of one source."""

    staged: Staged = attrs.Factory(Staged)
    problem: str = ""  # why what lies on the disk is not served, or not yet
    # By the index of a certificate that is revoked: how new (POSIX time) a file must be that
    # says otherwise.
    refuted_from: dict[int, float] = attrs.Factory(dict)


class FileSources:
    """The sources of `tls CERT KEY`.

    What was loaded is held in memory: files that change can be wrong for a while, and what is
    served is never what nobody has checked. Whatever a new certificate waits for, it is read
    again when that comes, so that what goes live is what lies on the disk then.
    """

    def __init__(
        self,
        stapling: Stapling,
        agenda: Agenda[Key],
        now: Callable[[], datetime],
        owner: Owner,
        rng: Random,
    ) -> None:
        self._stapling = stapling
        self._agenda = agenda
        self._now = now
        self._owner = owner
        self._slots: dict[Held, tuple[Slot, ...]] = {}
        self._states: dict[Held, _State] = {}
        self._held: dict[_Files, Held] = {}
        self._watch = FileWatch()
        self._staging = Staging(stapling, agenda, now, rng, self._take)

    def stop(self) -> None:
        """Give up what is under way."""
        for state in self._states.values():
            state.staged.abandon()

    # --- loading ------------------------------------------------------------

    def load(self, held: Held) -> Sequence[Slot]:
        """Return what was loaded and checked; () once the source is not in use any more."""
        return self._slots.get(held, ())

    def open(self, held: Held) -> None:
        """Load the files of a new source; raises CertificateErrors.

        A staple that cannot be used is a warning, and the certificate is served without.
        """
        source = _source(held)
        self._watch.note(source)  # before reading, so that no change between is missed
        state = self._states[held] = _State()
        try:
            self._put(held, self._read(held, state))
        except CertificateErrors:
            self.forget(held)
            raise
        self._held[source] = held
        self._tell_state(held)

    def forget(self, held: Held) -> None:
        """Let go of a source."""
        self._watch.remove(_source(held))
        self._held.pop(_source(held), None)
        self._slots.pop(held, None)
        self._agenda.discard((Duty.PENDING, held))
        state = self._states.pop(held, None)
        if state is not None:
            state.staged.abandon()

    def _read(self, held: Held, state: _State) -> tuple[Slot, ...]:
        former = {slot.pair.certificate: slot for slot in self._slots.get(held, ())}
        return tuple(
            self._slot(record, each, pair, former.get(pair.certificate), state)
            for record, each, pair in zip(
                held.records, _source(held), files.load_pairs(_source(held)), strict=True
            )
        )

    def _slot(
        self,
        record: Record,
        source: CertificateFiles,
        pair: KeyPair,
        former: Slot | None,
        state: _State,
    ) -> Slot:
        """Make a slot with the newer staple of two: that of the file, or one that was fetched."""
        fetched = self._fetched(record, pair, former, state)
        if source.ocsp is None:
            return fetched
        try:
            staple = files.read_staple(source, pair, self._now())
        except OcspError as error:
            if error.kind is Refusal.REVOKED:
                # Proven by its signature; what said "good" before is refuted.
                return Slot(pair, None, error)
            if is_revoked(fetched):
                return fetched
            return Slot(pair, fetched.staple, error, fetched.until)
        if is_revoked(fetched):
            # A file that was good before the revocation does not take it back.
            from_then = state.refuted_from.get(record.index, 0.0)
            return fetched if staple.this_update.timestamp() < from_then else Slot(pair, staple)
        if fetched.staple is not None and fetched.staple.this_update > staple.this_update:
            return Slot(pair, fetched.staple, None, fetched.until)
        return Slot(pair, staple)

    def _fetched(self, record: Record, pair: KeyPair, former: Slot | None, state: _State) -> Slot:
        if former is not None and former.valid_staple(self._now()) is not None:
            return Slot(pair, former.staple, former.refusal, former.until)
        slot = self._stapling.slot(record, pair)
        answer = state.staged.answers.get(pair.certificate)
        if slot.staple is not None or answer is None or is_revoked(slot):
            return slot
        return Slot(pair, answer.valid_staple(self._now()), answer.refusal, answer.until)

    def _put(self, held: Held, slots: tuple[Slot, ...]) -> None:
        """Serve these from the next handshake on; raises CertificateErrors."""
        former = self._slots.get(held)
        if former and all(same(a.pair, b.pair) for a, b in zip(former, slots, strict=True)):
            for old, new in zip(former, slots, strict=True):
                old.put(new.staple, new.refusal, new.until)
            slots = former
            if not held.identity.slots:
                held.identity.available()
        else:
            try:
                held.identity.replace(slots, eager=True)
            except SSL.Error as error:
                path = _source(held)[0].certificate
                raise CertificateErrors([CertificateError(path, openssl_reason(error))]) from error
            self._slots[held] = slots
        held.learn(slots)
        state = self._states[held]
        for record in held.records:
            if not record.revoked:
                state.refuted_from.pop(record.index, None)
            self._owner.guard(record)

    # --- changes ------------------------------------------------------------

    def look(self) -> None:
        """Load what has changed on the disk since the last look."""
        self._agenda.put((Duty.WATCH, None), self._now().timestamp() + INTERVAL)
        for source in self._watch.changed():
            held = self._held[source]
            # A bug that shows with one source must not keep the others from being looked at.
            with _log.failuresHandled("{name} cannot be looked at", name=held.records[0].name):
                self._take(held)

    def reload(self, held: Held) -> str:
        """Read the files again and serve them; return what is still waited for, or "".

        A new certificate goes live with its staple: while that is fetched the former one is
        served. Raises CertificateErrors, and then the former ones stay.
        """
        source, state = _source(held), self._states[held]
        state.staged.answers.clear()  # whoever asks for it wants another try
        self._watch.note(source)
        try:
            waits = self._load(held, state, None)
        except CertificateErrors:
            self._watch.told(source, self._now().timestamp())
            raise
        self._watch.used(source)
        return waits

    def pending(self, held: Held) -> None:
        """Try again to bring in a certificate that waits for its staple."""
        state = self._states.get(held)
        if state is None:
            return
        if self._is_good(held):
            state.staged.answers.clear()
        self._take(held)

    def revoked(self, record: Record) -> None:
        """Hear that a certificate in use is revoked: what waits for a staple waits no more."""
        held = record.held
        state = self._states[held]
        since = (self._now() - SKEW).timestamp()
        state.refuted_from.setdefault(record.index, since)
        if state.problem:
            self._agenda.put((Duty.PENDING, held), self._now().timestamp())

    def problem(self, held: Held) -> str:
        """Say why what lies on the disk is not served, or not yet; "" if it is."""
        state = self._states.get(held)
        return "" if state is None else state.problem

    def _take(self, held: Held) -> None:
        """Serve what the files hold now, if it is whole; what keeps that is told, once."""
        source, state = _source(held), self._states[held]
        now = self._now().timestamp()
        before = [record.serial for record in held.records]
        try:
            self._load(held, state, self._watch.waited(source, now))
        except CertificateErrors:
            if self._watch.failed(source, now):
                ends = min(record.not_after for record in held.records)
                good = "is served on, good until" if ends > now else "is served on, but ended at"
                tell(
                    "failed",
                    LogLevel.error,
                    what="load",
                    name=held.records[0].name,
                    reason=state.problem,
                    present=f"the former one {good} {_utc(ends)}",
                )
            return
        after = [record.serial for record in held.records]
        if self._watch.used(source) and not state.problem and after == before:
            # Whoever was told that they cannot be used is to know that they can.
            for record in held.records:
                _tell_live(record)

    def _load(self, held: Held, state: _State, waited: float | None) -> str:
        """Serve what the files hold, unless that has to wait: then return what for.

        `waited` is for how many seconds the files were not whole; None: an operator asks.
        """
        try:
            state.problem = self._attempt(held, state, waited)
        except CertificateErrors as error:
            state.problem = "; ".join(map(str, error.errors))
            raise
        return state.problem

    def _attempt(self, held: Held, state: _State, waited: float | None) -> str:
        slots = self._read(held, state)
        if self._is_good(held):
            staged, new = state.staged, self._new(held, slots)
            pairs = self._staging.to_fetch(staged, new)
            if pairs:
                if self._staging.fetch(held, staged, pairs):
                    return FETCHING
                # All was refused at once.
                slots = self._read(held, state)
                new = self._new(held, slots)
            # As with key and certificate, one of them is written first, and then the staple.
            files_to_come = waited is not None and waited < PATIENCE
            waits = self._staging.waits(held, staged, new, files_to_come=files_to_come)
            if waits:
                return waits
        before = [(record.serial, record.until) for record in held.records]
        self._put(held, slots)
        self._agenda.discard((Duty.PENDING, held))
        state.staged.abandon()
        state.staged = Staged()
        self._tell_changes(held, before)
        self._tell_state(held)
        return ""

    def _new(self, held: Held, slots: Sequence[Slot]) -> list[New]:
        present = {slot.pair.certificate for slot in self._slots[held]}
        return [
            (each, slot)
            for each, slot in zip(_source(held), slots, strict=True)
            if slot.pair.certificate not in present
        ]

    def _is_good(self, held: Held) -> bool:
        """Whether what is served now may be served for a while longer."""
        now = self._now().timestamp()
        return all(record.not_after > now and not record.revoked for record in held.records)

    # --- what is told ---------------------------------------------------------

    def _tell_changes(self, held: Held, before: Sequence[tuple[int, float | None]]) -> None:
        for record, (serial, until) in zip(held.records, before, strict=True):
            if record.serial != serial:
                _tell_live(record)
            elif record.until not in (None, until):
                tell(
                    "stapled",
                    name=record.name,
                    serial=hexadecimal(record.serial),
                    until=_utc(record.until or 0.0),
                )

    def _tell_state(self, held: Held) -> None:
        """Say what is wrong with what is served now."""
        now = self._now()
        for record, slot in zip(held.records, self._slots[held], strict=True):
            ends = slot.pair.certificate.not_valid_after_utc
            if ends <= now:
                tell("expired", LogLevel.warn, name=record.name, at=utc(ends))
            refusal, staple = slot.refusal, slot.staple
            fetched = self._agenda.when((Duty.STAPLE, record)) is not None
            if refusal is None or (refusal.kind is Refusal.NONE and fetched):
                continue  # it is about to be fetched
            if refusal.kind is Refusal.REVOKED:
                if not record.revoked:
                    # Only the file says so: when it says otherwise, that counts.
                    self._states[held].refuted_from.setdefault(record.index, 0.0)
                    self._owner.revoked(record, refusal)
                continue
            if staple is not None and slot.until is not None:
                tell(
                    "failed",
                    LogLevel.warn,
                    what="staple file",
                    name=record.name,
                    reason=str(refusal),
                    present=f"stays until {utc(slot.until)}",
                )
            elif slot.pair.must_staple or refusal.kind is not Refusal.NONE:
                tell(
                    "unstapled",
                    LogLevel.error if slot.pair.must_staple else LogLevel.warn,
                    name=record.name,
                    must_staple="yes" if slot.pair.must_staple else None,
                    reason=str(refusal),
                )
            else:
                _quiet.debug("{name}: {reason}", name=record.name, reason=str(refusal))


def _tell_live(record: Record) -> None:
    tell(
        "loaded",
        name=record.name,
        issuer=record.issuer,
        serial=hexadecimal(record.serial),
        until=_utc(record.not_after),
        staple="good" if record.until is not None else record.refusal,
    )


def _utc(when: float) -> str:
    return utc(datetime.fromtimestamp(when, UTC))


def _source(held: Held) -> _Files:
    assert isinstance(held.source, tuple)
    return held.source
