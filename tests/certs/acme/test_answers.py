from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.certs.acme.answers import Authorization, Directory, Order, parse
from dwaarx.certs.acme.problems import CaError

URLS = {
    "newNonce": "https://ca.test/nonce",
    "newAccount": "https://ca.test/account",
    "newOrder": "https://ca.test/order",
}
TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"


def test_a_directory() -> None:
    meta = {"profiles": {"tls": "x", "short": "y"}, "externalAccountRequired": True}
    directory = Directory.of({**URLS, "renewalInfo": "https://ca.test/ari", "meta": meta})
    assert directory.new_order == "https://ca.test/order"
    assert directory.renewal_info == "https://ca.test/ari"
    assert directory.profiles == ("tls", "short")
    assert directory.external_account_required


@pytest.mark.parametrize("meta", [None, [], {"profiles": [], "externalAccountRequired": "no"}])
def test_a_directory_that_says_little(meta: object) -> None:
    directory = Directory.of({**URLS, "meta": meta, "renewalInfo": 5})
    assert (directory.renewal_info, directory.profiles) == (None, ())
    assert not directory.external_account_required


@pytest.mark.parametrize("missing", sorted(URLS))
def test_a_directory_without_a_url(missing: str) -> None:
    with pytest.raises(CaError, match=f"has no {missing}"):
        Directory.of({name: url for name, url in URLS.items() if name != missing})


def challenge(**more: Any) -> dict[str, Any]:
    return {"type": "http-01", "url": "https://ca.test/1", "token": TOKEN, **more}


def authorization(*challenges: Any) -> Authorization:
    return Authorization.of({"status": "pending", "challenges": list(challenges)})


def test_challenges() -> None:
    odd = {"type": "dns-account-01", "url": "https://ca.test/2"}
    found = authorization(challenge(), odd, None, challenge(type="dns-01", error={"detail": "No"}))
    assert [each.kind for each in found.challenges] == ["http-01", "dns-01"]
    chosen = found.challenge("dns-01")
    assert chosen is not None
    assert chosen.token == TOKEN
    assert found.challenge("tls-alpn-01") is None
    assert found.problem is not None
    assert found.problem.sentence == "No"
    assert authorization(challenge()).problem is None


@pytest.mark.parametrize("token", ["", "short", TOKEN + "/../x", TOKEN + "\r\n", "é" * 30])
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(CaError, match="http-01 challenge has a token that is none"):
        authorization(challenge(token=token))


def test_lists_are_bounded() -> None:
    with pytest.raises(CaError, match="has no challenges"):
        authorization(*[challenge()] * 1000)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"5", b"[" * 100_000])
def test_what_is_no_object(body: bytes) -> None:
    with pytest.raises(CaError, match="no JSON"):
        parse(body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.just(TOKEN),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "url", "token", "error", "profiles"]), inner)
    ),
    max_leaves=6,
)
_FIELDS = (*URLS, "meta", "status", "authorizations", "finalize", "certificate", "error",
           "challenges", "renewalInfo")  # fmt: skip


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON))
@settings(max_examples=200)
def test_nothing_raises_anything_else(document: dict[str, Any]) -> None:
    document = parse(json.dumps(document).encode())
    for read in (Directory.of, Authorization.of, lambda each: Order.of(each, "https://ca.test")):
        with suppress(CaError):
            assert read(document) is not None
