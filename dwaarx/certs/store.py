"""What a listener serves for one certificate source: a context, and staples for its pairs.

There is one small Identity for each source, and a context only for those that clients ask for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from OpenSSL import SSL
from twisted.logger import Logger

from dwaarx.certs.errors import CertificateErrors, OcspError
from dwaarx.certs.ocsp import Staple
from dwaarx.certs.pair import KeyPair
from dwaarx.config.model import CertificateSource
from dwaarx.tls import policy

_log = Logger()

# A certificate that could not be loaded for a handshake is not looked for on the disk again
# before this has passed: clients may come many times a second.
RETRY_LOAD = timedelta(seconds=10)

_NOT_YET = "there is no certificate yet"


class Slot:
    """One pair and its present staple.

    `refusal` says why there is no staple, or, beside one that stays, why the newer is not used.
    `until` is when the staple must no longer be sent: its end, or sooner; None without a staple.
    """

    __slots__ = ("pair", "refusal", "staple", "until")

    def __init__(
        self,
        pair: KeyPair,
        staple: Staple | None = None,
        refusal: OcspError | None = None,
        until: datetime | None = None,
    ) -> None:
        self.pair = pair
        self.put(staple, refusal, until)

    def put(
        self,
        staple: Staple | None,
        refusal: OcspError | None = None,
        until: datetime | None = None,
    ) -> None:
        """Staple this from the next handshake on; or nothing, for the reason given.

        `until` ends it sooner than its own end (it was fetched too long ago by then).
        """
        self.staple = staple
        self.refusal = refusal
        self.until: datetime | None = None
        if staple is not None:
            self.until = staple.end if until is None else min(staple.end, until)

    def valid_staple(self, now: datetime) -> Staple | None:
        """Return the staple if it may still be sent."""
        until = self.until
        return self.staple if until is not None and now < until else None


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


class ContextCache:
    """The identities that have a context, in the order of their last handshakes.

    When there are more than `limit`, the one whose last handshake is longest ago goes back to
    being none but a name. Those that are pinned are not counted.
    """

    __slots__ = ("_limit", "_order")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._order: OrderedDict[Identity, None] = OrderedDict()

    def __len__(self) -> int:
        """Count the contexts that are held."""
        return len(self._order)

    def touch(self, identity: Identity) -> None:
        """Let this identity, which has a context, be the one used last."""
        order = self._order
        if identity in order:
            order.move_to_end(identity)
        else:
            order[identity] = None
            self.set_limit(self._limit)

    def admit(self, identity: Identity) -> None:
        """Hold a context that no handshake has used yet, if there is room without any other's."""
        if len(self._order) < self._limit:
            self._order[identity] = None
            self._order.move_to_end(identity, last=False)
        else:
            identity.discard()

    def discard(self, identity: Identity) -> None:
        """Hold this one no more; nothing happens if it is not held."""
        self._order.pop(identity, None)

    def set_limit(self, limit: int) -> None:
        """Hold no more than this many, from now on."""
        self._limit = limit
        while len(self._order) > limit:
            identity, _ = self._order.popitem(last=False)
            identity.discard()


