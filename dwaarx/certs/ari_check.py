"""Asking CAs when they want their certificates renewed, and keeping what they said."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from random import Random
from sys import intern
from typing import Protocol

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from dwaarx.certs import http_dates, schedule
from dwaarx.certs.acme import ari
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import AcmeError, CertificateErrors, FetchError
from dwaarx.certs.events import tell
from dwaarx.certs.fetch import Fetched
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.pacer import Pacer
from dwaarx.certs.record import Duty, Held, Key, host_of
from dwaarx.certs.turns import Turns
from dwaarx.config.model import AcmeCertificate
from dwaarx.words import utc

_log = Logger()

# RFC 9773 section 4.3.2: how long to wait where the CA says nothing, and the bounds of what it
# says: a CA cannot be asked in a loop, nor keep what is urgent from us for longer than a day.
POLL = 6 * 3600.0
SHORTEST_POLL = 60.0
LONGEST_POLL = 86400.0

# A window is three lines of JSON.
MAX_BODY = 16 * 1024


class Fetches(Protocol):
    """What is asked of the guarded fetcher."""

    def fetch(self, url: str, *, accept: str, limit: int, trust: Path | None) -> Deferred[Fetched]:
        """Get a URL; fails with FetchError."""


class Owner(Protocol):
    """Who acts on it: the manager."""

    def overdue(self, held: Held, why: str) -> None:
        """Hear that the window to renew a certificate has passed: it is to be replaced now."""

    def moved(self, held: Held) -> None:
        """Hear that a certificate is to be renewed at another moment."""


class _State:
    """What a CA said of one certificate; times are POSIX seconds, 0.0 for none."""

    __slots__ = ("ca", "end", "failures", "moment", "problem", "serial", "start", "url")

    def __init__(self, serial: int, ca: str, url: str) -> None:
        self.serial = serial
        self.ca = ca
        self.url = url
        self.start = self.end = self.moment = 0.0
        self.failures = 0
        self.problem = ""


class AriCheck:
    """The renewal information (RFC 9773) of the certificates by ACME, kept in `acme/renewal/`."""

    def __init__(
        self,
        fetcher: Fetches,
        overlay: Overlay,
        agenda: Agenda[Key],
        now: Callable[[], datetime],
        owner: Owner,
        rng: Random,
    ) -> None:
        self._fetcher = fetcher
        self._overlay = overlay
        self._agenda = agenda
        self._now = now
        self._owner = owner
        self._rng = rng
        self._turns: Turns[Key] = Turns(agenda, Pacer())
        self._states: dict[Held, _State] = {}
        self._flying: dict[Held, Deferred[None]] = {}

    def stop(self) -> None:
        """Give up what is under way."""
        for deferred in list(self._flying.values()):
            deferred.cancel()

    def obtained(self, held: Held, certificate: x509.Certificate, ca: str, url: str | None) -> None:
        """Hear where a new certificate comes from; `url` is the CA's renewalInfo, None if none."""
        state = _State(certificate.serial_number, intern(ca), intern(url or ""))
        self._states[held] = state
        self._save(held, state)
        self._poll(held, state, self._now().timestamp())

    def watch(self, held: Held, certificate: x509.Certificate) -> None:
        """Take up what is known on the disk of a certificate that was read."""
        present = self._states.get(held)
        if present is not None and present.serial == certificate.serial_number:
            return
        self.forget(held)
        found = self._load(held, certificate.serial_number)
        if found is not None:
            state, poll = found
            self._states[held] = state
            self._poll(held, state, max(poll, self._now().timestamp()))

    def forget(self, held: Held) -> None:
        """Ask no more about a certificate."""
        self._turns.forget((Duty.ARI, held))
        self._states.pop(held, None)
        flying = self._flying.get(held)
        if flying is not None:
            flying.cancel()

    def moment(self, held: Held) -> float | None:
        """Return the moment that was chosen in the CA's window, as POSIX time; None if none."""
        state = self._states.get(held)
        return state.moment if state is not None and state.moment else None

    def ca(self, held: Held) -> str | None:
        """Return the directory that a certificate came from, if that is known."""
        state = self._states.get(held)
        return None if state is None else state.ca

    def guards(self, held: Held) -> bool:
        """Whether the certificate's CA offers renewal information."""
        state = self._states.get(held)
        return state is not None and bool(state.url)

    # --- asking -------------------------------------------------------------

    def due(self, held: Held) -> None:
        """Ask about a certificate, or wait for its turn."""
        state = self._states.get(held)
        if state is None or held in self._flying:
            return
        now = self._now().timestamp()
        if self._turns.may_go((Duty.ARI, held), host_of(state.url), now, urgent=True):
            flying = Deferred.fromCoroutine(self._ask(held, state))
            if not flying.called:
                self._flying[held] = flying
            flying.addBoth(self._finished, held, state)

    def _finished(self, result: Failure | None, held: Held, state: _State) -> None:
        self._flying.pop(held, None)
        if isinstance(result, Failure) and not result.check(CancelledError):
            name = _name(held)
            _log.failure("the renewal information of {name} cannot be read", result, name=name)
            self._failed(held, state, result.getErrorMessage(), None)

    async def _ask(self, held: Held, state: _State) -> None:
        try:
            [slot] = held.identity.read() or (None,)
            if slot is None or slot.pair.certificate.serial_number != state.serial:
                # It waits for its staple; the one that serves until then is not asked about.
                self._poll(held, state, self._now().timestamp() + SHORTEST_POLL)
                return
            url = f"{state.url.rstrip('/')}/{ari.certificate_id(slot.pair.certificate)}"
            answer = await self._fetcher.fetch(
                url, accept="application/json", limit=MAX_BODY, trust=_bundle(held, state.ca)
            )
            window = ari.parse(answer.body)
        except FetchError as error:
            self._failed(held, state, str(error), error.retry_after)
            return
        except (AcmeError, CertificateErrors) as error:
            self._failed(held, state, str(error), None)
            return
        if self._states.get(held) is not state:
            return
        now = self._now()
        wanted = http_dates.retry_after(answer.headers.get("retry-after"), now.timestamp())
        poll = POLL if wanted is None else wanted - now.timestamp()
        state.failures, state.problem = 0, ""
        new = (window.start.timestamp(), window.end.timestamp())
        if new != (state.start, state.end):
            state.start, state.end = new
            state.moment = ari.choose(window, self._rng, now).timestamp()
        at = now.timestamp() + min(max(poll, SHORTEST_POLL), LONGEST_POLL)
        self._poll(held, state, at)
        self._save(held, state)
        if window.end <= now:
            why = f" ({window.explanation})" if window.explanation else ""
            self._owner.overdue(held, f"its CA wanted it renewed by {utc(window.end)}{why}")
        else:
            self._owner.moved(held)

    def _poll(self, held: Held, state: _State, when: float) -> None:
        if state.url:
            self._agenda.put((Duty.ARI, held), when)

    def _failed(self, held: Held, state: _State, reason: str, retry_after: float | None) -> None:
        if self._states.get(held) is not state:
            return
        state.failures += 1
        state.problem = reason
        now = self._now().timestamp()
        when = schedule.ocsp_failure(now, state.failures, retry_after, self._rng, None)
        self._agenda.put((Duty.ARI, held), when)
        # The first failures, then ever fewer of them.
        if state.failures & (state.failures - 1) == 0:
            tell("failed", LogLevel.warn, what="ari", name=_name(held), reason=reason)

    # --- the disk -----------------------------------------------------------

    def _save(self, held: Held, state: _State) -> None:
        document = {
            "serial": f"{state.serial:x}",
            "ca": state.ca,
            "renewal_info": state.url,
            "window": [state.start, state.end],
            "moment": state.moment,
            "poll": self._agenda.when((Duty.ARI, held)) or 0.0,
        }
        data = json.dumps(document, indent=1).encode()
        self._overlay.write(_file(held), data, self._now().timestamp(), 0o644)

    def _load(self, held: Held, serial: int) -> tuple[_State, float] | None:
        """Read what was kept; None if there is nothing, or nothing about this certificate."""
        try:
            document = json.loads(self._overlay.read(_file(held)))
            if int(document["serial"], 16) != serial:
                return None
            state = _State(
                serial, intern(str(document["ca"])), intern(str(document["renewal_info"]))
            )
            state.start, state.end = map(float, document["window"])
            state.moment = float(document["moment"])
            return state, float(document["poll"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            _log.warn(
                "{path} cannot be used, so the CA is not asked when to renew: {reason}",
                path=str(self._overlay.storage.path(_file(held))),
                reason=str(error),
            )
            return None


def _name(held: Held) -> str:
    assert isinstance(held.source, AcmeCertificate)
    return held.source.name


def _file(held: Held) -> str:
    return f"acme/renewal/{_name(held).replace('*', 'wildcard_', 1)}.json"


def _bundle(held: Held, ca: str) -> Path | None:
    assert isinstance(held.source, AcmeCertificate)
    cas = held.source.settings.cas
    return next((each.bundle for each in cas if each.directory == ca), None)
