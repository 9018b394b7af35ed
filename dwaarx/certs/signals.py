"""What tells that a certificate is to be given up: one queue for all who can say so."""

from __future__ import annotations

import enum
from collections import OrderedDict
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
    """The signals that nobody has acted on yet, in their order.

    Each guard is heard once about a certificate until then: what it said first.
    """

    def __init__(self) -> None:
        # A CA may take back thousands at once: nothing here may take longer for that.
        self._queue: OrderedDict[tuple[Record, int, Guard], Signal] = OrderedDict()

    def put(
        self, record: Record, guard: Guard, words: str, reason: x509.ReasonFlags | None
    ) -> None:
        """Add a signal about the certificate that a record stands for now."""
        serial = record.serial
        self._queue.setdefault(
            (record, serial, guard), Signal(record, serial, guard, words, reason)
        )

    def taken(self) -> Iterator[Signal]:
        """Take the signals out that are still about the certificate in use."""
        while self._queue:
            _, signal = self._queue.popitem(last=False)
            record = signal.record
            if not record.held.dropped and record.serial == signal.serial:
                yield signal
