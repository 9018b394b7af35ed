"""A site's routes."""

from __future__ import annotations

import pytest

from dwaarx.config.model import (
    Address,
    ChangeHeaders,
    DnsOverHttps,
    Handle,
    HeaderOp,
    PathMatcher,
    Redirect,
    Respond,
    ReverseProxy,
    Site,
    SiteAddress,
)
from dwaarx.http.forwarded import upstream_fields
from dwaarx.http.site import compile_site
from tests.http.fakes import NamedHandler, make_exchange

APP = ReverseProxy((Address("localhost", 3000),))


class Services:
    def __init__(self):
        self.proxy = NamedHandler("proxy")
        self.dns = NamedHandler("dns")

    def reverse_proxy(self, config):
        return self.proxy

    def doh(self, config):
        return self.dns


def site(*routes):
    return Site((SiteAddress("example.com", 443),), routes, None)


def asked(routes, target=b"/", **changes):
    """The exchange after the site has handled it."""
    exchange = make_exchange(target, **changes)
    compile_site(site(*routes), Services()).handle(exchange)
    return exchange


def text(routes, target=b"/", **changes):
    exchange = asked(routes, target, **changes)
    return exchange.said[0][3].decode() if exchange.status == 200 else exchange.status


def at(pattern):
    return PathMatcher(pattern)


def test_one_route_for_everything_is_the_handler_itself():
    services = Services()
    assert compile_site(site(APP), services) is services.proxy
    assert text([Respond("hi")], b"/%2e%2e/") == "hi"
    assert asked([Redirect("/x")]).fields[b"location"] == b"/x"


def test_the_first_that_matches_answers():
    routes = [
        Respond("css", matcher=at("*.css")),
        Redirect("/new", matcher=at("/old")),
        Respond("api", matcher=at("/api/*")),
        APP,
    ]
    assert text(routes, b"/x.css") == "css"
    assert text(routes, b"/old") == 302
    assert text(routes, b"/api/x.js") == "api"
    assert text(routes, b"/") == "proxy"


def test_nothing_matches():
    assert text([Respond("api", matcher=at("/api/*"))]) == 404
    assert text([]) == 404


def test_dns_over_https_takes_its_exact_paths():
    routes = [DnsOverHttps(("/dns-query", "/dns")), APP]
    assert text(routes, b"/dns-query?dns=AAAA") == "dns"
    assert text(routes, b"/dns") == "dns"
    for target in (b"/dns-query/", b"/DNS-query", b"//dns", b"/", b"/../dns"):
        assert text(routes, target) == "proxy"


def test_only_the_first_handle_that_matches_is_entered():
    routes = [
        Handle((Respond("one", matcher=at("/a/one")),), at("/a/*")),
        Handle((Respond("two"),), at("/a*")),
        Handle((APP,)),
        Respond("never"),
    ]
    assert text(routes, b"/a/one") == "one"
    assert text(routes, b"/a/two") == 404
    assert text(routes, b"/ab") == "two"
    assert text(routes, b"/") == "proxy"


def test_handle_path_cuts_its_prefix():
    inner = (Respond("x", matcher=at("/x")), Redirect("{uri}", matcher=at("/to/*")), APP)
    routes = [Handle(inner, at("/api/*"), strip_prefix=True), Respond("else")]
    assert text(routes, b"/api/x") == "x"
    assert text(routes, b"//API/x") == "x"
    assert asked(routes, b"/api/to/y?z").fields[b"location"] == b"/to/y?z"
    exchange = asked(routes, b"/api/y?z")
    assert exchange.request.target == b"/y?z"
    assert text(routes, b"/x") == "else"
    assert text(routes, b"/api") == "else"


@pytest.mark.parametrize("target", [b"/api/../x", b"/%2e%2e/x", b"/x/..%2f", b"/x%00"])
def test_unclear_paths_are_refused_where_there_are_matchers(target):
    assert text([Handle((Respond("api", matcher=at("/api/*")),)), APP], target) == 400
    assert text([Respond("api", matcher=at("/api/*")), APP], target) == 400
    assert text([Handle((APP,))], target) == "proxy"


