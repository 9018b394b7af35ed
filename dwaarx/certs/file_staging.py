"""What a new certificate in files waits for before it takes the place of one that is good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random

import attrs
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx.certs import schedule
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.events import tell
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Held, Key, why_skipped
from dwaarx.certs.stapling import Stapling
from dwaarx.certs.store import Slot
from dwaarx.config.model import CertificateFiles
from dwaarx.words import utc

_log = Logger()

FETCHING = "the new certificate goes live with its first staple, which is being fetched"

# A pair that is not served yet, and where it comes from.
New = tuple[CertificateFiles, Slot]


@attrs.define(eq=False)
class Staged:
    """How it goes with the new certificates of one source."""

    flying: Deferred[None] | None = None
    wanted: tuple[x509.Certificate, ...] = ()  # whose staples are, or were, fetched
    # What came of that: a staple, or the reason why there is none.
    answers: dict[x509.Certificate, Slot] = attrs.Factory(dict)
    tries: int = 0

    def abandon(self) -> None:
        """Fetch no more."""
        flying, self.flying = self.flying, None
        if flying is not None:
            flying.cancel()


class Staging:
    """Fetches the staples of new certificates, and says how long the former ones stay.

    `arrived` is called when something came of it, to read the files again: what was fetched for
    may not be what lies there now.
    """

    def __init__(
        self,
        stapling: Stapling,
        agenda: Agenda[Key],
        now: Callable[[], datetime],
        rng: Random,
        arrived: Callable[[Held], None],
    ) -> None:
        self._stapling = stapling
        self._agenda = agenda
        self._now = now
        self._rng = rng
        self._arrived = arrived

    def to_fetch(self, staged: Staged, new: Sequence[New]) -> tuple[KeyPair, ...]:
        """Return the pairs whose staple is to be fetched before they go live.

        Raises CertificateErrors for a new certificate that is no better than any that is good.
        """
        found = []
        for source, slot in new:
            certificate = slot.pair.certificate
            _check_dates(source, certificate, self._now())
            if slot.staple is not None or certificate in staged.answers:
                continue
            if not why_skipped(slot.pair) and not is_revoked(slot):
                found.append(slot.pair)
            elif _must_wait(slot):
                raise CertificateErrors([_demands(source, slot)])
        return tuple(found)

    def waits(self, held: Held, staged: Staged, new: Sequence[New], *, files_to_come: bool) -> str:
        """Say what new certificates without a staple wait for, "" if they do not wait.

        `files_to_come` lets them wait for their staple file; that raises CertificateErrors.
        """
        for source, slot in new:
            if slot.staple is not None:
                continue
            if _must_wait(slot):
                return self._wait(held, staged, slot)
            if files_to_come and source.ocsp is not None:
                reason = f"the new certificate waits for its staple: {slot.refusal}"
                raise CertificateErrors([CertificateError(source.ocsp, reason)])
        return ""

    def fetch(self, held: Held, staged: Staged, pairs: tuple[KeyPair, ...]) -> bool:
        """Fetch the staples of new certificates; return whether that goes on."""
        wanted = tuple(pair.certificate for pair in pairs)
        if wanted != staged.wanted:
            staged.tries = 0
        elif staged.flying is not None:
            return True
        staged.abandon()
        staged.wanted = wanted
        self._agenda.discard((Duty.PENDING, held))
        flying = Deferred.fromCoroutine(self._fetch(staged, pairs))
        if not flying.called:
            staged.flying = flying
        flying.addBoth(self._landed, held, staged, flying)
        return staged.flying is flying

    async def _fetch(self, staged: Staged, pairs: tuple[KeyPair, ...]) -> None:
        for pair in pairs:
            try:
                answer = await self._stapling.fetch_for(pair)
            except OcspError as error:
                staged.answers[pair.certificate] = Slot(pair, None, error)
            else:
                staged.answers[pair.certificate] = self._stapling.kept(pair, answer)

    def _landed(
        self, result: Failure | None, held: Held, staged: Staged, flying: Deferred[None]
    ) -> None:
        if isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("{name} cannot be brought in", result, name=held.records[0].name)
        if staged.flying is not flying:
            return  # abandoned; or all came at once, and whoever began sees to it
        staged.flying = None
        if isinstance(result, Failure):
            self._agenda.put((Duty.PENDING, held), (self._now() + schedule.RETRY).timestamp())
            return
        with _log.failuresHandled("{name} cannot be brought in", name=held.records[0].name):
            self._arrived(held)

    def _wait(self, held: Held, staged: Staged, slot: Slot) -> str:
        """Try again later to fetch the staple of a certificate that is not served without."""
        words = f"the new certificate waits for its staple: {slot.refusal}"
        if self._agenda.when((Duty.PENDING, held)) is not None:
            return words
        staged.tries += 1
        now = self._now().timestamp()
        retry_after = getattr(slot.refusal, "retry_after", None)
        when = schedule.ocsp_failure(now, staged.tries, retry_after, self._rng, None)
        ends = min(record.not_after for record in held.records)
        when = min(when, ends)  # an expired certificate is worse than one without a staple
        self._agenda.put((Duty.PENDING, held), when)
        # The first failures, then ever fewer of them: a responder may be down for days.
        if staged.tries & (staged.tries - 1) == 0:
            tell(
                "failed",
                LogLevel.error,
                what="staple of the new certificate, so the former one stays",
                name=held.records[0].name,
                must_staple="yes" if slot.pair.must_staple else None,
                reason=str(slot.refusal),
                present=f"good until {_utc(ends)}",
                next_attempt=_utc(when),
            )
        return words


def is_revoked(slot: Slot) -> bool:
    """Whether there is no staple because the certificate is revoked."""
    return slot.refusal is not None and slot.refusal.kind is Refusal.REVOKED


def _must_wait(slot: Slot) -> bool:
    """Whether a new certificate without a staple is worse than any that is good."""
    return slot.pair.must_staple or is_revoked(slot)


def _check_dates(source: CertificateFiles, certificate: x509.Certificate, now: datetime) -> None:
    """Raise CertificateErrors for a certificate that does nobody any good now."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begin <= now < end:
        return
    flaw = f"expired at {utc(end)}" if end <= now else f"is not valid before {utc(begin)}"
    reason = f"the new certificate {flaw}, so the former one stays"
    raise CertificateErrors([CertificateError(source.certificate, reason)])


def _demands(source: CertificateFiles, slot: Slot) -> CertificateError:
    why = "is revoked" if is_revoked(slot) else "demands a staple (must-staple) and has none"
    return CertificateError(
        source.certificate,
        f"the new certificate {why}, so the former one stays: {slot.refusal}",
    )


def _utc(when: float) -> str:
    return utc(datetime.fromtimestamp(when, UTC))
