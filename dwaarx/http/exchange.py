"""The Exchange: one request and its response, as handlers see them whichever HTTP carries them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import attrs

from dwaarx.http.events import Fields, RequestHead


@attrs.frozen
class ConnectionInfo:
    """What is known of a client's connection; made once for each connection.

    `client` is the textual IP address (an IPv4-mapped one as IPv4, without a zone).
    `server_name` is the SNI, lower-case; None on plain connections and without SNI.
    """

    client: str
    client_port: int
    local: str
    local_port: int
    secure: bool
    server_name: str | None = None


class Consumer(Protocol):
    """What a handler hangs on an exchange to hear of the request's body and of the client.

    None of these may raise. After `client_lost` nothing is called and nothing can be sent.
    """

    def body_received(self, data: bytes) -> None:
        """A piece of the request's body (or of the tunnel) came."""

    def body_ended(self, trailers: Fields) -> None:
        """The request's body is whole (or the client half-closed the tunnel)."""

    def client_lost(self, reason: str) -> None:
        """The client reset the request or is gone: cancel what is done for it."""

    def pause_response(self) -> None:
        """The client reads slowly: send no more body until `resume_response`."""

    def resume_response(self) -> None:
        """The client has caught up: go on sending."""


class Handler(Protocol):
    """What answers exchanges: a site, the proxy, DoH, a fixed answer."""

    def handle(self, exchange: Exchange) -> None:
        """Answer, or set `exchange.consumer` and answer later; never raises.

        Body pieces come only after this has returned. A handler that wants none of the body
        leaves `consumer` as None: the rest of the request is then thrown away.
        """


ResponseChange = Callable[[int, Fields], Fields]


class Exchange(ABC):
    """One request and its response; each HTTP version has its own subclass at its connection.

    Order of calls: any number of `send_informational`, then `answer`, or one `send_head` and,
    unless `end` was set there, any number of `send_body` and one `end`. `reset` may come at any
    time instead. Once the exchange is over (`ended`, or after `client_lost`) every call but
    `reset` is ignored, so a handler need not guard against a client that has just gone.

    A response's framing (Content-Length given in the fields, chunked, or close) is the
    exchange's; so are Date and, for HEAD, 204 and 304, leaving the body out.
    A status of 101 (HTTP/1.1 only) makes both body streams raw: a tunnel.
    """

    __slots__ = ("consumer", "info", "request", "request_ended", "response_changes")

    def __init__(
        self, request: RequestHead, info: ConnectionInfo, *, request_ended: bool = False
    ) -> None:
        self.request = request
        self.info = info
        # As in RequestReceived: the request has no body, so the consumer hears of none, and
        # `body_ended` is not called. Without it (and without a content_length) a body of
        # unknown length follows: the proxy has to know which before it sends its own head.
        self.request_ended = request_ended
        self.consumer: Consumer | None = None
        # Changes to the final head's fields, in order, made just before it is sent.
        self.response_changes: list[ResponseChange] = []

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing more can be sent."""

    def send_head(self, status: int, fields: Fields, *, end: bool = False) -> None:
        """Send the final head: fields with lower-case names and nothing connection-specific."""
        for change in self.response_changes:
            fields = change(status, fields)
        self._send_head(status, fields, end)

    def answer(self, status: int, fields: Fields, body: bytes) -> None:
        """Send a whole response at once; Content-Length is added."""
        length = (b"content-length", b"%d" % len(body))
        fields = [*fields, length] if status != 204 else fields
        for change in self.response_changes:
            fields = change(status, fields)
        self._send_answer(status, fields, body)

    @abstractmethod
    def send_informational(self, status: int, fields: Fields) -> None:
        """Send an interim response (100, 103); dropped for HTTP/1.0."""

    @abstractmethod
    def _send_head(self, status: int, fields: Fields, end: bool) -> None: ...

    @abstractmethod
    def _send_answer(self, status: int, fields: Fields, body: bytes) -> None: ...

    @abstractmethod
    def send_body(self, data: bytes) -> None:
        """Send a piece of the body; heed `pause_response` between pieces."""

    @abstractmethod
    def end(self, trailers: Fields = ()) -> None:
        """End the response (or half-close the tunnel)."""

    @abstractmethod
    def reset(self, reason: str) -> None:
        """Give up: the client shall see that the response is not whole."""

    @abstractmethod
    def pause_request(self) -> None:
        """Take no more of the request's body from the client, until `resume_request`."""

    @abstractmethod
    def resume_request(self) -> None:
        """Go on taking the request's body."""

    def expects_continue(self) -> bool:
        """Whether the client waits for 100 (Continue) before it sends the body."""
        if self.request.version == b"1.0":
            return False
        return any(
            name == b"expect" and value.lower() == b"100-continue"
            for name, value in self.request.fields
        )
