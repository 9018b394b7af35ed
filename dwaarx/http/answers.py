"""Answers that need no upstream: `respond`, `redir`, the way to HTTPS, and our own errors."""

from __future__ import annotations

from http import HTTPStatus

from dwaarx.config.model import Redirect, Respond
from dwaarx.http.events import Field
from dwaarx.http.exchange import Exchange
from dwaarx.http.placeholders import compile_template, host_of

_TEXT: tuple[Field, ...] = ((b"content-type", b"text/plain; charset=utf-8"),)

HTTPS_PORT = 443


def error_answer(exchange: Exchange, status: int) -> None:
    """Answer with one of our own errors: its name and nothing of what is behind it."""
    phrase = HTTPStatus(status).phrase
    exchange.answer(status, _TEXT, f"{status} {phrase}\n".encode("ascii"))


class RespondHandler:
    """`respond`: always the same text; one with a status that has no body sends none."""

    __slots__ = ("_body", "_fields", "_status")

    def __init__(self, config: Respond) -> None:
        self._status = config.status
        self._body = config.body.encode("utf-8")
        self._fields = _TEXT if self._body else ()

    def handle(self, exchange: Exchange) -> None:
        """Answer."""
        exchange.answer(self._status, self._fields, self._body)


class RedirectHandler:
    """`redir`: a Location made from its template.

    A template that leaves the host to the client's browser (`{path}/`) must not let the client's
    path name one: several slashes or backslashes at its start become one slash.
    """

    __slots__ = ("_elsewhere", "_status", "_template")

    def __init__(self, config: Redirect) -> None:
        self._status = config.status
        self._template = compile_template(config.to)
        self._elsewhere = config.to.startswith("//")

    def handle(self, exchange: Exchange) -> None:
        """Answer."""
        location = self._template(exchange)
        if not self._elsewhere and location[:1] in (b"/", b"\\"):
            location = b"/" + location.lstrip(b"/\\")
        exchange.answer(self._status, ((b"location", location),), b"")


class HttpsRedirect:
    """On the plain port: 308 to the same target by HTTPS on `https_port`.

    308 and not 301: a POST stays one. Without a Host (HTTP/1.0) there is nowhere to send to: 400.
    """

    __slots__ = ("_port",)

    def __init__(self, https_port: int) -> None:
        self._port = b"" if https_port == HTTPS_PORT else b":%d" % https_port

    def handle(self, exchange: Exchange) -> None:
        """Answer."""
        request = exchange.request
        host = host_of(request.authority)
        if not host:
            error_answer(exchange, 400)
            return
        target = request.target if request.target != b"*" else b"/"
        location = b"https://%b%b%b" % (host, self._port, target)
        exchange.answer(308, ((b"location", location),), b"")
