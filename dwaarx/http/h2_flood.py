"""What frames that do no work cost a peer: one bucket of tokens per HTTP/2 connection.

Most denials of service by HTTP/2 are frames that are cheap to send and that carry nothing
forward: resets (CVE-2023-44487), settings and pings to acknowledge, empty frames
(CVE-2019-9518), priorities, window updates; and resets that the peer provokes from us
(CVE-2025-8671). All are paid from the same bucket, so that mixing them does not help.
"""

from __future__ import annotations

from collections.abc import Callable

# A browser that leaves a page cancels all its requests at once (128 at most), some clients ping
# once a round trip, some change priorities for every request: hence room for a burst.
CAPACITY = 1000
# Tokens a second: what a peer may go on with for ever, about 1 % of a core.
REFILL = 100.0

RESET = 2  # sent or provoked: the work done for the request is lost
# Field blocks of requests that are refused unseen (431, 501) and of streams that were reset: a few
# KiB of references to a table are thousands of fields, and milliseconds.
UNSERVED = 10
SETTINGS = 2  # must be acknowledged
PING = 1
EMPTY = 1  # DATA, HEADERS and CONTINUATION without data or fields
PRIORITY = 1
GOAWAY = 1  # one is enough; a few tell that the end comes nearer
WINDOW_UPDATE = 1  # one that is not an answer to data: see UPDATES_PER_FRAME
UNKNOWN = 1  # frame types that we do not know, PRIORITY_UPDATE of RFC 9218 among them

# A window update is an answer to data that we sent, and then free. Clients in use send at most
# one for the stream and one for the connection for each of our frames, or for every 4 KiB.
UPDATES_PER_FRAME = 2
BYTES_PER_UPDATE = 2048
# They may be saved up to this: a client may drain what we sent in its own time.
MAX_UPDATES = 1000
# Unasked, a client may enlarge the window of each new stream and of the connection.
UPDATES_PER_STREAM = 2


class TokenBucket:
    """Tokens that refill with time; `now` gives seconds."""

    __slots__ = ("_at", "_left", "_now")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._left = float(CAPACITY)
        self._at: float | None = None  # when it was filled last; full until first asked for

    def take(self, cost: int) -> bool:
        """Take tokens; False when there are not enough."""
        now = self._now()
        if self._at is not None:
            self._left = min(CAPACITY, self._left + (now - self._at) * REFILL)
        self._at = now
        self._left -= cost
        return self._left >= 0
