"""What both roles of an HTTP/2 session share: bytes in, events out; calls in, bytes out (RFC 9113).

What depends on the role is left to the subclass, and named: the first bytes (`preface`), who
opens streams and with what (`_opened`, `_take_opening`), what HEADERS on an open stream means
(`_take_head`), ENABLE_PUSH (`most_push`), and what follows from our END_STREAM (`_end_sent`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NoReturn

from dwaarx.http import frames, h2_flood
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    Fields,
    StreamReset,
    StreamWritable,
)
from dwaarx.http.frames import (
    DEFAULT_WINDOW,
    ErrorCode,
    FrameType,
    H2ConnectionError,
    StreamError,
    error_name,
)
from dwaarx.http.h2_headers import MAX_BLOCK_SIZE, BlockDecoder, encode_fields
from dwaarx.http.h2_output import Output
from dwaarx.http.h2_settings import CONNECTION_WINDOW, STREAM_WINDOW, PeerSettings
from dwaarx.http.h2_streams import (
    END_RECEIVED,
    END_SENT,
    RECEIVED,
    ClosedStreams,
    State,
    Stream,
    Verdict,
)

# Our field lists fill five frames at most; a few more allow for senders of small frames.
MAX_CONTINUATIONS = 16

# Acknowledgements and resets that wait for a peer that does not read.
MAX_WAITING_CONTROL = 1000

# Its answer says that every stream opened before the peer read our first GOAWAY is here.
_SHUTDOWN_PING = b"shutdown"


class _Block:
    """A field block of which END_HEADERS has not come yet."""

    __slots__ = ("count", "data", "depends_on", "end", "number", "stream_id")

    def __init__(
        self, stream_id: int, end: bool, depends_on: int | None, data: bytes, number: int
    ) -> None:
        self.stream_id = stream_id
        self.end = end
        self.depends_on = depends_on
        self.data = bytearray(data)
        self.count = 0
        self.number = number


class H2Core(ABC):
    """One HTTP/2 connection, sans I/O.

    `preface` is what the peer says before its first frame, `most_push` the greatest ENABLE_PUSH
    that it may send, `greeting` what we say first; `now` gives seconds, for flood tokens.
    """

    def __init__(
        self, preface: bytes, most_push: int, greeting: bytes, now: Callable[[], float]
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.closed = False  # nothing is taken any more, and nothing but control goes out
        self.last_stream_id = 0  # the highest that the peer has opened
        self._closed_streams = ClosedStreams()
        self._events: list[Event] = []
        self._frames = frames.FrameBuffer()
        self._frame_count = 0
        self._preface = preface  # what of it is still to come
        # The one frame that may come next: the first SETTINGS, or a CONTINUATION.
        self._only: tuple[int, int] | None = (FrameType.SETTINGS, 0)
        self._block: _Block | None = None
        self._decoder = BlockDecoder()
        self._bucket = h2_flood.TokenBucket(now)
        self._allowed = CONNECTION_WINDOW
        self._consumed = 0
        self._output = Output(self._end_sent)
        self._settings = PeerSettings(most_push)
        self._shutting_down = False
        self._finishing = False  # the session is over when no stream is left
        self._output.add(greeting)
        self._output.add(frames.encode_window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))

    # --- what depends on the role

    @abstractmethod
    def _opened(self, stream_id: int) -> bool:
        """Whether a stream that is not in `streams` has been open, or skipped."""

    @abstractmethod
    def _take_opening(
        self, stream_id: int, end: bool, depends_on: int | None, block: bytes
    ) -> None:
        """Take HEADERS on an idle stream."""

    @abstractmethod
    def _take_head(self, stream: Stream, end: bool, block: bytes) -> None:
        """Take HEADERS on a stream where the peer may send them."""

    @abstractmethod
    def _end_sent(self, stream: Stream) -> None:
        """Change the state of a stream whose END_STREAM goes out."""

    # --- what the connection asks

    @property
    def greeted(self) -> bool:
        """Whether the peer's preface and first SETTINGS have come."""
        return self._frame_count > 0

    @property
    def unfinished(self) -> int | None:
        """A number for the frame or field block that has begun and not ended, None if none has.

        It stays the same until that has ended. A DATA frame does not count: bodies have their
        own pace.
        """
        if self._block is not None:
            return self._block.number
        if self._frames.partial in (None, FrameType.DATA):
            return None
        return self._frame_count

    @property
    def queued(self) -> int:
        """Bytes of bodies that wait for windows or for `data_to_send`."""
        return self._output.queued

    @property
    def sent(self) -> int:
        """Bytes of bodies sent so far: grows as the peer lets them through."""
        return self._output.sent

    @property
    def waiting(self) -> int:
        """Bytes of frames that are made and wait for `data_to_send`."""
        return self._output.waiting

    # --- receiving

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the peer, split anyhow; return what they mean. Never raises."""
        if self.closed:
            return []
        try:
            if self._preface:
                data = self._take_preface(data)
            for kind, flags, stream_id, payload in self._frames.feed(data):
                if self._only is not None and (kind, stream_id) != self._only:
                    self._out_of_order()
                self._frame_count += 1
                try:
                    take = self._TAKE.get(kind)
                    if take is None:
                        self._charge(h2_flood.UNKNOWN)
                    else:
                        take(self, flags, stream_id, payload)
                except StreamError as fault:
                    self._fail_stream(stream_id, fault)
                if self.closed:
                    break
        except H2ConnectionError as fault:
            self._fail(fault)
        return self.take_events()

    def take_events(self) -> list[Event]:
        """Return what has come of sending: StreamWritable, and ConnectionEnded once."""
        output = self._output
        if output.drained:
            for stream_id in output.drained:
                if stream_id in self.streams:
                    self._events.append(StreamWritable(stream_id))
            output.drained.clear()
        events = self._events
        if events:
            self._events = []
        return events

    def _take_preface(self, data: bytes) -> bytes:
        expected = self._preface
        size = min(len(expected), len(data))
        if data[:size] != expected[:size]:
            raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        self._preface = expected[size:]
        return data[size:]

    def _out_of_order(self) -> NoReturn:
        what = "a field block is interrupted" if self._block else "the first frame is not SETTINGS"
        raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, what)

    def _charge(self, cost: int) -> None:
        if not self._bucket.take(cost):
            raise H2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a flood of frames without use")

    def _reply(self, frame: bytes) -> None:
        """Send a frame of control that the peer has caused."""
        if self._output.control >= MAX_WAITING_CONTROL:
            raise H2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "the peer asks and does not read")
        self._output.add(frame)

    def _fail(self, fault: H2ConnectionError) -> None:
        """End the connection with an error (section 5.4.1)."""
        self.goaway(fault.code, fault.reason)
        self._events.append(ConnectionEnded(fault.reason))

    def _fail_stream(self, stream_id: int, fault: StreamError) -> None:
        """End a stream with an error (section 5.4.2)."""
        stream = self.streams.get(stream_id)
        if stream is None and self._state(stream_id) is State.IDLE:
            # RST_STREAM is not allowed there (section 6.4).
            raise H2ConnectionError(fault.code, fault.reason)
        self._charge(h2_flood.RESET)
        self._reply(frames.encode_rst_stream(stream_id, fault.code))
        if stream is None:
            self._closed_streams.add(stream_id, State.RESET_BY_US)
        else:
            self._events.append(StreamReset(stream_id, fault.reason))
            self._close(stream, State.RESET_BY_US)

    def _state(self, stream_id: int) -> State:
        """Return the state of a stream that is not in `streams`."""
        return self._closed_streams.how(stream_id) if self._opened(stream_id) else State.IDLE

    def _find(self, kind: FrameType, stream_id: int) -> Stream | None:
        """Return the stream that may take this frame, None if the frame is to be ignored."""
        stream = self.streams.get(stream_id)
        state = self._state(stream_id) if stream is None else stream.state
        verdict = RECEIVED[kind][state]
        if verdict is Verdict.TAKE:
            return stream
        if verdict is Verdict.IGNORE:
            return None
        reason = f"{kind.name} on a stream that is {state.name.lower().replace('_', ' ')}"
        if verdict is Verdict.STREAM_CLOSED:
            raise StreamError(ErrorCode.STREAM_CLOSED, reason)
        if verdict is Verdict.CONNECTION_CLOSED:
            raise H2ConnectionError(ErrorCode.STREAM_CLOSED, reason)
        raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, reason)

    def _take_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        fragment, depends_on = frames.decode_headers(flags, stream_id, payload)
        end = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._take_block(stream_id, end, depends_on, fragment)
            return
        if not fragment:
            self._charge(h2_flood.EMPTY)
        self._block = _Block(stream_id, end, depends_on, fragment, self._frame_count - 1)
        self._only = (FrameType.CONTINUATION, stream_id)

    def _take_continuation(self, flags: int, _stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.count += 1
        block.data += payload
        if len(block.data) > MAX_BLOCK_SIZE or block.count > MAX_CONTINUATIONS:
            raise H2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "a field block is too large")
        if not payload:
            self._charge(h2_flood.EMPTY)
        if flags & frames.END_HEADERS:
            self._block = self._only = None
            self._take_block(block.stream_id, block.end, block.depends_on, bytes(block.data))

    def _take_block(self, stream_id: int, end: bool, depends_on: int | None, block: bytes) -> None:
        if stream_id not in self.streams and not self._opened(stream_id):
            self._take_opening(stream_id, end, depends_on, block)
            return
        try:
            stream = self._find(FrameType.HEADERS, stream_id)
        except StreamError:
            self._decoder.skip(block)
            raise
        if stream is None:
            self._charge(h2_flood.UNSERVED)
            self._decoder.skip(block)
        else:
            self._take_head(stream, end, block)

    def _take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        data = frames.decode_data(flags, stream_id, payload)
        size = len(payload)  # padding is counted, too (section 6.9.1)
        if size > self._allowed:
            raise H2ConnectionError(
                ErrorCode.FLOW_CONTROL_ERROR, "DATA is over the connection's window"
            )
        self._allowed -= size
        end = flags & frames.END_STREAM
        if not data and not end:
            self._charge(h2_flood.EMPTY)
        try:
            stream = self._find(FrameType.DATA, stream_id)
        except StreamError:
            self._credit(size)
            raise
        if stream is None:
            self._credit(size)
            return
        # From here on what is held is credited to the connection when the stream closes.
        stream.held += size
        stream.allowed -= size
        if stream.allowed < 0:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "DATA is over the stream's window")
        if stream.expected is not None:
            stream.expected -= len(data)
            if stream.expected < 0:
                raise StreamError(
                    ErrorCode.PROTOCOL_ERROR, "malformed: the body is longer than Content-Length"
                )
        if data:
            self._events.append(BodyReceived(stream_id, data))
        if end:
            self._end_received(stream, ())
        if size > len(data):
            self.acknowledge(stream_id, size - len(data))

    def _end_received(self, stream: Stream, trailers: Fields) -> None:
        if stream.expected:
            raise StreamError(
                ErrorCode.PROTOCOL_ERROR, "malformed: the body is shorter than Content-Length"
            )
        self._events.append(BodyEnded(stream.id, trailers))
        stream.state = END_RECEIVED[stream.state]
        if stream.state is State.ENDED:
            self._close(stream, State.ENDED)

    def _take_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        self._charge(h2_flood.PRIORITY)
        if frames.decode_priority(stream_id, payload) == stream_id:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")

    def _take_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        code = frames.decode_rst_stream(stream_id, payload)
        self._charge(h2_flood.RESET)
        stream = self._find(FrameType.RST_STREAM, stream_id)
        if stream is not None:
            self._events.append(StreamReset(stream_id, f"the peer sent {error_name(code)}"))
            self._close(stream, State.RESET_BY_PEER)

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        settings = frames.decode_settings(flags, stream_id, payload)
        self._charge(h2_flood.SETTINGS)
        if settings is None:
            if self._only is not None:
                raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first SETTINGS is an ACK")
            return
        self._settings.take(settings)
        # Once a frame, not once a setting: it goes through all streams.
        self._output.set_initial_window(self._settings.initial_window, self.streams.values())
        self._only = None
        self._reply(frames.SETTINGS_ACK)

    def _take_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")

    def _take_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.decode_ping(stream_id, payload)
        self._charge(h2_flood.PING)
        if not flags & frames.ACK:
            self._reply(frames.encode_ping(payload, ack=True))
        elif self._shutting_down and payload == _SHUTDOWN_PING and not self._finishing:
            self._output.add(frames.encode_goaway(self.last_stream_id, ErrorCode.NO_ERROR))
            self._finishing = True
            self._finish_if_done()

    def _take_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """The peer goes when its streams have ended (section 6.8)."""
        frames.decode_goaway(stream_id, payload)
        self._charge(h2_flood.GOAWAY)
        self._finishing = True
        self._finish_if_done()

    def _take_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.decode_window_update(payload)
        output = self._output
        if output.updates > 0:
            output.updates -= 1
        else:
            self._charge(h2_flood.WINDOW_UPDATE)
        if not stream_id:
            if not increment:
                raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            output.enlarge(increment)
            return
        stream = self._find(FrameType.WINDOW_UPDATE, stream_id)
        if stream is not None:
            if not increment:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            output.enlarge_stream(stream, increment)

    # --- closing

    def _close(self, stream: Stream, how: State) -> None:
        stream.state = how
        del self.streams[stream.id]
        self._closed_streams.add(stream.id, how)
        self._output.drop(stream)
        if stream.held:
            self._credit(stream.held)
            stream.held = 0
        if self._finishing:
            self._finish_if_done()

    def _finish_if_done(self) -> None:
        if not self.streams and not self.closed:
            self.closed = True
            self._events.append(ConnectionEnded())

    # --- sending

    def _sending(self, stream_id: int) -> Stream | None:
        """Return the stream if something may still be sent on it."""
        stream = self.streams.get(stream_id)
        if stream is None or self.closed or stream.ending or stream.state not in END_SENT:
            return None
        return stream

    def send_body(self, stream_id: int, data: bytes) -> bool:
        """Queue a piece of body, kept as it is; False: send no more until StreamWritable."""
        stream = self._sending(stream_id)
        return stream is None or self._output.body(stream, data)

    def end_stream(self, stream_id: int, trailers: Fields = ()) -> None:
        """End the response after what is queued."""
        stream = self._sending(stream_id)
        if stream is not None:
            self._output.end(stream, encode_fields(trailers) if trailers else None)

    def reset_stream(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream with RST_STREAM; no event follows."""
        stream = self.streams.get(stream_id)
        if stream is not None and not self.closed:
            self._output.add(frames.encode_rst_stream(stream_id, code))
            self._close(stream, State.RESET_BY_US)

    def acknowledge(self, stream_id: int, count: int) -> None:
        """Give the windows back for `count` bytes of body that are dealt with."""
        stream = self.streams.get(stream_id)
        if stream is None or self.closed:
            return  # credited to the connection when it closed
        stream.held -= count
        self._credit(count)
        if stream.state in END_RECEIVED:
            stream.consumed += count
            # At half the window: the peer goes on without a pause, and updates are few.
            if stream.consumed >= STREAM_WINDOW // 2:
                self._output.add(frames.encode_window_update(stream_id, stream.consumed))
                stream.allowed += stream.consumed
                stream.consumed = 0

    def _credit(self, count: int) -> None:
        self._consumed += count
        if self._consumed >= CONNECTION_WINDOW // 2:
            self._output.add(frames.encode_window_update(0, self._consumed))
            self._allowed += self._consumed
            self._consumed = 0

    def goaway(self, code: ErrorCode, reason: str = "") -> None:
        """End the session now, open streams too; no event follows (section 6.8)."""
        if not self.closed:
            debug = reason.encode("ascii")
            self._output.add(frames.encode_goaway(self.last_stream_id, code, debug))
            self.closed = True

    def shutdown(self) -> None:
        """Finish the open streams, take no new ones, then end: ConnectionEnded follows.

        Requests that are on their way are still served: the first GOAWAY forbids nothing, and
        the second, which does, waits until the client has answered a PING (section 6.8).
        """
        if self.closed or self._shutting_down:
            return
        self._shutting_down = True
        output = self._output
        if self.streams:
            output.add(frames.encode_goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))
            output.add(frames.encode_ping(_SHUTDOWN_PING, ack=False))
        else:
            output.add(frames.encode_goaway(self.last_stream_id, ErrorCode.NO_ERROR))
            self._finishing = True
            self._finish_if_done()

    def _pump(self) -> None:
        """Make frames of the bodies that may go out."""
        if self._output.queued and not self.closed:
            self._output.pump()

    _TAKE: ClassVar[Mapping[int, Callable[[H2Core, int, int, bytes], None]]] = {
        FrameType.DATA: _take_data,
        FrameType.HEADERS: _take_headers,
        FrameType.PRIORITY: _take_priority,
        FrameType.RST_STREAM: _take_rst_stream,
        FrameType.SETTINGS: _take_settings,
        FrameType.PUSH_PROMISE: _take_push_promise,
        FrameType.PING: _take_ping,
        FrameType.GOAWAY: _take_goaway,
        FrameType.WINDOW_UPDATE: _take_window_update,
        FrameType.CONTINUATION: _take_continuation,
    }
