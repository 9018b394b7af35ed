"""Asking CAs when they want their certificates renewed, and keeping what they said."""

from __future__ import annotations

import json
import math
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
from dwaarx.certs.acme.ari import Window
from dwaarx.certs.acme_files import information_name, pending_information_name
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.errors import AcmeError, CertificateErrors, FetchError, FetchFailure
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

# A certificate that its CA wants replaced in the first third of its life is replaced at once. If
# the successors are to be replaced as early again, one after another, they are left alone for this
# long, twice as long each time, up to the longest: five orders on the first day, then one a day.
# In seconds.
HASTE = 3600.0
LONGEST_HASTE = 86400.0

# A window is three lines of JSON.
MAX_BODY = 16 * 1024


# What json and the looks into its result raise.
_NO_DOCUMENT = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

# The last day that a date can say, as POSIX time.
_LAST = 253_402_214_400.0


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
    """What a CA said of one certificate; times are POSIX seconds, 0.0 for none.

    `since` is when it was obtained, `hurried` how many before it were replaced early in a row.
    """

    __slots__ = (
        "ca",
        "end",
        "failures",
        "hurried",
        "moment",
        "problem",
        "serial",
        "since",
        "start",
        "url",
    )

    def __init__(self, serial: int, ca: str, url: str, since: float, hurried: int) -> None:
        self.serial = serial
        self.ca = intern(ca)
        self.url = intern(url)
        self.since = since
        self.hurried = hurried
        self.start = self.end = self.moment = 0.0
        self.failures = 0
        self.problem = ""

    @property
    def earliest(self) -> float:
        """The time before which it is not replaced, whatever the CA wants."""
        if not self.hurried:
            return 0.0
        return self.since + min(HASTE * 2.0 ** min(self.hurried - 1, 32), LONGEST_HASTE)


