"""Names that no public CA signs, and why: those that are nobody's in the public DNS."""

from __future__ import annotations

import re
from typing import Final

from dwaarx.config import addresses

# What has a certificate of the local CA by itself, as in Caddy; and all names under these.
_INTERNAL: Final = ("localhost", "local", "internal", "home.arpa")
_UNDER_INTERNAL: Final = tuple(f".{name}" for name in _INTERNAL)

# Top-level domains that are not delegated and never will be: RFC 6761 (test, example, invalid,
# localhost), RFC 6762 section 3 (local) and appendix G (what home networks use), RFC 7686 (onion,
# which http-01 and dns-01 cannot validate), RFC 9476 (alt), ICANN's resolutions of 2018 (corp,
# home, mail) and 2024 (internal); arpa is the infrastructure's own (RFC 3172).
_TOPS: Final = """
    alt arpa corp domain example home internal intranet invalid lan local localdomain localhost
    mail onion private test
"""
_TOP: Final = frozenset(_TOPS.split())
# RFC 6761 section 6.5: reserved for documentation beside the top-level domain.
_DOCUMENTATION: Final = re.compile(r"(?:.+\.)?example\.(?:com|net|org)")


def is_internal(host: str) -> bool:
    """Whether the host has a certificate of the local CA by itself: localhost and its like, IPs."""
    if host.endswith(_UNDER_INTERNAL) or host in _INTERNAL:
        return True
    return addresses.ip_literal(host) is not None


def why_unsigned(name: str) -> str | None:
    """Say why no public CA signs a name (lower case, perhaps a wildcard); None: one may.

    The sentence follows the name, as in "a.test: `.test` is reserved".
    """
    bare = name.removeprefix("*.")
    first, dot, _rest = bare.partition(".")
    if not dot:
        if bare != name:
            return f"it would hold for all of `.{first}`"
        return "it has a single label"
    top = bare[bare.rindex(".") + 1 :]
    if top in _TOP:
        return f"`.{top}` is not in the public DNS" if top != "arpa" else "`.arpa` is reserved"
    if _DOCUMENTATION.fullmatch(bare):
        return "it is reserved for documentation"
    if "_" in bare:
        # Baseline Requirements section 7.1.4.2.1, since 2019.
        return "it holds an underscore"
    return None
