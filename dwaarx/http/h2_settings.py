"""The settings of an HTTP/2 connection (RFC 9113 section 6.5): what we say, what the peer may."""

from __future__ import annotations

from collections.abc import Iterable

from dwaarx.http.frames import (
    DEFAULT_WINDOW,
    LARGEST_FRAME_SIZE,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    ErrorCode,
    H2ConnectionError,
    Setting,
)
from dwaarx.http.h2_headers import MAX_LIST_SIZE

# What may be on its way to us for one stream, and for all of them: it bounds the memory that a
# connection's bodies can take, and its speed to window / round trip (84 Mbit/s at 100 ms).
STREAM_WINDOW = 262_144
CONNECTION_WINDOW = 1_048_576

# What both roles tell the peer.
SETTINGS = (
    (Setting.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
    (Setting.MAX_HEADER_LIST_SIZE, MAX_LIST_SIZE),
    (Setting.NO_RFC7540_PRIORITIES, 1),
)


class PeerSettings:
    """What the peer has told; `most_push` is the greatest ENABLE_PUSH that its role may send.

    What would only allow more than we use is checked and forgotten: frames over 16 KiB, a
    dynamic table, which we do not keep; so is the greatest size of a field list, an advice.
    """

    __slots__ = ("_most_push", "_no_priorities", "initial_window")

    def __init__(self, most_push: int) -> None:
        self._most_push = most_push
        self._no_priorities: int | None = None
        self.initial_window = DEFAULT_WINDOW

    def take(self, settings: Iterable[tuple[int, int]]) -> None:
        """Take the settings of one frame, in order; raises H2ConnectionError."""
        for number, value in settings:
            if number == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise H2ConnectionError(
                        ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is over 2^31-1"
                    )
                self.initial_window = value
            elif number == Setting.ENABLE_PUSH:
                if value > self._most_push:
                    raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is out of range")
            elif number == Setting.MAX_FRAME_SIZE:
                if not MAX_FRAME_SIZE <= value <= LARGEST_FRAME_SIZE:
                    raise H2ConnectionError(
                        ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is not 16,384 to 2^24-1"
                    )
            elif number == Setting.NO_RFC7540_PRIORITIES:
                # RFC 9218 section 2.1: 0 or 1, and the first SETTINGS decides.
                if value > 1 or self._no_priorities not in (None, value):
                    raise H2ConnectionError(
                        ErrorCode.PROTOCOL_ERROR, "NO_RFC7540_PRIORITIES is not 0 or 1, or changed"
                    )
                self._no_priorities = value
        self._no_priorities = self._no_priorities or 0
