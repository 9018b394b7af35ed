"""An agent for treq that does without what treq adds: encodings and cookies."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.reactor import Reactor


@implementer(IBodyProducer)
class Body:
    """A request's body, written at once."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write it."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """There is nothing to pause."""

    def resumeProducing(self) -> None:
        """Nothing to resume, either."""

    def stopProducing(self) -> None:
        """It was written already."""


@implementer(IAgentEndpointFactory)
@attrs.frozen
class _Endpoints:
    make: Callable[[URI], IStreamClientEndpoint]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self.make(uri)


@implementer(IAgent)
class PlainAgent:
    """An Agent over endpoints of our making: contents are never encoded, and cookies never seen.

    (A few hundred octets of gzip can hold gigabytes; a limit on them would come too late.) What
    comes with an error or a redirect is not read, so it may be as it likes.
    """

    def __init__(self, reactor: Reactor, make: Callable[[URI], IStreamClientEndpoint]) -> None:
        self._agent = Agent.usingEndpointFactory(reactor, _Endpoints(make))

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Send a request; fails as an Agent does, or with FetchError for an encoded answer."""
        plain = Headers() if headers is None else headers.copy()
        plain.setRawHeaders(b"Accept-Encoding", [b"identity"])
        answer: Deferred[IResponse] = self._agent.request(method, uri, plain, bodyProducer)
        return answer.addCallback(_plain)


def _plain(response: IResponse) -> IResponse:
    response.headers.removeHeader(b"Set-Cookie")
    response.headers.removeHeader(b"Set-Cookie2")
    encodings = response.headers.getRawHeaders(b"Content-Encoding", [])
    response.headers.removeHeader(b"Content-Encoding")
    encoded = any(each.strip().lower() not in {b"", b"identity"} for each in encodings)
    if encoded and 200 <= response.code < 300:
        raise FetchError(FetchFailure.BROKEN, "the answer is compressed, which was not asked for")
    return response
