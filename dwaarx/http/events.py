"""What the HTTP sessions say: frozen events, the same for both versions and both roles."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

# A header field: name in lower case, value without surrounding white space, both as on the wire.
Field = tuple[bytes, bytes]
Fields = Sequence[Field]


@attrs.frozen
class RequestHead:
    """The head of a request, checked as RFC 9112 / 9113 ask, whichever version carried it.

    `authority` is the Host or :authority, lower-case, b"" only for an HTTP/1.0 request without
    Host; it is not in `fields`. `target` is the origin-form (path and query) or b"*".
    `fields` hold no connection-specific field (Connection and what it names, Keep-Alive,
    Proxy-Connection, Transfer-Encoding, Upgrade, TE but for "trailers"); Content-Length stays.
    `content_length` is None when the length is not known in advance (or there is no body).
    `upgrade` is the protocol that the client asks to change to ("websocket", lower-case), if any.
    """

    method: bytes
    scheme: bytes
    authority: bytes
    target: bytes
    fields: Fields
    version: bytes  # b"1.0", b"1.1" or b"2"
    content_length: int | None = None
    upgrade: bytes | None = None


@attrs.frozen
class ResponseHead:
    """The final head of an upstream's response; `fields` as in RequestHead."""

    status: int
    fields: Fields
    version: bytes
    content_length: int | None = None
    upgrade: bytes | None = None  # with status 101


@attrs.frozen
class RequestReceived:
    """A request's head came; `ended`: it has no body, and no BodyEnded follows."""

    stream_id: int
    head: RequestHead
    ended: bool


@attrs.frozen
class InformationalReceived:
    """An interim response (1xx but 101) came."""

    stream_id: int
    status: int
    fields: Fields


@attrs.frozen
class ResponseReceived:
    """A response's final head came; `ended`: it has no body, and no BodyEnded follows."""

    stream_id: int
    head: ResponseHead
    ended: bool


@attrs.frozen
class BodyReceived:
    """A piece of a message's body came (or, after a change of protocol, of the tunnel)."""

    stream_id: int
    data: bytes


@attrs.frozen
class BodyEnded:
    """A message's body is whole (or the peer half-closed the tunnel)."""

    stream_id: int
    trailers: Fields = ()


@attrs.frozen
class StreamReset:
    """The stream ended early: the peer reset it, or the session had to."""

    stream_id: int
    reason: str


@attrs.frozen
class StreamWritable:
    """A stream whose queued body was over the mark has drained; more may be sent."""

    stream_id: int


@attrs.frozen
class ConnectionEnded:
    """The session is over: take what `data_to_send` still holds, write it, then close.

    `error` is None for an orderly end, else a sentence that names what the peer did.
    """

    error: str | None = None


Event = (
    RequestReceived
    | InformationalReceived
    | ResponseReceived
    | BodyReceived
    | BodyEnded
    | StreamReset
    | StreamWritable
    | ConnectionEnded
)
