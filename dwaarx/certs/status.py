"""Saying in words what is held: for the console and for reloads."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs

from dwaarx.certs.record import Held, Record, hexadecimal
from dwaarx.config.model import AcmeCertificate, CertificateSource
from dwaarx.words import utc


@attrs.frozen
class ReloadOutcome:
    """What became of one source: `description` says what is served now, and with which staple.

    It says also what a new certificate waits for, if that lies on the disk and is not served yet.
    `error` says why the new files are not served and the former certificate stays; None if
    they are.
    """

    source: CertificateSource
    description: str
    error: str | None = None


@attrs.frozen
class CertificateStatus:
    """One certificate as showCertificates shows it; times are UTC.

    `serial` is in hexadecimal, `staple` is "good until …" or "none". `not_after` is None while
    there is no certificate. `why_not_stapled` is "" if all is well; beside a staple that still
    holds it says why a newer one is not used. `guard` names who would tell of a revocation,
    `problem` what went wrong beside the staple. `next_attempt` is when the manager will next act
    by itself; None if it waits for its files to change.
    """

    names: tuple[str, ...]
    issuer: str
    serial: str
    not_after: datetime | None
    key: str
    source: str
    staple: str
    why_not_stapled: str
    guard: str
    problem: str
    next_attempt: datetime | None


def describe(held: Held, now: datetime) -> str:
    """Say what is served for a source, and with which staples."""
    return "; ".join(
        f"{record.name} ({_staple_in_words(record, now.timestamp())})" for record in held.records
    )


def _staple_in_words(record: Record, now: float) -> str:
    if not record.known:
        return _why_not(record, now)
    good = record.good_until(now)
    if good is None:
        return f"no staple: {_why_not(record, now)}"
    words = f"staple good until {utc(good)}"
    return words if not record.refusal else f"{words}; the newer one is not used: {record.refusal}"


def status_of(
    record: Record, now: float, guard: str, problem: str, next_attempt: datetime | None
) -> CertificateStatus:
    """Describe one certificate; now is POSIX time."""
    source = record.held.source
    good = record.good_until(now)
    names = record.names
    kind = record.name if isinstance(source, tuple) else "internal"
    if isinstance(source, AcmeCertificate):
        kind = "acme"
        names = names or (source.name,)
    elif not isinstance(source, tuple):
        names = names or source.names
    return CertificateStatus(
        names=names,
        issuer=record.issuer,
        serial=hexadecimal(record.serial) if record.known else "",
        not_after=datetime.fromtimestamp(record.not_after, UTC) if record.known else None,
        key=record.key,
        source=kind,
        staple="none" if good is None else f"good until {utc(good)}",
        why_not_stapled=_why_not(record, now),
        guard=guard,
        problem=problem,
        next_attempt=next_attempt,
    )


def _why_not(record: Record, now: float) -> str:
    if not record.known:
        return "there is no certificate yet" if record.held.read else "it was not looked at yet"
    if record.refusal or record.until is None or now < record.until:
        return record.refusal
    return f"the staple ended at {utc(datetime.fromtimestamp(record.until, UTC))}"
