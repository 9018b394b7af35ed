"""What a CA answers: directory, order, authorization, as frozen values.

The library's own classes raise whatever comes to hand when a field is of the wrong type, and know
neither tls-alpn-01 nor `renewalInfo`; here each misfit is a CaError with the field's name.
"""

from __future__ import annotations

import json
import re
from typing import Self

import attrs

from dwaarx.certs.acme.problems import CaError, Problem

# RFC 8555 section 8: base64url with 128 bits at least; it becomes a path and a DNS record.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,512}", re.ASCII)

# A name has a few authorizations, and each some kinds of challenges; more is nonsense.
_MAX_ITEMS = 100

Json = dict[str, object]


def parse(body: bytes) -> Json:
    """Return a JSON object; raises CaError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CaError("it answers something that is no JSON") from error
    if not isinstance(value, dict):
        raise CaError("it answers something that is no JSON object")
    return value


def _text(document: Json, field: str) -> str:
    value = document.get(field)
    if not isinstance(value, str) or not value:
        raise CaError(f"its answer has no {field}")
    return value


def _items(document: Json, field: str) -> list[object]:
    value = document.get(field)
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        raise CaError(f"its answer has no {field}")
    return value


def _optional(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


@attrs.frozen
class Directory:
    """Where a CA's resources are (section 7.1.1); `profiles` are the names that it lists."""

    new_nonce: str
    new_account: str
    new_order: str
    renewal_info: str | None
    profiles: tuple[str, ...]
    external_account_required: bool

    @classmethod
    def of(cls, document: Json) -> Self:
        """Read a directory; raises CaError."""
        meta = document.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        profiles = meta.get("profiles")
        return cls(
            _text(document, "newNonce"),
            _text(document, "newAccount"),
            _text(document, "newOrder"),
            _optional(document.get("renewalInfo")),
            tuple(profiles)[:_MAX_ITEMS] if isinstance(profiles, dict) else (),
            meta.get("externalAccountRequired") is True,
        )


@attrs.frozen
class Order:
    """An order (section 7.1.3) and its own URL."""

    url: str
    status: str
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str | None
    problem: Problem | None

    @classmethod
    def of(cls, document: Json, url: str) -> Self:
        """Read an order; raises CaError."""
        urls = _items(document, "authorizations")
        return cls(
            url,
            _text(document, "status"),
            tuple(each for each in urls if isinstance(each, str)),
            _text(document, "finalize"),
            _optional(document.get("certificate")),
            Problem.of(document.get("error")),
        )


@attrs.frozen
class Challenge:
    """One way of proving a name (section 7.1.5)."""

    kind: str
    url: str
    token: str
    problem: Problem | None


@attrs.frozen
class Authorization:
    """Whether a name is proven (section 7.1.4), and the ways of doing so.

    Those without a token, which nobody here knows how to go, are left out.
    """

    status: str
    challenges: tuple[Challenge, ...]

    @classmethod
    def of(cls, document: Json) -> Self:
        """Read an authorization; raises CaError."""
        found = []
        for each in _items(document, "challenges"):
            if not isinstance(each, dict):
                continue
            kind, url, token = each.get("type"), each.get("url"), each.get("token")
            if isinstance(kind, str) and isinstance(url, str) and isinstance(token, str):
                if not _TOKEN.fullmatch(token):
                    raise CaError(f"its {kind[:50]} challenge has a token that is none")
                found.append(Challenge(kind, url, token, Problem.of(each.get("error"))))
        return cls(_text(document, "status"), tuple(found))

    def challenge(self, kind: str) -> Challenge | None:
        """Return the challenge of a kind; None if the CA does not offer it."""
        return next((each for each in self.challenges if each.kind == kind), None)

    @property
    def problem(self) -> Problem | None:
        """Why a challenge failed; None if the CA does not say."""
        return next((each.problem for each in self.challenges if each.problem), None)
