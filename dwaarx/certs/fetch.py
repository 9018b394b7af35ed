"""Fetching from responders and CAs: guarded, bounded, and over when its time is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http.client import responses
from pathlib import Path
from time import time
from typing import Any, NoReturn, cast
from urllib.parse import urljoin

import attrs
import treq
from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import IHostnameResolver
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

import dwaarx
from dwaarx.certs.client_tls import UntrustedError, client_tls
from dwaarx.certs.endpoint import GuardedEndpoint, Wire
from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.http_dates import retry_after
from dwaarx.certs.lookup import Lookups
from dwaarx.certs.plain_agent import Body, PlainAgent
from dwaarx.certs.url import parse
from dwaarx.config.model import IPNetwork
from dwaarx.reactor import Reactor

# An OCSP response with a delegate's chain has 2 to 5 KiB; with ML-DSA keys about 20.
MAX_RESPONSE = 64 * 1024

TIMEOUT = 10.0
MAX_REDIRECTS = 3

_USER_AGENT = f"dwaarx/{dwaarx.__version__}"

# Those that come with the method unchanged, whichever it was (RFC 9110 section 15.4).
_SAME_METHOD = (307, 308)
_TO_GET = 303
_REDIRECTS = (301, 302, _TO_GET, *_SAME_METHOD)

# Status codes have three digits; Twisted takes any number.
_CODES = range(100, 1000)

_HTTP_ERRORS = (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)


@attrs.frozen
class Fetched:
    """An answer of 2xx: header names in lower case, and the URL that it came from in the end."""

    status: int
    headers: dict[str, str]
    body: bytes
    url: str


@attrs.frozen
class _Request:
    method: str
    url: str
    body: bytes | None
    headers: dict[bytes, bytes]
    limit: int
    trust: Path | None
    secure: bool = False  # it comes from a redirect by https, and must not go on without


class _Job:
    """One call of `fetch`: what it is doing, and what ends it before its time."""

    def __init__(self) -> None:
        self.host = ""
        self.stage = ""
        self.deferred: Deferred[Fetched] | None = None
        self.ending: FetchError | None = None

    def doing(self, stage: str) -> None:
        """Note what is being done, for the case that it takes too long."""
        self.stage = stage

    def end(self, kind: FetchFailure, reason: str) -> None:
        """Give up, with this error."""
        self.ending = FetchError(kind, reason)
        if self.deferred is not None:
            self.deferred.cancel()


class Fetcher:
    """Sends requests to servers that other people's certificates name.

    `allowed` are the networks of `allow_responder`, `timeout` the seconds for everything, both
    asked anew for each request. `resolver` stands in for the system's, `now` is the time of day.
    There are no cookies, no proxies, no credentials, and no connection serves two requests.
    """

    def __init__(
        self,
        reactor: Reactor,
        allowed: Callable[[], Sequence[IPNetwork]],
        timeout: Callable[[], float] = lambda: TIMEOUT,
        resolver: IHostnameResolver | None = None,
        now: Callable[[], float] = time,
    ) -> None:
        self._reactor = reactor
        self._allowed = allowed
        self._timeout = timeout
        self._now = now
        # Names that come from redirects have threads of their own: a server could make up ever
        # new ones whose DNS hangs, and the names in certificates are not to wait for those.
        self._lookups = Lookups(reactor, resolver)
        self._lookups_of_redirects = Lookups(reactor, resolver)
        self._jobs: set[_Job] = set()
        self._wires: set[Wire] = set()
        self._closed = False

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        content_type: str | None = None,
        accept: str | None = None,
        limit: int = MAX_RESPONSE,
        trust: Path | None = None,
    ) -> Deferred[Fetched]:
        """Send a request; its answer has at most `limit` octets of body.

        `trust`: a bundle of roots (PEM) in place of the system's, for https. Fails with FetchError
        for all but 2xx, and with CancelledError if it is cancelled. Redirects are followed
        MAX_REDIRECTS times, each through the same gate, and not from https to http: renewal
        information has no signature of its own.
        """
        headers = {b"User-Agent": _USER_AGENT.encode("ascii")}
        if accept is not None:
            headers[b"Accept"] = accept.encode("ascii")
        if content_type is not None:
            headers[b"Content-Type"] = content_type.encode("ascii")
        job = _Job()
        request = _Request(method, url, body, headers, limit, trust)
        job.deferred = Deferred.fromCoroutine(self._run(job, request))
        return job.deferred

    def close(self) -> None:
        """Abandon all that is in flight: it fails with FetchError (REFUSED), as all after it."""
        self._closed = True
        for job in list(self._jobs):
            job.end(FetchFailure.REFUSED, "the service is stopping")
        for wire in list(self._wires):
            wire.abort()
        self._lookups.close()
        self._lookups_of_redirects.close()

    async def _run(self, job: _Job, request: _Request) -> Fetched:
        if self._closed:
            raise FetchError(FetchFailure.REFUSED, "the service is stopping")
        seconds = self._timeout()
        until = self._reactor.seconds() + seconds
        expiry = self._reactor.callLater(seconds, _expire, job, seconds)
        self._jobs.add(job)
        try:
            return await self._follow(job, request, until)
        except (CancelledError, ConnectingCancelledError, *_HTTP_ERRORS) as error:
            if job.ending is not None:
                raise job.ending from None
            _reraise(job, error)
        finally:
            self._jobs.discard(job)
            if expiry.active():
                expiry.cancel()

    async def _follow(self, job: _Job, request: _Request, until: float) -> Fetched:
        start = ""
        for _ in range(MAX_REDIRECTS + 1):
            lookups = self._lookups_of_redirects if start else self._lookups
            try:
                answer = await self._exchange(job, request, until, lookups)
            except FetchError as error:
                if not start:
                    raise
                reason = f"{error.reason} (redirected by {start})"
                raise FetchError(error.kind, reason, error.retry_after) from None
            if isinstance(answer, Fetched):
                return answer
            request = answer
            start = start or job.host
        reason = f"{start} redirects more than {MAX_REDIRECTS} times"
        raise FetchError(FetchFailure.REFUSED, reason)

    async def _exchange(
        self, job: _Job, request: _Request, until: float, lookups: Lookups
    ) -> Fetched | _Request:
        """Send one request; return its answer, or what it redirects to."""
        url = parse(request.url)
        job.host = url.authority()
        secure = url.scheme == "https"
        if request.secure and not secure:
            reason = f"{job.host} is not asked by http where https was asked for"
            raise FetchError(FetchFailure.REFUSED, reason)
        wire = Wire(
            self._reactor,
            lambda: job.end(FetchFailure.TOO_LARGE, f"{job.host} answers with endless headers"),
            self._wires.discard,
        )

        def endpoint(uri: URI) -> GuardedEndpoint:
            host = uri.host.decode("ascii")
            return GuardedEndpoint(
                self._reactor,
                lookups,
                host,
                uri.port,
                client_tls(host, request.trust) if secure else None,
                self._allowed(),
                until,
                job.doing,
                wire,
            )

        client = HTTPClient(PlainAgent(self._reactor, endpoint), data_to_body_producer=Body)
        self._wires.add(wire)
        fetched = None
        try:
            response = await client.request(
                request.method,
                url,
                headers=Headers({name: [value] for name, value in request.headers.items()}),
                data=cast("Any", request.body),  # Body takes it
                allow_redirects=False,
                unbuffered=True,
                reactor=cast("Any", self._reactor),  # treq's name for it is private
            )
            wire.headed()
            if response.code not in _CODES:
                raise FetchError(FetchFailure.BROKEN, f"what {job.host} answers is no HTTP")
            if response.code in _REDIRECTS:
                return attrs.evolve(_redirected(job.host, request, response), secure=secure)
            if not 200 <= response.code < 300:
                raise self._status(job.host, response)
            body = await _body(job, response, request.limit)
            fetched = Fetched(response.code, _headers(response), body, request.url)
        finally:
            if fetched is None:
                wire.abort()
            else:
                wire.finish()
        return fetched

    def _status(self, host: str, response: IResponse) -> FetchError:
        waits = _headers(response).get("retry-after")
        reason = f"{host} answers {_status(response)}"
        return FetchError(FetchFailure.STATUS, reason, retry_after(waits, self._now()))


def _expire(job: _Job, seconds: float) -> None:
    job.end(
        FetchFailure.TIMEOUT,
        f"{job.host} did not answer within {seconds:g} s; the time ended while {job.stage}",
    )


def _redirected(host: str, request: _Request, response: IResponse) -> _Request:
    """Return the request that a redirect asks for; raises FetchError."""
    answer = f"{host} answers {_status(response)}"
    location = response.headers.getRawHeaders(b"location")
    if not location:
        raise FetchError(FetchFailure.STATUS, f"{answer} without a Location")
    try:
        url = urljoin(request.url, location[0].decode("utf-8").strip())
    except ValueError:
        raise FetchError(FetchFailure.REFUSED, f"{answer} with a Location that is no URL") from None
    if response.code in _SAME_METHOD or request.method in {"GET", "HEAD"}:
        return attrs.evolve(request, url=url)
    if response.code == _TO_GET:
        headers = {
            name: value for name, value in request.headers.items() if name != b"Content-Type"
        }
        return attrs.evolve(request, url=url, method="GET", body=None, headers=headers)
    # RFC 9110 section 15.4.2: whether the method changes is up to each client. Neither may do.
    raise FetchError(FetchFailure.STATUS, f"{answer} to a {request.method}: 307 or 308 would do")


def _status(response: IResponse) -> str:
    return f"{response.code} {responses.get(response.code, '')}".rstrip()


def _headers(response: IResponse) -> dict[str, str]:
    headers = {
        name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }
    # treq adds it, empty: PlainAgent leaves none.
    headers.pop("content-encoding", None)
    return headers


async def _body(job: _Job, response: IResponse, limit: int) -> bytes:
    """Read a body; raises FetchError for one that is too large."""
    job.doing("reading its answer")
    body = bytearray()
    error = FetchError(FetchFailure.TOO_LARGE, f"{job.host} answers with more than {limit} octets")

    def collect(data: bytes) -> None:
        body.extend(data)
        if len(body) > limit:
            raise error

    if isinstance(response.length, int) and response.length > limit:
        raise error
    await treq.collect(response, collect)
    return bytes(body)


def _reraise(job: _Job, error: Exception) -> NoReturn:
    """Say in one FetchError what Twisted says in many ways."""
    reasons: Sequence[Failure] = getattr(error, "reasons", ())
    if isinstance(error, CancelledError | ConnectingCancelledError) or any(
        reason.check(CancelledError) for reason in reasons
    ):
        raise CancelledError from None
    if isinstance(error, ResponseNeverReceived):
        for reason in reasons:
            if reason.check(UntrustedError):
                words = f"the certificate of {job.host} {reason.getErrorMessage()}"
                raise FetchError(FetchFailure.UNREACHABLE, words) from None
            if reason.check(SSL.Error):
                words = f"no TLS with {job.host}: {_tls_reason(reason.value)}"
                raise FetchError(FetchFailure.UNREACHABLE, words) from None
    if any(reason.check(ConnectionDone, ConnectionLost, ConnectionAborted) for reason in reasons):
        words = f"{job.host} ended the connection while {job.stage}"
    else:
        words = f"what {job.host} answers is no HTTP"
    raise FetchError(FetchFailure.BROKEN, words) from None


def _tls_reason(error: BaseException | None) -> str:
    """Say what OpenSSL's queue of errors says: tuples whose last part is for people."""
    queues = () if error is None else error.args
    errors = [each for queue in queues if isinstance(queue, list) for each in queue]
    return ", ".join(str(each[-1]) for each in errors) or type(error).__name__
