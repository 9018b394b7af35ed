"""What a listener serves for one certificate source: a context, and staples for its pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from OpenSSL import SSL

from dwaarx.certs.errors import OcspError
from dwaarx.certs.ocsp import Staple
from dwaarx.certs.pair import KeyPair
from dwaarx.config.model import CertificateSource
from dwaarx.tls import policy


class Slot:
    """One pair and its present staple.

    `refusal` says why there is no staple, or, beside one that stays, why the newer is not used.
    """

    __slots__ = ("pair", "refusal", "staple")

    def __init__(
        self, pair: KeyPair, staple: Staple | None = None, refusal: OcspError | None = None
    ) -> None:
        self.pair = pair
        self.staple = staple
        self.refusal = refusal

    def put(self, staple: Staple | None, refusal: OcspError | None = None) -> None:
        """Staple this from the next handshake on; or nothing, for the reason given."""
        self.staple = staple
        self.refusal = refusal

    def valid_staple(self, now: datetime) -> Staple | None:
        """Return the staple if it has not ended."""
        staple = self.staple
        return staple if staple is not None and now < staple.end else None


class Stapler:
    """The slots of one context; the context's OCSP callback looks here, not in the Identity.

    So a handshake that began before a renewal gets the staple of the certificate it began with.
    """

    __slots__ = ("_now", "slots")

    def __init__(self, slots: Sequence[Slot], now: Callable[[], datetime]) -> None:
        self.slots = tuple(slots)
        self._now = now

    def staple(self, connection: SSL.Connection) -> bytes:
        """Return the OCSP response for the certificate in use, b"" for none; does not fail."""
        slots = self.slots
        slot: Slot | None = slots[0]
        if len(slots) > 1:
            used = connection.get_certificate(as_cryptography=True)
            slot = next((each for each in slots if each.pair.certificate == used), None)
        staple = slot.valid_staple(self._now()) if slot is not None else None
        return staple.der if staple is not None else b""


class Identity:
    """What is served for one source; the same object for as long as the source is in use.

    `context` is never changed but replaced whole; connections keep the one they began with.
    """

    def __init__(
        self, source: CertificateSource, slots: Sequence[Slot], now: Callable[[], datetime]
    ) -> None:
        """Make the context; raises `OpenSSL.SSL.Error` if OpenSSL takes a pair for unfit."""
        self.source = source
        self._now = now
        self.replace(slots)

    def replace(self, slots: Sequence[Slot]) -> None:
        """Serve these pairs and staples from the next handshake on.

        Raises `OpenSSL.SSL.Error`, and then goes on serving the former ones.
        """
        stapler = Stapler(slots, self._now)
        pairs = [slot.pair for slot in slots]
        # With the whole chain, a root too: curl looks for the issuer of a staple there and not
        # among what it trusts, and DANE-TA needs it (RFC 7671 section 5.2.2).
        entries = [(pair.key, (pair.certificate, *pair.chain)) for pair in pairs]
        self.context = policy.certificate_context(entries, stapler.staple)
        self._stapler = stapler

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The pairs with their staples."""
        return self._stapler.slots
