"""Which site answers for which host."""

from __future__ import annotations

import pytest

from dwaarx.http.router import _REMEMBERED, Router
from tests.http.fakes import NamedHandler, make_exchange

TABLE = ["first.example", "example.com", "*.example.com", "www.example.com", "::1", "192.0.2.9"]


def routed(authority, hosts=TABLE, secure=True):
    router = Router(secure)
    router.replace([(host, NamedHandler(host or "any")) for host in hosts])
    answers = []
    for _ in range(2):  # the second time it is remembered
        exchange = make_exchange(authority=authority)
        router.handle(exchange)
        answers.append(exchange.said[0][3].decode() if exchange.status == 200 else exchange.status)
    assert answers[0] == answers[1]
    return answers[0]


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (b"example.com", "example.com"),
        (b"example.com:8443", "example.com"),
        (b"example.com.", "example.com"),
        (b"www.example.com", "www.example.com"),
        (b"api.example.com", "*.example.com"),
        (b"a.b.example.com", 421),
        (b".example.com", "*.example.com"),
        (b"other.example", 421),
        (b"", "first.example"),
        (b"192.0.2.1", "first.example"),
        (b"192.0.2.1:8443", "first.example"),
        (b"192.0.2.9:8443", "192.0.2.9"),
        (b"[::1]:8443", "::1"),
        (b"[0:0::1]", "::1"),
        (b"[2001:db8::1]", "first.example"),
        (b"com", 421),
    ],
)
def test_hosts(authority, host):
    assert routed(authority) == host


def test_an_unknown_host_on_the_plain_port():
    assert routed(b"other.example", secure=False) == 404


def test_a_catch_all_takes_what_no_other_has():
    hosts = ["example.com", ""]
    assert routed(b"other.example", hosts) == "any"
    assert routed(b"192.0.2.1", hosts) == "any"
    assert routed(b"", hosts) == "any"
    assert routed(b"example.com", hosts) == "example.com"


def test_an_empty_table():
    assert routed(b"", []) == 421
    assert routed(b"192.0.2.1", []) == 421


def test_the_first_of_two_equal_hosts_counts():
    router = Router(secure=True)
    first, second = NamedHandler("first"), NamedHandler("second")
    for host in ("example.com", "*.example.com", ""):
        router.replace([(host, first), (host, second)])
        for name in (b"example.com", b"a.example.com", b"x"):
            router.handle(make_exchange(authority=name))
    assert first.seen
    assert second.seen == []


def test_a_new_table_counts_from_the_next_request_on():
    router = Router(secure=True)
    old, new = NamedHandler("old"), NamedHandler("new")
    router.replace([("example.com", old)])
    router.handle(make_exchange())
    router.replace([("example.com", new)])
    router.handle(make_exchange())
    assert (len(old.seen), len(new.seen)) == (1, 1)


def test_only_so_many_authorities_are_remembered():
    router = Router(secure=True)
    router.replace([("", NamedHandler("any"))])
    for number in range(_REMEMBERED + 10):
        router.handle(make_exchange(authority=b"host%d.example" % number))
    assert len(router._known) <= _REMEMBERED
