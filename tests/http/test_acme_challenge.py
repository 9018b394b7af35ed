"""ACME's challenges on the plain port."""

from __future__ import annotations

import pytest

from dwaarx.http.acme_challenge import PREFIX, AcmeChallengeHandler
from dwaarx.http.answers import HttpsRedirect
from dwaarx.http.router import Router
from tests.http.fakes import NamedHandler, make_exchange

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"
AUTHORIZATION = b"evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA.thumbprint"


class Challenges:
    """One challenge; `asked` holds what was looked up."""

    def __init__(self):
        self.asked = []

    def http_answer(self, token):
        self.asked.append(token)
        return AUTHORIZATION if token == TOKEN else None


@pytest.fixture
def challenges():
    return Challenges()


@pytest.fixture
def handler(challenges):
    return AcmeChallengeHandler(challenges, NamedHandler("site"))


def answered(handler, target, **changes):
    exchange = make_exchange(target, **changes)
    handler.handle(exchange)
    return exchange


@pytest.mark.parametrize("authority", [b"example.com", b"other.example:80", b"[::1]", b""])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_pending_challenge(handler, authority, method):
    exchange = answered(handler, PREFIX + TOKEN.encode(), authority=authority, method=method)
    assert exchange.said == [
        (
            "answer",
            200,
            [
                (b"content-type", b"application/octet-stream"),
                (b"cache-control", b"no-store"),
                (b"content-length", b"%d" % len(AUTHORIZATION)),
            ],
            AUTHORIZATION,
        )
    ]


@pytest.mark.parametrize(
    "target",
    [
        PREFIX + TOKEN[:-1].encode(),
        PREFIX + TOKEN.encode() + b"x",
        PREFIX + TOKEN.encode() + b"/",
        PREFIX + TOKEN.encode() + b"?",
        PREFIX + TOKEN.swapcase().encode(),
        PREFIX + b"%65" + TOKEN[1:].encode(),
        PREFIX + b"\xe9",
        PREFIX,
    ],
)
def test_anything_else_there_is_the_sites(handler, challenges, target):
    assert answered(handler, target).body == b"site"
    assert len(challenges.asked) == 1


@pytest.mark.parametrize(
    ("target", "method"),
    [
        (b"/", b"GET"),
        (b"*", b"OPTIONS"),
        (b"/x" + PREFIX + TOKEN.encode(), b"GET"),
        (PREFIX[:-1], b"GET"),
        (PREFIX + TOKEN.encode(), b"POST"),
    ],
)
def test_other_requests_are_not_looked_up(handler, challenges, target, method):
    assert answered(handler, target, method=method).body == b"site"
    assert challenges.asked == []


def test_before_the_redirect_and_the_404(challenges):
    router = Router(secure=False)
    handler = AcmeChallengeHandler(challenges, router)
    assert answered(handler, b"/").status == 404
    assert answered(handler, PREFIX + TOKEN.encode()).status == 200
    router.replace([("example.com", HttpsRedirect(443))])
    assert answered(handler, b"/").status == 308
    assert answered(handler, PREFIX + TOKEN.encode()).status == 200
