"""Which site answers: the listener's handler, by the request's host."""

from __future__ import annotations

from collections.abc import Iterable

from dwaarx.config.addresses import ip_literal
from dwaarx.http.answers import error_answer
from dwaarx.http.exchange import Exchange, Handler
from dwaarx.http.placeholders import host_of

# Authorities whose handler is remembered. Clients may make up any number of them.
_REMEMBERED = 1024


class Router:
    """A listener's Handler: hands every exchange to the site of its host.

    Exact name first, then `*.` and the rest of the name (one label), then the catch-all `""`. A
    client that names no site, by an IP literal or without Host (HTTP/1.0), gets the first one, as
    TLS does without SNI. Any other host is misdirected: 421 over TLS, else 404.
    The authority's port is not compared: behind a port forwarding it is another than ours.
    """

    def __init__(self, secure: bool) -> None:
        self._unknown = 421 if secure else 404
        # Of text, as the sites' hosts are: the strings are shared by all listeners.
        self._exact: dict[str, Handler] = {}
        self._parents: dict[str, Handler] = {}
        self._any: Handler | None = None
        self._first: Handler | None = None
        self._known: dict[bytes, Handler] = {}

    def replace(self, table: Iterable[tuple[str, Handler]]) -> None:
        """Serve these hosts from the next request on; of two equal ones the first counts."""
        exact: dict[str, Handler] = {}
        parents: dict[str, Handler] = {}
        any_host: Handler | None = None
        first: Handler | None = None
        for host, handler in table:
            first = first or handler
            if not host:
                any_host = any_host or handler
            elif host.startswith("*."):
                parents.setdefault(host[2:], handler)
            else:
                exact.setdefault(_ip(host) or host, handler)
        self._exact, self._parents, self._any, self._first = exact, parents, any_host, first
        self._known = {}

    def handle(self, exchange: Exchange) -> None:
        """Hand over to the site, or answer that there is none."""
        authority = exchange.request.authority
        handler = self._known.get(authority)
        if handler is None:
            handler = self._find(authority)
            if handler is None:
                error_answer(exchange, self._unknown)
                return
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[authority] = handler
        handler.handle(exchange)

    def _find(self, authority: bytes) -> Handler | None:
        host = host_of(authority).decode("latin-1")
        literal = _ip(host)
        if literal is not None:
            return self._exact.get(literal) or self._any or self._first
        if not host:
            return self._any or self._first
        host = host.removesuffix(".")  # an absolute name; the sites' are written without the dot
        return self._exact.get(host) or self._parents.get(host.partition(".")[2]) or self._any


def _ip(host: str) -> str | None:
    """Return the usual form of an IP literal, with or without brackets; None for a name."""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ":" not in host and not host[-1:].isdigit():
        return None  # a name; to see that in any other way costs ten times as much
    literal = ip_literal(host)
    return None if literal is None else str(literal)
