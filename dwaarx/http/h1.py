"""The server side of HTTP/1.1 (RFC 9112), sans-io: bytes in, events out; answers in, bytes out."""

from __future__ import annotations

from http import HTTPStatus

from dwaarx.http.chunked import ChunkedDecoder
from dwaarx.http.date import http_date
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    Fields,
    RequestHead,
    RequestReceived,
)
from dwaarx.http.fields import (
    CONNECTION_SPECIFIC,
    VALUE_CHARS,
    FieldError,
    is_token,
    parse_content_length,
)
from dwaarx.http.h1_request import RejectedError, read_head

# Where a response is final before its request is whole: a rest of this size is on its way
# anyway, and reading it costs less than a new connection would. A longer one closes.
MAX_DISCARDED = 64 * 1024

# Where the parser stands: at a head, in a body, behind a whole request, in a tunnel, at the end.
_AT_HEAD, _IN_LENGTH, _IN_CHUNKED, _WHOLE, _RAW, _OVER = range(6)
# Where the response stands.
_NONE, _AWAITED, _SENDING, _DONE = range(4)
# How the response's body is framed: not at all since there is none, by its length, chunked, by
# the end of the connection, or as the raw bytes of a tunnel.
_BODILESS, _BY_LENGTH, _CHUNKED, _BY_CLOSE, _TUNNEL = range(5)

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode("ascii")
    for status in HTTPStatus
}
_OF_FRAMING = CONNECTION_SPECIFIC | {b"content-length", b"date"}

# Names that have proven to be tokens. The few hundred that are in use fit; the limit is for
# an upstream that makes names up.
_names: set[bytes] = set()
_MAX_NAMES = 1000
_MAX_REMEMBERED = 64


class ResponseError(Exception):
    """Whoever answers broke the order or the length of a response; the text says how."""


