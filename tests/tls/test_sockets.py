from __future__ import annotations

import errno
import socket

import pytest

from dwaarx.config.model import Address
from dwaarx.tls import sockets
from dwaarx.tls.sockets import BindError, bind_stream


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])
def test_listens(host: str) -> None:
    with bind_stream(Address(host, 0)) as sock:
        port = sock.getsockname()[1]
        assert not sock.getblocking()
        with socket.create_connection((host or "127.0.0.1", port), timeout=5):
            accepted, _ = sock.accept()
            with accepted:
                # Inherited from the listening socket: no Nagle.
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_every_address_is_both_versions() -> None:
    with bind_stream(Address("", 0)) as sock:
        port = sock.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()


def test_an_address_in_use_is_named() -> None:
    with bind_stream(Address("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(BindError) as caught:
            bind_stream(Address("127.0.0.1", port))
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize(
    ("host", "where"), [("::ffff", r"\[::ffff\]:80"), ("203.0.113.1", "203.0.113.1:80")]
)
def test_an_address_of_others_is_named(host: str, where: str) -> None:
    with pytest.raises(BindError, match=f"cannot listen on {where}: "):
        bind_stream(Address(host, 80))


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def no_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(sockets.socket, "socket", no_ipv6)
    with bind_stream(Address("", 0)) as sock:
        assert sock.family == socket.AF_INET
