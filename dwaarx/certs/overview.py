"""All that can be said of one certificate: from what was read, and from who looks after it."""

from __future__ import annotations

from datetime import UTC, datetime

from dwaarx.certs.agenda import Agenda
from dwaarx.certs.ari_check import AriCheck
from dwaarx.certs.crl_check import CrlCheck, by_http, list_of
from dwaarx.certs.record import Duty, Key, Record
from dwaarx.certs.status import CertificateStatus, status_of
from dwaarx.config.model import InternalCertificate


class Overview:
    """Describes certificates, for showCertificates()."""

    def __init__(self, agenda: Agenda[Key], ari: AriCheck, crl: CrlCheck) -> None:
        self._agenda = agenda
        self._ari = ari
        self._crl = crl

    def status(self, record: Record, now: float, problem: str) -> CertificateStatus:
        """Describe a certificate; `now` is POSIX time, `problem` that of its renewal, or ""."""
        problem = problem or record.held.identity.unavailable or self._crl.problem(record)
        return status_of(record, now, self._guards(record), problem, self._next(record))

    def _guards(self, record: Record) -> str:
        """Say which signals guard a certificate against being served on when it is revoked."""
        source = record.held.source
        guards = []
        responder = by_http(record.responders)
        if responder is not None and not record.skip:
            guards.append(f"OCSP {responder}")
        else:
            if isinstance(source, tuple) and source[record.index].ocsp is not None:
                guards.append(f"OCSP file {source[record.index].ocsp}")
            url = list_of(record)
            guards += [f"CRL {url}"] if url is not None else []
        if self._ari.guards(record.held):
            guards.append("ARI")
        if isinstance(source, InternalCertificate):
            guards.append("internal CA")
        return ", ".join(guards) or "none"

    def _next(self, record: Record) -> datetime | None:
        """Return when something is due for a certificate; None if it waits for its files."""
        held = record.held
        keys: list[Key] = [
            (Duty.STAPLE, record),
            (Duty.RENEW, held),
            (Duty.PENDING, held),
            (Duty.ARI, held),
        ]
        url = list_of(record)
        if url is not None:
            keys.append((Duty.CRL, url))
        times = [when for key in keys if (when := self._agenda.when(key)) is not None]
        return datetime.fromtimestamp(min(times), UTC) if times else None