class H1Session:
    """One connection's requests, strictly one after the other, and their responses.

    A request is told only when the one before it has been read and answered; what comes in the
    meantime is kept as it is (`backlog` bytes of it: the edge stops reading when it grows).
    After an event was dealt with, and whenever a response ends, `next_request` goes on.
    `scheme` is that of the connection. A session whose answer cannot be made whole any more is
    `broken`: its connection must be aborted, so that nobody takes what was sent for whole. When
    ConnectionEnded has come, `unread` says that the client may still be sending.
    """

    __slots__ = (
        "_close",
        "_decoder",
        "_framing",
        "_head",
        "_held",
        "_id",
        "_keep_alive",
        "_left",
        "_looked",
        "_out",
        "_reading",
        "_response",
        "_scheme",
        "_to_send",
        "broken",
        "queued",
        "unread",
    )

    def __init__(self, scheme: bytes) -> None:
        self.broken = False
        self.unread = False
        self.queued = 0  # bytes of bodies that data_to_send holds
        self._scheme = scheme
        self._id = 0
        self._held = bytearray()  # of a head that is not whole, or of the requests to come
        self._looked = 0  # how much of it read_head has seen
        self._reading = _AT_HEAD
        self._left = 0  # of a body with a length
        self._decoder: ChunkedDecoder | None = None
        self._head: RequestHead | None = None
        self._keep_alive = True
        self._close = False
        self._response = _NONE
        self._framing = _BODILESS
        self._to_send = 0  # of a response with a length
        self._out: list[bytes] = []

    # --- what the edge asks ---

    @property
    def at_head(self) -> bool:
        """Whether the next bytes are a request's head; nothing is in progress then."""
        return self._reading == _AT_HEAD

    @property
    def head_begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._reading == _AT_HEAD and bool(self._held)

    @property
    def in_body(self) -> bool:
        """Whether the next bytes belong to a request's body."""
        return self._reading in (_IN_LENGTH, _IN_CHUNKED)

    @property
    def is_tunnel(self) -> bool:
        """Whether the protocol was changed."""
        return self._reading == _RAW

    @property
    def backlog(self) -> int:
        """How many bytes wait for the request in progress to end."""
        return len(self._held)

    @property
    def head_sent(self) -> bool:
        """Whether the final head of the request in progress is on its way."""
        return self._response >= _SENDING

    # --- bytes in ---

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the client; return what they say."""
        reading = self._reading
        if reading == _AT_HEAD:
            return self._read_head(data)
        if reading == _WHOLE:
            self._held += data
            return []
        if reading == _RAW:
            return [*self.next_request(), BodyReceived(self._id, data)]
        if reading == _OVER:
            return []
        events: list[Event] = []
        self._read_body(data, events)
        return events

    def next_request(self) -> list[Event]:
        """Go on behind a request that is answered, or in a tunnel; [] if it is not time yet."""
        if self._reading == _RAW:
            if not self._held:
                return []
            data = bytes(self._held)
            self._held.clear()
            return [BodyReceived(self._id, data)]
        if self._response != _DONE or self._reading == _OVER:
            return []
        if self._close:
            self.unread = self._reading != _WHOLE or bool(self._held)
            self._reading = _OVER
            return [ConnectionEnded()]
        if self._reading != _WHOLE:
            return []
        self._reading = _AT_HEAD
        self._response = _NONE
        self._head = None
        return self._read_head(b"") if self._held else []

    def reject(self, status: int, reason: str) -> ConnectionEnded:
        """End it: with an answer of this status, if there is none yet, that says why."""
        if self._response > _AWAITED:
            self.broken = self._response == _SENDING
        else:
            body = reason.encode("ascii") + b"\n"
            if self._head is not None and self._head.method == b"HEAD":
                body = b""
            self._out.append(
                b"%b\r\ndate: %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b"
                % (_STATUS_LINES[status], http_date(), len(reason) + 1, body)
            )
        self._response = _DONE
        self._reading = _OVER
        self.unread = True
        self._held.clear()
        return ConnectionEnded(reason)

    def _read_head(self, data: bytes) -> list[Event]:
        held = self._held
        whole: bytes | bytearray = data
        if held:
            held += data
            whole = held
        try:
            parsed = read_head(whole, self._looked, self._scheme)
        except RejectedError as error:
            return [self.reject(error.status, error.reason)]
        if parsed is None:
            if whole is data:
                held += data
            self._looked = len(held)
            return []
        self._looked = 0
        self._id += 1
        self._head = head = parsed.head
        self._keep_alive = parsed.keep_alive
        self._response = _AWAITED
        if parsed.chunked:
            self._reading = _IN_CHUNKED
            self._decoder = ChunkedDecoder()
        elif head.content_length:
            self._reading = _IN_LENGTH
            self._left = head.content_length
        else:
            self._reading = _WHOLE
        events: list[Event] = [RequestReceived(self._id, head, self._reading == _WHOLE)]
        if whole is held:
            del held[: parsed.end]
        elif parsed.end < len(data):
            held += data[parsed.end :]
        if held and self._reading != _WHOLE:
            # a body with a length takes its own and no more: thousands of requests may be behind
            size = self._left if self._reading == _IN_LENGTH else len(held)
            begin = bytes(held[:size])
            del held[:size]
            self._read_body(begin, events)
        return events

    def _read_body(self, data: bytes, events: list[Event]) -> None:
        if self._reading == _IN_LENGTH:
            left = self._left - len(data)
            if left < 0:
                self._held += data[left:]
                data = data[:left]
            self._left = left
            events.append(BodyReceived(self._id, data))
            if left <= 0:
                self._reading = _WHOLE
                events.append(BodyEnded(self._id))
            return
        decoder = self._decoder
        assert decoder is not None
        pieces: list[bytes] = []
        error = rest = None
        try:
            rest = decoder.decode(data, pieces)
        except FieldError as caught:
            error = str(caught)
        if pieces:
            # one event, for all that comes behind it costs more than this copy of small chunks
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            events.append(BodyReceived(self._id, data))
        if error is not None:
            events.append(self.reject(400, error))
        elif rest is not None:
            self._held += rest
            self._decoder = None
            self._reading = _WHOLE
            events.append(BodyEnded(self._id, decoder.trailers))

    # --- answers in ---

    def data_to_send(self) -> list[bytes]:
        """Return the buffers to write, in order, and forget them; to be asked once per turn."""
        out, self._out = self._out, []
        self.queued = 0
        return out

    def close_after(self) -> None:
        """Serve nothing behind the request in progress, and say so if its head is not out."""
        self._close = True

    def send_informational(self, status: int, fields: Fields) -> None:
        """Send an interim response; HTTP/1.0 knows none, there it is dropped (RFC 9110 15.2)."""
        if self._response != _AWAITED or not 100 <= status <= 199 or status == 101:
            raise ResponseError(f"an interim response of status {status} is not due")
        assert self._head is not None
        if self._head.version == b"1.1":
            lines = [_status_line(status), *_lines(fields)]
            self._out.append(b"\r\n".join([*lines, b"", b""]))

    def send_head(self, status: int, fields: Fields, *, end: bool = False) -> None:
        """Send the final head, with what frames the body; 101 changes the protocol.

        Raises FieldError for a field that may not be sent as it is, and ResponseError where no
        head is due or `end` does not fit; then nothing has been sent.
        """
        head = self._head
        if self._response != _AWAITED or head is None:
            raise ResponseError("a second head")
        if status == 101:
            self._change_protocol(head, fields)
            return
        if not 200 <= status <= 599:
            raise ResponseError(f"no final status: {status}")
        lines = [_status_line(status), *_lines(fields)]
        lengths: list[bytes] = []
        dated = False
        for name, value in fields:
            if name in _OF_FRAMING:
                if name == b"content-length":
                    lengths.append(value)
                elif name == b"date":
                    dated = True
                else:
                    raise FieldError("a response field speaks of the connection")
        length = parse_content_length(lengths)
        if len(lengths) > 1 or (lengths and status == 204):
            # RFC 9110 8.6: never with 204, and once elsewhere
            fields = [field for field in fields if field[0] != b"content-length"]
            if status != 204:
                fields.append((b"content-length", lengths[0]))
            lines[1:] = _lines(fields)
        close = self._close or not self._keep_alive or not self._rest_is_small(head)
        if status in (204, 304) or head.method == b"HEAD":
            framing = _BODILESS
        elif length is not None:
            framing = _BY_LENGTH
            if end and length:
                raise ResponseError("a body with a length is left out")
        elif end:
            framing, length = _BY_LENGTH, 0
            lines.append(b"content-length: 0")
        elif head.version == b"1.1":
            framing = _CHUNKED
            lines.append(b"transfer-encoding: chunked")
        else:
            framing, close = _BY_CLOSE, True
        if not dated:
            lines.append(b"date: " + http_date())
        if close:
            lines.append(b"connection: close")
        elif head.version == b"1.0":
            lines.append(b"connection: keep-alive")
        lines += (b"", b"")
        self._out.append(b"\r\n".join(lines))
        self._close = close
        self._framing = framing
        self._to_send = length or 0
        self._response = _DONE if end else _SENDING

    def send_body(self, data: bytes) -> None:
        """Send a piece of the body; raises ResponseError if it is more than Content-Length."""
        if self._response != _SENDING:
            raise ResponseError("a body without a head")
        framing = self._framing
        if framing == _BODILESS or not data:
            return
        if framing == _BY_LENGTH:
            self._to_send -= len(data)
            if self._to_send < 0:
                self.broken = True
                raise ResponseError("the body is longer than its Content-Length")
            self._out.append(data)
        elif framing == _CHUNKED:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)
        self.queued += len(data)

    def end(self, trailers: Fields = ()) -> None:
        """End the response, or our half of the tunnel.

        Trailers go out where the body is chunked. Raises ResponseError if the body is shorter
        than its Content-Length: the session is broken then.
        """
        if self._response != _SENDING:
            raise ResponseError("an end without a head")
        if self._framing == _BY_LENGTH and self._to_send:
            self.broken = True
            raise ResponseError("the body is shorter than its Content-Length")
        if self._framing == _CHUNKED:
            if trailers:
                self._out.append(b"\r\n".join([b"0", *_lines(trailers), b"", b""]))
            else:
                self._out.append(b"0\r\n\r\n")
        self._response = _DONE

    def _change_protocol(self, head: RequestHead, fields: Fields) -> None:
        """Answer 101 (RFC 9110 15.2.2): both ways are raw from here on."""
        if head.upgrade is None:
            raise ResponseError("101 is no answer to a request without Upgrade")
        if any(name in _OF_FRAMING for name, _ in fields if name != b"date"):
            raise FieldError("a response field speaks of the connection")
        lines = [
            _status_line(101),
            b"connection: upgrade",
            b"upgrade: " + head.upgrade,
            *_lines(fields),
            b"",
            b"",
        ]
        self._out.append(b"\r\n".join(lines))
        self._reading = _RAW
        self._response = _SENDING
        self._framing = _TUNNEL

    def _rest_is_small(self, head: RequestHead) -> bool:
        """Whether it is worth it to read what is left of the request, and keep the connection."""
        if self._reading == _WHOLE:
            return True
        if self._reading != _IN_LENGTH or self._left > MAX_DISCARDED:
            return False
        # RFC 9110 10.1.1: who waits for 100 and gets a final answer may leave the body out, and
        # the next bytes would be a body or a request
        waits = any(name == b"expect" for name, _ in head.fields)
        return not waits or self._left != head.content_length


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status


def _lines(fields: Fields) -> list[bytes]:
    """Return the fields' lines; raises FieldError rather than let one be taken for two."""
    for name, _ in fields:
        if name not in _names:
            if not is_token(name):
                raise FieldError("a response field's name is not a token")
            if len(_names) < _MAX_NAMES and len(name) <= _MAX_REMEMBERED:
                _names.add(name)
    lines = [b": ".join(field) for field in fields]
    if b"".join(lines).translate(None, VALUE_CHARS):
        raise FieldError("a response field's value has a control character")
    return lines
