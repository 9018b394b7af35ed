"""Saying in words what is held: for the console, for reloads, for the log."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import attrs

from dwaarx.certs.pair import key_name
from dwaarx.certs.store import Identity, Slot
from dwaarx.config.model import AcmeCertificate, CertificateSource, InternalCertificate
from dwaarx.words import utc


@attrs.frozen
class ReloadOutcome:
    """What became of one source: `description` says what is served now, and with which staple.

    `error` says why the new files are not served and the former certificate stays; None if
    they are.
    """

    source: CertificateSource
    description: str
    error: str | None = None


@attrs.frozen
class CertificateStatus:
    """One certificate as showCertificates shows it; times are UTC.

    `serial` is in hexadecimal, `staple` is "good until …" or "none". `why_not_stapled` is "" if
    all is well; beside a staple that still holds it says why a newer one is not used.
    `next_attempt` is when the manager will next act by itself; None if it waits for a reload.
    """

    names: tuple[str, ...]
    issuer: str
    serial: str
    not_after: datetime
    key: str
    source: str
    staple: str
    why_not_stapled: str
    next_attempt: datetime | None


def path_of(source: CertificateSource, index: int = 0) -> Path | None:
    """Return the file of a source's certificate; None for an internal one."""
    return source[index].certificate if isinstance(source, tuple) else None


def name_of(source: CertificateSource, index: int = 0) -> str:
    """Name one certificate of a source: "files PATH", or "internal NAME…"."""
    if isinstance(source, InternalCertificate):
        return " ".join(("internal", *source.names))
    if isinstance(source, AcmeCertificate):
        return f"acme {source.name}"
    return f"files {source[index].certificate}"


def describe(identity: Identity, now: datetime) -> str:
    """Say what is served for a source, and with which staples."""
    return "; ".join(
        f"{name_of(identity.source, index)} ({_staple_in_words(slot, now)})"
        for index, slot in enumerate(identity.slots)
    )


def _staple_in_words(slot: Slot, now: datetime) -> str:
    staple = slot.valid_staple(now)
    if staple is None:
        return f"no staple: {slot.refusal}"
    good = f"staple good until {utc(staple.end)}"
    return good if slot.refusal is None else f"{good}; the newer one is not used: {slot.refusal}"


def status_of(
    identity: Identity, index: int, now: datetime, next_attempt: datetime | None
) -> CertificateStatus:
    """Describe one certificate of an identity."""
    slot = identity.slots[index]
    certificate = slot.pair.certificate
    staple = slot.valid_staple(now)
    internal = isinstance(identity.source, InternalCertificate)
    return CertificateStatus(
        names=slot.pair.names,
        issuer=certificate.issuer.rfc4514_string(),
        serial=_serial(certificate.serial_number),
        not_after=certificate.not_valid_after_utc,
        key=key_name(slot.pair.key),
        source="internal" if internal else name_of(identity.source, index),
        staple="none" if staple is None else f"good until {utc(staple.end)}",
        why_not_stapled="" if slot.refusal is None else str(slot.refusal),
        next_attempt=next_attempt,
    )


def _serial(number: int) -> str:
    """Write a serial number in whole bytes, as openssl does."""
    return number.to_bytes(number.bit_length() // 8 + 1).hex().removeprefix("00") or "00"
