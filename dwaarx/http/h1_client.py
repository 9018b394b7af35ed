"""One HTTP/1.1 connection to an upstream, without I/O: requests out, response events in.

The grammar is the one that requests are held to: an upstream is not trusted to frame its
answers well, since a response that can be read in two ways poisons the next client's.
Bodies of known length and those until close are handed on as they came, uncopied.
"""

from __future__ import annotations

import re
from typing import Literal

from dwaarx.http.chunked import ChunkedDecoder
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    Field,
    Fields,
    InformationalReceived,
    ResponseHead,
    ResponseReceived,
)
from dwaarx.http.fields import (
    CONNECTION_SPECIFIC,
    VALUE_CHAR,
    FieldError,
    check_fields,
    connection_options,
    parse_content_length,
    parse_transfer_encoding,
    strip_hop_by_hop,
)
from dwaarx.http.llhttp import response_fields

# Servers refuse heads of 8 to 16 kB; some upstreams put a lot into Set-Cookie and CSP.
MAX_HEAD = 64 * 1024
MAX_FIELDS = 200

# 100, a few 102 or 103: an upstream that sends more before it answers never will.
MAX_INFORMATIONAL = 32

# HTTP/1 has no streams; every event says this.
STREAM = 1

# RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]. Many servers leave
# the last SP out together with the reason, which no one can misread.
_status_line = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: " + VALUE_CHAR + rb"*+)?\r\n").match
_STATUS_START = b"HTTP/1."

_bare_lf = re.compile(rb"(?<!\r)\n").search

# Fields that say how the response is framed, or speak of the connection.
_SPECIAL = CONNECTION_SPECIFIC | {b"content-length", b"te"}

_ENDED = BodyEnded(STREAM)

# What the response is at.
_IDLE, _HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _TUNNEL, _DEAD = range(7)

Framing = int | Literal["none", "chunked"]


class NonsenseError(Exception):
    """The upstream broke the protocol; the text says how."""


