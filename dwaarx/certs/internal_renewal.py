"""Certificates of the local CA in use: issued, renewed and stapled without asking anyone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from OpenSSL import SSL
from twisted.logger import LogLevel

from dwaarx.certs import ocsp, schedule
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError
from dwaarx.certs.events import tell
from dwaarx.certs.internal import InternalCA
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Held, Key, hexadecimal
from dwaarx.certs.store import Slot, openssl_reason
from dwaarx.config.model import InternalCertificate
from dwaarx.words import utc

# Between two renewals of one certificate, at least.
SOONEST = timedelta(minutes=1)


class InternalRenewal:
    """Leaves of the local CA for the sources in use, each with a staple that the CA signs."""

    def __init__(self, ca: InternalCA, agenda: Agenda[Key], now: Callable[[], datetime]) -> None:
        self._ca = ca
        self._agenda = agenda
        self._now = now
        # Why the last attempt to renew failed.
        self._problems: dict[Held, str] = {}

    def load(self, held: Held) -> Sequence[Slot]:
        """Read the leaf of a source, or issue it; raises CertificateErrors."""
        try:
            slot = self._signed(self._ca.issue(_names(held)))
        except CertificateError as error:
            raise CertificateErrors([error]) from error
        held.learn((slot,))
        if slot.refusal is not None and not held.dropped:
            self.watch(held, ())
        return (slot,)

    def watch(self, held: Held, slots: Sequence[Slot]) -> None:
        """Put the next renewal of leaf or staple on the agenda."""
        now = self._now()
        when = now + schedule.RETRY
        if slots and slots[0].refusal is None:
            # A leaf that ends with its issuer, in minutes, is due as soon as it was made.
            when = max(self._due_at(slots[0]), now + SOONEST)
        self._agenda.put((Duty.RENEW, held), when.timestamp())

    def forget(self, held: Held) -> None:
        """Renew no more."""
        self._problems.pop(held, None)
        self._agenda.discard((Duty.RENEW, held))

    def due(self, held: Held) -> None:
        """Renew what is due; what fails is told, and tried again after schedule.RETRY."""
        try:
            self.renew(held)
        except CertificateErrors as error:
            reason = str(error)
        else:
            refusal = held.records[0].refusal
            if not refusal:
                return
            reason = refusal
        self.watch(held, ())
        self._problems[held] = reason
        tell(
            "failed",
            LogLevel.error,
            what="certificate",
            name=held.records[0].name,
            reason=reason,
            next_attempt=utc(self._now() + schedule.RETRY),
        )

    def problem(self, held: Held) -> str:
        """Say why the last attempt to renew failed, "" if it did not."""
        return self._problems.get(held, "")

    def renew(self, held: Held) -> None:
        """Bring leaf and staple up to date where they are served; raises CertificateErrors."""
        live = held.identity.slots
        former = held.records[0].serial
        slots: Sequence[Slot] = live
        try:
            pair = self._ca.issue(_names(held))
        except CertificateError as error:
            raise CertificateErrors([error]) from error
        if not live or not same(pair, live[0].pair):
            slots = (self._signed(pair),)
            try:
                held.identity.replace(slots)
            except SSL.Error as error:
                path = self._ca.root_path.parent.parent / self._ca.path_name(_names(held))
                raise CertificateErrors([CertificateError(path, openssl_reason(error))]) from error
        elif self._staple_due(live[0]) <= self._now():
            signed = self._signed(pair)
            live[0].put(signed.staple or live[0].valid_staple(self._now()), signed.refusal)
        held.learn(tuple(slots))
        self._problems.pop(held, None)
        self.watch(held, slots)
        record = held.records[0]
        if former and record.serial != former:
            tell(
                "renewed",
                name=record.name,
                issuer=record.issuer,
                serial=hexadecimal(record.serial),
                until=utc(slots[0].pair.certificate.not_valid_after_utc),
                staple="good" if slots[0].staple is not None else record.refusal,
            )

    def reissue(self, held: Held) -> str:
        """Issue a new leaf now, whatever the present one's age; raises CertificateErrors."""
        try:
            self._ca.issuer()  # without one, what is there has to stay
            self._ca.forget(_names(held))
        except CertificateError as error:
            raise CertificateErrors([error]) from error
        self.renew(held)
        return f"{held.records[0].name}: a new certificate is in use"

    def _signed(self, pair: KeyPair) -> Slot:
        """Make a slot with a staple that the CA signs now."""
        issuer = pair.issuer
        assert issuer is not None  # the chain of an internal pair begins with it
        try:
            response = self._ca.sign_staple(pair)
            return Slot(pair, ocsp.verify(response, pair.certificate, issuer, self._now()))
        except OcspError as error:
            return Slot(pair, None, error)

    def _due_at(self, slot: Slot) -> datetime:
        # The staple is due every day; the CA sees to its own certificates then.
        leaf = slot.pair.certificate
        renewal = schedule.leaf_renewal(leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        return min(renewal, self._staple_due(slot))

    def _staple_due(self, slot: Slot) -> datetime:
        staple = slot.staple
        if staple is None:
            return self._now()
        return schedule.staple_renewal(staple.this_update, staple.end)


def same(pair: KeyPair, other: KeyPair) -> bool:
    """Whether two pairs look the same to a client (the keys then match too)."""
    return pair.certificate == other.certificate and pair.chain == other.chain


def _names(held: Held) -> tuple[str, ...]:
    assert isinstance(held.source, InternalCertificate)
    return held.source.names
