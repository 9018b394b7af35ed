"""What tells that a certificate is to be given up: one queue for all who can say so."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator

import attrs
from cryptography import x509

from dwaarx.certs.record import Record


class Guard(enum.Enum):
    """Who speaks for a certificate."""

    OCSP = "OCSP"
    CRL = "CRL"
    ARI = "ARI"


@attrs.frozen
class Signal:
    """One word against a certificate; `serial` is the one that it is about.

    OCSP and CRL say that it is revoked, for `reason` if they tell; ARI that it should have been
    renewed by now.
    """

    record: Record
    serial: int
    guard: Guard
    words: str
    reason: x509.ReasonFlags | None

    @property
    def revokes(self) -> bool:
        """Whether the certificate is revoked, not only to be renewed."""
        return self.guard is not Guard.ARI


class Signals:
    """The signals that nobody has acted on yet, in their order; each once."""

    def __init__(self) -> None:
        self._queue: deque[Signal] = deque()

    def put(
        self, record: Record, guard: Guard, words: str, reason: x509.ReasonFlags | None
    ) -> None:
        """Add a signal about the certificate that a record stands for now."""
        signal = Signal(record, record.serial, guard, words, reason)
        if signal not in self._queue:
            self._queue.append(signal)

    def taken(self) -> Iterator[Signal]:
        """Take the signals out that are still about the certificate in use."""
        for _ in range(len(self._queue)):
            signal = self._queue.popleft()
            record = signal.record
            if not record.held.dropped and record.serial == signal.serial:
                yield signal
