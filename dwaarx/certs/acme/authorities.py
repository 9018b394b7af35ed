"""Which CA is asked, how the name is proven to it, and when it is left alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

import attrs
from cryptography import x509

from dwaarx.certs.acme import ari
from dwaarx.certs.acme.account import AccountStore
from dwaarx.certs.acme.answers import Directory
from dwaarx.certs.acme.challenges import Challenges
from dwaarx.certs.acme.client import AcmeClient, Request
from dwaarx.certs.acme.dns01 import Rfc2136Solver
from dwaarx.certs.acme.network import Network
from dwaarx.certs.acme.problems import CaError
from dwaarx.certs.acme.registration import Registrar
from dwaarx.certs.acme.solvers import AlpnSolver, DnsSolver, HttpSolver, Solver
from dwaarx.certs.errors import AcmeError
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.storage import Storage
from dwaarx.config.model import AcmeCa, AcmeCertificate
from dwaarx.words import utc

# CAs change their directories once in years.
_DIRECTORY_LIFETIME = 3600.0

# Names whose proof took another way than the first one, and names that a CA wants to wait: more
# than this are forgotten, which costs an attempt.
_MAX_REMEMBERED = 10_000

# A rate limit may be that of one name, of one domain, or of the account; CAs tell people which,
# not programs. When it is hit by this many names in a row, no name is tried for a while.
_LIMITED_NAMES = 3

# For so long: as the CA says, but not longer than the first, since it says so of one name; or the
# second, if it says nothing. In seconds.
_LONGEST_PAUSE = 3600.0
_PAUSE = 900.0

T = TypeVar("T")

Connect = Callable[[AcmeCa, threading.Event], Network]


@attrs.frozen
class Obtained:
    """A certificate from a CA, checked.

    `ca` is the directory that it came from. `renewal_info` is the URL below which that CA tells
    when to renew (RFC 9773); None if it does not.
    """

    pair: KeyPair
    ca: str
    renewal_info: str | None


@attrs.frozen
class Wish:
    """A certificate that is wanted, and the one that it comes after with its CA's directory."""

    certificate: AcmeCertificate
    former: x509.Certificate | None = None
    former_ca: str | None = None
    http: bool = True  # whether a CA can reach a listener on port 80


@attrs.define
class _Limits:
    """The names that a CA put off since it last gave a certificate, by when; and a pause."""

    names: dict[str, float] = attrs.Factory(dict)
    until: float = 0.0


