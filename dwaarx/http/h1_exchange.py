"""The Exchange over HTTP/1.1: a handler's calls, put to the session and its connection."""

from __future__ import annotations

from typing import Protocol

from dwaarx.http.events import Fields, RequestHead
from dwaarx.http.exchange import ConnectionInfo, Exchange
from dwaarx.http.fields import FieldError
from dwaarx.http.h1 import H1Session, ResponseError


class Carrier(Protocol):
    """The connection, as its exchange sees it."""

    def written(self) -> None:
        """Something is to be sent."""

    def tunnel_begun(self) -> None:
        """The protocol was changed."""

    def response_ended(self) -> None:
        """The response is whole, or our half of the tunnel is."""

    def response_failed(self, error: FieldError | ResponseError) -> None:
        """The handler broke a rule."""

    def pause_request(self, exchange: H1Exchange, *, pause: bool) -> None:
        """Read no more for this exchange, or go on."""

    def abort(self) -> None:
        """Close at once."""


class H1Exchange(Exchange):
    """A request over HTTP/1.1 and its response."""

    __slots__ = ("_connection", "_ended", "_session", "paused")

    def __init__(
        self,
        request: RequestHead,
        info: ConnectionInfo,
        connection: Carrier,
        session: H1Session,
        *,
        request_ended: bool,
    ) -> None:
        Exchange.__init__(self, request, info, request_ended=request_ended)
        self._connection = connection
        self._session = session
        self._ended = False
        self.paused = False  # whether the consumer was told to pause

    @property
    def ended(self) -> bool:
        """Whether nothing more can be sent."""
        return self._ended

    def lose(self, reason: str) -> None:
        """Tell the consumer that the client is gone; nothing can be sent from now on."""
        self._ended = True
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            consumer.client_lost(reason)

    def send_informational(self, status: int, fields: Fields) -> None:
        """Send an interim response (100, 103); dropped for HTTP/1.0."""
        if self._ended:
            return
        try:
            self._session.send_informational(status, fields)
        except (FieldError, ResponseError) as error:
            self._connection.response_failed(error)
        else:
            self._connection.written()

    def _send_head(self, status: int, fields: Fields, end: bool) -> None:
        if self._ended:
            return
        try:
            self._session.send_head(status, fields, end=end)
        except (FieldError, ResponseError) as error:
            self._connection.response_failed(error)
        else:
            if status == 101:
                self._connection.tunnel_begun()
            elif end:
                self._ended = True
                self._connection.response_ended()
            else:
                self._connection.written()

    def _send_answer(self, status: int, fields: Fields, body: bytes) -> None:
        if self._ended:
            return
        session = self._session
        try:
            session.send_head(status, fields)
            session.send_body(body)
            session.end()
        except (FieldError, ResponseError) as error:
            self._connection.response_failed(error)
        else:
            self._ended = True
            self._connection.response_ended()

    def send_body(self, data: bytes) -> None:
        """Send a piece of the body; heed `pause_response` between pieces."""
        if self._ended:
            return
        try:
            self._session.send_body(data)
        except ResponseError as error:
            self._connection.response_failed(error)
        else:
            self._connection.written()

    def end(self, trailers: Fields = ()) -> None:
        """End the response (or half-close the tunnel)."""
        if self._ended:
            return
        try:
            self._session.end(trailers)
        except (FieldError, ResponseError) as error:
            self._connection.response_failed(error)
        else:
            self._ended = True
            self._connection.response_ended()

    def reset(self, reason: str) -> None:
        """Give up: the connection is aborted, so that the client sees it.

        Of a tunnel this ends the client's half too, which may outlive ours without end.
        """
        if not self._ended or self._session.is_tunnel:
            self._ended = True
            self.consumer = None
            self._connection.abort()

    def pause_request(self) -> None:
        """Take no more of the request's body; what one read has brought may still come."""
        self._connection.pause_request(self, pause=True)

    def resume_request(self) -> None:
        """Go on taking the request's body."""
        self._connection.pause_request(self, pause=False)
