"""When a responder may be asked: requests to one host are spaced; pure.

The bound: in any W seconds at most W / URGENT_SPACING + 1 requests go to one host, and W / SPACING
+ 1 when none is urgent. Once a host has failed, what is urgent is spaced like the rest, but for the
HORIZON / URGENT_SPACING requests at most that were given their times before.
"""

from __future__ import annotations

from dwaarx.certs.agenda import JUMP

# Between two requests to one responder: what nobody waits for must not be a burden to anybody.
SPACING = 1.0

# The same for certificates that have no staple, or soon none: two hundred of one responder are
# to be stapled within a minute.
URGENT_SPACING = 0.2

# A slot is reserved at most this far ahead. As long as a request may take: a responder that hangs
# is then known to do so before more than the first ones (HORIZON / URGENT_SPACING) are under way,
# and what is urgent waits no longer than this for what is not.
HORIZON = 10.0

# Who is told to come again later comes within a day, however many there are.
_LONGEST = 86400.0

# A responder that asks to be left alone (Retry-After) is, for all its certificates, but not for
# longer than this: it says so about one of them, and the others' staples may end.
LONGEST_HOLD = 300.0

# How long it is remembered that a host failed: longer than the longest back-off.
_MEMORY = 7200.0

# From this many hosts on, those that have been idle are looked for and forgotten.
_HOSTS = 1000


class _Host:
    """What is known of one host; times are POSIX seconds."""

    __slots__ = ("failed", "hold", "last", "tails")

    def __init__(self) -> None:
        self.last = float("-inf")  # the last slot that was reserved
        self.hold = float("-inf")  # no slot before this
        self.tails = [float("-inf")] * 2  # up to when others come again, [routine, urgent]
        self.failed = False

    def move(self, by: float) -> None:
        self.last += by
        self.hold += by
        self.tails = [tail + by for tail in self.tails]


class Pacer:
    """Spaces the requests to each responder host; no host waits for another.

    Times are POSIX seconds of the wall clock. When it is set back, the slots that were reserved
    move back with it.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._latest = float("-inf")
        self._limit = _HOSTS

    def __len__(self) -> int:
        return len(self._hosts)

    def slot(self, host: str, now: float, urgent: bool) -> float:
        """Return when a request to the host may be sent: now or later.

        Up to HORIZON seconds from now, the slot is reserved: send at that time. A later one is
        not: come again at that time (or sooner, if the request becomes urgent before), and ask
        for a slot anew. Those who come again are spaced like slots, so that each finds one. That
        keeps what is under way small, for a hundred thousand certificates of one responder too,
        and a clock that jumps ahead sets off no more than what is reserved.
        """
        self._notice_jump(now)
        known = self._host(host)
        spacing = URGENT_SPACING if urgent and not known.failed else SPACING
        at = max(now, known.last + spacing, known.hold)
        if at - now <= HORIZON:
            known.last = at
            return at
        tail = known.tails[urgent] + spacing
        if tail > now + _LONGEST:
            tail = at  # once more from the front: they are at more than one for each slot then
        known.tails[urgent] = tail = max(tail, at)
        return tail

    def held_until(self, host: str, now: float) -> float | None:
        """Return until when a host asked to be left alone; None if it did not, or that is over."""
        known = self._hosts.get(host)
        return known.hold if known is not None and known.hold > now else None

    def succeeded(self, host: str) -> None:
        """Note that the host answered a request as it should."""
        self._host(host).failed = False

    def failed(self, host: str, retry_after: float | None = None) -> None:
        """Note that a request to the host failed.

        `retry_after` is when it wants to be asked again, as POSIX time; it is left alone until
        then, but for LONGEST_HOLD seconds at most.
        """
        known = self._host(host)
        known.failed = True
        if retry_after is not None:
            known.hold = max(known.hold, min(retry_after, self._latest + LONGEST_HOLD))

    def _host(self, host: str) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            if len(self._hosts) >= self._limit:
                self._forget_idle()
            known = self._hosts[host] = _Host()
        return known

    def _forget_idle(self) -> None:
        since = self._latest - _MEMORY
        self._hosts = {
            host: known
            for host, known in self._hosts.items()
            if max(known.last, known.hold, *known.tails) > since
        }
        self._limit = max(_HOSTS, 2 * len(self._hosts))

    def _notice_jump(self, now: float) -> None:
        jump = self._latest - now
        if 0 < jump <= JUMP:
            return
        self._latest = now
        if jump > 0:
            for known in self._hosts.values():
                known.move(-jump)
