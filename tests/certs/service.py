"""A certificate manager with a clock and responders in memory."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

from constantly import NamedConstant
from cryptography import x509
from cryptography.x509 import ocsp
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent

from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.file_watch import INTERVAL
from dwaarx.certs.manager import TICK, CertificateManager
from dwaarx.certs.storage import Storage
from dwaarx.config.model import CertificateFiles
from tests.certs import pki

RESPONDER = "http://ocsp.test"


class Times:
    """The reactor's clock and the time of day, which go together unless that is `set_back`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._start = pki.utc_now()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.clock.seconds())

    def set_back(self, by: timedelta) -> None:
        self._start -= by

    def pass_by(self, span: timedelta, step: float = 60.0) -> None:
        end = self.clock.seconds() + span.total_seconds()
        while self.clock.seconds() < end:
            self.clock.advance(min(step, end - self.clock.seconds()))

    def ticks(self, count: int = 3) -> None:
        for _ in range(count):
            self.clock.advance(TICK)

    def look(self, count: int = 1) -> None:
        """Let the manager look at the files so many times."""
        self.pass_by(timedelta(seconds=count * INTERVAL + TICK), TICK)


class Responders:
    """What answers instead of the network, about the leaves in `leaves`.

    `holding` lets requests wait until `release`; `down` lets them fail; `status` is what is said.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.leaves: dict[int, pki.Entity] = {}
        self.status: dict[int, str] = {}
        self.down: FetchError | None = None
        self.holding = False
        self.held: list[tuple[int, Deferred[Fetched]]] = []
        self.asked: list[int] = []
        self.closed = False
        self._now = now

    def fail(self, retry_after: float | None = None) -> None:
        self.down = FetchError(FetchFailure.UNREACHABLE, "nobody is there", retry_after)

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
        self.asked.append(serial)
        if self.holding:
            self.held.append((serial, deferred))
        else:
            self._answer(serial, deferred)
        return deferred

    def release(self) -> None:
        held, self.held = self.held, []
        for serial, deferred in held:
            if not deferred.called:
                self._answer(serial, deferred)

    def _answer(self, serial: int, deferred: Deferred[Fetched]) -> None:
        if self.down is not None:
            deferred.errback(self.down)
            return
        begin = self._now().replace(microsecond=0) - timedelta(hours=1)
        response = pki.make_response(
            self.leaves[serial], status=self.status.get(serial, "good"), this_update=begin
        )
        deferred.callback(Fetched(200, {}, response, RESPONDER))

    def close(self) -> None:
        self.closed = True


class Service:
    """A running manager."""

    def __init__(self, folder: Path) -> None:
        self.times = Times()
        self.responders = Responders(self.times.now)
        self.storage = Storage(folder / "storage")
        self.manager = self.make()
        self.manager.startService()

    def make(self) -> CertificateManager:
        return CertificateManager(
            self.storage,
            self.times.clock,
            self.times.now,
            fetcher=self.responders,
            rng=Random(7),
        )

    def stop(self) -> None:
        self.manager.stopService()
        assert self.responders.closed
        assert self.times.clock.getDelayedCalls() == []


class Site:
    """A certificate with its key in files, written as renewals write them."""

    def __init__(
        self,
        folder: Path,
        root: pki.Entity,
        stem: str = "leaf",
        *,
        responders: Responders | None = None,
        **options: Any,
    ) -> None:
        self.certificate, self.key = folder / f"{stem}.pem", folder / f"{stem}.key"
        self.ocsp = folder / f"{stem}.ocsp"
        self._root = root
        self._responders = responders
        self._options = options
        self._tick = 0
        self.leaf = self.renew()

    @property
    def source(self) -> tuple[CertificateFiles]:
        return (CertificateFiles(self.certificate, self.key),)

    @property
    def with_staple(self) -> tuple[CertificateFiles]:
        return (CertificateFiles(self.certificate, self.key, self.ocsp),)

    @property
    def x509(self) -> x509.Certificate:
        return self.leaf.certificate

    @property
    def serial(self) -> int:
        return self.leaf.certificate.serial_number

    def make(self, **options: Any) -> pki.Entity:
        """A new leaf, which the responders know; it is not written."""
        merged: dict[str, Any] = {**self._options, **options}
        if self._responders is not None:
            merged.setdefault("ocsp_url", RESPONDER)
        leaf = pki.make_leaf(self._root, ["localhost"], **merged)
        if self._responders is not None:
            self._responders.leaves[leaf.certificate.serial_number] = leaf
        return leaf

    def renew(self, leaf: pki.Entity | None = None, **options: Any) -> pki.Entity:
        self.leaf = leaf if leaf is not None else self.make(**options)
        self.write(self.certificate, pki.pem_of(self.leaf.chain))
        self.write(self.key, self.leaf.key_pem)
        return self.leaf

    def staple(self, begin: datetime | None = None, **options: Any) -> bytes:
        response = pki.make_response(self.leaf, this_update=begin, **options)
        self.write(self.ocsp, response)
        return response

    def write(self, path: Path, data: bytes) -> None:
        """Write a file; two writes within a tick of the file system's clock differ in time."""
        path.write_bytes(data)
        self._tick += 1
        at = path.stat().st_mtime_ns + self._tick * 1_000_000
        os.utime(path, ns=(at, at))


def told(logs: list[LogEvent], *levels: NamedConstant) -> list[str]:
    """The lines of these levels."""
    return [formatEvent(event) for event in logs if event["log_level"] in levels]


INFO, WARN, ERROR = LogLevel.info, LogLevel.warn, LogLevel.error