class Authorities:
    """The CAs as all threads know them: directories, accounts, and what came of it before."""

    def __init__(
        self, storage: Storage, challenges: Challenges, connect: Connect = Network
    ) -> None:
        self._registrar = Registrar(AccountStore(storage))
        self._challenges = challenges
        self._connect = connect
        self._directories: dict[str, tuple[float, Directory]] = {}
        self._proven_by: dict[tuple[str, str], str] = {}
        self._left_alone: dict[tuple[str, str], float] = {}
        self._limits: dict[str, _Limits] = {}

    def obtain(self, wish: Wish, stop: threading.Event) -> Obtained:
        """Return a certificate of the first CA that gives one; raises AcmeError."""
        name, settings = wish.certificate.name, wish.certificate.settings
        if name.startswith("*.") and settings.dns is None:
            raise AcmeError(
                f"{name}: CAs prove wildcards by DNS only: `tls {{ dns rfc2136 … }}`", rejected=True
            )
        failures: list[tuple[AcmeCa, CaError]] = []
        for ca in settings.cas:
            try:
                return self._obtain(ca, wish, stop)
            except CaError as error:
                if stop.is_set():
                    raise
                failures.append((ca, error))
        raise _together(failures)

    def _obtain(self, ca: AcmeCa, wish: Wish, stop: threading.Event) -> Obtained:
        key = (wish.certificate.name, ca.directory)
        with closing(self._connect(ca, stop)) as network:
            limits = self._limits.get(ca.directory, _Limits())
            later = max(self._left_alone.get(key, 0.0), limits.until)
            if later > network.now():
                until = utc(datetime.fromtimestamp(later, UTC))
                raise CaError(f"it wants to be left alone until {until}", later)
            try:
                directory = self._directory(ca, network)
                client = AcmeClient(ca, directory, self._registrar, network)
                pair, kind = client.obtain(_request(ca, wish), self._solvers(ca, wish, stop))
            except CaError as error:
                self._directories.pop(ca.directory, None)  # perhaps it is not true any more
                if error.rejected:
                    self._proven_by.pop(key, None)
                if error.retry_after is not None:
                    _remember(self._left_alone, key, error.retry_after)
                if error.retry_after is not None or error.code == "rateLimited":
                    self._put_off(ca, wish.certificate.name, error.retry_after, network.now())
                raise
        self._left_alone.pop(key, None)
        self._limits.pop(ca.directory, None)
        if kind is not None:
            _remember(self._proven_by, key, kind)
        return Obtained(pair, ca.directory, directory.renewal_info)

    def _put_off(self, ca: AcmeCa, name: str, retry_after: float | None, now: float) -> None:
        """Note that a CA wants to be asked later; if it says so of one name after another, pause.

        So that a thousand names that are due place a handful of orders that fail in an hour.
        """
        known = self._limits.get(ca.directory, _Limits())
        recent = {each: at for each, at in known.names.copy().items() if at > now - _LONGEST_PAUSE}
        limits = _Limits({**recent, name: now}, known.until)
        if len(limits.names) >= _LIMITED_NAMES:
            later = now + _PAUSE if retry_after is None else retry_after
            limits.until = max(limits.until, min(later, now + _LONGEST_PAUSE))
        self._limits[ca.directory] = limits

    def _directory(self, ca: AcmeCa, network: Network) -> Directory:
        known = self._directories.get(ca.directory)
        if known is not None and time.monotonic() < known[0] + _DIRECTORY_LIFETIME:
            return known[1]
        directory = Directory.of(network.get(ca.directory).json)
        self._directories[ca.directory] = (time.monotonic(), directory)
        return directory

    def _solvers(self, ca: AcmeCa, wish: Wish, stop: threading.Event) -> Sequence[Solver]:
        """Return the ways to prove the name, the one that worked last time first."""
        settings = wish.certificate.settings
        if settings.dns is not None:
            return [DnsSolver(Rfc2136Solver(settings.dns, stop))]
        solvers: list[Solver] = [HttpSolver(self._challenges)] if wish.http else []
        solvers.append(AlpnSolver(self._challenges))
        first = self._proven_by.get((wish.certificate.name, ca.directory))
        return sorted(solvers, key=lambda solver: solver.kind != first)


def _request(ca: AcmeCa, wish: Wish) -> Request:
    settings = wish.certificate.settings
    replaces = None
    if wish.former is not None and wish.former_ca == ca.directory:
        try:
            replaces = ari.certificate_id(wish.former)
        except AcmeError:
            replaces = None  # one without the id: the CA knows no renewal information of it
    return Request(
        wish.certificate.name,
        settings.email,
        settings.profile if settings.profile is not None else ca.profile,
        settings.must_staple,
        replaces,
    )


def _remember(table: dict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
    table.pop(key, None)
    table[key] = value
    while len(table) > _MAX_REMEMBERED:
        table.pop(next(iter(table)), None)


def _together(failures: Sequence[tuple[AcmeCa, CaError]]) -> AcmeError:
    """Return the errors of all CAs as one; the soonest of their times, if each named one."""
    if not failures:
        return AcmeError("there is no CA to ask: `acme_ca DIRECTORY`")
    reasons = "; ".join(f"{urlsplit(ca.directory).netloc}: {error}" for ca, error in failures)
    times = [error.retry_after for _, error in failures]
    known = [moment for moment in times if moment is not None]
    return AcmeError(
        reasons,
        min(known) if len(known) == len(times) else None,
        rejected=any(error.rejected for _, error in failures),
    )
