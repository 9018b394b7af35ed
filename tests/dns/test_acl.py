from ipaddress import ip_network

from dwaarx.dns import acl
from dwaarx.dns.acl import LOCAL_NETWORKS, AllowList


def test_the_allow_list():
    allow = AllowList(LOCAL_NETWORKS)
    for client in ("127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "fd00::1", "fe80::1"):
        assert allow.allows(client)
    for client in ("192.0.2.1", "2001:db8::1", "8.8.8.8", "", "not an address", "172.32.0.1"):
        assert not allow.allows(client)
        assert not allow.allows(client)  # remembered
    assert allow.allows("::ffff:127.0.0.1")
    assert not allow.allows("::ffff:8.8.8.8")
    assert not AllowList(()).allows("127.0.0.1")
    assert AllowList((ip_network("0.0.0.0/0"),)).allows("8.8.8.8")


def test_networks_written_as_ipv4_mapped():
    allow = AllowList(map(ip_network, ("::ffff:192.0.2.0/120", "::ffff:198.51.100.7/128")))
    for client in ("192.0.2.1", "::ffff:192.0.2.1", "198.51.100.7"):
        assert allow.allows(client)
    for client in ("192.0.3.1", "::ffff:192.0.3.1", "198.51.100.8", "::1"):
        assert not allow.allows(client)
    everyone = AllowList((ip_network("::/0"), ip_network("0.0.0.0/0")))
    assert everyone.allows("2001:db8::1")
    assert everyone.allows("::ffff:8.8.8.8")


def test_the_allow_list_remembers_so_many(monkeypatch):
    monkeypatch.setattr(acl, "MAX_REMEMBERED", 3)
    allow = AllowList(LOCAL_NETWORKS)
    for number in range(10):
        assert allow.allows(f"10.0.0.{number}")
    assert len(allow._seen) <= 3
