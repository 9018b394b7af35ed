"""Obtaining certificates: which CA, in which thread, and for how long."""

from __future__ import annotations

import attrs

from dwaarx.certs.pair import KeyPair


@attrs.frozen
class Obtained:
    """A certificate from a CA, checked.

    `ca` is the directory that it came from. `renewal_info` is the URL below which that CA tells
    when to renew (RFC 9773); None if it does not.
    """

    pair: KeyPair
    ca: str
    renewal_info: str | None