class Identity:
    """What is served for one source; the same object for as long as the source is in use.

    `load` reads its pairs and staples from the disk: at the first handshake for one of its names,
    and again when the cache has let the context go. It raises CertificateErrors, or returns
    nothing where there is no certificate yet.

    `source` may be replaced by an equal one. `unavailable` says why the last handshake got no
    certificate; None if it got one, or there was none since `available`.
    """

    __slots__ = (
        "_cache",
        "_context",
        "_failed",
        "_load",
        "_now",
        "_pinned",
        "_stapler",
        "source",
        "unavailable",
    )

    def __init__(
        self,
        source: CertificateSource,
        load: Callable[[], Sequence[Slot]],
        now: Callable[[], datetime],
        cache: ContextCache,
    ) -> None:
        self.source = source
        self.unavailable: str | None = None
        self._load = load
        self._now = now
        self._cache = cache
        # Never changed but replaced whole; connections keep the one they began with.
        self._context: SSL.Context | None = None
        self._stapler: Stapler | None = None
        self._pinned = False
        self._failed: datetime | None = None

    # --- for handshakes -----------------------------------------------------

    @property
    def context(self) -> SSL.Context | None:
        """The context for a handshake, which is loaded if need be; None if it cannot be.

        Raises nothing, and after a failure does not look at the disk again before RETRY_LOAD.
        """
        context = self._context
        if context is None:
            return self._open()
        if not self._pinned:
            self._cache.touch(self)
        return context

    def _open(self) -> SSL.Context | None:
        now = self._now()
        # A clock that was set back must not make it long.
        if self._failed is not None and self._failed <= now < self._failed + RETRY_LOAD:
            return None
        former = self.unavailable
        self.unavailable = "the log says which error of dwaarx's own prevented it"
        with _log.failuresHandled("a certificate cannot be loaded for a handshake"):
            self.unavailable = self._loaded()
        context = self._context
        if context is None:
            self._failed = now
            # Each name once, for clients can provoke it; whoever obtains tells of what is to come.
            if self.unavailable not in (former, _NOT_YET):
                _log.warn("no handshake: {reason}", reason=self.unavailable)
        else:
            self._failed = None
            if not self._pinned:
                self._cache.touch(self)  # which may let it go at once
        return context

    def _loaded(self) -> str | None:
        """Load and make the context; return why not, or None."""
        try:
            slots = self._load()
            if not slots:
                return _NOT_YET
            self._serve(slots)
        except CertificateErrors as error:
            return str(error)
        except SSL.Error as error:
            return openssl_reason(error)
        return None

    # --- for maintenance, which does not count as use -----------------------

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The pairs with their staples that handshakes get; () while no context is held."""
        return () if self._stapler is None else self._stapler.slots

    def read(self) -> tuple[Slot, ...]:
        """Return the slots that are served, else those on the disk, which are not kept.

        Raises CertificateErrors.
        """
        return self.slots or tuple(self._load())

    def replace(self, slots: Sequence[Slot], *, eager: bool = False) -> None:
        """Serve these pairs and staples from the next handshake on.

        The context is made now if one is held, or if it is wanted by `eager` or pinned; else
        `load` brings them. Raises `OpenSSL.SSL.Error`, and then goes on serving the former ones.
        """
        held = self._context is not None
        if held or eager or self._pinned:
            self._serve(slots)
        self.available()
        if eager and not held and not self._pinned:
            self._cache.admit(self)

    def available(self) -> None:
        """Let the next handshake look at the disk, whatever it found there before."""
        self.unavailable = None
        self._failed = None

    @property
    def pinned(self) -> bool:
        """Whether the context stays whatever the cache says, for `load` would not bring it again.

        (It could not be written to the disk; or what is there now is not to be served.)
        """
        return self._pinned

    @pinned.setter
    def pinned(self, pinned: bool) -> None:
        self._pinned = pinned
        if pinned:
            self._cache.discard(self)
        elif self._context is not None:
            self._cache.touch(self)

    def discard(self) -> None:
        """Let context and slots go; the next handshake loads them again."""
        self._cache.discard(self)
        self._context = self._stapler = None

    def _serve(self, slots: Sequence[Slot]) -> None:
        stapler = Stapler(slots, self._now)
        pairs = [slot.pair for slot in slots]
        # With the whole chain, a root too: curl looks for the issuer of a staple there and not
        # among what it trusts, and DANE-TA needs it (RFC 7671 section 5.2.2).
        entries = [(pair.key, (pair.certificate, *pair.chain)) for pair in pairs]
        self._context = policy.certificate_context(entries, stapler.staple)
        self._stapler = stapler
        for slot in slots:
            slot.pair = slot.pair.lean()  # there may be 10,000 of them


def openssl_reason(error: SSL.Error) -> str:
    """Put OpenSSL's error, a list of (library, function, reason), into words."""
    details = error.args[0] if error.args else ()
    reasons = "; ".join(detail[2] for detail in details)
    return f"OpenSSL does not take it: {reasons or 'no reason given'}"
