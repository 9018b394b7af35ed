"""Where no responder may be: the addresses that a certificate must not make the service ask.

The URLs of responders, of CRLs and of redirects come from other people's certificates and servers.
Without this gate they would reach what only this machine or its network should reach. What a
network with its own NAT64 prefix (RFC 6052 section 2.2) embeds cannot be known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from dwaarx.config.model import IPAddress, IPNetwork

_V4 = 0xFFFF_FFFF


def _table(rows: Iterable[tuple[str, str]]) -> tuple[tuple[IPNetwork, str], ...]:
    return tuple((ip_network(text), words) for text, words in rows)


# The first that matches gives the words; IANA's registries of special-purpose addresses (RFC 6890)
# and what clouds keep at one address.
_REFUSED_V4 = _table(
    (
        ("0.0.0.0/32", "the unspecified address"),
        ("0.0.0.0/8", "an address of this network (RFC 791)"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a shared address (RFC 6598)"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "the metadata service of a cloud"),
        ("169.254.169.254/32", "the metadata service of a cloud"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address reserved for protocols (RFC 6890)"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a relay of 6to4"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks (RFC 2544)"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)
_REFUSED_V6 = _table(
    (
        ("::/128", "the unspecified address"),
        ("::1/128", "the loopback address"),
        ("64:ff9b:1::/48", "an address of a local NAT64 (RFC 8215)"),
        ("100::/64", "an address that discards (RFC 6666)"),
        ("2001::/32", "an address of Teredo"),
        ("2001:db8::/32", "an address for documentation"),
        ("2001::/23", "an address reserved for protocols (RFC 2928)"),
        ("3fff::/20", "an address for documentation"),
        ("5f00::/16", "a segment identifier (RFC 9602)"),
        ("fd00:ec2::254/128", "the metadata service of a cloud"),
        ("fd20:ce::254/128", "the metadata service of a cloud"),
        ("fc00::/7", "a unique local address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
    )
)

# All that IANA has given out for unicast; the rest is refused whatever it may become.
_GLOBAL_V6 = IPv6Network("2000::/3")

# The forms of IPv6 address that carry an IPv4 address, with where it is.
_CARRIERS: tuple[tuple[IPv6Network, str, Callable[[int], int]], ...] = (
    (IPv6Network("::/96"), "an IPv4-compatible address", lambda value: value & _V4),
    (IPv6Network("64:ff9b::/96"), "an address of NAT64", lambda value: value & _V4),
    (IPv6Network("2002::/16"), "an address of 6to4", lambda value: value >> 80 & _V4),
)
_NAT64 = _CARRIERS[1][0]

# ISATAP (RFC 5214 section 6.1) may be in any network: it shows in the interface identifier, in
# which the bit for "globally unique" may be set.
_ISATAP = 0x0000_5EFE
_ISATAP_UNIVERSAL_BIT = 0x0200_0000


def refusal(address: IPAddress, allowed: Sequence[IPNetwork] = ()) -> str | None:
    """Say what `address` is, if no responder may be there, as in "a private address".

    None: it may. A network in `allowed` opens its addresses; one of IPv4 opens their IPv4-mapped
    form (::ffff:0:0/96) as well, which means the very same host.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        if _within(address, allowed):
            return None
        words = refusal(address.ipv4_mapped, allowed)
        return words and _carried("an IPv4-mapped address", address.ipv4_mapped, words)
    if _within(address, allowed):
        return None
    if isinstance(address, IPv4Address):
        return _words(address, _REFUSED_V4)
    return _refusal_v6(address)


def _refusal_v6(address: IPv6Address) -> str | None:
    words = _words(address, _REFUSED_V6)
    if words is not None:
        return words
    for form, carried in _carriers(address):
        inner = _words(carried, _REFUSED_V4)
        if inner is not None:
            return _carried(form, carried, inner)
    if address in _GLOBAL_V6 or address in _NAT64:
        return None
    return "an address outside of the global ones"


def _carriers(address: IPv6Address) -> Iterable[tuple[str, IPv4Address]]:
    value = int(address)
    for network, form, extract in _CARRIERS:
        if address in network:
            yield form, IPv4Address(extract(value))
    if (value >> 32 & _V4) | _ISATAP_UNIVERSAL_BIT == _ISATAP | _ISATAP_UNIVERSAL_BIT:
        yield "an address of ISATAP", IPv4Address(value & _V4)


def _words(address: IPAddress, table: Iterable[tuple[IPNetwork, str]]) -> str | None:
    return next((words for network, words in table if address in network), None)


def _carried(form: str, carried: IPv4Address, words: str) -> str:
    return f"{form} that carries {carried}, {words}"


def _within(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    # Networks of the other version contain nothing, and say so.
    return any(address in network for network in networks)


def exception_for(address: IPAddress) -> IPNetwork:
    """Return the narrowest network that would open an address: what to advise the operator."""
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return IPv6Network(int(address)) if mapped is None else IPv4Network(mapped)
    return IPv4Network(address)
