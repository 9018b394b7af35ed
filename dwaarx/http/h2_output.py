"""The sending half of an HTTP/2 connection: windows, queues of bodies, and whose turn it is.

The same in both roles. Frames of control and heads go out in the order they were made, before
any data; data goes out a frame at a time, round the streams that have some and may send it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from dwaarx.http.frames import (
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    ErrorCode,
    FrameType,
    H2ConnectionError,
    StreamError,
    encode_headers,
    header,
)
from dwaarx.http.h2_flood import BYTES_PER_UPDATE, MAX_UPDATES, UPDATES_PER_FRAME
from dwaarx.http.h2_headers import NO_DYNAMIC_TABLE
from dwaarx.http.h2_streams import Stream

# A stream's body waits in memory up to this before its maker is told to stop; with all streams
# stalled that is 8 MiB for a connection. Going on at half of it keeps the frames full.
HIGH_MARK = 65_536
LOW_MARK = HIGH_MARK // 2

# How much data is taken from the queues at once: a transport holds about as much before it
# says stop, and what it has taken cannot give way to another stream any more.
SEND_BUDGET = 65_536

_DATA = int(FrameType.DATA)
_HEADERS = int(FrameType.HEADERS)


class Output:
    """What goes out; `ended` is called as a stream's END_STREAM does.

    `window` is the connection's, `initial_window` that of new streams, both as the peer allows.
    `queued` and `sent` count the bytes of bodies that wait, and that have gone out; `waiting`
    those of frames that are made already, `control` such frames other than heads and data.
    `updates` is how many window updates the data sent has earned the peer.
    """

    __slots__ = (
        "_buffers",
        "_ended",
        "_ready",
        "_table_announced",
        "control",
        "drained",
        "initial_window",
        "queued",
        "sent",
        "updates",
        "waiting",
        "window",
    )

    def __init__(self, ended: Callable[[Stream], None]) -> None:
        self._ended = ended
        self._buffers: list[bytes | memoryview] = []
        self._ready: deque[Stream] = deque()
        self._table_announced = False
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.drained: list[int] = []
        self.control = 0
        self.queued = 0
        self.sent = 0
        self.updates = 0
        self.waiting = 0

    def add(self, frame: bytes) -> None:
        """Send a frame of control."""
        self._buffers.append(frame)
        self.waiting += len(frame)
        self.control += 1

    def head(self, stream: Stream, block: bytes, *, end: bool) -> None:
        """Send a field block: of an interim or final head."""
        frame = self._headers(stream, block, END_STREAM if end else 0)
        self._buffers.append(frame)
        self.waiting += len(frame)
        if end:
            self._ended(stream)

    def message(self, stream: Stream, block: bytes, body: bytes) -> None:
        """Send a whole message: past the queue if it fits into one frame and the windows."""
        size = len(body)
        if not size:
            self.head(stream, block, end=True)
        elif size > MAX_FRAME_SIZE or size > stream.window or size > self.window:
            self.head(stream, block, end=False)
            self.body(stream, body)
            self.end(stream, None)
        else:
            head = self._headers(stream, block, 0)
            self._buffers += (head, header(size, _DATA, END_STREAM, stream.id), body)
            self._spend(stream, size)
            self.waiting += len(head) + 9 + size
            self._ended(stream)

    def _headers(self, stream: Stream, block: bytes, flags: int) -> bytes:
        if not self._table_announced:
            self._table_announced = True
            block = NO_DYNAMIC_TABLE + block
        size = len(block)
        if size <= MAX_FRAME_SIZE:
            return header(size, _HEADERS, flags | END_HEADERS, stream.id) + block
        return encode_headers(stream.id, block, end=bool(flags))

    def body(self, stream: Stream, data: bytes) -> bool:
        """Queue a piece of body; False: wait until the stream is in `drained`."""
        if data:
            size = len(data)
            stream.queue.append(data)
            stream.queued += size
            self.queued += size
            if stream.queued > HIGH_MARK:
                stream.full = True
            self._make_ready(stream)
        return not stream.full

    def end(self, stream: Stream, trailers: bytes | None) -> None:
        """End a message, with a block of trailers if there are any, after what is queued."""
        if stream.queued:
            stream.ending = True
            stream.trailers = trailers
        elif trailers is not None:
            self.head(stream, trailers, end=True)
        else:
            self._buffers.append(header(0, _DATA, END_STREAM, stream.id))
            self.waiting += 9
            self._ended(stream)

    def drop(self, stream: Stream) -> None:
        """Forget what is queued for a stream."""
        self.queued -= stream.queued
        stream.queue.clear()
        stream.queued = 0
        if stream.ready:
            stream.ready = False
            self._ready.remove(stream)

    def enlarge(self, increment: int) -> None:
        """Enlarge the connection's window (section 6.9.1)."""
        self.window += increment
        if self.window > MAX_WINDOW:
            raise H2ConnectionError(
                ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large"
            )

    def enlarge_stream(self, stream: Stream, increment: int) -> None:
        """Enlarge a stream's window (section 6.9.1)."""
        stream.window += increment
        if stream.window > MAX_WINDOW:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        self._make_ready(stream)

    def set_initial_window(self, size: int, streams: Iterable[Stream]) -> None:
        """Change new streams' window, and by the difference that of these (section 6.9.2)."""
        change = size - self.initial_window
        self.initial_window = size
        if not change:
            return
        for stream in streams:
            stream.window += change
            if stream.window > MAX_WINDOW:
                raise H2ConnectionError(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS makes a stream's window too large"
                )
            self._make_ready(stream)

    def _make_ready(self, stream: Stream) -> None:
        if not stream.ready and stream.queued and stream.window > 0:
            stream.ready = True
            self._ready.append(stream)

    def pump(self) -> None:
        """Make DATA frames of what is queued, as the windows allow, up to SEND_BUDGET."""
        ready = self._ready
        budget = SEND_BUDGET
        while ready and budget > 0 and self.window > 0:
            stream = ready.popleft()
            stream.ready = False
            size = min(stream.queued, stream.window, self.window, MAX_FRAME_SIZE)
            if size > 0:  # a lowered initial window may have closed the stream's
                budget -= size
                self._data(stream, size)
                self._make_ready(stream)

    def _data(self, stream: Stream, size: int) -> None:
        """Make one DATA frame, and the message's end if it was the last."""
        buffers = self._buffers
        self._spend(stream, size)
        stream.queued -= size
        self.queued -= size
        last = stream.ending and not stream.queued
        flags = END_STREAM if last and stream.trailers is None else 0
        buffers.append(header(size, _DATA, flags, stream.id))
        self.waiting += 9 + size
        queue = stream.queue
        while size:
            piece = queue.popleft()
            if len(piece) > size:
                view = memoryview(piece)
                buffers.append(view[:size])
                queue.appendleft(view[size:])
                break
            buffers.append(piece)
            size -= len(piece)
        if last:
            if stream.trailers is not None:
                self.head(stream, stream.trailers, end=True)
            else:
                self._ended(stream)
        elif stream.full and stream.queued <= LOW_MARK:
            stream.full = False
            self.drained.append(stream.id)

    def _spend(self, stream: Stream, size: int) -> None:
        stream.window -= size
        self.window -= size
        self.sent += size
        if self.updates < MAX_UPDATES:
            self.updates += UPDATES_PER_FRAME + size // BYTES_PER_UPDATE

    def take(self) -> bytes:
        """Return all frames that are made, and forget them."""
        buffers = self._buffers
        if not buffers:
            return b""
        data = b"".join(buffers)
        buffers.clear()
        self.waiting = self.control = 0
        return data
