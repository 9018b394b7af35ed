"""One request and its response on a stream of an HTTP/2 connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from dwaarx.http.date import http_date
from dwaarx.http.events import Fields, RequestHead
from dwaarx.http.exchange import ConnectionInfo, Exchange
from dwaarx.http.frames import ErrorCode
from dwaarx.http.h2 import H2Session


class Carrier(Protocol):
    """The connection, as its exchanges see it: its session, and whether the transport is full."""

    session: H2Session
    paused: bool

    def flush_soon(self) -> None:
        """Send what the session has, at the end of this turn."""

    def await_upload(self, exchange: H2Exchange) -> None:
        """Wait for more of a request's body."""

    def hold_upload(self, exchange: H2Exchange) -> None:
        """Wait for no more of a request's body."""

    def await_rest(self, exchange: H2Exchange) -> None:
        """Wait for the end of a request whose response is there, but not for long."""

    def forget(self, exchange: H2Exchange) -> None:
        """Drop an exchange that is over."""


class H2Exchange(Exchange):
    """An exchange over HTTP/2.

    While the request is paused, what still comes of its body (up to the stream's window) is
    kept here, and the windows are not given back, so that the client stops.

    What makes a response whole waits for the rest of the request, which is thrown away: curl 7
    reads nothing after the last byte of a response, and if it has to go on sending waits for a
    window for ever. It stops sending by itself when it is refused (400 and above), and has not
    begun while it waits for 100 (Continue).
    """

    __slots__ = (
        "_bodiless",
        "_conclusion",
        "_connection",
        "_ending",
        "_full",
        "_head_sent",
        "_held",
        "_last",
        "_left",
        "_over",
        "_owed",
        "_patient",
        "_paused",
        "_received",
        "_told",
        "body_at",
        "stream_id",
    )

    def __init__(
        self,
        request: RequestHead,
        info: ConnectionInfo,
        connection: Carrier,
        stream_id: int,
        received: bool,
    ) -> None:
        Exchange.__init__(self, request, info, request_ended=received)
        self.stream_id = stream_id
        self.body_at = 0.0  # when the last piece of the request's body came
        self._connection = connection
        self._received = received  # the whole request is here
        self._over = False
        self._head_sent = False
        self._bodiless = False
        self._left: int | None = None  # of the response's Content-Length
        self._patient = False  # the response's end waits for the request's
        self._last: bytes | None = None  # the last piece of a response, while it waits
        self._conclusion: Callable[[], None] | None = None  # what else waits
        self._paused = False  # the handler takes no more of the body
        self._held: bytearray | None = None  # body that came since
        self._ending: Fields | None = None  # trailers that came since
        self._owed = 0  # body bytes that the windows were not given back for
        self._full = False  # too much of the response is queued
        self._told = False  # the consumer was told to pause

    @property
    def ended(self) -> bool:
        """Whether nothing more can be sent."""
        return self._over

    # --- the response

    def send_informational(self, status: int, fields: Fields) -> None:
        """Send an interim response."""
        if not self._over and not self._head_sent:
            self._connection.session.send_informational(self.stream_id, status, fields)
            self._connection.flush_soon()

    def _start(self, status: int, fields: Fields) -> Fields:
        self._head_sent = True
        self._bodiless = status in (204, 304) or self.request.method == b"HEAD"
        self._patient = not self._received and status < 400 and not self.expects_continue()
        for name, _ in fields:
            if name == b"date":
                return fields
        return [*fields, (b"date", http_date())]

    def _send_head(self, status: int, fields: Fields, end: bool) -> None:
        if self._over or self._head_sent:
            return
        fields = self._start(status, fields)
        if not self._bodiless:
            for name, value in fields:
                if name == b"content-length":
                    self._left = int(value)
        if end and self._left:
            self.reset("a response without its body")
            return
        session = self._connection.session
        if end:
            self._conclude(partial(session.send_head, self.stream_id, status, fields, True))
        else:
            session.send_head(self.stream_id, status, fields, False)
            self._connection.flush_soon()

    def _send_answer(self, status: int, fields: Fields, body: bytes) -> None:
        if self._over or self._head_sent:
            return
        fields = self._start(status, fields)
        session = self._connection.session
        if self._bodiless:
            self._conclude(partial(session.send_head, self.stream_id, status, fields, True))
        else:
            self._conclude(partial(session.send_response, self.stream_id, status, fields, body))

    def send_body(self, data: bytes) -> None:
        """Send a piece of the body; more than Content-Length said resets the stream."""
        if self._over or self._bodiless or not self._head_sent:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.reset("the response is longer than its Content-Length")
                return
            if not self._left and self._patient and data:
                self._last = data
                return
        connection = self._connection
        if not connection.session.send_body(self.stream_id, data):
            self.set_full(True)
        connection.flush_soon()

    def end(self, trailers: Fields = ()) -> None:
        """End the response; a body shorter than its Content-Length resets the stream."""
        if self._over:
            return
        if self._left or not self._head_sent:
            self.reset("the response is shorter than its Content-Length")
            return
        self._conclude(partial(self._connection.session.end_stream, self.stream_id, trailers))

    def _conclude(self, send: Callable[[], None]) -> None:
        """End the response by this call, or have it wait for the end of the request."""
        if not self._patient:
            send()
            self._finish()
            return
        self._conclusion = send
        self._over = True
        self._paused = False
        self._held = None
        self._settle()
        self.consumer = None
        self._connection.await_rest(self)

    def go_on(self) -> None:
        """Send what has waited for the end of the request; call it once."""
        self._patient = False
        session = self._connection.session
        if self._last is not None:
            session.send_body(self.stream_id, self._last)
            self._last = None
        if self._conclusion is not None:
            self._conclusion()
            self._finish()
        else:
            self._connection.flush_soon()

    def reset(self, reason: str) -> None:
        """Give up; also what is still queued of a response that has ended is not sent."""
        self._connection.session.abandon(self.stream_id)
        self._finish()

    def _finish(self) -> None:
        self._over = True
        self._held = None
        connection = self._connection
        connection.forget(self)
        self._settle()  # of no use without the exchange
        connection.flush_soon()

    def fail(self, status: int) -> None:
        """Answer with a bare status, or reset if a head has gone out."""
        if self._head_sent:
            self.reset("failed")
        else:
            self._send_answer(status, ((b"content-length", b"0"),), b"")

    def set_full(self, full: bool) -> None:
        """Note whether too much is queued, and tell the consumer."""
        self._full = full
        self.tell()

    def tell(self) -> None:
        """Pause or resume the consumer, if it is not so already."""
        wanted = self._full or self._connection.paused
        consumer = self.consumer
        if wanted is not self._told and consumer is not None and not self._over:
            self._told = wanted
            if wanted:
                consumer.pause_response()
            else:
                consumer.resume_response()

    # --- the request's body

    def pause_request(self) -> None:
        """Let the windows hold the client back."""
        if not self._over:
            self._paused = True
            self._connection.hold_upload(self)

    def resume_request(self) -> None:
        """Deliver what was held, and let the client go on."""
        if self._over or not self._paused:
            return
        self._paused = False
        held = self._held
        if held is not None:
            self._held = None
            if self.consumer is not None:
                self.consumer.body_received(bytes(held))
        if self._paused or self._over:
            return  # again, or all is over, by what the consumer did
        self._settle()
        if self._ending is not None:
            trailers, self._ending = self._ending, None
            if self.consumer is not None:
                self.consumer.body_ended(trailers)
        elif not self._received:
            self._connection.await_upload(self)

    def take_body(self, data: bytes) -> None:
        """Take a piece of the request's body from the session."""
        self._owed += len(data)
        if self._paused:
            # Copied, so that many small pieces take no more memory than one large one.
            if self._held is None:
                self._held = bytearray()
            self._held += data
            return
        if self.consumer is not None:
            self.consumer.body_received(data)
        if not self._paused:
            self._settle()

    def _settle(self) -> None:
        if self._owed:
            self._connection.session.acknowledge(self.stream_id, self._owed)
            self._owed = 0
            self._connection.flush_soon()

    def take_end(self, trailers: Fields) -> None:
        """Take the end of the request's body from the session."""
        self._received = True
        if self._patient:
            self.go_on()
        if self._paused:
            self._ending = trailers
        elif self.consumer is not None:
            self.consumer.body_ended(trailers)

    def lose(self, reason: str) -> None:
        """Hear that the client has reset the stream, or is gone."""
        if not self._over:
            self._over = True
            self._held = None
            if self.consumer is not None:
                self.consumer.client_lost(reason)

    def time_out(self) -> None:
        """Answer for a request whose body does not come."""
        if self._over:
            return
        self._over = True
        self._held = None
        session = self._connection.session
        if self._head_sent:
            session.reset_stream(self.stream_id, ErrorCode.CANCEL)
        else:
            fields = ((b"content-length", b"0"), (b"date", http_date()))
            session.send_head(self.stream_id, 408, fields, True)
        if self.consumer is not None:
            self.consumer.client_lost("the request's body did not come in time")
