"""The directives that answer requests, and the order in which they are tried."""

from __future__ import annotations

from typing import Final

from dwaarx.config import headers, proxy, statements, values
from dwaarx.config.errors import Problems, WrongError, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import (
    ChangeHeaders,
    DnsOverHttps,
    Handle,
    Location,
    PathMatcher,
    Redirect,
    Respond,
    ReverseProxy,
    Route,
)
from dwaarx.config.placeholders import PLACEHOLDER, PLACEHOLDERS
from dwaarx.config.statements import Directive, Grammar, read_block
from dwaarx.config.syntax import Word

_UPCOMING: Final = """
    abort basic_auth basicauth encode error file_server forward_auth handle_errors ip_filter log
    matcher rate_limit request_body rewrite route uri
"""
NOT_YET: Final = frozenset(_UPCOMING.split())
REPEATABLE: Final = frozenset(
    {
        "dns_over_https",
        "handle",
        "handle_path",
        "header",
        "redir",
        "request_header",
        "respond",
        "reverse_proxy",
    }
)
_HANDLE: Final = Grammar("a handle block", not_yet=NOT_YET, repeatable=REPEATABLE)
_CODES: Final = {"permanent": 301, "temporary": 302}
# RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
_WITHOUT_BODY: Final = frozenset({204, 205, 304})


