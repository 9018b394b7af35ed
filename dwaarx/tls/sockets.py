"""Listening sockets: bound before anything is changed, and handed to the reactor afterwards."""

from __future__ import annotations

import errno
import socket

from dwaarx.config.model import Address
from dwaarx.words import reason_of

# The kernel caps it by net.core.somaxconn (4096 on current kernels): let it decide.
BACKLOG = 4096


class BindError(Exception):
    """An address cannot be listened on: the address and the reason."""

    def __init__(self, address: Address, error: OSError) -> None:
        super().__init__(f"cannot listen on {address}: {reason_of(error)}")


def bind_stream(address: Address) -> socket.socket:
    """Return a listening, non-blocking TCP socket; host "" is every address, IPv6 and IPv4.

    What is accepted from it has TCP_NODELAY (Linux lets it be inherited): answers go out in one
    write a turn, so Nagle's algorithm could only delay them. Raises BindError.
    """
    host, port = address.host, address.port
    try:
        if host:
            return _bind(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port)
        try:
            return _bind(socket.AF_INET6, "::", port)
        except OSError as error:
            # A kernel without IPv6; any other error would only come again.
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _bind(socket.AF_INET, "", port)
    except OSError as error:
        raise BindError(address, error) from error


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
