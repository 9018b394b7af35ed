"""Responders in memory, each with its own behaviour, and a manager whose clock can jump."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent

from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.manager import TICK, CertificateManager
from dwaarx.certs.storage import Storage
from dwaarx.config.model import (
    AcmeCertificate,
    AcmeSettings,
    CertificateFiles,
    CertificateSource,
    OcspOptions,
)
from tests.certs import pki

ROOT = pki.make_ca("Responders' Root")
DAY = pki.DAY
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SETTINGS = AcmeSettings(())

# What a responder says about a leaf: a response, or how the request fails; None: nothing ever.
Saying = bytes | Fetched | FetchError | None
Rule = Callable[[pki.Entity], Saying]


def leaf(*urls: str, name: str = "localhost", **options) -> pki.Entity:
    """A leaf with these responders, in this order."""
    found = [
        x509.AccessDescription(
            AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url)
        )
        for url in urls
    ]
    extra = [(x509.AuthorityInformationAccess(found), False)] if found else []
    return pki.make_leaf(ROOT, [name], extra=extra, **options)


def failing(
    kind: FetchFailure = FetchFailure.UNREACHABLE,
    reason: str = "nobody is there",
    retry_after: float | None = None,
) -> Rule:
    return lambda _: FetchError(kind, reason, retry_after)


class World:
    """A manager, a clock, a time of day that can `jump`, and responders by their hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.start = pki.utc_now()
        self.rules: dict[str, Rule] = {}
        self.leaves: dict[int, pki.Entity] = {}
        self.asked: list[tuple[float, str, int]] = []  # when (reactor), host, serial number
        self.pending: list[Deferred[Fetched]] = []
        self.validity = 3 * pki.DAY
        self.storage = Storage(folder / "storage")
        self.manager = self.make()

    def make(self) -> CertificateManager:
        manager = CertificateManager(
            self.storage, self.clock, self.now, fetcher=self, rng=Random(3)
        )
        manager.startService()
        return manager

    def restart(self) -> None:
        """Another process, with the same storage."""
        self.manager.stopService()
        self.manager = self.make()

    # --- time ---------------------------------------------------------------

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.clock.seconds())

    def jump(self, by: timedelta) -> None:
        """Set the time of day, and not the reactor's clock."""
        self.start += by

    def ticks(self, count: int = 3) -> None:
        for _ in range(count):
            self.clock.advance(TICK)

    def pass_by(self, span: timedelta, step: float = 20.0) -> None:
        """Let time go by, in steps; each is a look of the manager, and of who waits."""
        end = self.clock.seconds() + span.total_seconds()
        while self.clock.seconds() < end:
            self.clock.advance(min(step, end - self.clock.seconds()))

    # --- certificates -------------------------------------------------------

    def files(self, leaf: pki.Entity, stem: str = "leaf") -> tuple[CertificateFiles]:
        """A leaf in files."""
        self.leaves[leaf.certificate.serial_number] = leaf
        written = leaf.write(self.folder, stem)
        return (CertificateFiles(written.certificate, written.key),)

    def stored(self, leaf: pki.Entity, name: str) -> AcmeCertificate:
        """A leaf as ACME leaves it in the storage."""
        self.leaves[leaf.certificate.serial_number] = leaf
        data = leaf.key_pem + pki.pem_of(leaf.chain)
        self.storage.write(f"certificates/{name}.pem", data)
        return AcmeCertificate(name, SETTINGS)

    def serve(self, source: CertificateSource):
        identity = self.manager.acquire([source])[source]
        self.ticks()
        return identity

    def options(self, cache: int = 10_000, **options) -> None:
        self.manager.configure(OcspOptions(**options), cache, http=False)
        self.ticks()

    def status(self):
        [status] = self.manager.status()
        return status

    def staples(self) -> list[Path]:
        return sorted((self.folder / "storage" / "ocsp").glob("*"))

    # --- the network --------------------------------------------------------

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        content_type: str | None = None,
        accept: str | None = None,
        limit: int = 65536,
        trust: Path | None = None,
    ) -> Deferred[Fetched]:
        deferred: Deferred[Fetched] = Deferred()
        data = body or base64.b64decode(unquote(url.rpartition("/")[2]))
        serial = ocsp.load_der_ocsp_request(data).serial_number
        host = urlsplit(url).netloc
        self.asked.append((self.clock.seconds(), host, serial))
        said = self.rules.get(host, self.good)(self.leaves[serial])
        if said is None:
            self.pending.append(deferred)
        elif isinstance(said, FetchError):
            deferred.errback(said)
        else:
            fetched = said if isinstance(said, Fetched) else Fetched(200, {}, said, url)
            deferred.callback(fetched)
        return deferred

    def response(self, leaf: pki.Entity, **options) -> bytes:
        """What a responder would sign at this moment."""
        options.setdefault("this_update", self.now().replace(microsecond=0) - MINUTE)
        options.setdefault("validity", self.validity)
        return pki.make_response(leaf, **options)

    def good(self, leaf: pki.Entity) -> bytes:
        return self.response(leaf)

    def hosts(self) -> list[str]:
        return [host for _, host, _ in self.asked]

    def close(self) -> None:
        """As the guarded fetcher does; the manager has cancelled what it waits for."""


def events(logs: Sequence[LogEvent], *names: str) -> list[str]:
    """The lines that tell these events of certificates."""
    return [formatEvent(event) for event in logs if event.get("certificate_event") in names]


def age(path: Path, by: timedelta, now: datetime) -> None:
    """Let a file be as old as that; a negative age is of the future."""
    at = (now - by).timestamp()
    os.utime(path, (at, at))