def test_a_path_that_becomes_unclear_by_cutting():
    routes = [Handle((APP,), at("/a*"), strip_prefix=True)]
    assert text(routes, b"/a..") == 400


# --- header and request_header ---


def changed(ops, of_request=False, answer=None, **changes):
    ops = tuple(HeaderOp(*op) for op in ops)
    routes = [ChangeHeaders(ops, of_request), answer or Respond("hi")]
    return asked(routes, **changes)


def test_response_fields():
    exchange = changed(
        [
            ("set", "x-frame-options", "DENY"),
            ("add", "x-a", "{method} 1"),
            ("add", "x-a", "2"),
            ("default", "content-type", "never"),
            ("default", "x-b", "new"),
            ("set", "location", "b"),
        ],
        answer=Redirect("/a"),
    )
    assert exchange.said[0][2] == [
        (b"content-length", b"0"),
        (b"x-frame-options", b"DENY"),
        (b"x-a", b"GET 1"),
        (b"x-a", b"2"),
        (b"content-type", b"never"),
        (b"x-b", b"new"),
        (b"location", b"b"),
    ]


def test_response_fields_that_are_there_or_go():
    exchange = changed([("default", "content-type", "x"), ("delete", "x-none")])
    assert exchange.fields[b"content-type"] == b"text/plain; charset=utf-8"
    exchange = changed([("delete", "content-type")])
    assert list(exchange.fields) == [b"content-length"]
    exchange = changed([("delete", "content-*")])
    assert list(exchange.fields) == [b"content-length"]


def test_changes_with_a_matcher():
    ops = (HeaderOp("set", "x-a", "1"),)
    routes = [ChangeHeaders(ops, of_request=False, matcher=at("/a/*")), Respond("hi")]
    assert b"x-a" in asked(routes, b"/a/b").fields
    assert b"x-a" not in asked(routes, b"/b").fields


def test_request_fields():
    fields = [(b"cookie", b"a"), (b"x-debug-a", b"1"), (b"x-debug-b", b"1"), (b"x-c", b"1")]
    ops = [
        ("delete", "cookie"),
        ("delete", "x-debug-*"),
        ("set", "x-c", "{remote_host}"),
        ("set", "x-d", " {query} "),
    ]
    exchange = changed(ops, of_request=True, fields=fields)
    assert exchange.request.fields == [(b"x-c", b"192.0.2.7"), (b"x-d", b"")]
    assert exchange.request.authority == b"example.com"


def test_what_the_dwaarfile_says_of_the_client_counts_and_what_the_client_says_does_not():
    claims = [(b"x-real-ip", b"6.6.6.6"), (b"x_forwarded_for", b"6.6.6.6"), (b"accept", b"*/*")]
    ops = tuple(
        HeaderOp("default", name, "{remote_host}") for name in ("x-real-ip", "x-forwarded-for")
    )
    changes = ChangeHeaders(ops, of_request=True)
    exchange = asked([changes, changes, APP], fields=claims, content_length=5)
    sent = upstream_fields(exchange.request, exchange.info)
    assert [field for field in sent if field[0] not in (b"forwarded", b"via")] == [
        (b"accept", b"*/*"),
        (b"x-real-ip", b"192.0.2.7"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"example.com"),
    ]


def test_request_host():
    exchange = changed([("set", "host", "App.Internal:80")], of_request=True)
    assert exchange.request.authority == b"app.internal:80"
    exchange = changed([("set", "host", "a.{host}")], of_request=True)
    assert exchange.request.authority == b"a.example.com"
    exchange = changed([("set", "host", "{query}")], of_request=True, target=b"/?a/b")
    assert exchange.request.authority == b"example.com"


@pytest.mark.parametrize(
    ("op", "of_request"),
    [
        (("set", "content-length", "5"), False),
        (("delete", "transfer-encoding"), True),
        (("set", "connection", "close"), False),
        (("set", "bad name", "5"), False),
        (("set", "x-a", "a\nb"), False),
        (("set", "x-a", "{nonsense}"), False),
        (("replace", "x-a", "b"), False),
        (("delete", "host"), True),
        (("set", "host", "a b"), True),
    ],
)
def test_impossible_changes_are_refused(op, of_request):
    with pytest.raises(ValueError):
        changed([op], of_request)
