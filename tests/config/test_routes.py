from __future__ import annotations

import pytest

from dwaarx.config.model import (
    ChangeHeaders,
    DnsOverHttps,
    Handle,
    HeaderOp,
    PathMatcher,
    Redirect,
    Respond,
    ReverseProxy,
)
from tests.config.reading import problems, route, routes, site_problem


def test_the_order_of_directives() -> None:
    found = routes(
        """
        reverse_proxy a:1
        respond /r x
        dns_over_https
        handle /hh { }
        handle_path /p/* { }
        redir /old /new
        header A b
        request_header C d
        """
    )
    assert [type(each) for each in found] == [
        *(ChangeHeaders, ChangeHeaders, Redirect, DnsOverHttps),
        *(Handle, Handle, Respond, ReverseProxy),
    ]
    assert isinstance(found[0], ChangeHeaders)
    assert found[0].of_request
    # handle and handle_path are one group, in the order of the file.
    assert [each.strip_prefix for each in found if isinstance(each, Handle)] == [False, True]


def test_the_order_within_a_directive() -> None:
    found = routes(
        """
        respond none
        respond /a/* prefix
        respond /a/ exact
        respond /b/* first
        respond /c/* second
        respond /a/longer* longer
        """
    )
    assert [each.body for each in found if isinstance(each, Respond)] == [
        *("longer", "exact", "prefix", "first", "second", "none"),
    ]


def test_headers_without_matcher_come_last_of_their_kind() -> None:
    found = routes("header A 1\nheader /x B 2\nheader C 3")
    assert [each.ops[0].name for each in found if isinstance(each, ChangeHeaders)] == [
        *("b", "a", "c")
    ]


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("respond hello", Respond("hello")),
        ('respond "hello" 404', Respond("hello", 404)),
        ("respond 204", Respond("", 204)),
        ('respond "204"', Respond("204", 200)),
        ("respond /x 503", Respond("", 503, PathMatcher("/x"))),
        ("respond /x", Respond("", 200, PathMatcher("/x"))),
        ('respond "/x"', Respond("/x")),
        ("respond * hello", Respond("hello")),
        ("respond /x/* hello 200", Respond("hello", 200, PathMatcher("/x/*"))),
        ('respond `{"json": {}} {name}`', Respond('{"json": {}} {name}')),
        ("redir https://b.test{uri}", Redirect("https://b.test{uri}")),
        ("redir /new", Redirect("/new")),
        ("redir /new permanent", Redirect("/new", 301)),
        ("redir /new 308", Redirect("/new", 308)),
        ("redir /old /new", Redirect("/new", 302, PathMatcher("/old"))),
        ("redir /old /new temporary", Redirect("/new", 302, PathMatcher("/old"))),
        ("redir * /new permanent", Redirect("/new", 301)),
        ("dns_over_https", DnsOverHttps()),
        ("dns_over_https /a /b", DnsOverHttps(("/a", "/b"))),
        ("handle { respond x }", Handle((Respond("x"),))),
        ("handle * { respond x }", Handle((Respond("x"),))),
        ("handle /x { respond x }", Handle((Respond("x"),), PathMatcher("/x"))),
        (
            'handle_path "/x y/*" { respond x }',
            Handle((Respond("x"),), PathMatcher("/x y/*"), strip_prefix=True),
        ),
        ("handle { }", Handle(())),
    ],
)
def test_directives(directive: str, expected: object) -> None:
    assert route(directive) == expected


