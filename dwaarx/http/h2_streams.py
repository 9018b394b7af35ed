"""The streams of an HTTP/2 connection: their states as a table (RFC 9113 section 5.1), and memory.

The states reserved (local) and (remote) are missing: nobody pushes here, in either role.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, IntEnum, auto

from dwaarx.http.frames import FrameType


class State(IntEnum):
    """The states of section 5.1, with "closed" told apart by what closed the stream."""

    IDLE = 0
    OPEN = 1
    HALF_CLOSED_LOCAL = 2
    HALF_CLOSED_REMOTE = 3
    ENDED = 4  # closed: both sides said END_STREAM
    RESET_BY_PEER = 5  # closed: RST_STREAM came
    RESET_BY_US = 6  # closed: RST_STREAM went out, and the peer may not know yet
    FORGOTTEN = 7  # closed: too long ago to know how, or skipped by the peer


class Verdict(Enum):
    """What to do with a frame for a stream in some state."""

    TAKE = auto()
    IGNORE = auto()  # but count it: against the connection's window, and decode its fields
    STREAM_CLOSED = auto()  # stream error STREAM_CLOSED
    CONNECTION_CLOSED = auto()  # connection error STREAM_CLOSED
    PROTOCOL_ERROR = auto()  # connection error PROTOCOL_ERROR


_TAKE = Verdict.TAKE
_IGNORE = Verdict.IGNORE
_STREAM = Verdict.STREAM_CLOSED
_CLOSED = Verdict.CONNECTION_CLOSED
_PROTOCOL = Verdict.PROTOCOL_ERROR

# HEADERS on an idle stream opens it, where the peer may (a server's clients; never a client's
# servers); PRIORITY may come in any state. A frame after the peer's own END_STREAM or RST_STREAM
# is its fault; one after our RST_STREAM may have been on its way. WINDOW_UPDATE and RST_STREAM
# may come "for a short period" after the end; ignoring them costs nothing, so that no clock is
# kept for it.
RECEIVED: dict[FrameType, tuple[Verdict, ...]] = {
    # state:           IDLE      OPEN   HALF_L HALF_R   ENDED    BY_PEER  BY_US    FORGOTTEN
    FrameType.HEADERS: (
        *(_TAKE, _TAKE, _TAKE, _STREAM),
        *(_CLOSED, _STREAM, _IGNORE, _PROTOCOL),
    ),
    FrameType.DATA: (
        *(_PROTOCOL, _TAKE, _TAKE, _STREAM),
        *(_CLOSED, _STREAM, _IGNORE, _CLOSED),
    ),
    FrameType.RST_STREAM: (
        *(_PROTOCOL, _TAKE, _TAKE, _TAKE),
        *(_IGNORE, _IGNORE, _IGNORE, _IGNORE),
    ),
    FrameType.WINDOW_UPDATE: (
        *(_PROTOCOL, _TAKE, _TAKE, _TAKE),
        *(_IGNORE, _IGNORE, _IGNORE, _IGNORE),
    ),
}

END_RECEIVED = {
    State.OPEN: State.HALF_CLOSED_REMOTE,
    State.HALF_CLOSED_LOCAL: State.ENDED,
}
END_SENT = {
    State.OPEN: State.HALF_CLOSED_LOCAL,
    State.HALF_CLOSED_REMOTE: State.ENDED,
}

# The peer may still send for streams that we reset, as many as may be open at once, and for as
# many again that were reset before it heard of the first.
REMEMBERED_CLOSED = 256


class Stream:
    """One stream: its state, and for each direction its window and what waits in it.

    Sending: `window` is what the peer allows (negative after a lowered initial window), `queue`
    holds `queued` bytes of body, `ending` says that the queue's end is the body's, with
    `trailers` (a field block) after it if there are any. `ready`: stands in the round of those
    that have something to send; `full`: the application was told to wait.
    Receiving: `allowed` is what the peer may still send, `held` what the application has not
    acknowledged yet, `consumed` what it has, but the peer has not been told of yet;
    `expected` counts Content-Length down, None when it was not given.
    """

    __slots__ = (
        "allowed",
        "consumed",
        "ending",
        "expected",
        "full",
        "held",
        "id",
        "queue",
        "queued",
        "ready",
        "state",
        "trailers",
        "window",
    )

    def __init__(self, stream_id: int, state: State, window: int, allowed: int) -> None:
        self.id = stream_id
        self.state = state
        self.window = window
        self.queue: deque[bytes | memoryview] = deque()
        self.queued = 0
        self.ending = False
        self.trailers: bytes | None = None
        self.ready = False
        self.full = False
        self.allowed = allowed
        self.held = 0
        self.consumed = 0
        self.expected: int | None = None


class ClosedStreams:
    """How the streams closed last were closed; older ones are forgotten."""

    __slots__ = ("_how",)

    def __init__(self) -> None:
        self._how: dict[int, State] = {}

    def add(self, stream_id: int, how: State) -> None:
        """Remember one, in the place of the oldest if there are too many."""
        closed = self._how
        closed[stream_id] = how
        if len(closed) > REMEMBERED_CLOSED:
            del closed[next(iter(closed))]

    def how(self, stream_id: int) -> State:
        """Return a closed stream's state."""
        return self._how.get(stream_id, State.FORGOTTEN)

    def __len__(self) -> int:
        return len(self._how)
