"""Keeps every certificate and staple: loads them, reloads them, renews the internal ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from dwaarx.certs import files, ocsp, schedule
from dwaarx.certs.errors import CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.internal import InternalCA
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.status import (
    CertificateStatus,
    ReloadOutcome,
    describe,
    name_of,
    path_of,
    status_of,
)
from dwaarx.certs.storage import Storage
from dwaarx.certs.store import ContextCache, Identity, Slot, openssl_reason
from dwaarx.config.model import CertificateFiles, CertificateSource, InternalCertificate
from dwaarx.words import utc

_log = Logger()

_Files = tuple[CertificateFiles, ...]


def utc_now() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC)


class CertificateManager(Service):
    """Holds one Identity for each certificate source in use.

    Sources come from the Dwaarfile or the console; equal sources share their Identity.
    """

    def __init__(
        self, storage: Storage, clock: IReactorTime, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.internal = InternalCA(storage, now)
        self._now = now
        self._held: dict[CertificateSource, Identity] = {}
        self._cache = ContextCache(0)  # all that are held are pinned
        # When a failed renewal of an internal certificate is tried again.
        self._retry: dict[CertificateSource, datetime] = {}
        self._loop = LoopingCall(self._maintain)
        self._loop.clock = clock

    def startService(self) -> None:
        """Begin to renew what is due, once a minute."""
        Service.startService(self)
        done = self._loop.start(schedule.INTERVAL)
        done.addErrback(lambda failure: _log.failure("renewal stopped", failure))

    def stopService(self) -> None:
        """Renew no more; what is held is served on."""
        if self._loop.running:
            self._loop.stop()
        Service.stopService(self)

    # --- what is held -------------------------------------------------------

    def acquire(self, sources: Iterable[CertificateSource]) -> dict[CertificateSource, Identity]:
        """Return an Identity for each source, loading or issuing those not held yet.

        A staple that cannot be used is a warning, and the certificate is served without.
        Raises CertificateErrors with every file at fault, and then nothing has changed.
        """
        wanted = tuple(dict.fromkeys(sources))
        made: dict[CertificateSource, Identity] = {}
        errors: list[CertificateError] = []
        for source in wanted:
            if source not in self._held:
                try:
                    made[source] = self._make(source)
                except CertificateErrors as error:
                    errors += error.errors
        if errors:
            unique = {(error.path, error.reason): error for error in errors}
            raise CertificateErrors(unique.values())
        self._held.update(made)
        for identity in made.values():
            self._tell(identity)
        return {source: self._held[source] for source in wanted}

    def retain(self, sources: Iterable[CertificateSource]) -> None:
        """Forget every identity whose source is not among these."""
        kept = set(sources)
        self._held = {source: held for source, held in self._held.items() if source in kept}
        self._retry = {source: at for source, at in self._retry.items() if source in kept}

    def reload(self) -> list[ReloadOutcome]:
        """Read every file again and serve what is good of it.

        A source any of whose files fails stays as it is, whole. A certificate that demands a
        staple is served only with one; a good staple stays until it ends if its file turns bad.
        """
        root_errors = self._reload_root()
        outcomes = []
        for identity in self._held.values():
            errors = self._reload(identity, root_errors)
            if errors:
                _log.error(
                    "{what} is kept as it was: {reason}",
                    what=name_of(identity.source),
                    reason=errors,
                )
            else:
                self._tell(identity)
            description = describe(identity, self._now())
            outcomes.append(ReloadOutcome(identity.source, description, errors or None))
        return outcomes

    def status(self) -> list[CertificateStatus]:
        """Describe every certificate that is held."""
        return [
            status_of(identity, index, self._now(), self._next(identity))
            for identity in self._held.values()
            for index in range(len(identity.slots))
        ]

    # --- loading ------------------------------------------------------------

    def _make(self, source: CertificateSource) -> Identity:
        identity = Identity(source, lambda: self._load(source), self._now, self._cache)
        identity.pinned = True
        self._replace(identity, self._load(source))
        return identity

    def _load(self, source: CertificateSource) -> list[Slot]:
        if isinstance(source, InternalCertificate):
            return [self._signed(self._issue(source))]
        assert isinstance(source, tuple)
        return [
            self._stapled(each, pair)
            for each, pair in zip(source, files.load_pairs(source), strict=True)
        ]

    def _stapled(self, source: CertificateFiles, pair: KeyPair, former: Slot | None = None) -> Slot:
        """Make a slot with the staple of the file, or with the former one while that is good."""
        now = self._now()
        try:
            return Slot(pair, files.read_staple(source, pair, now))
        except OcspError as error:
            # A revocation is proven by its signature; what said "good" before is refuted.
            refuted = error.kind is Refusal.REVOKED
            kept = former.valid_staple(now) if former is not None and not refuted else None
            return Slot(pair, kept, error)

    def _reload_root(self) -> str:
        """Read the internal root again if it is in use; return what is wrong with it, or ""."""
        if not any(isinstance(source, InternalCertificate) for source in self._held):
            return ""
        try:
            self.internal.reload_root()
        except CertificateError as error:
            return str(error)
        return ""

    def _reload(self, identity: Identity, root_errors: str) -> str:
        """Serve what the files of one identity hold now; return why not, or ""."""
        source = identity.source
        if root_errors and isinstance(source, InternalCertificate):
            return root_errors
        try:
            if isinstance(source, InternalCertificate):
                self._renew(identity, source)
            elif isinstance(source, tuple):
                self._reload_files(identity, source)
        except CertificateErrors as error:
            return "; ".join(str(each) for each in error.errors)
        return ""

    def _reload_files(self, identity: Identity, source: _Files) -> None:
        former = {slot.pair.certificate: slot for slot in identity.slots}
        slots = []
        for each, pair in zip(source, files.load_pairs(source), strict=True):
            slot = self._stapled(each, pair, former.get(pair.certificate))
            if pair.must_staple and slot.staple is None and pair.certificate not in former:
                raise CertificateErrors(
                    [
                        CertificateError(
                            each.certificate,
                            "the new certificate demands a staple (must-staple) and has none, "
                            f"so the former one stays: {slot.refusal}",
                        )
                    ]
                )
            slots.append(slot)
        if all(_same(old.pair, new.pair) for old, new in zip(identity.slots, slots, strict=True)):
            for old, new in zip(identity.slots, slots, strict=True):
                old.put(new.staple, new.refusal)
            return
        self._replace(identity, slots)

    def _replace(self, identity: Identity, slots: list[Slot]) -> None:
        try:
            identity.replace(slots)
        except SSL.Error as error:
            raise CertificateErrors([_unfit(identity.source, error)]) from error

    # --- what the house makes itself ----------------------------------------

    def _issue(self, source: InternalCertificate) -> KeyPair:
        try:
            return self.internal.issue(source.names)
        except CertificateError as error:
            raise CertificateErrors([error]) from error

    def _signed(self, pair: KeyPair) -> Slot:
        """Make a slot with a staple that the internal root signs now."""
        issuer = pair.issuer
        assert issuer is not None  # the chain of an internal pair is its root
        try:
            response = self.internal.sign_staple(pair)
            return Slot(pair, ocsp.verify(response, pair.certificate, issuer, self._now()))
        except OcspError as error:
            return Slot(pair, None, error)

    def _renew(self, identity: Identity, source: InternalCertificate) -> None:
        """Renew leaf and staple if they are due; raises CertificateErrors.

        A staple that could not be made is told by the slot's refusal.
        """
        slot = identity.slots[0]
        pair = self._issue(source)
        if not _same(pair, slot.pair):
            self._replace(identity, [self._signed(pair)])
            _log.info("renewed the certificate of {what}", what=name_of(identity.source))
        elif self._staple_due(slot) <= self._now():
            signed = self._signed(slot.pair)
            slot.put(signed.staple or slot.valid_staple(self._now()), signed.refusal)
        if identity.slots[0].refusal is None:
            self._retry.pop(source, None)

    def _next(self, identity: Identity) -> datetime | None:
        """Return when something is due for an internal certificate; None for one of files."""
        if not isinstance(identity.source, InternalCertificate):
            return None
        retry = self._retry.get(identity.source)
        if retry is not None:
            return retry
        slot = identity.slots[0]
        leaf = slot.pair.certificate
        ends = [root.not_valid_after_utc for root in slot.pair.chain]
        return min(
            schedule.leaf_renewal(leaf.not_valid_before_utc, leaf.not_valid_after_utc),
            self._staple_due(slot),
            *(schedule.root_renewal(end) for end in ends),
        )

    def _staple_due(self, slot: Slot) -> datetime:
        staple = slot.staple
        if staple is None:
            return self._now()
        return schedule.staple_renewal(staple.this_update, staple.end)

    def _maintain(self) -> None:
        """Do what is due. What fails is told, and tried again after schedule.RETRY."""
        for identity in list(self._held.values()):
            what = name_of(identity.source)
            # A bug that shows with one certificate must not end the renewal of all.
            with _log.failuresHandled("{what} cannot be looked after", what=what) as trial:
                self._look_after(identity)
            if trial.failed:
                self._retry[identity.source] = self._now() + schedule.RETRY

    def _look_after(self, identity: Identity) -> None:
        source = identity.source
        due = self._next(identity)
        if isinstance(source, InternalCertificate) and due is not None and due <= self._now():
            self._try_to_renew(identity, source)
        for index, slot in enumerate(identity.slots):
            self._notice_end(slot, name_of(source, index))

    def _try_to_renew(self, identity: Identity, source: InternalCertificate) -> None:
        try:
            self._renew(identity, source)
        except CertificateErrors as error:
            reason = str(error)
        else:
            refusal = identity.slots[0].refusal
            if refusal is None:
                return
            reason = str(refusal)
        self._retry[source] = self._now() + schedule.RETRY
        _log.error("{what} cannot be renewed: {reason}", what=name_of(source), reason=reason)

    # --- telling ------------------------------------------------------------

    def _notice_end(self, slot: Slot, what: str) -> None:
        """Take away a staple whose end has passed, and say so once."""
        staple = slot.staple
        if staple is None or slot.valid_staple(self._now()) is not None:
            return
        slot.put(None, OcspError(Refusal.EXPIRED, f"the response expired at {utc(staple.end)}"))
        self._tell_slot(slot, what)

    def _tell(self, identity: Identity) -> None:
        for index, slot in enumerate(identity.slots):
            what = name_of(identity.source, index)
            ends = slot.pair.certificate.not_valid_after_utc
            if ends <= self._now():
                _log.warn("{what}: the certificate expired at {ends}", what=what, ends=utc(ends))
            self._tell_slot(slot, what)

    def _tell_slot(self, slot: Slot, what: str) -> None:
        refusal, staple = slot.refusal, slot.staple
        if refusal is None:
            return
        if staple is not None:
            _log.warn(
                "{what}: the new staple is not used, the present one stays until {end}: {reason}",
                what=what,
                end=utc(staple.end),
                reason=str(refusal),
            )
        elif slot.pair.must_staple:
            _log.error(
                "{what} demands a staple (must-staple) and is served without: {reason}",
                what=what,
                reason=str(refusal),
            )
        elif refusal.kind is Refusal.REVOKED:
            _log.error("{what}: {reason}", what=what, reason=str(refusal))
        elif refusal.kind is not Refusal.NONE:
            _log.warn("{what} is served without a staple: {reason}", what=what, reason=str(refusal))


def _same(pair: KeyPair, other: KeyPair) -> bool:
    """Whether two pairs look the same to a client (the keys then match too)."""
    return pair.certificate == other.certificate and pair.chain == other.chain


def _unfit(source: CertificateSource, error: SSL.Error) -> CertificateError:
    return CertificateError(path_of(source) or Path(name_of(source)), openssl_reason(error))
