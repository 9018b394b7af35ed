"""A manager whose CA is the test: it answers orders, renewal information, lists and responders."""

from __future__ import annotations

import errno
import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
import pytest
from cryptography import x509
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from dwaarx.certs.acme.issuer import Obtained
from dwaarx.certs.errors import AcmeError, FetchError, OcspError, Refusal
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.manager import CertificateManager
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.record import Duty, Record
from dwaarx.certs.store import Identity
from dwaarx.config.model import AcmeCa, AcmeCertificate, AcmeSettings
from tests.certs import pki
from tests.certs.handshakes import handshake
from tests.certs.responders import ROOT, World, leaf

T = TypeVar("T")

URL = "http://ocsp.test"
CRL = "http://crl.test/list.crl"
CA = "https://ca.test/directory"
OTHER_CA = "https://other.test/directory"
INFORMATION = "https://ca.test/renewal-info"
NAME = "example.test"
SETTINGS = AcmeSettings((AcmeCa(CA), AcmeCa(OTHER_CA)))
SOURCE = AcmeCertificate(NAME, SETTINGS)
LIFETIME = timedelta(days=90)


@attrs.frozen
class Order:
    """What the issuer was asked for."""

    certificate: AcmeCertificate
    former: x509.Certificate | None
    former_ca: str | None
    outcome: Deferred[Obtained]


class FakeIssuer:
    """Keeps the orders; the test fires their Deferreds."""

    http_available = True

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.stopped = False

    def obtain(
        self, certificate: AcmeCertificate, former: x509.Certificate | None, former_ca: str | None
    ) -> Deferred[Obtained]:
        order = Order(certificate, former, former_ca, Deferred())
        self.orders.append(order)
        return order.outcome

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)


class Manager(CertificateManager):
    """One whose threads are not needed."""

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        return maybeDeferred(work)


