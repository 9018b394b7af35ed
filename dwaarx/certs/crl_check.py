"""Looking certificates up in revocation lists, where no OCSP responder speaks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Protocol, TypeVar

import attrs
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx.certs import crl, schedule
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.crl import Crl, Revoked
from dwaarx.certs.errors import CertificateErrors, CrlError, FetchError
from dwaarx.certs.events import tell
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.record import Duty, Key, Record
from dwaarx.certs.storage import Storage
from dwaarx.words import reason_of, utc

_log = Logger()

T = TypeVar("T")

# The lists of the large public CAs are cut into shards of a few MiB at most.
MAX_CRL = 32 * 1024 * 1024

# A list is looked at again after this at the latest, however long it holds: the day it says
# "revoked" matters. In seconds.
MAX_REST = 24 * 3600.0


class Fetches(Protocol):
    """What is asked of the guarded fetcher."""

    def fetch(self, url: str, *, limit: int) -> Deferred[Fetched]:
        """Get a URL; fails with FetchError."""


class InThread(Protocol):
    """Runs what takes long (hashing, and searching megabytes) away from the reactor."""

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        """Run `work` in a thread; fires with what it returns, fails with what it raises."""


class Owner(Protocol):
    """Who is told of a revocation: the manager."""

    def listed(self, record: Record, revoked: Revoked) -> None:
        """Hear that a certificate stands in its issuer's list."""


@attrs.define(eq=False)
class _List:
    """One list: the certificates that it guards, and how it went."""

    url: str
    records: set[Record] = attrs.Factory(set)
    failures: int = 0
    problem: str = ""
    next_update: datetime | None = None


class CrlCheck:
    """The lists of the certificates that no OCSP responder speaks for.

    Lists are kept in `crl/<sha256 of the URL>.crl` and asked for again at their nextUpdate.
    """

    def __init__(
        self,
        fetcher: Fetches,
        storage: Storage,
        agenda: Agenda[Key],
        now: Callable[[], datetime],
        owner: Owner,
        in_thread: InThread,
        rng: Random,
    ) -> None:
        self._fetcher = fetcher
        self._storage = storage
        self._agenda = agenda
        self._now = now
        self._owner = owner
        self._in_thread = in_thread
        self._rng = rng
        self._lists: dict[str, _List] = {}
        self._flying: dict[str, Deferred[None]] = {}

    def stop(self) -> None:
        """Give up what is under way."""
        for deferred in list(self._flying.values()):
            deferred.cancel()

    def watch(self, record: Record) -> None:
        """Guard a certificate by its list, if it has one and no responder."""
        self.forget(record)
        url = list_of(record)
        if url is None:
            return
        known = self._lists.setdefault(url, _List(url))
        known.records.add(record)
        if url not in self._flying:
            self._agenda.put((Duty.CRL, url), self._now().timestamp())

    def forget(self, record: Record) -> None:
        """Guard a certificate no more."""
        for url in [url for url, known in self._lists.items() if record in known.records]:
            known = self._lists[url]
            known.records.discard(record)
            if not known.records:
                del self._lists[url]
                self._agenda.discard((Duty.CRL, url))

    def problem(self, record: Record) -> str:
        """Say why a certificate's list cannot be relied on at present, "" if it can."""
        known = self._lists.get(list_of(record) or "")
        return known.problem if known is not None else ""

    def due(self, url: str) -> None:
        """Look the certificates of a list up, with the list on the disk while it is current."""
        known = self._lists.get(url)
        if known is None or url in self._flying:
            return
        flying = Deferred.fromCoroutine(self._check(known))
        if not flying.called:
            self._flying[url] = flying
        flying.addBoth(self._finished, known)

    def _finished(self, result: Failure | None, known: _List) -> None:
        self._flying.pop(known.url, None)
        if isinstance(result, Failure):
            if not result.check(CancelledError):
                _log.failure("{url} cannot be checked", result, url=known.url)
            self._failed(known, result.getErrorMessage(), None)

    async def _check(self, known: _List) -> None:
        issuer = self._issuer(known)
        if issuer is None:
            self._failed(known, "the issuer's certificate cannot be read", None)
            return
        try:
            found = await self._current(known, issuer)
        except FetchError as error:
            self._failed(known, str(error), error.retry_after)
            return
        except CrlError as error:
            self._failed(known, str(error), None)
            return
        known.failures, known.problem, known.next_update = 0, "", found.next_update
        now = self._now()
        rest = min((found.next_update - now).total_seconds(), MAX_REST)
        when = now.timestamp() + max(rest, schedule.SOONEST_REFRESH)
        if known.url in self._lists:
            self._agenda.put((Duty.CRL, known.url), when)
        name = issuer.subject.rfc4514_string()
        serials = [(each, each.serial) for each in known.records if each.issuer == name]
        listed = await self._in_thread(
            lambda: [(record, found.revocation(serial)) for record, serial in serials]
        )
        for record, revoked in listed:
            if revoked is not None and record in known.records:
                self._owner.listed(record, revoked)

    def _issuer(self, known: _List) -> x509.Certificate | None:
        for record in known.records:
            try:
                issuer = record.held.identity.read()[record.index].pair.issuer
            except CertificateErrors:
                continue
            if issuer is not None:
                return issuer
        return None

    async def _current(self, known: _List, issuer: x509.Certificate) -> Crl:
        """Return the list on the disk while it is current, else fetch it; verified either way."""
        name = f"crl/{hashlib.sha256(known.url.encode()).hexdigest()}.crl"
        url = known.url
        path = self._storage.path(name)
        now = self._now()
        try:
            kept = await self._in_thread(
                lambda: crl.verify(_read(self._storage, name), url, issuer, now)
            )
            # It says itself until when it holds; but what is a day old is asked for again.
            fresh = now.timestamp() - self._storage.modified(name) < MAX_REST
            if fresh and now < kept.next_update:
                return kept
        except (OSError, CrlError):
            pass  # there is none, or none that is of use: it is fetched
        fetched = await self._fetcher.fetch(url, limit=MAX_CRL)
        data = fetched.body
        found = await self._in_thread(lambda: crl.verify(data, url, issuer, self._now()))
        try:
            self._storage.write(name, data, 0o644, now.timestamp())
        except OSError as error:
            _log.warn("{path} cannot be written: {reason}", path=str(path), reason=reason_of(error))
        return found

    def _failed(self, known: _List, reason: str, retry_after: float | None) -> None:
        known.failures += 1
        known.problem = reason
        now = self._now().timestamp()
        when = schedule.ocsp_failure(now, known.failures, retry_after, self._rng, None)
        if known.url in self._lists:
            self._agenda.put((Duty.CRL, known.url), when)
        if known.failures & (known.failures - 1) == 0:
            tell(
                "failed",
                LogLevel.warn,
                what="crl",
                url=known.url,
                certificates=len(known.records),
                reason=reason,
                known_until=utc(known.next_update) if known.next_update else None,
            )


def list_of(record: Record) -> str | None:
    """Return the list that guards a certificate: the first one, where there is no responder."""
    if record.responders or not record.crls:
        return None
    return next((url for url in record.crls if url.lower().startswith(("http:", "https:"))), None)


def _read(storage: Storage, name: str) -> bytes:
    return storage.read(name, MAX_CRL)
