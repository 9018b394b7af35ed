"""The staples on disk: one for each certificate, believed no more than a responder's answer."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.logger import Logger

from dwaarx.certs import ocsp
from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.ocsp import Staple
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.pair import KeyPair
from dwaarx.words import reason_of, utc

_log = Logger()

_FOLDER = "ocsp"
_NAME = re.compile(r"[0-9a-f]{64}\.der")

# How long a file is kept that is too old to be sent, in seconds: a month, in which an operator
# may raise `max_age`, or take a certificate into use again.
KEPT = 30 * 86400.0


@attrs.frozen
class Fetched:
    """A verified staple, and when it was fetched; times are UTC."""

    staple: Staple
    at: datetime

    def until(self, max_age: float) -> datetime:
        """Return when it is not to be sent any more: its end, or `max_age` seconds' age."""
        return min(self.staple.end, self.at + timedelta(seconds=max_age))


def verified(data: bytes, pair: KeyPair, now: datetime) -> Staple:
    """Check a response for a pair as `ocsp.verify` does, and that it can be sent now.

    Raises OcspError, of kind NO_ISSUER if the chain does not hold the issuer.
    """
    if pair.issuer is None:
        raise OcspError(Refusal.NO_ISSUER, "the chain does not hold the issuer's certificate")
    staple = ocsp.verify(data, pair.certificate, pair.issuer, now)
    # Verification forgives five minutes, because clocks differ; sending does not.
    if staple.end <= now:
        raise OcspError(Refusal.EXPIRED, f"the response expired at {utc(staple.end)}")
    return staple


class StapleStore:
    """Staples by certificate, in `ocsp/<sha256 of the certificate>.der`.

    When one was fetched is the file's time.
    """

    def __init__(self, overlay: Overlay, now: Callable[[], datetime]) -> None:
        self._overlay = overlay
        self._now = now

    def load(self, pair: KeyPair) -> Fetched:
        """Read and verify the staple of a pair; raises OcspError, of kind NONE if there is none."""
        name = _name(pair.certificate)
        path = self._overlay.storage.path(name)
        try:
            data = self._overlay.read(name)
            modified = self._overlay.modified(name)
        except FileNotFoundError as error:
            raise OcspError(Refusal.NONE, "no response was fetched yet") from error
        except OSError as error:
            message = f"{path}: cannot be read: {reason_of(error)}"
            raise OcspError(Refusal.UNREADABLE, message) from error
        now = self._now()
        try:
            staple = verified(data, pair, now)
        except OcspError as error:
            raise OcspError(error.kind, f"{path}: {error.reason}") from error
        # A file's time can be anything. One of the future is as old as can be known: from now.
        at = datetime.fromtimestamp(max(min(modified, now.timestamp()), 0.0), UTC)
        return Fetched(staple, at)

    def save(self, pair: KeyPair, staple: Staple) -> Fetched:
        """Keep a staple that was fetched and verified now."""
        now = self._now()
        self._overlay.write(_name(pair.certificate), staple.der, now.timestamp(), 0o644)
        return Fetched(staple, now)

    def forget(self, certificate: x509.Certificate) -> None:
        """Remove the staple of a certificate that is revoked, or no longer in use."""
        self._overlay.remove(_name(certificate))

    def sweep(self, max_age: Callable[[], float]) -> Generator[None]:
        """Remove the files that nobody has used for long; one is looked at for each `next`.

        They are of certificates that were replaced, or are no longer in use: what is in use is
        written again and again, and not sent when it is older than `max_age` seconds.
        """
        oldest = self._now().timestamp() - max_age() - KEPT
        try:
            with os.scandir(self._overlay.storage.path(_FOLDER)) as entries:
                for entry in entries:
                    yield
                    name = f"{_FOLDER}/{entry.name}"
                    if _NAME.fullmatch(entry.name) and entry.stat().st_mtime < oldest:
                        self._overlay.remove(name)
        except FileNotFoundError:
            return  # there are none yet; or one was removed just now: the rest another time
        except OSError as error:
            folder = str(self._overlay.storage.path(_FOLDER))
            _log.warn("{path} cannot be swept: {reason}", path=folder, reason=reason_of(error))


def _name(certificate: x509.Certificate) -> str:
    return f"{_FOLDER}/{hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()}.der"
