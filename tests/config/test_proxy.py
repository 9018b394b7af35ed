from __future__ import annotations

import pytest

from dwaarx.config.model import Address, PathMatcher, ReverseProxy
from tests.config.reading import problems, route, site_problem


@pytest.mark.parametrize(
    ("upstream", "address"),
    [
        ("app:8080", Address("app", 8080)),
        ("APP.example.:8080", Address("app.example", 8080)),
        ("app_1:8080", Address("app_1", 8080)),
        ("app", Address("app", 80)),
        (":8080", Address("localhost", 8080)),
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:8080", Address("::1", 8080)),
        ("http://app", Address("app", 80)),
        ("http://app:8080/", Address("app", 8080)),
        ("http://[::1]", Address("::1", 80)),
    ],
)
def test_upstreams(upstream: str, address: Address) -> None:
    assert route(f"reverse_proxy {upstream}") == ReverseProxy((address,))


def test_all_of_it() -> None:
    found = route(
        """reverse_proxy /x/* a:1 {
            to b:2 c:3
            to d:4
            lb_policy round_robin
            transport http {
                dial_timeout 1s
                response_header_timeout 2m
                read_timeout 0
            }
        }"""
    )
    upstreams = tuple(Address(name, port) for port, name in enumerate("abcd", 1))
    assert found == ReverseProxy(upstreams, PathMatcher("/x/*"), 1.0, 120.0, 0.0)
    assert isinstance(found, ReverseProxy)
    assert str(found.location) == "Dwaarfile:2:1"


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        (
            "reverse_proxy",
            "2:1: an upstream is missing: expected `reverse_proxy [MATCHER] UPSTREAM…`",
        ),
        ("reverse_proxy /x", "2:1: an upstream is missing"),
        ("reverse_proxy { }", "2:1: an upstream is missing: expected `to UPSTREAM…` in the block"),
        ("reverse_proxy { to }", "2:17: a word is missing: expected `to UPSTREAM…`"),
        ("reverse_proxy https://a", "2:15: upstreams by `https://` are not available yet"),
        ("reverse_proxy h2c://a:1", "2:15: upstreams by `h2c://` are not available yet"),
        ("reverse_proxy unix//run/x", "2:15: upstreams by `unix/` are not available yet"),
        ("reverse_proxy unix+h2c://x", "2:15: upstreams by `unix+h2c://` are not available yet"),
        ("reverse_proxy ftp://a", "2:15: `ftp://a` is no upstream: expected `HOST:PORT` or"),
        ("reverse_proxy http://a/b", "2:15: an upstream has no path: `a/b`"),
        ("reverse_proxy {host}:1", "2:15: placeholders in an upstream are not available yet"),
        ("reverse_proxy a:b", "2:15: `b` is not a port"),
        ("reverse_proxy a..b:1", "2:15: `a..b:1` is no upstream: expected `HOST:PORT`"),
        ("reverse_proxy a:1 tls internal", "2:19: `tls` begins a directive: expected it on a line"),
        ("reverse_proxy { to a:1-3 }", "2:20: `1-3` is not a port"),
        ("reverse_proxy ::1", "2:15: an IPv6 address stands in brackets here: expected `[::1]`"),
        ("reverse_proxy @x a", "2:15: named matchers such as `@x` are not available yet"),
        ("reverse_proxy a { lb_policy least_conn }", "2:29: `lb_policy least_conn` is not avail"),
        ("reverse_proxy a { lb_policy rondrobin }", "2:29: there is no lb_policy `rondrobin`; did"),
        ("reverse_proxy a { lb_policy round_robin x }", "2:41: `x` is one word too many"),
        ("reverse_proxy a { health_uri /x }", "2:19: `health_uri` is not available yet"),
        ("reverse_proxy a { max_fails 1 }", "2:19: `max_fails` is not available yet"),
        ("reverse_proxy a { fail_duration 1s }", "2:19: `fail_duration` is not available yet"),
        ("reverse_proxy a { header_up A b }", "2:19: `header_up` is not available yet"),
        ("reverse_proxy a { header_down A b }", "2:19: `header_down` is not available yet"),
        ("reverse_proxy a { flush_interval -1 }", "2:19: `flush_interval` is not available yet"),
        ("reverse_proxy a { tobias }", "2:19: `tobias` is not a directive of `reverse_proxy`"),
        ("reverse_proxy a { transport fastcgi }", "2:29: `transport fastcgi` is not available yet"),
        ("reverse_proxy a { transport htp }", "2:29: there is no transport `htp`; did you mean"),
        (
            "reverse_proxy a { transport http }",
            "2:19: a block is missing: expected `transport http",
        ),
        (
            "reverse_proxy a {\ntransport http { keepalive 1m }\n}",
            "3:18: `keepalive` is not available yet",
        ),
        (
            "reverse_proxy a {\ntransport http { dial_timeout 0 }\n}",
            "3:31: expected a duration greater than 0",
        ),
        (
            "reverse_proxy a {\ntransport http { dail_timeout 1s }\n}",
            "3:18: `dail_timeout` is not a directive of `transport http`; did you mean `dial_tim",
        ),
    ],
)
def test_problems(directive: str, expected: str) -> None:
    assert site_problem(directive).startswith(expected)


def test_several_problems_of_one_block() -> None:
    found = problems("http://a.test {\nreverse_proxy {\nto a:x\nhealth_uri /\nlb_policy no\n}\n}")
    assert [each.partition(": ")[0] for each in found] == ["3:4", "4:1", "5:11"]
