from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from dwaarx.certs.acme import bounded
from dwaarx.certs.acme.bounded import MAX_BYTES, BoundedReader
from dwaarx.certs.acme.network import Network
from dwaarx.certs.acme.problems import CaError
from dwaarx.config.model import AcmeCa

Talk = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_comes_in_time_is_read(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.settimeout(7)
    reader = BoundedReader(ours)
    theirs.sendall(b"abc")
    assert reader.read(2) == b"ab"
    assert reader.read(2) == b"c"
    theirs.shutdown(socket.SHUT_WR)
    assert reader.read(2) == b""
    assert ours.gettimeout() == 7
    reader.close()
    assert reader.closed


def test_a_byte_now_and_then_has_an_end(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    now = 0.0
    reader = BoundedReader(ours, lambda: now)
    for _ in range(3):
        theirs.sendall(b"x")
        assert reader.read(1) == b"x"
        now += 9.9
    theirs.sendall(b"x")
    assert reader.read(1) == b"x"
    now = 30.0
    theirs.sendall(b"x")
    with pytest.raises(CaError, match="takes longer than 30 s"):
        reader.read(1)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_silence_up_to_the_deadline(
    ends: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    timeout: float | None,
) -> None:
    monkeypatch.setattr(bounded, "DEADLINE", 0.02)
    ends[0].settimeout(timeout)
    with pytest.raises(CaError, match="takes longer than"):
        BoundedReader(ends[0]).read(1)
    assert ends[0].gettimeout() == timeout


def test_silence_for_as_long_as_the_socket_waits(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].settimeout(0.01)
    with pytest.raises(TimeoutError):
        BoundedReader(ends[0]).read(1)


@contextlib.contextmanager
def serving(talk: Talk) -> Iterator[str]:
    """Answer one connection; yields the URL."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/directory"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def get(talk: Talk) -> bytes:
    with serving(talk) as url, contextlib.closing(Network(AcmeCa(url), threading.Event())) as net:
        return net.get(url).body


def forever(data: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        while True:
            connection.sendall(data)

    return talk


def test_an_answer_as_it_should_be() -> None:
    head = OK + b"Content-Length: 2\r\n\r\n"
    assert get(lambda connection: connection.sendall(head + b"{}")) == b"{}"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * (MAX_BYTES // 4),
    ],
    ids=["interim answers", "trailers"],
)
def test_what_stands_around_a_body_is_bounded(data: bytes) -> None:
    with pytest.raises(CaError, match=f"larger than {MAX_BYTES} bytes"):
        get(forever(data))


@pytest.mark.parametrize("status", [b"200 OK", b"302 Found", b"400 Bad Request"])
def test_nothing_is_unpacked(status: bytes) -> None:
    """Two kilobytes become a gigabyte, also in the body of a redirect that nobody follows."""
    body = gzip.compress(b"{}")
    head = (
        b"HTTP/1.1 %b\r\nLocation: https://elsewhere.test/\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n" % (status, len(body))
    )
    with pytest.raises(CaError, match=r"is packed \(gzip\)"):
        get(lambda connection: connection.sendall(head + body))


def test_the_body_of_a_redirect_is_read_by_nobody_else() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.test/\r\n\r\n"
    with pytest.raises(CaError, match="larger than 262144"):
        get(forever(head + b"x" * 65536))
