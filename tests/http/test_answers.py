"""Answers without an upstream."""

from __future__ import annotations

import pytest

from dwaarx.config.model import Redirect, Respond
from dwaarx.http.answers import HttpsRedirect, RedirectHandler, RespondHandler, error_answer
from tests.http.fakes import make_exchange


def answered(handler, target=b"/a?b", **changes):
    exchange = make_exchange(target, **changes)
    handler.handle(exchange)
    return exchange


def test_respond():
    exchange = answered(RespondHandler(Respond("héllo", 201)))
    assert exchange.said == [
        (
            "answer",
            201,
            [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"6"),
            ],
            "héllo".encode(),
        )
    ]


def test_respond_with_a_status_only():
    exchange = answered(RespondHandler(Respond(status=204)))
    assert exchange.said == [("answer", 204, [], b"")]


@pytest.mark.parametrize(
    ("to", "target", "location"),
    [
        ("https://other.example{uri}", b"/a?b", b"https://other.example/a?b"),
        ("/new", b"/a", b"/new"),
        ("{path}/", b"/a", b"/a/"),
        ("{path}/", b"//evil.example", b"/evil.example/"),
        ("{uri}", b"/\\evil.example", b"/evil.example"),
        ("//cdn.example{uri}", b"/a", b"//cdn.example/a"),
        ("?x", b"/a", b"?x"),
    ],
)
def test_redirect(to, target, location):
    exchange = answered(RedirectHandler(Redirect(to, 301)), target)
    assert exchange.status == 301
    assert exchange.fields[b"location"] == location


@pytest.mark.parametrize(
    ("port", "authority", "location"),
    [
        (443, b"example.com", b"https://example.com/a?b"),
        (443, b"example.com:80", b"https://example.com/a?b"),
        (8443, b"example.com:8080", b"https://example.com:8443/a?b"),
        (8443, b"192.0.2.1", b"https://192.0.2.1:8443/a?b"),
        (8443, b"[::1]:80", b"https://[::1]:8443/a?b"),
    ],
)
def test_https_redirect(port, authority, location):
    exchange = answered(HttpsRedirect(port), authority=authority, method=b"POST")
    assert exchange.status == 308
    assert exchange.fields[b"location"] == location


def test_https_redirect_of_the_whole_server():
    assert answered(HttpsRedirect(443), b"*").fields[b"location"] == b"https://example.com/"


def test_https_redirect_without_host():
    exchange = answered(HttpsRedirect(443), authority=b"", version=b"1.0")
    assert exchange.status == 400


def test_errors_say_their_name_only():
    exchange = make_exchange()
    error_answer(exchange, 504)
    assert exchange.said[0][3] == b"504 Gateway Timeout\n"