class RouteReader:
    """Collects the routes of one block; `routes()` gives them in their order."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._routes: list[Route] = []
        # What answers all requests of a matcher: a second one of its kind is never reached.
        self._final: dict[tuple[str, PathMatcher | None], Location] = {}
        self._doh_paths: dict[str, Location] = {}

    def directives(self) -> dict[str, Directive]:
        """Return the directives for `read_block`."""
        return {
            "request_header": self._headers,
            "header": self._headers,
            "redir": self._redir,
            "handle_path": self._handle_path,
            "handle": self._handle,
            "dns_over_https": self._dns_over_https,
            "respond": self._respond,
            "reverse_proxy": self._reverse_proxy,
        }

    def routes(self) -> tuple[Route, ...]:
        """Return the routes in the order in which they are to be tried."""
        return tuple(sorted(self._routes, key=_place))

    def _headers(self, statement: Statement) -> None:
        self._routes.append(headers.read_headers(_without_named(statement), self._problems))

    def _redir(self, statement: Statement) -> None:
        statements.no_block(statement)
        form = "redir [MATCHER] TO [CODE]"
        found = list(statements.words(_without_named(statement), form, 1, 3))
        matcher = None
        # `redir /new 301` has a target, `redir /old /new` a matcher.
        if len(found) == 3 or (len(found) == 2 and not _is_code(found[1])):
            if not values.is_matcher(found[0]):
                wrong = found[1] if len(found) == 2 else found[0]
                what = "a status for a redirect" if len(found) == 2 else "a path matcher"
                message = f"{quoted(wrong.text)} is not {what}: expected `{form}`"
                raise WrongError(wrong.location, message)
            matcher = values.matcher(found.pop(0))
        status = _code(found[1]) if len(found) == 2 else 302
        target = _target(found[0])
        self._finish(statement, Redirect(target, status, matcher))

    def _respond(self, statement: Statement) -> None:
        statements.no_block(statement)
        form = 'respond [MATCHER] "BODY" [STATUS]'
        found = list(statements.words(_without_named(statement), form, 1, 3))
        matcher = None
        if values.is_matcher(found[0]):
            matcher = values.matcher(found.pop(0))
        if len(found) > 2:
            message = f"{quoted(found[2].text)} is one word too many: expected `{form}`"
            if not found[0].quote and not found[0].text.startswith("/"):
                message += "; put quotes around a body of several words"
            raise WrongError(found[2].location, message)
        body, status = "", 200
        if len(found) == 1 and not found[0].quote and values.is_status(found[0].text):
            status = values.status(found[0])
        elif found:
            body = _body(found[0])
            if len(found) == 2:
                status = values.status(found[1])
        if body and status in _WITHOUT_BODY:
            raise WrongError(found[0].location, f"a response with status {status} has no body")
        self._finish(statement, Respond(body, status, matcher))

    def _reverse_proxy(self, statement: Statement) -> None:
        self._finish(statement, proxy.read_proxy(_without_named(statement), self._problems))

    def _dns_over_https(self, statement: Statement) -> None:
        statements.no_block(statement)
        paths: list[str] = []
        found = statements.words(statement, "dns_over_https [PATH…]", 0)
        default = DnsOverHttps().paths
        for path, location in [(word.text, word.location) for word in found] or [
            (path, statement.location) for path in default
        ]:
            if not path.startswith("/") or any(c in path for c in "*?#{ "):
                message = f"{quoted(path)} is not a path: expected one such as /dns-query"
                raise WrongError(location, message)
            if path in self._doh_paths:
                known = self._doh_paths[path]
                message = f"the path {quoted(path)} is given twice; the first is at {known}"
                raise WrongError(location, message)
            self._doh_paths[path] = location
            paths.append(path)
        self._routes.append(DnsOverHttps(tuple(paths)))

    def _handle_path(self, statement: Statement) -> None:
        form = "handle_path MATCHER { … }"
        word = statements.words(_without_named(statement), form, 1, 1)[0]
        matcher = self._matcher(word)
        if matcher is None:
            message = (
                f"{quoted(word.text)} has no prefix to cut off: expected a path such as /api/*"
            )
            raise WrongError(word.location, message)
        self._group(statement, matcher, strip=True)

    def _handle(self, statement: Statement) -> None:
        found = statements.words(_without_named(statement), "handle [MATCHER] { … }", 0, 1)
        self._group(statement, self._matcher(found[0]) if found else None, strip=False)

    def _matcher(self, word: Word) -> PathMatcher | None:
        if not values.is_matcher(word, quoted_too=True):
            message = f"{quoted(word.text)} is not a path matcher: expected one such as /api/*"
            raise WrongError(word.location, message)
        return values.matcher(word)

    def _group(self, statement: Statement, matcher: PathMatcher | None, *, strip: bool) -> None:
        block = statements.block(statement, " ".join(word.text for word in statement.words))
        self._once("handle", statement, matcher)
        inner = RouteReader(self._problems)
        read_block(block, _HANDLE, inner.directives(), self._problems)
        self._routes.append(Handle(inner.routes(), matcher, strip))

    def _finish(self, statement: Statement, route: Redirect | Respond | ReverseProxy) -> None:
        self._once(statement.name, statement, route.matcher)
        self._routes.append(route)

    def _once(self, kind: str, statement: Statement, matcher: PathMatcher | None) -> None:
        key = kind, matcher
        if key in self._final:
            what = f"for {quoted(matcher.pattern)}" if matcher else "for all paths"
            name, known = quoted(statement.name), self._final[key]
            message = f"this {name} is never reached: one {what} stands at {known} already"
            raise WrongError(statement.location, message)
        self._final[key] = statement.location


_ORDER: Final[dict[type, int]] = {
    Redirect: 2,
    # Its paths are exact, and a `handle` for everything else must not hide them.
    DnsOverHttps: 3,
    Handle: 4,
    Respond: 5,
    ReverseProxy: 6,
}


def _place(route: Route) -> tuple[int, int, bool]:
    """Sort by directive, then the longer path first, an exact one before the same with a `*`."""
    if isinstance(route, ChangeHeaders):
        order = 0 if route.of_request else 1
    else:
        order = _ORDER[type(route)]
    matcher = None if isinstance(route, DnsOverHttps) else route.matcher
    if matcher is None:
        return order, 1, False
    pattern = matcher.pattern
    return order, -len(pattern.removesuffix("*")), pattern.endswith("*")


def _without_named(statement: Statement) -> Statement:
    """Refuse a named matcher as the first argument."""
    for word in statement.arguments[:1]:
        if word.text.startswith("@") and not word.quote:
            message = f"named matchers such as {quoted(word.text)} are not available yet"
            raise WrongError(word.location, message)
    return statement


def _is_code(word: Word) -> bool:
    return word.text in _CODES or word.text == "html" or word.text.isdecimal()


def _code(word: Word) -> int:
    if word.text == "html":
        raise WrongError(word.location, statements.not_yet("redir … html"))
    if word.text in _CODES:
        return _CODES[word.text]
    if values.is_status(word.text) and word.text[0] == "3" and word.text != "304":
        return int(word.text)
    message = f"{quoted(word.text)} is not a redirect's status"
    raise WrongError(word.location, f"{message}: expected `permanent`, `temporary` or 3xx")


def _body(word: Word) -> str:
    for placeholder in PLACEHOLDER.finditer(word.text):
        # In backquotes what only looks like one is text.
        if placeholder[1] in PLACEHOLDERS or word.quote != "`":
            message = f"placeholders in a body, such as {placeholder[0]}, are not available yet"
            raise WrongError(word.location, message)
    return word.text


def _target(word: Word) -> str:
    text = values.with_placeholders(word)
    if not text:
        raise WrongError(word.location, "the target of the redirect is empty")
    if not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        message = "the target of a redirect holds only visible ASCII: percent-encode the rest"
        raise WrongError(word.location, message)
    return text
