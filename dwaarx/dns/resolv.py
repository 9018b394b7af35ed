"""The system's own resolvers, from /etc/resolv.conf (resolv.conf(5))."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from dwaarx.config.model import Address

RESOLV_CONF = Path("/etc/resolv.conf")

_PORT = 53
_MAX_SIZE = 65_536  # characters; no real one is near it


def read(path: Path = RESOLV_CONF) -> tuple[Address, ...]:
    """Return the name servers that the file names, in order and each once.

    A file that cannot be read names none; lines that say anything else are passed over.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_SIZE)
    except OSError:
        return ()
    return parse(text)


def parse(text: str) -> tuple[Address, ...]:
    """Return the name servers that the text of a resolv.conf names."""
    found: dict[Address, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            host = str(ip_address(words[1]))
        except ValueError:
            continue
        found[Address(host, _PORT)] = None
    return tuple(found)