def test_a_handle_block_sorts_its_own_routes() -> None:
    found = route("handle {\nreverse_proxy a:1\nhandle {\nrespond b\nrespond /a a\n}\n}")
    assert isinstance(found, Handle)
    inner = found.routes[0]
    assert isinstance(inner, Handle)
    assert inner.routes == (Respond("a", matcher=PathMatcher("/a")), Respond("b"))


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("respond", '2:1: a word is missing: expected `respond [MATCHER] "BODY" [STATUS]`'),
        ("respond two words", "2:13: `words` is not a status code: expected a number from 200"),
        (
            "respond three more words",
            '2:20: `words` is one word too many: expected `respond [MATCHER] "BODY" [STATUS]`; put',
        ),
        ('respond /x "a" 200 b', "2:20: `b` is one word too many: expected `respond [MATCHER]"),
        ('respond "a" b c', "2:15: `c` is one word too many: expected `respond [MATCHER]"),
        ("respond x 199", "2:11: `199` is not a status code: expected a number from 200 to 599"),
        ("respond 999", "2:9: `999` is not a status code"),
        ("respond x 204", "2:9: a response with status 204 has no body"),
        ("respond x { close }", "2:1: `respond` takes no block"),
        ("respond @api x", "2:9: named matchers such as `@api` are not available yet"),
        ("respond {host}", "2:9: placeholders in a body, such as {host}, are not available yet"),
        ("respond `{host}`", "2:9: placeholders in a body, such as {host}, are not available yet"),
        ('respond "{http.request.uri}"', "2:9: placeholders in a body, such as {http.request.uri}"),
        ("respond a\nrespond b", "3:1: this `respond` is never reached: one for all paths stands"),
        ("respond /a a\nrespond /a b", "3:1: this `respond` is never reached: one for `/a` stands"),
        ("respond\nrespond b", '2:1: a word is missing: expected `respond [MATCHER] "BODY"'),
        ("respond /a*b x", "2:9: a `*` stands only at the end of a path: `/a*b`"),
        ("respond /a?b x", "2:9: a path holds neither `?` nor `#`: `/a?b`"),
        ("respond /{path} x", "2:9: a path matcher holds no placeholder: `/{path}`"),
        ("respond /a%20b x", "2:9: paths are compared decoded: write the characters themselves in"),
        ("respond /a//b x", "2:9: no path matches `/a//b`: they are compared without `//`"),
        ("respond /a/.. x", "2:9: no path matches `/a/..`"),
        ("redir", "2:1: a word is missing: expected `redir [MATCHER] TO [CODE]`"),
        ("redir a b c d", "2:13: `d` is one word too many: expected `redir [MATCHER] TO [CODE]`"),
        ("redir https://x moved", "2:17: `moved` is not a status for a redirect: expected `redir"),
        ("redir a b 301", "2:7: `a` is not a path matcher: expected `redir [MATCHER] TO [CODE]`"),
        (
            "redir /a 200",
            "2:10: `200` is not a redirect's status: expected `permanent`, `temporary",
        ),
        ("redir /a 304", "2:10: `304` is not a redirect's status"),
        ("redir /a html", "2:10: `redir … html` is not available yet"),
        ('redir ""', "2:7: the target of the redirect is empty"),
        ('redir "/a b"', "2:7: the target of a redirect holds only visible ASCII"),
        ("redir /é", "2:7: the target of a redirect holds only visible ASCII"),
        ("redir /{pth}", "2:7: there is no placeholder `{pth}`; did you mean `path`?"),
        (
            "redir /{x}",
            "2:7: there is no placeholder `{x}`: there are {host}, {hostport}, {method}",
        ),
        ("redir a { b }", "2:1: `redir` takes no block"),
        ("redir @x /a", "2:7: named matchers such as `@x` are not available yet"),
        ("dns_over_https dns", "2:16: `dns` is not a path: expected one such as /dns-query"),
        ("dns_over_https /a*", "2:16: `/a*` is not a path"),
        ("dns_over_https { x }", "2:1: `dns_over_https` takes no block"),
        (
            "dns_over_https\ndns_over_https /dns-query",
            "3:16: the path `/dns-query` is given twice; the first is at Dwaarfile:2:1",
        ),
        ("handle /x", "2:1: a block is missing: expected `handle /x { … }`"),
        ("handle x { }", "2:8: `x` is not a path matcher: expected one such as /api/*"),
        ("handle /x /y { }", "2:11: `/y` is one word too many: expected `handle [MATCHER] { … }`"),
        ("handle @x { }", "2:8: named matchers such as `@x` are not available yet"),
        ("handle_path { }", "2:1: a word is missing: expected `handle_path MATCHER { … }`"),
        ("handle_path * { }", "2:13: `*` has no prefix to cut off: expected a path such as"),
        ("handle /a { }\nhandle_path /a { }", "3:1: this `handle_path` is never reached: one for"),
        ("handle {\ntls internal\n}", "3:1: `tls` is not a directive of a handle block: it stands"),
        ("handle {\nrespont x\n}", "3:1: `respont` is not a directive of a handle block; did you"),
    ],
)
def test_problems(directive: str, expected: str) -> None:
    assert site_problem(directive).startswith(expected)


