"""Who may ask: networks, matched by a look-up once a client has been seen."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from dwaarx.config.model import IPNetwork

# Loopback, private (RFC 1918, RFC 4193), shared (RFC 6598) and link-local networks.
LOCAL_NETWORKS: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)

# How many clients are remembered; one costs about 150 octets, and forgetting all a microsecond
# each to see anew.
MAX_REMEMBERED = 10_000

_MAPPED_PREFIX = 96  # ::ffff:0:0/96


def _unmapped(network: IPNetwork) -> IPNetwork:
    """Return an IPv4-mapped network as IPv4, which is how its clients are known."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_PREFIX:
        return network
    return ip_network((mapped, network.prefixlen - _MAPPED_PREFIX))


class AllowList:
    """Says of a client's textual address whether it is in one of some networks."""

    __slots__ = ("_networks", "_seen")

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._networks = tuple(map(_unmapped, networks))
        self._seen: dict[str, bool] = {}

    def allows(self, client: str) -> bool:
        """Whether this client may ask; what is no IP address may not."""
        known = self._seen.get(client)
        if known is None:
            if len(self._seen) >= MAX_REMEMBERED:
                self._seen.clear()
            known = self._seen[client] = self._look(client)
        return known

    def _look(self, client: str) -> bool:
        try:
            address = ip_address(client)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:
            address = mapped
        return any(address in network for network in self._networks)
