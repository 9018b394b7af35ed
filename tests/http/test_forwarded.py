"""What an upstream is told of the client, and what a client cannot tell it."""

from __future__ import annotations

import attrs
import pytest

from dwaarx.http.forwarded import upstream_fields, upstream_trailers, via
from tests.http.fakes import INFO, make_request


def told(info=INFO, **changes):
    return upstream_fields(make_request(**changes), info)


def test_where_the_request_comes_from():
    plain = attrs.evolve(INFO, client="2001:db8::7", secure=False)
    assert told(plain, authority=b"example.com:8080", version=b"2") == [
        (b"x-forwarded-for", b"2001:db8::7"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"example.com:8080"),
        (b"forwarded", b'for="[2001:db8::7]";proto=http;host="example.com:8080"'),
        (b"via", b"2 dwaarx"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-for",
        b"x-forwarded-anything",
        b"x_forwarded_for",
        b"x-forwarded_for",
        b"x.forwarded.for",
        b"x-forwarded!for",
        b"x~real+ip",
        b"forwarded",
        b"x-real-ip",
        b"x_real_ip",
        b"true-client-ip",
        b"content-length",
        b"content_length",
        b"transfer_encoding",
        b"host",
    ],
)
def test_what_a_client_says_is_not_passed_on(name):
    for _ in range(2):
        fields = told(fields=[(b"accept", b"*/*"), (name, b"6.6.6.6")])
        assert fields[0] == (b"accept", b"*/*")
        assert b"6.6.6.6" not in [value for _, value in fields]
        assert upstream_trailers([(b"x-sum", b"1"), (name, b"6.6.6.6")]) == [(b"x-sum", b"1")]


def test_other_fields_keep_their_order_and_via_is_added():
    fields = [(b"via", b"1.1 other"), (b"cookie", b"a"), (b"cookie", b"b"), (b"x-forward", b"1")]
    kept = told(fields=fields)
    assert kept[:4] == fields
    assert kept[-1] == via(b"1.1") == (b"via", b"1.1 dwaarx")
