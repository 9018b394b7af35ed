"""DNS over HTTPS (RFC 8484): a handler of exchanges, over whichever HTTP."""

from __future__ import annotations

import binascii
from urllib.parse import unquote_to_bytes

from dwaarx.dns.answer import freshness
from dwaarx.dns.message import MAX_MESSAGE, Query
from dwaarx.dns.query import parse
from dwaarx.dns.resolver import Resolver
from dwaarx.http.events import Fields
from dwaarx.http.exchange import Exchange

_MEDIA_TYPE = b"application/dns-message"
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_ALLOW = (b"allow", b"GET, HEAD, POST")
_TYPE = (b"content-type", _MEDIA_TYPE)

# base64url to base64; what only base64 has becomes what neither has.
_ALPHABET = bytes.maketrans(b"-_+/=", b"+/!!!")

# The longest `dns` parameter that can hold a message.
_MAX_PARAMETER = (MAX_MESSAGE * 4 + 2) // 3


class DohHandler:
    """Answers exchanges whose content is a DNS message, by GET, HEAD or POST."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolve = resolver.resolve

    def handle(self, exchange: Exchange) -> None:
        """Answer a query at once, or as soon as its body or its answer is there."""
        method = exchange.request.method
        if method in (b"GET", b"HEAD"):
            self._get(exchange)
        elif method == b"POST":
            self._post(exchange)
        else:
            _refuse(exchange, 405, b"only GET, HEAD and POST", _ALLOW)

    def query(self, exchange: Exchange, wire: bytes) -> None:
        """Have a message resolved, and answer with what comes of it."""
        query = parse(wire, exchange.info.client)
        if isinstance(query, Query):
            self._resolve(query, _Answering(exchange))
        elif query is not None:
            _answer(exchange, query)
        else:
            _refuse(exchange, 400, b"not a DNS query")

    def _get(self, exchange: Exchange) -> None:
        _, _, parameters = exchange.request.target.partition(b"?")
        values = [
            value
            for name, _, value in (part.partition(b"=") for part in parameters.split(b"&"))
            if name == b"dns"
        ]
        if len(values) != 1:
            _refuse(exchange, 400, b"one dns parameter is needed")
            return
        value = values[0]
        if b"%" in value:
            value = unquote_to_bytes(value)
        if len(value) > _MAX_PARAMETER:
            _refuse(exchange, 414, b"longer than a DNS message can be")
            return
        wire = decode(value)
        if wire is None:
            _refuse(exchange, 400, b"the dns parameter is not unpadded base64url")
            return
        self.query(exchange, wire)

    def _post(self, exchange: Exchange) -> None:
        request = exchange.request
        types = [value for name, value in request.fields if name == b"content-type"]
        if len(types) != 1 or types[0].partition(b";")[0].strip().lower() != _MEDIA_TYPE:
            _refuse(exchange, 415, b"the content type is not application/dns-message")
            return
        length = request.content_length
        if length is not None and length > MAX_MESSAGE:
            _refuse(exchange, 413, b"longer than a DNS message can be")
            return
        if exchange.request_ended:
            self.query(exchange, b"")
            return
        exchange.consumer = _Body(self, exchange)
        if exchange.expects_continue():
            exchange.send_informational(100, ())


def decode(value: bytes) -> bytes | None:
    """Return what unpadded base64url (RFC 4648 section 5) stands for, None if it is not that."""
    padding = -len(value) % 4
    if padding == 3:
        return None
    try:
        return binascii.a2b_base64(value.translate(_ALPHABET) + b"=" * padding, strict_mode=True)
    except binascii.Error:
        return None


class _Body:
    """Gathers a POST's body."""

    __slots__ = ("_data", "_exchange", "_handler")

    def __init__(self, handler: DohHandler, exchange: Exchange) -> None:
        self._handler = handler
        self._exchange = exchange
        self._data = bytearray()  # not the pieces: each may be one octet, in an object of its own

    def body_received(self, data: bytes) -> None:
        """Keep a piece, unless the body grows beyond any message."""
        if len(self._data) + len(data) > MAX_MESSAGE:
            self._exchange.consumer = None
            _refuse(self._exchange, 413, b"longer than a DNS message can be")
        else:
            self._data += data

    def body_ended(self, trailers: Fields) -> None:
        """Resolve the whole message."""
        self._handler.query(self._exchange, bytes(self._data))

    def client_lost(self, reason: str) -> None:
        """Nothing to give back: the answer, if one comes, is ignored by the exchange."""

    def pause_response(self) -> None:
        """Nothing to pause: an answer is one piece."""

    def resume_response(self) -> None:
        """Nothing was paused."""


class _Answering:
    """Where the resolver's answer goes."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __call__(self, wire: bytes) -> None:
        exchange = self._exchange
        if not exchange.ended:
            _answer(exchange, wire)


def _answer(exchange: Exchange, wire: bytes) -> None:
    cache_control = (b"cache-control", b"max-age=%d" % freshness(wire))
    exchange.answer(200, (_TYPE, cache_control), wire)


def _refuse(exchange: Exchange, status: int, reason: bytes, *fields: tuple[bytes, bytes]) -> None:
    exchange.answer(status, (_TEXT, *fields), reason + b"\n")