class H1ClientSession:
    """A connection to an upstream: one request at a time, each with its response.

    What the requests put out waits in `data_to_send()`, a list of buffers in order; pieces of
    a body stand in it as they were given. Whatever `receive_data` is fed, it raises nothing:
    a response that breaks the rules ends with a ConnectionEnded that says why.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_head_request",
        "_informational",
        "_keep_alive",
        "_left",
        "_out",
        "_sending",
        "_silent",
        "_state",
        "_upgrade",
    )

    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._state = _IDLE
        self._buffer = b""  # of a head that is not whole
        self._left = 0  # bytes of a body of known length still to come
        self._chunks: ChunkedDecoder | None = None
        self._head_request = False
        self._informational = 0
        self._keep_alive = True
        self._silent = True
        self._upgrade: bytes | None = None
        self._sending: Framing = "none"  # of the request's body: bytes left, or how it is framed

    # --- the request --------------------------------------------------------

    def data_to_send(self) -> list[bytes]:
        """Return, once, the buffers to write."""
        out = self._out
        if out:
            self._out = []
        return out

    def send_request(
        self,
        method: bytes,
        target: bytes,
        authority: bytes,
        fields: Fields,
        body: Framing,
        upgrade: bytes | None = None,
    ) -> None:
        """Send a request's head; the session must be `reusable` (a new one is).

        `body` says what follows by `send_body`: nothing, that many bytes, or chunks. `fields`
        are checked ones with neither Host, Content-Length nor what speaks of a connection.
        """
        if not self.reusable:
            raise ValueError("the connection still has a request")
        head = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, target, authority)]
        options = b""
        for field in fields:
            head.append(b"%b: %b\r\n" % field)
            if field[0] == b"te":
                options = b"TE"  # RFC 9110 10.1.4: Connection must name it
        if upgrade is not None:
            options = options + b", upgrade" if options else b"upgrade"
            head.append(b"upgrade: %b\r\n" % upgrade)
        if options:
            head.append(b"connection: %b\r\n" % options)
        if body == "chunked":
            head.append(b"transfer-encoding: chunked\r\n")
        elif body != "none":
            head.append(b"content-length: %d\r\n" % body)
        head.append(b"\r\n")
        self._out.append(b"".join(head))
        self._sending = body if body != 0 else "none"
        self._state = _HEAD
        self._head_request = method == b"HEAD"
        self._informational = 0
        self._silent = True
        self._upgrade = upgrade

    def send_body(self, data: bytes) -> None:
        """Send a piece of the request's body, or of the tunnel.

        Raises ValueError for more than was announced: the next request would begin with it.
        """
        sending = self._sending
        if self._state == _TUNNEL:
            self._out.append(data)
        elif sending == "chunked":
            if data:
                self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        elif isinstance(sending, int) and len(data) <= sending:
            self._sending = sending - len(data)
            self._out.append(data)
        else:
            raise ValueError("more body than the request's head says")

    def end(self, trailers: Fields = ()) -> None:
        """End the request's body. Raises ValueError for less than was announced."""
        if self._sending == "chunked":
            fields = [b"%b: %b\r\n" % field for field in trailers]
            self._out.append(b"".join((b"0\r\n", *fields, b"\r\n")))
        elif self._sending not in (0, "none"):
            raise ValueError("less body than the request's head says")
        self._sending = "none"

    # --- the response -------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether the next request may be sent: this one and its response are whole."""
        return self._state == _IDLE and self._keep_alive and self._sending == "none"

    @property
    def keep_alive(self) -> bool:
        """Whether the upstream, as far as it has said, goes on after this response."""
        return self._keep_alive and self._state not in (_UNTIL_CLOSE, _DEAD)

    @property
    def until_close(self) -> bool:
        """Whether a response's body is coming whose end is the connection's."""
        return self._state == _UNTIL_CLOSE

    @property
    def silent(self) -> bool:
        """Whether not one byte has come since the last request."""
        return self._silent

    def receive_data(self, data: bytes) -> list[Event]:
        """Take what the upstream sent and return what it means."""
        events: list[Event] = []
        try:
            while data:
                data = self._take(data, events)
        except NonsenseError as error:
            self._dies(str(error), events)
        except FieldError as error:
            self._dies(f"sent a malformed response: {error}", events)
        return events

    def eof(self) -> list[Event]:
        """Take note that the upstream has closed its side in an orderly way."""
        events: list[Event] = []
        if self._state == _TUNNEL:
            events.append(_ENDED)
            return events
        error: str | None = None
        if self._state == _UNTIL_CLOSE:
            events.append(_ENDED)
        elif self._state == _HEAD:
            error = "closed the connection without a response"
        elif self._state != _IDLE:
            error = "closed the connection in the middle of a response"
        if self._state != _DEAD:
            self._dies(error, events)
        return events

    def _dies(self, error: str | None, events: list[Event]) -> None:
        self._state = _DEAD
        self._buffer = b""
        self._chunks = None
        events.append(ConnectionEnded(error))

    def _take(self, data: bytes, events: list[Event]) -> bytes:
        """Take what belongs to one part of the response; return the rest."""
        state = self._state
        if state == _HEAD:
            return self._take_head(data, events)
        if state == _LENGTH:
            left = self._left
            if len(data) < left:
                self._left = left - len(data)
                events.append(BodyReceived(STREAM, data))
                return b""
            # A whole slice of bytes is the same object, so the common case copies nothing.
            events.append(BodyReceived(STREAM, data[:left]))
            self._complete(events, _ENDED)
            return data[left:]
        if state == _CHUNKED:
            return self._take_chunks(data, events)
        if state in (_UNTIL_CLOSE, _TUNNEL):
            events.append(BodyReceived(STREAM, data))
            return b""
        if state == _IDLE:
            raise NonsenseError("sent bytes that belong to no response")
        return b""

    def _take_chunks(self, data: bytes, events: list[Event]) -> bytes:
        chunks = self._chunks
        assert chunks is not None
        pieces: list[bytes] = []
        try:
            rest = chunks.decode(data, pieces)
        finally:
            if pieces:
                # Chunks are often smaller than a read: one piece goes on cheaper than many.
                piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                events.append(BodyReceived(STREAM, piece))
        if rest is None:
            return b""
        self._chunks = None
        trailers = chunks.trailers
        self._complete(events, BodyEnded(STREAM, tuple(trailers)) if trailers else _ENDED)
        return rest

    def _complete(self, events: list[Event], ended: BodyEnded) -> None:
        self._state = _IDLE
        events.append(ended)

    def _take_head(self, data: bytes, events: list[Event]) -> bytes:
        self._silent = False
        known = len(self._buffer)
        if known:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n", max(known - 3, 0))
        if end > MAX_HEAD or (end < 0 and len(data) > MAX_HEAD + 3):
            raise NonsenseError("sent a response head over 64 kB")
        if end < 0:
            # What cannot become a head is told at once, not after the time for one.
            if not data.startswith(_STATUS_START[: len(data)]):
                raise NonsenseError("does not speak HTTP/1.1")
            if _bare_lf(data, known):
                raise NonsenseError("sent a malformed response head (bare LF)")
            self._buffer = data
            return b""
        self._buffer = b""
        end += 4
        self._read_head(data[:end], events)
        return data[end:]

    def _read_head(self, head: bytes, events: list[Event]) -> None:
        start = _status_line(head)
        if start is None:
            raise NonsenseError("sent a malformed status line")
        check_fields(head, start.end(), len(head) - 2)
        fields = response_fields(head)
        if len(fields) > MAX_FIELDS:
            raise NonsenseError("sent too many response fields")
        special = [field for field in fields if field[0] in _SPECIAL]
        version = b"1." + start[1]
        status = int(start[2])
        if status >= 200:
            self._respond(status, version, fields, special, events)
            return
        if any(name == b"transfer-encoding" for name, _ in special):
            raise NonsenseError(f"sent Transfer-Encoding with status {status}")
        if status == 101:
            self._change_protocol(version, fields, events)
            return
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise NonsenseError("sent too many interim responses")
        if special:
            # RFC 9110 8.6 forbids Content-Length here; HTTP/2 clients take it for an error.
            fields = [field for field in strip_hop_by_hop(fields) if field[0] != b"content-length"]
        events.append(InformationalReceived(STREAM, status, fields))

    def _respond(
        self,
        status: int,
        version: bytes,
        fields: list[Field],
        special: list[Field],
        events: list[Event],
    ) -> None:
        """Find where the response ends: RFC 9112 section 6.3."""
        length: int | None = None
        chunked = False
        # HTTP/1.0 has several notions of kept connections: not worth one of them.
        self._keep_alive = version == b"1.1"
        if special:
            lengths = _values(special, b"content-length")
            if len(lengths) > 1:
                raise NonsenseError("sent Content-Length twice")
            length = parse_content_length(lengths)
            chunked = parse_transfer_encoding(_values(special, b"transfer-encoding"))
            if b"close" in connection_options(_values(special, b"connection")):
                self._keep_alive = False
            fields = strip_hop_by_hop(fields)
        if chunked:
            if length is not None:
                raise NonsenseError("sent Content-Length with Transfer-Encoding")
            if version == b"1.0":
                raise NonsenseError("sent Transfer-Encoding with HTTP/1.0")
            if status == 204:
                raise NonsenseError("sent Transfer-Encoding with status 204")
        if status == 204 and length is not None:
            if length:
                raise NonsenseError("sent a body with status 204")
            # RFC 9110 8.6 forbids the field there; a zero does no harm and is common.
            fields = [field for field in fields if field[0] != b"content-length"]
            length = None
        ended = self._head_request or status in (204, 304) or length == 0
        head = ResponseHead(status, fields, version, length)
        events.append(ResponseReceived(STREAM, head, ended))
        if ended:
            self._state = _IDLE
        elif chunked:
            self._chunks = ChunkedDecoder()
            self._state = _CHUNKED
        elif length is not None:
            self._left = length
            self._state = _LENGTH
        else:
            self._state = _UNTIL_CLOSE

    def _change_protocol(self, version: bytes, fields: list[Field], events: list[Event]) -> None:
        offered = self._upgrade
        if offered is None or self._sending != "none":
            raise NonsenseError("changed protocols without having been asked")
        chosen = [value.lower() for value in _values(fields, b"upgrade")]
        options = connection_options(_values(fields, b"connection"))
        if chosen != [offered.lower()] or b"upgrade" not in options or version != b"1.1":
            raise NonsenseError("changed to a protocol that was not asked for")
        kept = [field for field in strip_hop_by_hop(fields) if field[0] != b"content-length"]
        self._state = _TUNNEL
        self._keep_alive = False
        head = ResponseHead(101, kept, version, upgrade=offered)
        events.append(ResponseReceived(STREAM, head, ended=False))


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [field[1] for field in fields if field[0] == name]
