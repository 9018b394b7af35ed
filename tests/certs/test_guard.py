"""Which addresses a responder may have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis.strategies import integers, ip_addresses

from dwaarx.certs.guard import exception_for, refusal

PERMITTED = (
    "1.1.1.1",
    "93.184.215.14",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700::6810:84e5",
    "2a00:1450:4001::1",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
    "2002:101:101::1",
    "2a00:1450:4001::5efe:1.1.1.1",
)

REFUSED = (
    ("0.0.0.0", "the unspecified address"),
    ("0.1.2.3", "an address of this network (RFC 791)"),
    ("10.0.0.1", "a private address"),
    ("10.255.255.255", "a private address"),
    ("100.64.0.0", "a shared address (RFC 6598)"),
    ("100.127.255.255", "a shared address (RFC 6598)"),
    ("127.0.0.1", "a loopback address"),
    ("127.255.255.255", "a loopback address"),
    ("168.63.129.16", "the metadata service of a cloud"),
    ("169.254.169.254", "the metadata service of a cloud"),
    ("169.254.0.1", "a link-local address"),
    ("172.16.0.0", "a private address"),
    ("172.31.255.255", "a private address"),
    ("192.0.0.1", "an address reserved for protocols (RFC 6890)"),
    ("192.0.2.1", "an address for documentation"),
    ("192.88.99.1", "a relay of 6to4"),
    ("192.168.1.1", "a private address"),
    ("198.18.0.0", "an address for benchmarks (RFC 2544)"),
    ("198.19.255.255", "an address for benchmarks (RFC 2544)"),
    ("198.51.100.1", "an address for documentation"),
    ("203.0.113.1", "an address for documentation"),
    ("224.0.0.1", "a multicast address"),
    ("240.0.0.0", "a reserved address"),
    ("255.255.255.255", "the broadcast address"),
    ("::", "the unspecified address"),
    ("::1", "the loopback address"),
    ("64:ff9b:1::a00:1", "an address of a local NAT64 (RFC 8215)"),
    ("64:ff9b:1::101:101", "an address of a local NAT64 (RFC 8215)"),
    ("100::1", "an address that discards (RFC 6666)"),
    ("2001::1", "an address of Teredo"),
    ("2001:2::1", "an address reserved for protocols (RFC 2928)"),
    ("2001:db8::1", "an address for documentation"),
    ("3fff:fff::1", "an address for documentation"),
    ("5f00::1", "a segment identifier (RFC 9602)"),
    ("fd00:ec2::254", "the metadata service of a cloud"),
    ("fd20:ce::254", "the metadata service of a cloud"),
    ("fc00::1", "a unique local address"),
    ("fdff::1", "a unique local address"),
    ("fe80::1", "a link-local address"),
    ("fe80::1%eth0", "a link-local address"),
    ("febf::1", "a link-local address"),
    ("fec0::1", "a site-local address"),
    ("ff02::1", "a multicast address"),
    ("4000::1", "an address outside of the global ones"),
    ("::ffff:0:10.0.0.1", "an address outside of the global ones"),
    ("::8.8.8.8", "an address outside of the global ones"),
    ("::ffff:10.0.0.1", "an IPv4-mapped address that carries 10.0.0.1, a private address"),
    (
        "::ffff:169.254.169.254",
        "an IPv4-mapped address that carries 169.254.169.254, the metadata service of a cloud",
    ),
    ("::127.0.0.1", "an IPv4-compatible address that carries 127.0.0.1, a loopback address"),
    ("64:ff9b::10.0.0.1", "an address of NAT64 that carries 10.0.0.1, a private address"),
    ("2002:7f00:1::1", "an address of 6to4 that carries 127.0.0.1, a loopback address"),
    ("2002:c0a8:101::", "an address of 6to4 that carries 192.168.1.1, a private address"),
    ("2a00::5efe:10.0.0.1", "an address of ISATAP that carries 10.0.0.1, a private address"),
    ("2a00::200:5efe:10.0.0.1", "an address of ISATAP that carries 10.0.0.1, a private address"),
)


@pytest.mark.parametrize("address", PERMITTED)
def test_global_addresses_are_permitted(address):
    assert refusal(ip_address(address)) is None


@pytest.mark.parametrize(("address", "words"), REFUSED)
def test_special_addresses_are_refused(address, words):
    assert refusal(ip_address(address)) == words


@pytest.mark.parametrize(("address", "words"), REFUSED)
def test_the_advised_exception_opens_the_address_and_no_other(address, words):
    parsed = ip_address(address)
    network = exception_for(parsed)
    assert network.num_addresses == 1
    assert refusal(parsed, (network,)) is None
    neighbour = type(parsed)(int(parsed) ^ 1)
    assert refusal(neighbour, (network,)) == refusal(neighbour)


def allow(*networks):
    return tuple(map(ip_network, networks))


def test_any_of_the_exceptions_opens():
    networks = allow("fd00::/8", "10.0.0.0/8", "192.168.7.0/24")
    assert refusal(ip_address("10.1.2.3"), networks) is None
    assert refusal(ip_address("192.168.7.9"), networks) is None
    assert refusal(ip_address("fd00:ec2::254"), networks) is None
    assert refusal(ip_address("192.168.8.9"), networks) == "a private address"
    assert refusal(ip_address("fc00::1"), networks) == "a unique local address"


def test_an_ipv4_exception_opens_the_mapped_form_and_no_other_form():
    networks = allow("10.0.0.0/8")
    assert refusal(ip_address("::ffff:10.0.0.1"), networks) is None
    for other in ("64:ff9b::10.0.0.1", "2002:a00:1::", "::10.0.0.1", "2a00::5efe:10.0.0.1"):
        assert "10.0.0.1, a private address" in str(refusal(ip_address(other), networks))


def test_an_ipv6_exception_opens_the_forms_that_carry_ipv4():
    for text in ("64:ff9b::10.0.0.1", "2002:a00:1::", "::10.0.0.1", "::ffff:10.0.0.1"):
        assert refusal(ip_address(text), allow("::/0")) is None
    assert refusal(ip_address("10.0.0.1"), allow("::/0")) == "a private address"


@given(ip_addresses(v=4))
def test_what_is_permitted_of_ipv4_is_global(address):
    if refusal(address) is None:
        assert address.is_global
        assert not address.is_multicast
    for form in mapped(address), nat64(address), six_to_four(address), isatap(address):
        assert (refusal(form) is None) == (refusal(address) is None)
    assert refusal(IPv6Address(int(address))) is not None


@given(ip_addresses(v=6))
@example(IPv6Address("2001:db8::1"))
@example(IPv6Address("fe80::1"))
def test_what_is_permitted_of_ipv6_is_global(address):
    if refusal(address) is None and address.ipv4_mapped is None:
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved or address in ip_network("64:ff9b::/96")


@given(integers(0, 2**125 - 1))
def test_global_unicast_without_special_meaning_is_permitted(value):
    """All of 2000::/3 but for what Python knows to be special, and what carries IPv4."""
    address = IPv6Address(0b001 << 125 | value)
    special = address.sixtofour or address.teredo or address in ip_network("2001::/23")
    if address.is_global and not special and "ISATAP" not in str(refusal(address)):
        assert refusal(address) is None or address in ip_network("3fff::/20")


def mapped(address: IPv4Address) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}")


def nat64(address: IPv4Address) -> IPv6Address:
    return IPv6Address(f"64:ff9b::{address}")


def six_to_four(address: IPv4Address) -> IPv6Address:
    return IPv6Address(0x2002 << 112 | int(address) << 80 | 1)


def isatap(address: IPv4Address) -> IPv6Address:
    return IPv6Address(f"2a00:1:2:3:0:5efe:{address}")
