"""Asking one OCSP responder, once, for a staple."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import attrs
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from dwaarx.certs.errors import FetchError, FetchFailure, OcspError, Refusal
from dwaarx.certs.fetch import MAX_RESPONSE, Fetched
from dwaarx.certs.http_dates import fresh_until
from dwaarx.certs.matching import PARSE_ERRORS
from dwaarx.certs.ocsp import Staple, verify
from dwaarx.certs.ocsp_request import build, http_form
from dwaarx.words import utc

# How many responders that answer only POST are remembered. There is a handful of CAs.
MAX_POST_ONLY = 256

# The whole of an OCSPResponse that says malformedRequest: what some say to any GET.
_MALFORMED_REQUEST = bytes.fromhex("30030a0101")

# How much of a Content-Type is repeated in the log.
_MAX_TYPE = 60


class Fetcher(Protocol):
    """The guarded HTTP client (dwaarx.certs.fetch), as far as it is needed here."""

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        content_type: str | None = None,
        accept: str | None = None,
        limit: int = MAX_RESPONSE,
    ) -> Deferred[Fetched]:
        """Fetch a URL; fails with FetchError."""


@attrs.frozen
class Answer:
    """A staple, and until when (POSIX time) HTTP says that there is no newer one to be had."""

    staple: Staple
    fresh_until: float | None


class OcspClient:
    """Asks responders through `fetcher`; `now` gives the time, with its zone.

    `timeout` gives the seconds that one responder has in all, by GET and by POST.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        now: Callable[[], datetime],
        clock: IReactorTime,
        timeout: Callable[[], float],
    ) -> None:
        self._fetcher = fetcher
        self._now = now
        self._clock = clock
        self._timeout = timeout
        # In the order in which they were found out, so that the oldest goes first.
        self._post_only: dict[str, None] = {}

    def ask(
        self, certificate: x509.Certificate, issuer: x509.Certificate, responder: str
    ) -> Deferred[Answer]:
        """Ask the responder at a URL about a certificate.

        What it answers is a staple whatever its Content-Type says (RFC 6960 appendix A.2 wants
        application/ocsp-response), as long as `verify` finds it good. A responder that does not
        understand GET (an error of HTTP without a time to come back, an answer that is none) is
        asked once more by POST, and only by POST from then on if that helped: two requests at
        most, and one deadline over both. Fails with OcspError or FetchError; both are said of the
        POST if there was one.
        """
        seconds = self._timeout()

        def late(result: Answer | Failure, _: float) -> Answer | Failure:
            if isinstance(result, Failure) and result.check(CancelledError):
                reason = f"{responder} did not answer within {seconds:g} s"
                raise FetchError(FetchFailure.TIMEOUT, reason)
            return result

        # Set after the fetcher has set its own, which says what it was that took so long.
        asked = Deferred.fromCoroutine(self._ask(certificate, issuer, responder))
        return asked.addTimeout(seconds, self._clock, onTimeoutCancel=late)

    async def _ask(
        self, certificate: x509.Certificate, issuer: x509.Certificate, responder: str
    ) -> Answer:
        try:
            request = build(certificate, issuer)
        except PARSE_ERRORS as error:
            raise OcspError(
                Refusal.NO_ISSUER, f"nothing can be asked about the certificate: {error}"
            ) from error
        method, url, body = http_form(responder, request)
        if method == "GET" and responder not in self._post_only:
            try:
                fetched = await self._send(method, url, body)
                if fetched.body != _MALFORMED_REQUEST:
                    return self._answer(fetched, certificate, issuer)
            except FetchError as error:
                if error.kind is not FetchFailure.STATUS or error.retry_after is not None:
                    raise
            except OcspError as error:
                if error.kind is not Refusal.MALFORMED:
                    raise
        fetched = await self._send("POST", responder, request)
        answer = self._answer(fetched, certificate, issuer)
        if method == "GET":
            self._post_only[responder] = None
            if len(self._post_only) > MAX_POST_ONLY:
                del self._post_only[next(iter(self._post_only))]
        return answer

    async def _send(self, method: str, url: str, body: bytes | None) -> Fetched:
        return await self._fetcher.fetch(
            url,
            method=method,
            body=body,
            content_type=None if body is None else "application/ocsp-request",
            accept="application/ocsp-response",
            limit=MAX_RESPONSE,
        )

    def _answer(
        self, fetched: Fetched, certificate: x509.Certificate, issuer: x509.Certificate
    ) -> Answer:
        now = self._now()
        try:
            staple = verify(fetched.body, certificate, issuer, now)
        except OcspError as error:
            if error.kind is Refusal.MALFORMED:
                said = _content_type(fetched.headers)
                raise OcspError(error.kind, f"{error.reason} (sent as {said})") from error
            raise
        if staple.end <= now:
            # Within what verification forgives to clocks; or it ends with the certificate.
            what = "certificate" if certificate.not_valid_after_utc <= now else "response"
            raise OcspError(Refusal.EXPIRED, f"the {what} expired at {utc(staple.end)}")
        return Answer(staple, fresh_until(fetched.headers, now.timestamp()))


def _content_type(headers: Mapping[str, str]) -> str:
    """Return what a responder calls its answer, fit for a log line."""
    said = headers.get("content-type", "")
    fit = "".join(char for char in said[:_MAX_TYPE] if char.isprintable())
    return fit or "no Content-Type"
