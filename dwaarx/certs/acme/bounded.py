"""How long a CA's answer may take, and how large it may be: head, body, and all around them.

requests has a timeout for each read, which a byte now and then outlives; and heads, interim
answers and trailers are read for as long as they come.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import TYPE_CHECKING, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from dwaarx.certs.acme.problems import CaError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# In seconds. CAs that sign while one waits take some.
DEADLINE = 30.0
# Twice what a body may be, for what comes around it.
MAX_BYTES = 512 * 1024


class BoundedReader(io.RawIOBase):
    """Reads one answer from a socket; raises CaError when it is too large or takes too long."""

    def __init__(self, sock: socket.socket, timer: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._timer = timer
        self._end = timer() + DEADLINE
        self._left = MAX_BYTES

    def readable(self) -> bool:
        """As any reader."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Wait for what comes next: as long as the socket would, and the deadline leaves."""
        timeout = self._socket.gettimeout()
        left = self._end - self._timer()
        if left <= 0:
            raise _late()
        self._socket.settimeout(left if timeout is None else min(left, timeout))
        try:
            count = self._raw.readinto(buffer)
        except TimeoutError:
            if self._timer() < self._end:
                raise
            raise _late() from None
        finally:
            self._socket.settimeout(timeout)  # the next request is sent by it
        self._left -= count or 0
        if self._left < 0:
            raise CaError(f"its answer is larger than {MAX_BYTES} bytes")
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()


def _late() -> CaError:
    return CaError(f"its answer takes longer than {DEADLINE:.0f} s")


class _Source:
    """What an answer takes for a socket, of which it wants but a file."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(BoundedReader(self._socket))


class _Response(HTTPResponse):
    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(cast("socket.socket", _Source(sock)), debuglevel, method, url)


class _PlainConnection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class BoundedSession(requests.Session):
    """A session whose answers are bounded, and whose redirects are nobody's business."""

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("https://", "http://"):
            adapter = HTTPAdapter()
            adapter.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Name none: even where none is followed, the body of one would be read, and unpacked."""
