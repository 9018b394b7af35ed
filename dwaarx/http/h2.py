"""An HTTP/2 session of the server's role (RFC 9113): requests in, responses out."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from dwaarx.http import frames, h2_flood
from dwaarx.http.date import http_date
from dwaarx.http.events import Fields, RequestReceived
from dwaarx.http.frames import ErrorCode, H2ConnectionError, Setting, StreamError
from dwaarx.http.h2_core import H2Core
from dwaarx.http.h2_headers import RefusedError, encode_response
from dwaarx.http.h2_settings import SETTINGS, STREAM_WINDOW
from dwaarx.http.h2_streams import END_SENT, State, Stream

# Requests of one client that are served at once; RFC 9113 section 6.5.2 asks for 100 at least.
MAX_CONCURRENT_STREAMS = 128

# Answered requests that may go on for a while: they take places of MAX_CONCURRENT_STREAMS.
MAX_EARLY = 32

_GREETING = frames.encode_settings(
    (*SETTINGS, (Setting.MAX_CONCURRENT_STREAMS, MAX_CONCURRENT_STREAMS))
)


class H2Session(H2Core):
    """One HTTP/2 connection of a client, sans I/O; `now` gives seconds.

    After `receive_data`, and after any call that sends, write what `data_to_send` returns, once
    per turn; then look at `take_events`. Calls for a stream that is gone do nothing.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        super().__init__(frames.PREFACE, 1, _GREETING, now)
        # Open streams whose response has ended before the request, and when it did, oldest first.
        self._early: dict[int, float] = {}
        self._now = now

    def _opened(self, stream_id: int) -> bool:
        return stream_id <= self.last_stream_id and bool(stream_id & 1)

    def _take_opening(
        self, stream_id: int, end: bool, depends_on: int | None, block: bytes
    ) -> None:
        """Open a stream with a request (section 5.1.1)."""
        if not stream_id & 1:
            raise H2ConnectionError(ErrorCode.PROTOCOL_ERROR, "a client opens an even stream")
        self.last_stream_id = stream_id
        if self._finishing or len(self.streams) >= MAX_CONCURRENT_STREAMS:
            self._decoder.skip(block)
            raise StreamError(ErrorCode.REFUSED_STREAM, "too many streams, or shutting down")
        output = self._output
        state = State.HALF_CLOSED_REMOTE if end else State.OPEN
        stream = Stream(stream_id, state, output.initial_window, STREAM_WINDOW)
        try:
            head = self._decoder.request(block)
        except RefusedError as refused:
            self._charge(h2_flood.UNSERVED)
            self.streams[stream_id] = stream
            self.send_response(stream_id, refused.status, ((b"date", http_date()),), b"")
            return
        if depends_on == stream_id:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        if end:
            if head.content_length:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "malformed: the body is missing")
        else:
            stream.expected = head.content_length
        output.updates += h2_flood.UPDATES_PER_STREAM
        self.streams[stream_id] = stream
        self._events.append(RequestReceived(stream_id, head, end))

    def _take_head(self, stream: Stream, end: bool, block: bytes) -> None:
        trailers = self._decoder.trailers(block)
        if not end:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "malformed: trailers without END_STREAM")
        self._end_received(stream, trailers)

    def _end_sent(self, stream: Stream) -> None:
        """A response's END_STREAM goes out."""
        stream.state = END_SENT[stream.state]
        if stream.state is State.ENDED:
            self._close(stream, State.ENDED)
        else:
            early = self._early
            early[stream.id] = self._now()
            if len(early) > MAX_EARLY:
                self.reset_stream(next(iter(early)), ErrorCode.NO_ERROR)

    def _close(self, stream: Stream, how: State) -> None:
        if self._early:
            self._early.pop(stream.id, None)
        super()._close(stream, how)

    @property
    def early_since(self) -> float | None:
        """When the oldest response ended whose request has not; None if there is no such."""
        return next(iter(self._early.values()), None)

    def stop_uploads(self, answered: float) -> None:
        """Reset the streams whose response had ended by then, with NO_ERROR (section 8.1).

        Not at once: many a client takes the reset for a failure while it still sends, and loses
        the response that it was about to read, or reads it only when it has sent all.
        """
        while (since := self.early_since) is not None and since <= answered and not self.closed:
            self.reset_stream(next(iter(self._early)), ErrorCode.NO_ERROR)

    def stop_upload(self, stream_id: int) -> None:
        """Reset a stream whose response has ended before the request."""
        if stream_id in self._early:
            self.reset_stream(stream_id, ErrorCode.NO_ERROR)

    def abandon(self, stream_id: int) -> None:
        """Reset a stream whose response is not whole yet; one that is goes out undisturbed."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state in END_SENT:
            self.reset_stream(stream_id, ErrorCode.INTERNAL_ERROR)

    def send_informational(self, stream_id: int, status: int, fields: Fields) -> None:
        """Send an interim head (1xx)."""
        stream = self._sending(stream_id)
        if stream is not None:
            self._output.head(stream, encode_response(status, fields), end=False)

    def send_head(self, stream_id: int, status: int, fields: Fields, end: bool) -> None:
        """Send the final head, lower-case names, nothing connection-specific; `end`: no body."""
        stream = self._sending(stream_id)
        if stream is not None:
            self._output.head(stream, encode_response(status, fields), end=end)

    def send_response(self, stream_id: int, status: int, fields: Fields, body: bytes) -> None:
        """Send a whole response: `send_head`, `send_body` and `end_stream` in one."""
        stream = self._sending(stream_id)
        if stream is not None:
            self._output.message(stream, encode_response(status, fields), body)

    def data_to_send(self) -> bytes:
        """Return what goes out now, b"" if nothing can; streams take turns, 64 KiB at a time.

        Not called while the transport cannot write, it leaves bodies in their queues.
        """
        self._pump()
        return self._output.take()