class AcmeWorld(World):
    """What certificates by ACME meet. `information` is what the CA says of when to renew."""

    def __init__(self, folder: Path) -> None:
        self.issuer = FakeIssuer()
        self.information: Callable[[], tuple[datetime, datetime] | FetchError] | None = None
        self.retry_after: str | None = None
        self.asked_information: list[tuple[float, str]] = []
        self.lists: dict[str, bytes | FetchError | Deferred[Fetched]] = {}
        self.asked_lists: list[str] = []
        super().__init__(folder)

    def make(self) -> CertificateManager:
        manager = Manager(
            self.storage,
            self.clock,
            self.now,
            fetcher=self,
            issuer=self.issuer,
            rng=Random(3),
        )
        manager.startService()
        return manager

    def restart(self) -> None:
        self.issuer.orders.clear()
        super().restart()

    def fetch(self, url: str, **options: Any) -> Deferred[Fetched]:
        if url.startswith(INFORMATION):
            return self._inform(url)
        if urlsplit(url).netloc == "crl.test":
            self.asked_lists.append(url)
            said = self.lists[url]
            if isinstance(said, Deferred):
                return said
            return _answer(said, url)
        return super().fetch(url, **options)

    def _inform(self, url: str) -> Deferred[Fetched]:
        self.asked_information.append((self.clock.seconds(), url))
        assert self.information is not None
        said = self.information()
        if isinstance(said, FetchError):
            return _answer(said, url)
        start, end = (each.strftime("%Y-%m-%dT%H:%M:%SZ") for each in said)
        body = {"suggestedWindow": {"start": start, "end": end}}
        headers = {} if self.retry_after is None else {"retry-after": self.retry_after}
        return _answer(json.dumps(body).encode(), url, headers)

    # --- certificates -------------------------------------------------------

    def leaf(self, name: str = NAME, url: str | None = URL, **options: Any) -> pki.Entity:
        """A certificate that is new at this moment, and that the responder knows."""
        options.setdefault("not_before", self.now().replace(microsecond=0))
        options.setdefault("lifetime", LIFETIME)
        made = leaf(*([url] if url is not None else []), name=name, **options)
        self.leaves[made.certificate.serial_number] = made
        return made

    @property
    def orders(self) -> list[Order]:
        return self.issuer.orders

    def issue(self, made: pki.Entity | None = None, *, ca: str = CA, index: int = -1) -> pki.Entity:
        """Let an order end well."""
        made = made if made is not None else self.leaf(self.orders[index].certificate.name)
        information = INFORMATION if self.information is not None and ca == CA else None
        self.orders[index].outcome.callback(Obtained(pair_of(made), ca, information))
        return made

    def refuse(self, reason: str = "no", index: int = -1, **options: Any) -> None:
        self.orders[index].outcome.errback(AcmeError(reason, **options))

    def obtained(self, made: pki.Entity | None = None) -> tuple[Identity, pki.Entity]:
        """A name in use with its first certificate."""
        identity = self.serve(SOURCE)
        made = self.issue(made)
        self.ticks()
        assert handshake(identity)[0] == made.certificate
        return identity, made

    def file(self, name: str) -> Path:
        return self.storage.path(name)

    def waits(self) -> Path:
        """Where a certificate waits for its staple."""
        return self.file(f"pending/{NAME}.pem")

    def kept(self) -> Path:
        return self.file(f"certificates/{NAME}.pem")

    def set_aside(self) -> list[Path]:
        return sorted(self.file("certificates").glob("*.revoked-*.pem"))

    def put(self, path: Path, made: pki.Entity) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair_of(made).pem())

    # --- what the manager holds ---------------------------------------------

    def record(self) -> Record:
        [held] = self.manager._held.values()
        return held.records[0]

    def renewal(self) -> datetime:
        """When the certificate is to be renewed."""
        when = self.manager._agenda.when((Duty.RENEW, self.record().held))
        assert when is not None
        return at(when)

    def answer(self, data: bytes) -> None:
        """Let the responder answer what it was asked while it said nothing."""
        asked, self.pending = self.pending, []
        for each in asked:
            each.callback(Fetched(200, {}, data, URL))
        self.ticks()

    def revoke(self) -> None:
        """Let a responder have said so of the certificate in use."""
        error = OcspError(
            Refusal.REVOKED,
            "the certificate is revoked (keyCompromise)",
            revocation_reason=x509.ReasonFlags.key_compromise,
        )
        self.manager.revoked(self.record(), error)


def listed(name: str = NAME, url: str = CRL, ca: pki.Entity = ROOT, **options: Any) -> pki.Entity:
    """A certificate with a list, and without a responder."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    extra = [(x509.CRLDistributionPoints([point]), False)]
    options.setdefault("lifetime", LIFETIME)
    return pki.make_leaf(ca, [name], extra=extra, **options)


def pair_of(made: pki.Entity) -> KeyPair:
    return KeyPair(made.certificate, made.chain[1:], made.key)


def _answer(
    said: bytes | FetchError, url: str, headers: dict[str, str] | None = None
) -> Deferred[Fetched]:
    deferred: Deferred[Fetched] = Deferred()
    if isinstance(said, FetchError):
        deferred.errback(said)
    else:
        deferred.callback(Fetched(200, headers or {}, said, url))
    return deferred


class Disk:
    """A storage folder that can become full, or read-only."""

    def __init__(self, world: AcmeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self._storage = world.storage
        self._patch = monkeypatch

    def fail(self, code: int = errno.EROFS) -> None:
        def refuse(*arguments: object, **options: object) -> None:
            raise OSError(code, os.strerror(code))

        methods = ("write",) if code == errno.ENOSPC else ("write", "remove", "move")
        for method in methods:
            self._patch.setattr(self._storage, method, refuse)

    def recover(self) -> None:
        self._patch.undo()


def at(moment: float) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


@contextmanager
def watched(folder: Path) -> Iterator[AcmeWorld]:
    """A world in which no error of our own comes up, not even one that nobody looks at."""
    critical: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] is LogLevel.critical:
            critical.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        world = AcmeWorld(folder)
        world.critical = critical
        yield world
        world.manager.stopService()
        assert world.clock.getDelayedCalls() == []
        del world
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert critical == []
