"""One site: its routes, compiled to a handler that walks them in the order in which they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from dwaarx.config.model import (
    ChangeHeaders,
    DnsOverHttps,
    Handle,
    PathMatcher,
    Redirect,
    Respond,
    ReverseProxy,
    Route,
    Site,
    every_route,
)
from dwaarx.http.answers import RedirectHandler, RespondHandler, error_answer
from dwaarx.http.exchange import Exchange, Handler
from dwaarx.http.headers import compile_request_changes, compile_response_changes
from dwaarx.http.matchers import Match, UnclearPathError, compile_matcher, compile_strip, path_of


class Services(Protocol):
    """Who makes the handlers that need more than their directive."""

    def reverse_proxy(self, config: ReverseProxy) -> Handler:
        """Make the handler of a `reverse_proxy`."""

    def doh(self, config: DnsOverHttps) -> Handler:
        """Make the handler of a `dns_over_https`."""


# A step is given the exchange and the path to match, and says whether it has answered.
_Step = Callable[[Exchange, bytes], bool]


def compile_site(site: Site, services: Services) -> Handler:
    """Return the handler of a site.

    Header changes are made and the walk goes on; the first other route that matches answers.
    Of the `handle`s of one block only the first that matches is entered, and it answers, with
    404 if nothing in it matches. (Caddy then sends an empty 200, which monitoring and caches
    take for a page.) Where nothing at all matches it is 404 too. A path that matchers cannot
    read in one way only is refused with 400, where the site has any.
    Raises ValueError for a directive that cannot be.
    """
    routes = site.routes
    if routes and isinstance(routes[0], Redirect | Respond | ReverseProxy):
        first = routes[0]
        if first.matcher is None:
            return _terminal(first, services)
    return _SiteHandler(_compile_block(routes, services), needs_path=_has_matcher(routes))


class _SiteHandler:
    __slots__ = ("_needs_path", "_steps")

    def __init__(self, steps: Sequence[_Step], *, needs_path: bool) -> None:
        self._steps = tuple(steps)
        self._needs_path = needs_path

    def handle(self, exchange: Exchange) -> None:
        """Walk the routes."""
        try:
            path = path_of(exchange.request.target) if self._needs_path else b""
            for step in self._steps:
                if step(exchange, path):
                    return
        except UnclearPathError:  # of this target, or of what `handle_path` left of it
            error_answer(exchange, 400)
        else:
            error_answer(exchange, 404)


def _has_matcher(routes: Sequence[Route]) -> bool:
    return any(
        not isinstance(route, DnsOverHttps) and route.matcher is not None
        for route in every_route(routes)
    )


def _compile_block(routes: Sequence[Route], services: Services) -> list[_Step]:
    steps: list[_Step] = []
    for route in routes:
        if isinstance(route, ChangeHeaders):
            steps.append(_change_headers(route))
        elif isinstance(route, DnsOverHttps):
            steps.append(_exact_paths(route, services.doh(route)))
        elif isinstance(route, Handle):
            steps.append(_enter(route, services))
        else:
            steps.append(_answer(route.matcher, _terminal(route, services)))
    return steps


def _terminal(route: Redirect | Respond | ReverseProxy, services: Services) -> Handler:
    if isinstance(route, ReverseProxy):
        return services.reverse_proxy(route)
    return RedirectHandler(route) if isinstance(route, Redirect) else RespondHandler(route)


def _matches(matcher: PathMatcher | None) -> Match | None:
    return None if matcher is None else compile_matcher(matcher.pattern)


def _answer(matcher: PathMatcher | None, handler: Handler) -> _Step:
    matches = _matches(matcher)

    def step(exchange: Exchange, path: bytes) -> bool:
        if matches is not None and not matches(path):
            return False
        handler.handle(exchange)
        return True

    return step


def _exact_paths(route: DnsOverHttps, handler: Handler) -> _Step:
    # These are compared as they are spelt: clients of DoH send the path of their URI template.
    paths = frozenset(path.encode("utf-8") for path in route.paths)

    def step(exchange: Exchange, _path: bytes) -> bool:
        if exchange.request.target.partition(b"?")[0] not in paths:
            return False
        handler.handle(exchange)
        return True

    return step


def _change_headers(route: ChangeHeaders) -> _Step:
    matches = _matches(route.matcher)
    make = compile_request_changes if route.of_request else compile_response_changes
    change = make(route.ops)

    def step(exchange: Exchange, path: bytes) -> bool:
        if matches is None or matches(path):
            change(exchange)
        return False

    return step


def _enter(route: Handle, services: Services) -> _Step:
    """Enter a `handle`: since it always answers, no other of its block is looked at after it."""
    matches = _matches(route.matcher)
    steps = tuple(_compile_block(route.routes, services))
    strip = None
    if route.strip_prefix and route.matcher is not None:
        strip = compile_strip(route.matcher.pattern)

    def step(exchange: Exchange, path: bytes) -> bool:
        if matches is not None and not matches(path):
            return False
        if strip is not None:
            request = exchange.request
            exchange.request = attrs.evolve(request, target=strip(request.target))
            path = path_of(exchange.request.target)
        for inner in steps:
            if inner(exchange, path):
                return True
        error_answer(exchange, 404)
        return True

    return step
