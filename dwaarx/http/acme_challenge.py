"""ACME's http-01 challenge (RFC 8555 section 8.3), answered on the plain port before all else."""

from __future__ import annotations

from typing import Protocol

from dwaarx.http.events import Field
from dwaarx.http.exchange import Exchange, Handler

PREFIX = b"/.well-known/acme-challenge/"

_FIELDS: tuple[Field, ...] = (
    (b"content-type", b"application/octet-stream"),
    (b"cache-control", b"no-store"),
)


class Challenges(Protocol):
    """The challenges that are pending."""

    def http_answer(self, token: str) -> bytes | None:
        """Return the key authorization for a token; None if it is not awaited."""


class AcmeChallengeHandler:
    """Answers GET and HEAD for the tokens that are pending, and hands over everything else.

    So a site that obtains certificates by itself, or proxies for one that does, goes on to.
    """

    __slots__ = ("_challenges", "_handler")

    def __init__(self, challenges: Challenges, handler: Handler) -> None:
        self._challenges = challenges
        self._handler = handler

    def handle(self, exchange: Exchange) -> None:
        """Answer a challenge, or hand over."""
        if exchange.request.target.startswith(PREFIX):
            body = self._answer(exchange)
            if body is not None:
                exchange.answer(200, _FIELDS, body)
                return
        self._handler.handle(exchange)

    def _answer(self, exchange: Exchange) -> bytes | None:
        request = exchange.request
        if request.method not in (b"GET", b"HEAD"):
            return None
        # Tokens are base64url, so what is none (a query, an escape, a slash) is not among them.
        token = request.target.removeprefix(PREFIX).decode("latin-1")
        return self._challenges.http_answer(token)
