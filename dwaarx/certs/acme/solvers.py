"""How a name is proven to a CA: each kind of challenge as one presents and removes it."""

from __future__ import annotations

import hashlib
from typing import Protocol

from josepy.b64 import b64encode

from dwaarx.certs.acme.challenges import Challenges
from dwaarx.certs.acme.dns01 import Rfc2136Solver


class Solver(Protocol):
    """One kind of challenge; `kind` is its type in ACME."""

    kind: str

    def present(self, name: str, token: str, key_authorization: str) -> None:
        """Have the proof ready for the CA; raises AcmeError."""

    def remove(self, name: str, token: str, key_authorization: str) -> None:
        """Take it away, if it was there at all; raises AcmeError."""


class HttpSolver:
    """http-01: the listeners answer a path (RFC 8555 section 8.3)."""

    kind = "http-01"

    def __init__(self, challenges: Challenges) -> None:
        self._challenges = challenges

    def present(self, name: str, token: str, key_authorization: str) -> None:
        """Have the listeners answer the token."""
        self._challenges.present_http(token, key_authorization)

    def remove(self, name: str, token: str, key_authorization: str) -> None:
        """Have them answer it no more."""
        self._challenges.remove_http(token)


class AlpnSolver:
    """tls-alpn-01: the listeners shake hands with a certificate of its own (RFC 8737)."""

    kind = "tls-alpn-01"

    def __init__(self, challenges: Challenges) -> None:
        self._challenges = challenges

    def present(self, name: str, token: str, key_authorization: str) -> None:
        """Have the listeners prove the name."""
        self._challenges.present_alpn(name, key_authorization)

    def remove(self, name: str, token: str, key_authorization: str) -> None:
        """Have them serve the name as ever."""
        self._challenges.remove_alpn(name)


class DnsSolver:
    """dns-01: a TXT record below the name (RFC 8555 section 8.4)."""

    kind = "dns-01"

    def __init__(self, records: Rfc2136Solver) -> None:
        self._records = records

    def present(self, name: str, token: str, key_authorization: str) -> None:
        """Have the record made."""
        self._records.present(name, _digest(key_authorization))

    def remove(self, name: str, token: str, key_authorization: str) -> None:
        """Have it deleted."""
        self._records.remove(name, _digest(key_authorization))


def _digest(key_authorization: str) -> str:
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    return b64encode(digest).decode("ascii")
