"""What is known of each certificate without reading it again: 100,000 of these are held."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from sys import intern
from typing import Protocol
from urllib.parse import urlsplit

from dwaarx.certs import schedule
from dwaarx.certs.crl import distribution_points
from dwaarx.certs.matching import issued_by
from dwaarx.certs.ocsp_request import responders
from dwaarx.certs.pair import KeyPair, key_name
from dwaarx.certs.store import Identity, Slot
from dwaarx.config.model import AcmeCertificate, CertificateSource

# Why no staple is fetched. These are no faults, so they are told at debug level and shown.
NO_RESPONDER = "the certificate names no OCSP responder"
SELF_SIGNED = "the certificate is self-signed"
NO_ISSUER = "the chain does not hold the issuer's certificate: append it"


class Duty(enum.Enum):
    """What is to be done for a certificate, or for all, at a time of the agenda."""

    STAPLE = "fetch its staple"
    END = "notice that its staple may be sent no more"
    RENEW = "renew it"
    PENDING = "fetch the staple that its successor waits for"
    ARI = "ask its CA when to renew it"
    CRL = "look it up in its issuer's revocation list"
    WATCH = "look whether its files have changed"
    FLUSH = "write what the disk did not take"


@lru_cache(maxsize=4096)
def _shared(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Return one tuple for all certificates of the same CA."""
    return urls


# What the agenda holds: a duty towards a certificate, a source or a URL; None for all of them.
Key = tuple[Duty, "Record | Held | str | None"]


class Record:
    """One certificate of a source.

    `not_after` is POSIX time, 0.0 before the certificate was read. `skip` says why no staple is
    fetched, "" if one is. `until` is when the staple may be sent no more (None: there is none),
    `refusal` why there is none or the newer one is not used. `failures` counts the attempts to
    fetch a staple that failed since the last good one. `revoked` says who revoked it and why.
    `since` is when the staple was made; of one that is revoked, when a responder said so. `names`
    is () before it was read, and where they are no others than the source's.
    """

    __slots__ = (
        "crls",
        "failures",
        "held",
        "index",
        "issuer",
        "key",
        "must_staple",
        "names",
        "not_after",
        "refusal",
        "responders",
        "revoked",
        "serial",
        "since",
        "skip",
        "until",
    )

    def __init__(self, held: Held, index: int) -> None:
        self.held = held
        self.index = index
        self.names: tuple[str, ...] = ()
        self.issuer = ""
        self.serial = 0
        self.not_after = 0.0
        self.key = ""
        self.must_staple = False
        self.responders: tuple[str, ...] = ()
        self.crls: tuple[str, ...] = ()
        self.skip = ""
        self.since = 0.0
        self.until: float | None = None
        self.refusal = ""
        self.failures = 0
        self.revoked = ""

    @property
    def name(self) -> str:
        """What it is called in the log and on the console."""
        return name_of(self.held.source, self.index)

    def is_for(self, name: str) -> bool:
        """Whether an operator means this one: by a name of the certificate, or of its file."""
        source = self.held.source
        if isinstance(source, tuple):
            return name in self.names or name == str(source[self.index].certificate)
        named = (source.name,) if isinstance(source, AcmeCertificate) else source.names
        return name in named

    @property
    def known(self) -> bool:
        """Whether the certificate was read."""
        return self.not_after > 0.0

    def learn(self, slot: Slot) -> None:
        """Take down what a certificate says, and the state of its staple."""
        pair = slot.pair
        certificate = pair.certificate
        issuer = intern(certificate.issuer.rfc4514_string())
        not_after = certificate.not_valid_after_utc.timestamp()
        # CAs of one's own may give the same serial number again and again.
        same = (certificate.serial_number, issuer, not_after) == (
            self.serial,
            self.issuer,
            self.not_after,
        )
        if not same:
            self.failures = 0
            self.revoked = ""
            source = self.held.source
            alone = isinstance(source, AcmeCertificate) and pair.names == (source.name,)
            self.names = () if alone else pair.names
            self.issuer = issuer
            self.serial = certificate.serial_number
            self.not_after = not_after
            self.key = intern(key_name(pair.key))
            self.must_staple = pair.must_staple
            self.responders = _shared(responders(certificate))
            self.crls = _shared(distribution_points(certificate))
        self.skip = why_skipped(pair)  # the chain may have changed by itself
        self.stapled(slot)

    def stapled(self, slot: Slot) -> None:
        """Take down the state of the staple."""
        staple = slot.staple
        self.refusal = "" if slot.refusal is None else str(slot.refusal)
        self.until = None if slot.until is None else slot.until.timestamp()
        if staple is not None:
            self.since = staple.this_update.timestamp()
            self.revoked = ""  # who revoked it was heard, and is refuted
        elif not self.revoked:
            self.since = 0.0

    def good_until(self, now: float) -> datetime | None:
        """Return the end of the staple, if it may still be sent; now is POSIX time."""
        until = self.until
        return datetime.fromtimestamp(until, UTC) if until is not None and now < until else None

    @property
    def urgent_from(self) -> float | None:
        """Since when handshakes soon go without a staple, as POSIX time; None: they do already."""
        until = self.until
        return None if until is None else schedule.urgent_from(self.since, until)

    def urgent(self, now: float) -> bool:
        """Whether handshakes go, or soon would go, without a staple."""
        since = self.urgent_from
        return since is None or now >= since


class Loader(Protocol):
    """What reads the sources of one kind."""

    def load(self, held: Held) -> Sequence[Slot]:
        """Read the pairs and staples of a source; raises CertificateErrors."""


class Held:
    """A source in use: what is served for it, and a record of each of its certificates.

    `loader` reads what there is for it. `dropped` is set when the source is no longer in use, for
    what is still under way for it; `read` when it was looked at, so that the agenda has what it
    needs.
    """

    __slots__ = ("dropped", "identity", "loader", "read", "records", "source")

    def __init__(self, source: CertificateSource) -> None:
        self.source = source
        self.identity: Identity
        self.loader: Loader
        self.dropped = False
        self.read = False
        count = len(source) if isinstance(source, tuple) else 1
        self.records = tuple(Record(self, index) for index in range(count))

    def load(self) -> Sequence[Slot]:
        """Read the pairs and staples anew; raises CertificateErrors."""
        return self.loader.load(self)

    def learn(self, slots: tuple[Slot, ...]) -> None:
        """Take down what was read."""
        for record, slot in zip(self.records, slots, strict=True):
            record.learn(slot)


def host_of(url: str) -> str:
    """Return whom a URL asks; one that is wrong is refused when it is asked."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return url


def why_skipped(pair: KeyPair) -> str:
    """Say why no staple can be fetched for a certificate, "" if one can."""
    if not responders(pair.certificate):
        return SELF_SIGNED if issued_by(pair.certificate, pair.certificate) else NO_RESPONDER
    return "" if pair.issuer is not None else NO_ISSUER


def name_of(source: CertificateSource, index: int = 0) -> str:
    """Name one certificate of a source: "files PATH", "internal NAME…", or the name by ACME."""
    if isinstance(source, tuple):
        return f"files {source[index].certificate}"
    if isinstance(source, AcmeCertificate):
        return source.name
    return " ".join(("internal", *source.names))


def hexadecimal(serial: int) -> str:
    """Write a serial number in whole bytes, as openssl does."""
    return serial.to_bytes(serial.bit_length() // 8 + 1).hex().removeprefix("00") or "00"
