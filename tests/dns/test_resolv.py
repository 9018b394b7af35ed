from hypothesis import given
from hypothesis import strategies as st

from dwaarx.config.model import Address
from dwaarx.dns import resolv


def test_resolv_conf(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# comment\nsearch example.org\nnameserver 192.0.2.53\n nameserver\t2001:DB8::53 # x\n"
        "nameserver\nnameserver dns.example\nnameserver 192.0.2.53\noptions edns0\n"
        "nameserver fe80::1%2\n"
    )
    assert resolv.read(file) == (
        Address("192.0.2.53", 53),
        Address("2001:db8::53", 53),
        Address("fe80::1%2", 53),
    )


def test_no_resolv_conf(tmp_path):
    assert resolv.read(tmp_path / "none") == ()
    assert resolv.read(tmp_path) == ()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0nameserver\n" * 10)
    assert resolv.read(tmp_path / "binary") == ()


@given(st.text())
def test_any_resolv_conf(text):
    assert isinstance(resolv.parse(text), tuple)