class AriCheck:
    """The renewal information (RFC 9773) of the certificates by ACME, kept in `acme/renewal/`.

    That of a certificate that waits for its staple is kept beside it, until that is in use.
    """

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
        self._pacer = Pacer()
        self._turns: Turns[Key] = Turns(agenda, self._pacer)
        self._states: dict[Held, _State] = {}
        self._flying: dict[Held, Deferred[None]] = {}

    def stop(self) -> None:
        """Give up what is under way."""
        for deferred in list(self._flying.values()):
            deferred.cancel()

    def obtained(self, held: Held, certificate: x509.Certificate, ca: str, url: str | None) -> None:
        """Hear where a new certificate comes from; `url` is the CA's renewalInfo, None if none."""
        now = self._now().timestamp()
        former = self._states.get(held)
        hurried = 0
        if former is not None and 0.0 < former.moment <= now:
            life = held.records[0].not_after - former.since
            hurried = former.hurried + 1 if now - former.since < life / 3 else 0
        state = _State(certificate.serial_number, ca, url or "", now, hurried)
        self._save(pending_information_name(_name(held)), state, now)

    def watch(self, held: Held, certificate: x509.Certificate) -> None:
        """Take up what is known on the disk of a certificate that is in use."""
        serial = certificate.serial_number
        present = self._states.get(held)
        if present is not None and present.serial == serial:
            return
        self.forget(held)
        name = _name(held)
        found = self._load(information_name(name), serial)
        if found is None:
            found = self._load(pending_information_name(name), serial)
            if found is None:
                return
            self._save(information_name(name), *found)
            self._overlay.remove(pending_information_name(name))
        state, poll = found
        now = self._now().timestamp()
        self._states[held] = state
        # A clock that was wrong must not keep it from being asked.
        self._poll(held, state, min(max(poll, now), now + LONGEST_POLL))

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

    def ca(self, held: Held, certificate: x509.Certificate) -> str | None:
        """Return the directory that a certificate came from, if that is known."""
        state = self._states.get(held)
        known = state is not None and state.serial == certificate.serial_number
        return state.ca if state is not None and known else None

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
        host = host_of(state.url)
        try:
            url = f"{state.url.rstrip('/')}/{_id(held, state)}"
            answer = await self._fetcher.fetch(
                url, accept="application/json", limit=MAX_BODY, trust=_bundle(held, state.ca)
            )
            window = ari.parse(answer.body)
        except FetchError as error:
            if error.kind is not FetchFailure.REFUSED:  # then nobody was asked
                self._pacer.failed(host, error.retry_after)
            self._failed(held, state, str(error), error.retry_after)
        except (AcmeError, CertificateErrors) as error:
            self._failed(held, state, str(error), None)
        else:
            self._pacer.succeeded(host)
            wanted = answer.headers.get("retry-after")
            self._told(held, state, window, http_dates.retry_after(wanted, self._now().timestamp()))

    def _told(self, held: Held, state: _State, window: Window, again: float | None) -> None:
        """Take up a window; `again` is when the CA wants to be asked again, if it said so."""
        if self._states.get(held) is not state:
            return
        present = self._now()
        now = present.timestamp()
        poll = POLL if again is None else again - now
        state.failures, state.problem = 0, ""
        at = now + min(max(poll, SHORTEST_POLL), LONGEST_POLL)
        self._poll(held, state, at)
        new = (_bounded(window.start), _bounded(window.end))
        if new == (state.start, state.end):
            return
        state.start, state.end = new
        moment = _bounded(ari.choose(window, self._rng, present))
        state.moment = max(moment, state.earliest)
        # Not at each answer: a hundred thousand of them are asked for several times a day.
        self._save(information_name(_name(held)), state, at)
        if state.end <= now and state.moment <= now:
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

    def _save(self, file: str, state: _State, poll: float) -> None:
        document = {
            "serial": f"{state.serial:x}",
            "ca": state.ca,
            "renewal_info": state.url,
            "obtained": state.since,
            "hurried": state.hurried,
            "window": [state.start, state.end],
            "moment": state.moment,
            "poll": poll,
        }
        data = json.dumps(document, indent=1).encode()
        self._overlay.write(file, data, self._now().timestamp(), 0o644)

    def _load(self, file: str, serial: int) -> tuple[_State, float] | None:
        """Read what was kept; None if there is nothing, or nothing about this certificate."""
        try:
            document = json.loads(self._overlay.read(file))
            if int(document["serial"], 16) != serial:
                return None
            ca, url = str(document["ca"]), str(document["renewal_info"])
            hurried = int(document.get("hurried", 0))
            state = _State(serial, ca, url, _time(document.get("obtained", 0.0)), hurried)
            state.start, state.end = map(_time, document["window"])
            state.moment = _time(document["moment"])
            return state, _time(document["poll"])
        except FileNotFoundError:
            return None
        except (OSError, *_NO_DOCUMENT) as error:
            _log.warn(
                "{path} cannot be used, so the CA is not asked when to renew: {reason}",
                path=str(self._overlay.storage.path(file)),
                reason=str(error),
            )
            return None


def _time(value: object) -> float:
    """Read a POSIX time; raises ValueError or TypeError. JSON may hold NaN and infinity."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r:.50} is no time")
    moment = float(value)
    if not (math.isfinite(moment) and 0.0 <= moment <= _LAST):
        raise ValueError(f"{moment} is no time")
    return moment


def _id(held: Held, state: _State) -> str:
    """Return what its CA calls a certificate; raises CertificateErrors or AcmeError."""
    slots = held.identity.read()
    if not slots or slots[0].pair.certificate.serial_number != state.serial:
        raise AcmeError("the certificate is not the one in use any more")
    return ari.certificate_id(slots[0].pair.certificate)


def _bounded(moment: datetime) -> float:
    return min(max(moment.timestamp(), 0.0), _LAST)


def _name(held: Held) -> str:
    assert isinstance(held.source, AcmeCertificate)
    return held.source.name


def _bundle(held: Held, ca: str) -> Path | None:
    assert isinstance(held.source, AcmeCertificate)
    cas = held.source.settings.cas
    return next((each.bundle for each in cas if each.directory == ca), None)
