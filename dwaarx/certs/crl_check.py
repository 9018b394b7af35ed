"""Looking certificates up in revocation lists, where no OCSP responder speaks for them."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
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

# Certificates that turn up after a list was looked at are looked up together, this long after that
# (seconds): at a start there are a hundred thousand of them, for a hundred lists.
GATHER = 60.0

# How many lists are in memory at once; and how soon the others try again (seconds).
MAX_CHECKS = 4
CROWDED = 1.0

# How many revocations are acted on in one turn of the reactor, which handshakes wait for: each
# moves files. A CA may take back thousands at once. And how soon others follow (seconds).
HEARD_AT_ONCE = 10
HEARD_NEXT = 0.1

# How many certificates are read to find the one of their issuer.
_READS = 10


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
    """One list: the certificates that it guards, and how it went.

    `checked` is when it was looked at last, `next` when it is to be, whatever certificates turn up
    (POSIX times); `unseen` is whether one was not looked up since. `found` are those that it takes
    back, as far as nobody was told, with their serial numbers.
    """

    url: str
    records: set[Record] = attrs.Factory(set)
    failures: int = 0
    problem: str = ""
    next_update: datetime | None = None
    checked: float = 0.0
    next: float = 0.0
    unseen: bool = False
    found: deque[tuple[Record, int, Revoked]] = attrs.Factory(deque)

    @property
    def file(self) -> str:
        """Where it is kept."""
        return f"crl/{hashlib.sha256(self.url.encode()).hexdigest()}.crl"


@attrs.frozen
class _Verified:
    """A list, and the name of the issuer that it speaks for."""

    crl: Crl
    issuer: str


@attrs.frozen
class _Kept:
    """A list of the disk that holds; `at` is when it was fetched."""

    verified: _Verified
    at: float


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
        self._guarding: dict[Record, _List] = {}
        self._flying: dict[str, Deferred[None]] = {}

    def stop(self) -> None:
        """Give up what is under way."""
        for deferred in list(self._flying.values()):
            deferred.cancel()

    def watch(self, record: Record) -> None:
        """Guard a certificate by its list, if it has one and no responder."""
        url = list_of(record)
        known = self._guarding.get(record)
        if known is None or known.url != url:
            self.forget(record)
            if url is None:
                return
            known = self._lists.setdefault(url, _List(url))
            known.records.add(record)
            self._guarding[record] = known
        known.unseen = True
        self._plan(known)

    def forget(self, record: Record) -> None:
        """Guard a certificate no more."""
        known = self._guarding.pop(record, None)
        if known is not None:
            known.records.discard(record)
            if not known.records:
                del self._lists[known.url]
                self._agenda.discard((Duty.CRL, known.url))

    def problem(self, record: Record) -> str:
        """Say why a certificate's list cannot be relied on at present, "" if it can."""
        known = self._guarding.get(record)
        return known.problem if known is not None else ""

    def due(self, url: str) -> None:
        """Look the certificates of a list up, with the list on the disk while it is current."""
        known = self._lists.get(url)
        if known is None or url in self._flying:
            return
        if known.found:
            self._tell(known)
            self._plan(self._lists.get(url))
        elif len(self._flying) >= MAX_CHECKS:
            self._agenda.put((Duty.CRL, url), self._now().timestamp() + CROWDED)
        else:
            flying = Deferred.fromCoroutine(self._check(known))
            if not flying.called:
                self._flying[url] = flying
            flying.addBoth(self._finished, known)

    def _finished(self, result: Failure | None, known: _List) -> None:
        self._flying.pop(known.url, None)
        if isinstance(result, Failure) and not result.check(CancelledError):
            _log.failure("{url} cannot be checked", result, url=known.url)
            self._failed(known, result.getErrorMessage(), None)
        # All its certificates may have been let go, and others come, while it was looked at.
        self._plan(self._lists.get(known.url))

    def _plan(self, known: _List | None) -> None:
        """Put a list on the agenda."""
        if known is None or known.url in self._flying:
            return  # what looks at it puts it there
        now = self._now().timestamp()
        when = known.next
        if known.found:
            when = now + HEARD_NEXT
        elif known.unseen and not known.failures:
            when = min(when, known.checked + GATHER)
        # Within bounds, also if the clock was set back meanwhile.
        self._agenda.put((Duty.CRL, known.url), min(max(when, now), now + MAX_REST))

    async def _check(self, known: _List) -> None:
        known.checked = now = self._now().timestamp()
        issuers = self._issuers(known)
        if not issuers:
            reason = "no certificate that it is for has its issuer's in its chain"
            self._failed(known, reason, None)
            return
        kept = await self._kept(known, issuers)
        if kept is not None and now < kept.at + MAX_REST:
            self._rest(known, kept)
            await self._look_up(known, kept.verified)
            return
        try:
            fetched = await self._fetched(known, issuers)
        except FetchError as error:
            self._failed(known, str(error), error.retry_after)
        except CrlError as error:
            self._failed(known, str(error), None)
        else:
            self._rest(known, _Kept(fetched, now))
            await self._look_up(known, fetched)
            return
        if kept is not None:
            # Whom it takes back is known, though not whom its successor does.
            await self._look_up(known, kept.verified)

    def _rest(self, known: _List, kept: _Kept) -> None:
        """Note that all is well until a list ends, or has become old."""
        crl = kept.verified.crl
        known.failures, known.problem, known.next_update = 0, "", crl.next_update
        now = self._now().timestamp()
        when = min(crl.next_update.timestamp(), kept.at + MAX_REST)
        known.next = max(when, now + schedule.SOONEST_REFRESH)

    async def _look_up(self, known: _List, verified: _Verified) -> None:
        known.unseen = False
        serials = [(each, each.serial) for each in known.records if each.issuer == verified.issuer]
        crl = verified.crl
        listed = await self._in_thread(
            lambda: [(record, serial, crl.revocation(serial)) for record, serial in serials]
        )
        known.found.extend(
            (record, serial, revoked) for record, serial, revoked in listed if revoked is not None
        )
        self._tell(known)

    def _tell(self, known: _List) -> None:
        """Tell of some of those that a list takes back, and of others in the next turn."""
        for _ in range(min(HEARD_AT_ONCE, len(known.found))):
            record, serial, revoked = known.found.popleft()
            if record in known.records and record.serial == serial:
                self._owner.listed(record, revoked)

    def _issuers(self, known: _List) -> dict[str, x509.Certificate]:
        """Return the issuers of a list's certificates by their names; there should be one."""
        found: dict[str, x509.Certificate] = {}
        reads: Counter[str] = Counter()
        for record in tuple(known.records):  # reading one may show that it is another by now
            if record.issuer in found or reads[record.issuer] >= _READS:
                continue
            reads[record.issuer] += 1
            try:
                slots = record.held.identity.read()
            except CertificateErrors:
                continue
            issuer = slots[record.index].pair.issuer if slots else None
            if issuer is not None:
                found[issuer.subject.rfc4514_string()] = issuer
        return found

    async def _kept(self, known: _List, issuers: dict[str, x509.Certificate]) -> _Kept | None:
        """Return the list on the disk, if there is one that holds."""
        now = self._now()
        try:
            verified = await self._in_thread(
                lambda: _verify(self._storage.read(known.file, MAX_CRL), known.url, issuers, now)
            )
            at = self._storage.modified(known.file)
        except (OSError, CrlError):
            return None
        if now >= verified.crl.next_update:
            return None
        # One of the future was written by a clock that was wrong; its age is not known.
        return _Kept(verified, at if at <= now.timestamp() else 0.0)

    async def _fetched(self, known: _List, issuers: dict[str, x509.Certificate]) -> _Verified:
        """Fetch a list, and keep it; raises FetchError or CrlError."""
        fetched = await self._fetcher.fetch(known.url, limit=MAX_CRL)
        data, now = fetched.body, self._now()
        found = await self._in_thread(lambda: _verify(data, known.url, issuers, now))
        try:
            await self._in_thread(
                lambda: self._storage.write(known.file, data, 0o644, now.timestamp())
            )
        except OSError as error:
            path = str(self._storage.path(known.file))
            _log.warn("{path} cannot be written: {reason}", path=path, reason=reason_of(error))
        return found

    def _failed(self, known: _List, reason: str, retry_after: float | None) -> None:
        known.failures += 1
        known.problem = reason
        now = self._now().timestamp()
        when = schedule.ocsp_failure(now, known.failures, retry_after, self._rng, None)
        known.next = when
        # The first failures, then ever fewer of them.
        if known.failures & (known.failures - 1) == 0:
            tell(
                "failed",
                LogLevel.warn,
                what="crl",
                url=known.url,
                certificates=len(known.records),
                reason=reason,
                known_until=utc(known.next_update) if known.next_update else None,
                next_attempt=utc(datetime.fromtimestamp(when, UTC)),
            )


def list_of(record: Record) -> str | None:
    """Return the list that guards a certificate: the first one, where no responder is asked."""
    return None if by_http(record.responders) is not None else by_http(record.crls)


def by_http(urls: Iterable[str]) -> str | None:
    """Return the first URL that can be asked: of http or https."""
    return next((url for url in urls if url.lower().startswith(("http:", "https:"))), None)


def _verify(
    data: bytes, url: str, issuers: dict[str, x509.Certificate], now: datetime
) -> _Verified:
    """Verify a list by one of these; raises CrlError."""
    reasons = []
    for name, issuer in issuers.items():
        try:
            return _Verified(crl.verify(data, url, issuer, now), name)
        except CrlError as error:
            reasons.append(str(error))
    raise CrlError("; ".join(dict.fromkeys(reasons)))
