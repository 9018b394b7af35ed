"""`reverse_proxy`: a request to an upstream and its response back, both as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from dwaarx.config.model import Address, ReverseProxy
from dwaarx.http.answers import error_answer
from dwaarx.http.dialling import Dial
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    Fields,
    InformationalReceived,
    ResponseHead,
    ResponseReceived,
)
from dwaarx.http.exchange import Exchange
from dwaarx.http.forwarded import upstream_fields, upstream_trailers, via
from dwaarx.http.h1_client import Framing
from dwaarx.http.upstream import UpstreamConnection, UpstreamPools

_log = Logger()

# RFC 9110 9.2.2: sent twice, they do what they do once.
_IDEMPOTENT = frozenset((b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"TRACE"))

# An upstream that has ended its side of a tunnel waits for nothing more than the client's last
# words. (The other way round it may go on for long, as after any request.)
TUNNEL_END_TIMEOUT = 60.0

# Seconds between two warnings about the same upstream: one that is down fails every request.
COMPLAINT_INTERVAL = 1.0


class ReverseProxyHandler:
    """Hands each exchange to the next of its upstreams (round robin).

    One that cannot be reached passes its turn to the next, each is tried once; then 502. What
    answers nonsense or hangs up is 502, what stays silent for `response_header_timeout` is 504.
    """

    def __init__(self, config: ReverseProxy, pools: UpstreamPools) -> None:
        self.config = config
        self.pools = pools
        self._next = 0
        self._complaints: dict[Address, tuple[float, int]] = {}

    def handle(self, exchange: Exchange) -> None:
        """Begin."""
        upstreams = self.config.upstreams
        if len(upstreams) > 1:
            first = self._next
            self._next = (first + 1) % len(upstreams)
            upstreams = upstreams[first:] + upstreams[:first]
        ProxiedRequest(self, exchange, upstreams).start()

    def complain(self, upstream: Address, reason: str) -> None:
        """Log a failure of an upstream; of many in a short time, one and how many there were."""
        now = self.pools.reactor.seconds()
        last, unsaid = self._complaints.get(upstream, (-COMPLAINT_INTERVAL, 0))
        if now - last < COMPLAINT_INTERVAL:
            self._complaints[upstream] = (last, unsaid + 1)
            return
        self._complaints[upstream] = (now, 0)
        if unsaid:
            reason += f" ({unsaid} more failures since the last warning)"
        _log.warn("upstream {upstream} {reason}", upstream=str(upstream), reason=reason)


class ProxiedRequest:
    """One request on its way: the exchange's consumer and the upstream connection's user."""

    __slots__ = (
        "_connection",
        "_dial",
        "_early",
        "_exchange",
        "_handler",
        "_head_sent",
        "_paused_request",
        "_paused_response",
        "_request_ended",
        "_reused",
        "_trailers",
        "_tunnel",
        "_untried",
        "_upload_stopped",
        "_upstream",
    )

    def __init__(
        self, handler: ReverseProxyHandler, exchange: Exchange, upstreams: Sequence[Address]
    ) -> None:
        self._handler = handler
        self._exchange = exchange
        self._upstream = upstreams[0]
        self._untried = upstreams[1:]
        self._connection: UpstreamConnection | None = None
        self._dial: Dial | None = None
        self._reused = False  # the connection has served before
        self._request_ended = exchange.request_ended
        self._early: list[bytes] | None = None  # body that came while there was no connection
        self._trailers: Fields = ()
        self._paused_request = False
        self._paused_response = False
        self._upload_stopped = False  # the upstream has answered and wants no more
        self._head_sent = False  # the final head, to the client
        self._tunnel = False

    # --- to the upstream ----------------------------------------------------

    def start(self) -> None:
        """Send the request on a kept connection, or dial for one."""
        self._exchange.consumer = self
        connection = self._handler.pools.take(self._upstream)
        if connection is None:
            self._open()
        else:
            self._reused = True
            self._send(connection)

    def _open(self) -> None:
        if not self._request_ended:
            self._pause_request()
        handler = self._handler
        self._reused = False
        dial = handler.pools.dial(self._upstream, handler.config.dial_timeout, self)
        self._dial = dial
        dial.start()

    def dialled(self, protocol: Protocol) -> None:
        """Send the request on the new connection."""
        self._dial = None
        self._send(cast("UpstreamConnection", protocol))

    def dial_failed(self, reason: str) -> None:
        """Try the next upstream, or answer 502."""
        self._dial = None
        self._handler.complain(self._upstream, f"cannot be reached: {reason}")
        if not self._untried:
            self._answer(502)
            return
        self._upstream, self._untried = self._untried[0], self._untried[1:]
        self.start()

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        connection.user = self
        exchange = self._exchange
        request = exchange.request
        framing: Framing = "none"
        if not exchange.request_ended:
            framing = "chunked" if request.content_length is None else request.content_length
            connection.watch_writes()
        if self._paused_response:
            connection.pause()
        session = connection.session
        session.send_request(
            request.method,
            request.target,
            request.authority or str(self._upstream).encode("ascii"),
            upstream_fields(request, exchange.info),
            framing,
            request.upgrade,
        )
        if framing != "none":
            try:
                for piece in self._early or ():
                    session.send_body(piece)
                if self._request_ended:
                    session.end(self._trailers)
            except ValueError as error:
                self._refuse_body(str(error))
                return
            self._early = None
        connection.flush_head()
        if self._request_ended or exchange.expects_continue():
            connection.deadline.set(self._handler.config.response_header_timeout)
        self._resume_request()

    def body_received(self, data: bytes) -> None:
        """Pass a piece of the request's body (or of the tunnel) on."""
        connection = self._connection
        if connection is not None:
            if self._upload_stopped:
                return
            if self._tunnel:
                self._await_more()
            elif not self._head_sent and not self._paused_request:
                connection.deadline.clear()  # it is the client that we wait for
            try:
                connection.session.send_body(data)
            except ValueError as error:
                self._refuse_body(str(error))
            else:
                connection.flush()
        elif self._dial is not None:
            # The exchange is paused; this had been read before. It is less than one read.
            if self._early is None:
                self._early = []
            self._early.append(data)

    def body_ended(self, trailers: Fields) -> None:
        """End the request (or close our side of the tunnel)."""
        self._request_ended = True
        self._trailers = trailers = upstream_trailers(trailers)
        connection = self._connection
        if connection is None or self._upload_stopped:
            return
        if self._tunnel:
            if connection.read_closed:
                self._release()
            else:
                connection.half_close()
            return
        try:
            connection.session.end(trailers)
        except ValueError as error:
            self._refuse_body(str(error))
            return
        connection.flush()
        if not self._head_sent:
            connection.deadline.set(self._handler.config.response_header_timeout)

    def client_lost(self, reason: str) -> None:
        """Drop what is done for the client; in a tunnel its last words go out first.

        Over TLS a WebSocket's Close frame and the end of the connection come in one turn.
        """
        connection = self._connection
        if self._tunnel and connection is not None:
            self._connection = None
            connection.close()
        else:
            self._drop()

    def _refuse_body(self, reason: str) -> None:
        """A body that is not as long as its head says would end inside another request."""
        self._drop()
        self._exchange.reset(reason)

    # --- from the upstream --------------------------------------------------

    def upstream_event(self, event: Event) -> None:
        """Pass a part of the response on."""
        if isinstance(event, BodyReceived):
            self._exchange.send_body(event.data)
            if not self._paused_response:
                self._await_more()
        elif isinstance(event, ResponseReceived):
            self._respond(event.head, ended=event.ended)
        elif isinstance(event, BodyEnded):
            if self._tunnel and not self._request_ended:
                self._await_more()
            else:
                self._release()
            self._exchange.end(event.trailers)
        elif isinstance(event, InformationalReceived):
            self._exchange.send_informational(event.status, event.fields)
            connection = self._connection
            if connection is None:
                return
            if self._request_ended:
                connection.deadline.set(self._handler.config.response_header_timeout)
            else:
                connection.deadline.clear()  # the client has its 100 (Continue)
        elif isinstance(event, ConnectionEnded):
            self._fail(event.error or "closed the connection")

    def upstream_answer(self, head: ResponseHead, body: bytes) -> None:
        """Pass a whole response on in one go: one write, one TLS record."""
        fields = [field for field in head.fields if field[0] != b"content-length"]
        fields.append(via(head.version))
        self._release()
        self._exchange.answer(head.status, fields, body)

    def upstream_lost(self, reason: str) -> None:
        """The connection is gone in the middle of things."""
        connection = self._connection
        if self._upload_stopped and connection is not None and connection.session.until_close:
            # Closing on bytes that it has not read makes a reset of the upstream's orderly end.
            self._drop()
            self._exchange.end()
        else:
            self._fail(reason)

    def upstream_overdue(self) -> None:
        """The response's head, or the next piece of its body, did not come in time."""
        if self._tunnel:
            self._drop()
            self._exchange.reset("the tunnel is over")
        elif self._head_sent:
            self._fail("stopped in the middle of a response")
        else:
            self._handler.complain(self._upstream, "did not answer in time")
            self._drop()
            self._answer(504)

    def _respond(self, head: ResponseHead, *, ended: bool) -> None:
        connection = self._connection
        assert connection is not None
        self._head_sent = True
        exchange = self._exchange
        if head.status == 101:
            # What is silent now may be so for hours: keep-alive probes find a dead upstream.
            self._tunnel = True
            self._request_ended = False
            connection.deadline.clear()
        else:
            if not self._request_ended:
                self._stop_upload_if_unwanted(connection, head)
            if not ended:
                self._await_more()
        fields = [*head.fields, via(head.version)]
        if ended:
            self._release()
        exchange.send_head(head.status, fields, end=ended)

    def _stop_upload_if_unwanted(self, connection: UpstreamConnection, head: ResponseHead) -> None:
        """Send no more of the body to an upstream that has refused it, or is about to close.

        One that answers 2xx or 3xx and goes on (an echo, a transcoder) still reads; to stop
        there would leave both waiting. What the client still sends is taken and thrown away
        until the response is whole: many clients read only when they have sent all.
        """
        if head.status >= 400 or not connection.session.keep_alive:
            self._upload_stopped = True
            connection.stop_writing()
            self._resume_request()

    def _await_more(self) -> None:
        """Expect the next piece of the response's body in time, if there is a limit for it."""
        connection = self._connection
        if connection is None:
            return
        if self._tunnel:
            if connection.read_closed:
                connection.deadline.set(TUNNEL_END_TIMEOUT)
        elif self._handler.config.read_timeout:
            connection.deadline.set(self._handler.config.read_timeout)
        else:
            connection.deadline.clear()

    # --- back-pressure ------------------------------------------------------

    def pause_response(self) -> None:
        """The client reads slowly: so does whoever reads from the upstream."""
        self._paused_response = True
        connection = self._connection
        if connection is not None:
            connection.pause()
            if self._head_sent:
                connection.deadline.clear()  # it is the client that we wait for

    def resume_response(self) -> None:
        """The client has caught up."""
        self._paused_response = False
        connection = self._connection
        if connection is not None:
            connection.resume()
            if self._head_sent:
                self._await_more()

    def upstream_full(self) -> None:
        """The upstream reads slowly: take no more from the client."""
        if not self._upload_stopped:
            self._pause_request()
            connection = self._connection
            if connection is not None and not self._head_sent:
                connection.deadline.set(self._handler.config.response_header_timeout)

    def upstream_drained(self) -> None:
        """The upstream has caught up."""
        connection = self._connection
        if connection is not None and not self._head_sent and not self._request_ended:
            connection.deadline.clear()
        self._resume_request()

    def _pause_request(self) -> None:
        if not self._paused_request:
            self._paused_request = True
            self._exchange.pause_request()

    def _resume_request(self) -> None:
        if self._paused_request:
            self._paused_request = False
            self._exchange.resume_request()

    # --- the end ------------------------------------------------------------

    def _release(self) -> None:
        """The response is whole: give the connection back, or end it with its request."""
        connection, self._connection = self._connection, None
        assert connection is not None
        if self._upload_stopped or not self._request_ended:
            connection.abort()
        else:
            self._handler.pools.give_back(connection)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()

    def _fail(self, reason: str) -> None:
        """The upstream broke: once more if nothing can have happened, else 502 or a reset."""
        connection = self._connection
        if connection is None:
            return
        retry = (
            self._reused
            and connection.session.silent
            and self._exchange.request_ended
            and self._exchange.request.method in _IDEMPOTENT
        )
        self._drop()
        if retry:
            # It had been kept and has just closed: that says nothing about the upstream.
            self._open()
            return
        self._handler.complain(self._upstream, reason)
        if self._head_sent:
            self._exchange.reset("the upstream broke off its response")
        else:
            self._answer(502)

    def _answer(self, status: int) -> None:
        self._resume_request()
        error_answer(self._exchange, status)
