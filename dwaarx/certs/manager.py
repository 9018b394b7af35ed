"""Keeps every certificate and staple: one loop that looks after all of them, and who asks of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random, SystemRandom
from typing import TypeVar

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx import collector
from dwaarx.certs import schedule
from dwaarx.certs.acme.challenges import Challenges
from dwaarx.certs.acme.issuer import Issuer
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.ari_check import AriCheck
from dwaarx.certs.crl import Revoked
from dwaarx.certs.crl_check import CrlCheck
from dwaarx.certs.errors import AcmeError, CertificateError, CertificateErrors, OcspError, Refusal
from dwaarx.certs.events import tell
from dwaarx.certs.fetch import Fetcher
from dwaarx.certs.file_sources import FileSources
from dwaarx.certs.file_watch import INTERVAL as WATCH_INTERVAL
from dwaarx.certs.internal import InternalCA
from dwaarx.certs.internal_renewal import InternalRenewal
from dwaarx.certs.ocsp_client import OcspClient
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.overview import Overview
from dwaarx.certs.record import Duty, Held, Key, Record, hexadecimal
from dwaarx.certs.renewal import Renewal
from dwaarx.certs.signals import Guard, Signal, Signals
from dwaarx.certs.staple_store import StapleStore
from dwaarx.certs.stapling import Outcome, Stapling
from dwaarx.certs.status import CertificateStatus, ReloadOutcome, describe
from dwaarx.certs.storage import Storage
from dwaarx.certs.store import ContextCache, Identity, Slot, openssl_reason
from dwaarx.config.model import (
    AcmeCertificate,
    CertificateSource,
    InternalCertificate,
    OcspOptions,
)
from dwaarx.log import quiet_logger
from dwaarx.reactor import Reactor

_log = Logger()
_quiet = quiet_logger(__name__)

T = TypeVar("T")

# How often the loop looks what is due, in seconds: as often as the most urgent requests follow
# each other. A look at which nothing is due takes microseconds.
TICK = 0.2

# How much is begun in one turn of the reactor, which handshakes wait for: reading a certificate
# with its staple takes about a millisecond.
DUTIES_PER_TICK = 20

# How many are read in one interval, each in a turn of its own: a processor is busy with it for
# a twelfth of the time, and 100,000 are known after twenty minutes.
READS_PER_TICK = 16

# Of the duties that are due, this many are looked at in one turn: most of a hundred thousand that
# are due at once only take their place in the queue of a responder, and others must not wait for
# them.
LOOKS_PER_TICK = 500

# How many files of staples are looked at in one turn once all certificates were read: those of
# certificates that are no longer in use go.
SWEEPS_PER_TICK = 200

# How many sources are read while they are acquired, so that a small service has looked at all
# of its own before it answers. The others follow in the loop, or at their first handshake.
READ_AT_ONCE = 200

# How often what the disk did not take is tried again, in seconds.
FLUSH_INTERVAL = 60.0

# Contexts held when no Dwaarfile says otherwise (`certificate_cache`).
DEFAULT_CACHE = 10_000


def utc_now() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC)


class CertificateManager(Service):
    """Holds one Identity for each certificate source in use.

    Sources come from the Dwaarfile or the console; equal sources share their Identity.
    """

    def __init__(
        self,
        storage: Storage,
        reactor: Reactor,
        now: Callable[[], datetime] = utc_now,
        *,
        fetcher: Fetcher | None = None,
        issuer: Issuer | None = None,
        rng: Random | None = None,
    ) -> None:
        rng = rng or SystemRandom()
        self._now = now
        self._reactor = reactor
        self._options = OcspOptions()
        self.challenges = Challenges()
        self.overlay = Overlay(storage)
        self.internal = InternalCA(storage, now)
        self._fetcher = fetcher or Fetcher(
            reactor, lambda: self._options.allow, lambda: self._options.timeout
        )
        self._issuer = issuer or Issuer(reactor, storage, self.challenges)
        self._agenda: Agenda[Key] = Agenda()
        self._signals = Signals()
        client = OcspClient(self._fetcher, now, reactor, lambda: self._options.timeout)
        store = StapleStore(self.overlay, now)
        self.stapling = Stapling(client, store, self._agenda, reactor, now, self, rng)
        self._ari = AriCheck(self._fetcher, self.overlay, self._agenda, now, self, rng)
        self._crl = CrlCheck(self._fetcher, storage, self._agenda, now, self, self._in_thread, rng)
        self.renewal = Renewal(
            self._issuer, self._ari, self.stapling, self.overlay, self._agenda, now, self, rng
        )
        self._internal = InternalRenewal(self.internal, self._agenda, now)
        self._files = FileSources(self.stapling, self._agenda, now, self, rng)
        self._overview = Overview(self._agenda, self._ari, self._crl)
        self._cache = ContextCache(DEFAULT_CACHE)
        self._held: dict[CertificateSource, Held] = {}
        # What was acquired and not read yet, or is to be judged by other options.
        self._unread: deque[Held] = deque()
        self._sweep = self.stapling.store.sweep(lambda: self._options.max_age)
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor

    def configure(self, options: OcspOptions, cache: int, http: bool) -> None:
        """Take the options of a Dwaarfile; they hold from the next request and handshake on.

        `max_age` and `refresh` are applied to the staples there are as well, by and by.
        `http` says whether there is a plain port that answers CAs (http-01).
        """
        self._issuer.http_available = http
        former = self._options
        if (options.max_age, options.refresh) != (former.max_age, former.refresh):
            self._unread.extend(held for held in self._held.values() if held.read)
        self._options = self.stapling.options = options
        self._cache.set_limit(cache)

    def startService(self) -> None:
        """Begin to do what is due."""
        Service.startService(self)
        now = self._now().timestamp()
        self._agenda.put((Duty.WATCH, None), now + WATCH_INTERVAL)
        self._agenda.put((Duty.FLUSH, None), now + FLUSH_INTERVAL)
        done = self._loop.start(TICK)
        done.addErrback(
            lambda failure: _log.failure("certificates are looked after no more", failure)
        )

    def stopService(self) -> Deferred[None]:
        """Renew no more; what is held is served on. Fires when nothing is under way."""
        if self._loop.running:
            self._loop.stop()
        for part in (self.renewal, self.stapling, self._ari, self._crl, self._files):
            part.stop()
        self._sweep.close()
        self._fetcher.close()
        Service.stopService(self)
        return self._issuer.stop()

    # --- what is held -------------------------------------------------------

    def acquire(self, sources: Iterable[CertificateSource]) -> dict[CertificateSource, Identity]:
        """Return an Identity for each source; files are loaded now, others when they are needed.

        A staple that cannot be used is a warning, and the certificate is served without.
        Raises CertificateErrors with every file at fault, and then nothing has changed.
        """
        wanted = dict.fromkeys(sources)
        made: dict[CertificateSource, Held] = {}
        errors: list[CertificateError] = []
        for source in wanted:
            if source not in self._held:
                try:
                    made[source] = self._make(source, len(made))
                except CertificateErrors as error:
                    errors += error.errors
        if errors:
            for held in made.values():
                self._drop(held)
            unique = {(error.path, error.reason): error for error in errors}
            raise CertificateErrors(unique.values())
        self._held.update(made)
        self._unread.extend(held for held in made.values() if not held.read)
        for source in wanted:
            held = self._held[source]
            held.source = held.identity.source = source  # its settings may be newer
        return {source: self._held[source].identity for source in wanted}

    def retain(self, sources: Iterable[CertificateSource]) -> None:
        """Forget every identity whose source is not among these."""
        kept = set(sources)
        for source in [source for source in self._held if source not in kept]:
            self._drop(self._held.pop(source))

    def _make(self, source: CertificateSource, count: int) -> Held:
        held = Held(source)
        held.loader = self._part(held)
        held.identity = Identity(source, held.load, self._now, self._cache)
        if isinstance(source, tuple):
            self._files.open(held)
            held.read = True
        elif count < READ_AT_ONCE:
            self._open(held)
        return held

    def _open(self, held: Held) -> None:
        """Read a certificate now, and be ready for the first handshake."""
        try:
            slots = held.identity.read()
            if slots:
                held.identity.replace(slots, eager=True)
        except CertificateErrors:
            # One by ACME is obtained anew; whatever keeps the local CA from issuing is to be known.
            if not isinstance(held.source, AcmeCertificate):
                raise
        except SSL.Error as error:
            # Here too, and a handshake says the same again.
            if not isinstance(held.source, AcmeCertificate):
                path = Path(held.records[0].name)
                reason = openssl_reason(error)
                raise CertificateErrors([CertificateError(path, reason)]) from error
        self._read(held)

    def _drop(self, held: Held) -> None:
        held.dropped = True
        held.identity.discard()
        for record in held.records:
            self.stapling.forget(record)
            self._crl.forget(record)
        self._part(held).forget(held)

    def _part(self, held: Held) -> FileSources | InternalRenewal | Renewal:
        if isinstance(held.source, tuple):
            return self._files
        return self._internal if isinstance(held.source, InternalCertificate) else self.renewal

    def _read(self, held: Held) -> None:
        """Read a certificate, and put on the agenda what it needs."""
        held.read = True
        slots: tuple[Slot, ...] = ()
        try:
            slots = held.identity.read()
        except CertificateErrors as error:
            _log.error("{name}: {error}", name=held.records[0].name, error=str(error))
        if isinstance(held.source, AcmeCertificate):
            self.renewal.watch(held, slots)
        else:
            self._internal.watch(held, slots)
        if slots:
            for record in held.records:
                self.guard(record)

    def _judge(self, held: Held) -> None:
        """Apply options that have changed to the staples that were fetched for a source."""
        source = held.source
        if isinstance(source, InternalCertificate):
            return
        try:
            slots = held.identity.read()
        except CertificateErrors:
            return  # told when it was read, and again when it is renewed
        for record, slot in zip(held.records, slots, strict=False):
            if not isinstance(source, tuple) or source[record.index].ocsp is None:
                self.stapling.judge(record, slot)

    # --- the loop -----------------------------------------------------------

    def _tick(self) -> None:
        self._read_on(READS_PER_TICK)
        if not self._unread:
            for _ in islice(self._sweep, SWEEPS_PER_TICK):
                pass
        now = self._now().timestamp()
        done = 0
        for _ in range(LOOKS_PER_TICK):
            due = self._agenda.due(now, 1) if done < DUTIES_PER_TICK else []
            if not due:
                break
            [key] = due
            # A bug that shows with one certificate must not end the renewal of all.
            with _log.failuresHandled(
                "cannot {duty}: {what}", duty=key[0].value, what=_subject(key)
            ) as op:
                done += self._do(key)
            if op.failed:
                self._agenda.put(key, (self._now() + schedule.RETRY).timestamp())

    def _read_on(self, count: int) -> None:
        """Read so many of those that wait, but handshakes need not wait for more than one."""
        if not self._unread or not self._loop.running:
            return
        held = self._unread.popleft()
        if not held.dropped:
            judged = held.read  # before, and now by other options
            with _log.failuresHandled("{name} cannot be read", name=held.records[0].name) as op:
                (self._judge if judged else self._read)(held)
            if op.failed and not judged:
                self._agenda.put((Duty.RENEW, held), (self._now() + schedule.RETRY).timestamp())
        if not self._unread:
            collector.settle()  # what was learnt stays
        elif count > 1:
            self._reactor.callLater(0, self._read_on, count - 1)

    def _do(self, key: Key) -> bool:
        """Do what is due; return whether it took any time."""
        match key:
            case (Duty.STAPLE, Record() as record):
                return self.stapling.due(record)
            case (Duty.END, Record() as record):
                self._ended(record)
            case (Duty.RENEW, Held() as held) if isinstance(held.source, AcmeCertificate):
                self.renewal.due(held)
            case (Duty.RENEW, Held() as held):
                self._internal.due(held)
            case (Duty.PENDING, Held() as held) if isinstance(held.source, AcmeCertificate):
                self.renewal.pending(held)
            case (Duty.PENDING, Held() as held):
                self._files.pending(held)
            case (Duty.ARI, Held() as held):
                self._ari.due(held)
            case (Duty.CRL, str() as url):
                self._crl.due(url)
            case (Duty.WATCH, None):
                self._files.look()
            case (Duty.FLUSH, None):
                now = self._now().timestamp()
                self._agenda.put((Duty.FLUSH, None), now + FLUSH_INTERVAL)
                if self.overlay.flush():
                    self._agenda.put((Duty.FLUSH, None), now + TICK)
        return True

    def guard(self, record: Record) -> None:
        """Put a certificate's staple and revocation on the agenda, by what was read of it."""
        source = record.held.source
        own = isinstance(source, tuple) and source[record.index].ocsp is not None
        if record.skip and record.until is None and not isinstance(source, tuple):
            _quiet.debug("{name}: {reason}", name=record.name, reason=record.skip)
        self.stapling.watch(record, last=own)
        if own and record.until is not None and (record.skip or not record.responders):
            self._agenda.put((Duty.END, record), record.until)
        self._crl.watch(record)

    def _ended(self, record: Record) -> None:
        self.stapling.ended(record)
        if record.until is None and self._agenda.when((Duty.STAPLE, record)) is None:
            self.stapling.watch(record)

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)

    # --- revocation ---------------------------------------------------------

    def revoked(self, record: Record, error: OcspError) -> None:
        """Hear that a responder says, signed, that a certificate is revoked."""
        self._signals.put(record, Guard.OCSP, str(error), error.revocation_reason)
        self._heed()

    def listed(self, record: Record, revoked: Revoked) -> None:
        """Hear that a certificate stands in its issuer's list."""
        self._signals.put(record, Guard.CRL, str(revoked), revoked.reason)
        self._heed()

    def overdue(self, held: Held, why: str) -> None:
        """Hear that the window to renew a certificate has passed."""
        self._signals.put(held.records[0], Guard.ARI, why, None)
        self._heed()

    def moved(self, held: Held) -> None:
        """Hear that a CA named another moment to renew."""
        self.renewal.moved(held)

    def _heed(self) -> None:
        """Act on the signals, before who brought them does anything else."""
        for signal in self._signals.taken():
            with _log.failuresHandled("a revocation cannot be acted on"):
                self._act(signal)

    def _act(self, signal: Signal) -> None:
        """Do what a signal asks for: renew early, or give a certificate up."""
        record = signal.record
        held = record.held
        if not signal.revokes:
            tell("overdue", LogLevel.warn, name=record.name, signal="ari", reason=signal.words)
            self.renewal.overdue(held)
            return
        if record.revoked:
            return  # the responder says it again
        self._withdraw(signal)
        acme = isinstance(held.source, AcmeCertificate)
        tell(
            "revoked",
            LogLevel.error,
            name=record.name,
            serial=hexadecimal(record.serial),
            signal=signal.guard.value.lower(),
            reason=signal.words,
            action="a new certificate is being obtained"
            if acme
            else "its staple is withdrawn: replace the certificate and its key",
        )
        if acme:
            self.renewal.revoked(held)
        elif isinstance(held.source, tuple):
            self._files.revoked(record)

    def _withdraw(self, signal: Signal) -> None:
        """Staple nothing any more to a certificate that is revoked."""
        record = signal.record
        refusal = OcspError(Refusal.REVOKED, signal.words, revocation_reason=signal.reason)
        try:
            slots = record.held.identity.read()
        except CertificateErrors as error:
            _log.warn("{name}: {error}", name=record.name, error=str(error))
        else:
            for slot in slots[record.index : record.index + 1]:  # its file may be gone
                slot.put(None, refusal)
                self.stapling.store.forget(slot.pair.certificate)
        record.revoked = record.refusal = signal.words
        record.until = None

    # --- for operators ------------------------------------------------------

    def reload(self) -> list[ReloadOutcome]:
        """Read every file again and serve what is good of it.

        A source any of whose files fails stays as it is, whole. A certificate that demands a
        staple is served only with one; a good staple stays until it ends if its file turns bad.
        Certificates of the storage that no handshake has asked for yet are read when one does.
        """
        root_error = self._reload_root()
        outcomes = []
        for held in list(self._held.values()):
            error, waits = self._reload(held, root_error)
            name = held.records[0].name
            if error:
                _log.error("{what} is kept as it was: {reason}", what=name, reason=error)
            words = describe(held, self._now())
            words = f"{words}; {waits}" if waits else words
            outcomes.append(ReloadOutcome(held.source, words, error or None))
        return outcomes

    def _reload_root(self) -> str:
        """Read the internal CA again if it is in use; return what is wrong with it, or ""."""
        if not any(isinstance(source, InternalCertificate) for source in self._held):
            return ""
        try:
            self.internal.reload_root()
        except CertificateError as error:
            return str(error)
        return ""

    def _reload(self, held: Held, root_error: str) -> tuple[str, str]:
        """Serve what the files of one source hold now; return why not, and what is waited for."""
        waits = ""
        try:
            if isinstance(held.source, tuple):
                waits = self._files.reload(held)
            elif isinstance(held.source, InternalCertificate):
                if root_error:
                    return root_error, ""
                self._internal.renew(held)
            else:
                self.renewal.reload(held)
        except CertificateErrors as error:
            return "; ".join(str(each) for each in error.errors), ""
        return "", waits

    def refresh(self, name: str | None = None) -> Deferred[list[Outcome]]:
        """Fetch the staples of a name, or of all that have a responder; fires with the outcomes.

        Raises LookupError if nothing is held for the name.
        """
        waiting: list[Deferred[Outcome]] = []
        for record in self._records(name):
            if name is not None and not record.held.read:
                self._read(record.held)
            if record.responders and not record.skip:
                waiting.append(self.stapling.refresh(record))
            elif name is not None:
                why = record.skip or "there is no certificate yet"
                waiting.append(succeed(Outcome(record, f"nobody is asked: {why}", good=False)))
        # They fail only if nobody waits any more, and then that is no news.
        done = DeferredList(waiting, consumeErrors=True)
        return done.addCallback(lambda results: [outcome for good, outcome in results if good])

    def renew(self, name: str) -> Deferred[list[str]]:
        """Obtain new certificates for a name now; fires with what came of it, in words.

        Raises LookupError if nothing is held for the name, and CertificateErrors if all that is
        comes as files. The Deferred fails with AcmeError, which says what came of each, if any
        could not be obtained.
        """
        waiting: list[Deferred[str]] = []
        files: list[CertificateError] = []
        for held in dict.fromkeys(record.held for record in self._records(name)):
            if isinstance(held.source, tuple):
                path = held.source[0].certificate
                reason = "is a file of yours: replace it there, and it is taken up by itself"
                files.append(CertificateError(path, reason))
            elif isinstance(held.source, InternalCertificate):
                waiting.append(maybeDeferred(self._internal.reissue, held))
            else:
                waiting.append(self.renewal.renew(held))
        if not waiting:
            raise CertificateErrors(files)
        return DeferredList(waiting, consumeErrors=True).addCallback(_all_renewed)

    def _records(self, name: str | None) -> list[Record]:
        found = [
            record
            for held in self._held.values()
            for record in held.records
            if name is None or record.is_for(name)
        ]
        if name is not None and not found:
            raise LookupError(f"there is no certificate for {name}")
        return found

    def status(self) -> list[CertificateStatus]:
        """Describe every certificate that is held."""
        now = self._now().timestamp()
        return [
            self._overview.status(record, now, self._part(held).problem(held))
            for held in self._held.values()
            for record in held.records
        ]


def _all_renewed(results: Sequence[tuple[bool, object]]) -> list[str]:
    """Return what came of each; raises AcmeError if anything failed."""
    words = [
        result.getErrorMessage() if isinstance(result, Failure) else str(result)
        for _, result in results
    ]
    if not all(good for good, _ in results):
        raise AcmeError("\n".join(words))
    return words


def _subject(key: Key) -> str:
    """Name what a duty is about."""
    about = key[1]
    if isinstance(about, Held):
        about = about.records[0]
    return about.name if isinstance(about, Record) else about or "all"
