"""Certificates that an operator brings as files: loaded, watched, and live with their staple."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from random import Random
from typing import Protocol

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx.certs import files, schedule
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.events import tell
from dwaarx.certs.file_watch import INTERVAL, FileWatch
from dwaarx.certs.internal_renewal import same
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Held, Key, Record, why_skipped
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


class FileSources:
    """The sources of `tls CERT KEY`.

    What was loaded is held in memory: files that change can be wrong for a while, and what is
    served is never what nobody has checked.
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
        self._rng = rng
        self._slots: dict[Held, tuple[Slot, ...]] = {}
        self._held: dict[_Files, Held] = {}
        self._watch = FileWatch()
        self._flying: dict[Held, Deferred[None]] = {}
        self._tries: dict[Held, int] = {}

    def stop(self) -> None:
        """Give up what is under way."""
        for deferred in list(self._flying.values()):
            deferred.cancel()

    # --- loading ------------------------------------------------------------

    def load(self, held: Held) -> Sequence[Slot]:
        """Return what was loaded and checked."""
        return self._slots[held]

    def open(self, held: Held) -> None:
        """Load the files of a new source; raises CertificateErrors.

        A staple that cannot be used is a warning, and the certificate is served without.
        """
        source = _source(held)
        self._watch.add(source)  # before reading, so that no change between is missed
        try:
            self._put(held, self._read(held))
        except CertificateErrors:
            self._watch.remove(source)
            raise
        self._held[source] = held
        self._tell_state(held)

    def forget(self, held: Held) -> None:
        """Let go of a source."""
        self._watch.remove(_source(held))
        self._held.pop(_source(held), None)
        self._slots.pop(held, None)
        self._tries.pop(held, None)
        self._agenda.discard((Duty.PENDING, held))
        flying = self._flying.get(held)
        if flying is not None:
            flying.cancel()

    def _read(self, held: Held) -> tuple[Slot, ...]:
        former = {slot.pair.certificate: slot for slot in self._slots.get(held, ())}
        return tuple(
            self._slot(record, each, pair, former.get(pair.certificate))
            for record, each, pair in zip(
                held.records, _source(held), files.load_pairs(_source(held)), strict=True
            )
        )

    def _slot(
        self, record: Record, source: CertificateFiles, pair: KeyPair, former: Slot | None
    ) -> Slot:
        """Make a slot with the staple of the file, or else the one that was fetched."""
        if source.ocsp is None:
            return self._fetched(record, pair, former)
        try:
            return Slot(pair, files.read_staple(source, pair, self._now()))
        except OcspError as error:
            if error.kind is Refusal.REVOKED:
                # Proven by its signature; what said "good" before is refuted.
                return Slot(pair, None, error)
            other = self._fetched(record, pair, former)
            return Slot(pair, other.staple, error, other.until)

    def _fetched(self, record: Record, pair: KeyPair, former: Slot | None) -> Slot:
        if former is not None and former.valid_staple(self._now()) is not None:
            return Slot(pair, former.staple, former.refusal, former.until)
        return self._stapling.slot(record, pair)

    def _put(self, held: Held, slots: tuple[Slot, ...]) -> None:
        """Serve these from the next handshake on; raises CertificateErrors."""
        former = self._slots.get(held)
        self._slots[held] = slots
        live = held.identity.slots
        if former and all(same(a.pair, b.pair) for a, b in zip(former, slots, strict=True)):
            for old, new in zip(former, slots, strict=True):
                old.put(new.staple, new.refusal, new.until)
            self._slots[held] = slots = former
            if not live:
                held.identity.available()
        else:
            try:
                held.identity.replace(slots, eager=True)
            except SSL.Error as error:
                if former is None:
                    del self._slots[held]
                else:
                    self._slots[held] = former
                raise CertificateErrors(
                    [CertificateError(_source(held)[0].certificate, openssl_reason(error))]
                ) from error
        held.learn(slots)
        for record in held.records:
            self._owner.guard(record)

    # --- changes ------------------------------------------------------------

    def look(self) -> None:
        """Load what has changed on the disk since the last look."""
        now = self._now().timestamp()
        self._agenda.put((Duty.WATCH, None), now + INTERVAL)
        for source in self._watch.changed():
            held = self._held[source]
            if held in self._flying:
                continue
            serials = [record.serial for record in held.records]
            try:
                self.reload(held)
            except CertificateErrors as error:
                if self._watch.failed(source, now):
                    reason = "; ".join(map(str, error.errors))
                    tell(
                        "failed",
                        LogLevel.error,
                        what="load",
                        name=held.records[0].name,
                        reason=reason,
                        present="the former one is served on",
                    )
                continue
            if serials != [record.serial for record in held.records]:
                self._tell_live(held)

    def reload(self, held: Held) -> str:
        """Read the files again and serve them; return what is still waited for, or "".

        A new certificate goes live with its staple: while that is fetched the former one is
        served. Raises CertificateErrors, and then the former ones stay.
        """
        slots = self._read(held)
        known = {slot.pair.certificate for slot in self._slots[held]}
        for each, slot in zip(_source(held), slots, strict=True):
            if slot.pair.certificate in known or slot.staple is not None:
                continue
            if not why_skipped(slot.pair) and self._is_good(held):
                self._stage(held)
                return "the new certificate goes live with its first staple, which is being fetched"
            if slot.pair.must_staple and self._is_good(held):
                raise CertificateErrors([_demands(each, slot)])
        self._watch.loaded(_source(held))
        self._tries.pop(held, None)
        self._agenda.discard((Duty.PENDING, held))
        self._put(held, slots)
        self._tell_state(held)
        return ""

    def _is_good(self, held: Held) -> bool:
        """Whether what is served now may be served for a while longer."""
        now = self._now().timestamp()
        return all(record.not_after > now and not record.revoked for record in held.records)

    def _stage(self, held: Held) -> None:
        if held in self._flying:
            return
        flying = Deferred.fromCoroutine(self._bring(held))
        if not flying.called:
            self._flying[held] = flying
        flying.addBoth(self._staged, held)

    def pending(self, held: Held) -> None:
        """Try again to bring in a certificate that demands a staple."""
        self._stage(held)

    def _staged(self, result: Failure | None, held: Held) -> None:
        self._flying.pop(held, None)
        if isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("{name} cannot be brought in", result, name=held.records[0].name)

    async def _bring(self, held: Held) -> None:
        """Fetch the staples of what lies on the disk, then serve it."""
        try:
            slots = list(self._read(held))
        except CertificateErrors:
            return  # changed again meanwhile: the next look sees to it
        known = {slot.pair.certificate for slot in self._slots[held]}
        for index, slot in enumerate(slots):
            if slot.staple is not None or slot.pair.certificate in known or why_skipped(slot.pair):
                continue
            try:
                slots[index] = self._stapling.kept(
                    slot.pair, await self._stapling.fetch_for(slot.pair)
                )
            except OcspError as error:
                if slot.pair.must_staple and self._is_good(held):
                    self._wait(held, slot.pair, error)
                    return
                slots[index] = Slot(slot.pair, None, error)
        if held.dropped:
            return
        try:
            self._put(held, tuple(slots))
        except CertificateErrors as error:
            _log.error("{error}; the former certificate stays", error=str(error))
            return
        self._watch.loaded(_source(held))
        self._tries.pop(held, None)
        self._tell_live(held)
        self._tell_state(held)

    def _wait(self, held: Held, pair: KeyPair, error: OcspError) -> None:
        self._tries[held] = tries = self._tries.get(held, 0) + 1
        now = self._now().timestamp()
        retry_after = getattr(error, "retry_after", None)
        when = schedule.ocsp_failure(now, tries, retry_after, self._rng, None)
        self._agenda.put((Duty.PENDING, held), when)
        tell(
            "failed",
            LogLevel.error,
            what="staple of the new certificate, so the former one stays",
            name=held.records[0].name,
            must_staple="yes" if pair.must_staple else None,
            reason=str(error),
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
            alarm = slot.pair.must_staple or refusal.kind is Refusal.REVOKED
            if staple is not None and slot.until is not None:
                tell(
                    "failed",
                    LogLevel.warn,
                    what="staple file",
                    name=record.name,
                    reason=str(refusal),
                    present=f"stays until {utc(slot.until)}",
                )
            elif alarm or refusal.kind is not Refusal.NONE:
                tell(
                    "unstapled",
                    LogLevel.error if alarm else LogLevel.warn,
                    name=record.name,
                    must_staple="yes" if slot.pair.must_staple else None,
                    reason=str(refusal),
                )
            else:
                _quiet.debug("{name}: {reason}", name=record.name, reason=str(refusal))

    def _tell_live(self, held: Held) -> None:
        for record in held.records:
            tell(
                "loaded",
                name=record.name,
                serial=f"{record.serial:x}",
                staple="good" if record.until is not None else record.refusal,
            )


def _demands(source: CertificateFiles, slot: Slot) -> CertificateError:
    return CertificateError(
        source.certificate,
        "the new certificate demands a staple (must-staple) and has none, "
        f"so the former one stays: {slot.refusal}",
    )


def _source(held: Held) -> _Files:
    assert isinstance(held.source, tuple)
    return held.source