def test_the_same_snippet_twice_is_never_reached() -> None:
    text = "(s) { respond x }\nhttp://a.test {\nimport s\nimport s\n}"
    assert problems(text)[0].startswith("1:7: this `respond` is never reached")


@pytest.mark.parametrize(
    ("directive", "ops"),
    [
        ("header A b", [HeaderOp("set", "a", "b")]),
        ('header A "b {host} {x y}"', [HeaderOp("set", "a", "b {host} {x y}")]),
        ('header A ""', [HeaderOp("set", "a", "")]),
        ("header +A b", [HeaderOp("add", "a", "b")]),
        ("header -A", [HeaderOp("delete", "a")]),
        ("header -X-*", [HeaderOp("delete", "x-*")]),
        ("header ?A b", [HeaderOp("default", "a", "b")]),
        (
            "header {\nA b\n-C\n+D e\n}",
            [HeaderOp("set", "a", "b"), HeaderOp("delete", "c"), HeaderOp("add", "d", "e")],
        ),
    ],
)
def test_headers(directive: str, ops: list[HeaderOp]) -> None:
    assert route(directive) == ChangeHeaders(tuple(ops), of_request=False)
    request = directive.replace("header", "request_header /x", 1)
    assert route(request) == ChangeHeaders(tuple(ops), True, PathMatcher("/x"))


@pytest.mark.parametrize("value", ["b.test", "b.test:81", "[::1]:81", "127.0.0.1", "{host}"])
def test_the_host_of_a_request_can_be_set(value: str) -> None:
    assert route(f"request_header Host {value}") == ChangeHeaders(
        (HeaderOp("set", "host", value),), of_request=True
    )


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("header", "2:1: a word is missing: expected `header [MATCHER] [+|-|?]NAME [VALUE]`"),
        ("header /x", "2:1: a word is missing: expected `header [MATCHER] [+|-|?]NAME [VALUE]`"),
        ("header A", "2:8: the value is missing: expected `A VALUE`"),
        ("header A b c", "2:10: replacing a part of a field (NAME FIND REPLACE) is not available"),
        ("header A b c d", "2:12: `c` is one word too many"),
        ("header -A b", "2:11: `-A` deletes a field and takes no value"),
        ("header >A b", "2:8: `>A` is not available yet"),
        ("header A: b", "2:8: `A:` is not the name of a header field"),
        ("header - ", "2:8: `` is not the name of a header field"),
        ("header -*", "2:8: `` is not the name of a header field"),
        ("header A* b", "2:8: a `*` ends the name of a field only behind `-`"),
        ("header Content-Length 1", "2:8: the field `Content-Length` cannot be changed"),
        ("header -Connection", "2:8: the field `Connection` cannot be changed"),
        ("request_header +Upgrade x", "2:16: the field `Upgrade` cannot be changed"),
        ("request_header -Host", "2:16: the field `Host` can only be set: expected `Host VALUE`"),
        ("request_header Host", "2:16: the field `Host` can only be set: expected `Host VALUE`"),
        ("request_header Host a/b", "2:21: `a/b` is not `HOST` or `HOST:PORT`"),
        ("request_header Host a:x", "2:21: `x` is not a port"),
        ('header A "b\nc"', "2:10: the value of a header field holds a control character"),
        ('header A " b"', "2:10: the value of a header field begins or ends with a space"),
        ("header A {hots}", "2:10: there is no placeholder `{hots}`; did you mean `host`?"),
        ("header A { b c }", "2:8: `A` is one word too many before a block"),
        ("header { }", "2:1: the block is empty: expected names of fields"),
        ("header {\ndefer\n}", "3:1: `defer` is not available yet"),
        ("header {\nA b { c }\n}", "3:1: `A` takes no block"),
        ("header {\n{ b c }\n}", "3:1: a `{` must follow a directive on its line"),
        ("header @x A b", "2:8: named matchers such as `@x` are not available yet"),
    ],
)
def test_bad_headers(directive: str, expected: str) -> None:
    assert site_problem(directive).startswith(expected)


def test_every_line_of_a_block_of_headers_is_looked_at() -> None:
    assert len(problems("http://a.test {\nheader {\nA\nB c\nC: d\n}\n}")) == 2
