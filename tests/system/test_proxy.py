"""The reverse proxy with real clients and upstreams with manners."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as websocket_server

from tests.system.peers import Peer, echo_head, tcp_server
from tests.system.processes import Service, free_port, program, run, serving, until

GIB = 1 << 30
# What the proxy may hold of a body that one side takes slowly: socket buffers, HTTP/2 windows.
FLAT = 24 << 20


@pytest.fixture
def port() -> int:
    return free_port()


def proxying(port: int, *upstreams: int, options: str = "") -> str:
    to = " ".join(f"127.0.0.1:{upstream}" for upstream in upstreams)
    return f"""
localhost:{port} {{
    bind 127.0.0.1
    tls internal
    reverse_proxy {{
        to {to}
        {options}
    }}
}}
"""


def curl(service: Service, *words: str | Path, check: bool = True) -> str:
    return run("curl", "-sS", "--cacert", service.ca, *words, check=check)


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_head_as_the_upstream_sees_it(tmp_path: Path, port: int, version: str) -> None:
    with tcp_server(echo_head) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        seen = curl(service, version, f"https://localhost:{port}/a/b?c=d",
                    "-H", "X-Forwarded-For: 6.6.6.6", "-H", "Connection: close, x-hop",
                    "-H", "X-Hop: 1", "-H", "Keep-Alive: 1", "-H", "X-Kept: yes")  # fmt: skip
        lines = seen.split("\n")
        assert lines[0] == "GET /a/b?c=d HTTP/1.1"
        assert f"host: localhost:{port}" in lines
        assert "x-forwarded-for: 127.0.0.1" in lines
        assert "x-forwarded-proto: https" in lines
        assert f"x-forwarded-host: localhost:{port}" in lines
        assert "x-kept: yes" in lines
        # curl sends no Connection field over HTTP/2, so there X-Hop is a field like any other.
        assert ("x-hop: 1" in lines) is (version == "--http2")
        assert "chunked" not in seen
        assert not re.search(r"^(keep-alive|upgrade|te):|6\.6\.6\.6", seen, re.MULTILINE)


def test_round_robin(tmp_path: Path, port: int) -> None:
    def answer(name: bytes):
        def one(sock: socket.socket) -> None:
            peer = Peer(sock)
            while peer.head() is not None:
                peer.respond(name)

        return one

    with (
        tcp_server(answer(b"a")) as first,
        tcp_server(answer(b"b")) as second,
        serving(tmp_path, proxying(port, first, second)) as service,
    ):
        url = f"https://localhost:{port}/"
        assert sorted(curl(service, url, url, url, url)) == ["a", "a", "b", "b"]


def test_an_upstream_that_is_down_is_passed_over(tmp_path: Path, port: int) -> None:
    with (
        tcp_server(echo_head) as upstream,
        serving(tmp_path, proxying(port, free_port(), upstream)) as service,
    ):
        url = f"https://localhost:{port}/"
        for _ in range(3):
            assert "GET / HTTP/1.1" in curl(service, url)


def nonsense(sock: socket.socket) -> None:
    Peer(sock).head()
    sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def two_lengths(sock: socket.socket) -> None:
    Peer(sock).head()
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")


def closes(sock: socket.socket) -> None:
    Peer(sock).head()


@pytest.mark.parametrize("answer", [nonsense, two_lengths, closes])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_bad_upstreams_are_502(tmp_path: Path, port: int, answer, version: str) -> None:
    with tcp_server(answer) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        status = curl(service, version, "-o", "/dev/null", "-w", "%{http_code}",
                      f"https://localhost:{port}/")  # fmt: skip
        assert status == "502"


def test_unreachable_is_502(tmp_path: Path, port: int) -> None:
    with serving(tmp_path, proxying(port, free_port())) as service:
        status = curl(service, "-o", "/dev/null", "-w", "%{http_code}", f"https://localhost:{port}")
        assert status == "502"


def test_silent_upstream_is_504(tmp_path: Path, port: int) -> None:
    def silent(sock: socket.socket) -> None:
        Peer(sock).head()
        sock.recv(1)

    options = "transport http { response_header_timeout 500ms }"
    with (
        tcp_server(silent) as upstream,
        serving(tmp_path, proxying(port, upstream, options=options)) as service,
    ):
        status = curl(service, "-o", "/dev/null", "-w", "%{http_code}", f"https://localhost:{port}")
        assert status == "504"


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_truncated_response_is_seen_as_such(tmp_path: Path, port: int, version: str) -> None:
    def cut(sock: socket.socket) -> None:
        Peer(sock).head()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with tcp_server(cut) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        done = subprocess.run(
            ["curl", "-sS", version, "--cacert", str(service.ca), f"https://localhost:{port}/"],
            capture_output=True,
            timeout=30,
        )
        assert done.returncode in (18, 56, 92), done  # partial file; receive error; stream error


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_events_arrive_as_they_are_sent(tmp_path: Path, port: int, version: str) -> None:
    go_on = threading.Event()

    def events(sock: socket.socket) -> None:
        Peer(sock).head()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert go_on.wait(20)
        sock.sendall(b"data: 2\n\n")

    with tcp_server(events) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        client = subprocess.Popen(
            ["curl", "-sSN", version, "--cacert", str(service.ca), f"https://localhost:{port}/"],
            stdout=subprocess.PIPE,
        )
        assert client.stdout is not None
        # The second event is sent only once the first has arrived.
        assert client.stdout.readline() == b"data: 1\n"
        go_on.set()
        assert client.stdout.read() == b"\ndata: 2\n\n"
        assert client.wait(20) == 0


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_early_rejection_of_an_upload(tmp_path: Path, port: int, version: str) -> None:
    def reject(sock: socket.socket) -> None:
        peer = Peer(sock)
        peer.head()
        peer.respond(b"too large", "413 Content Too Large", "Connection: close")

    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(200 << 20)
    with tcp_server(reject) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        answer = curl(service, version, "-H", "Expect:", "-T", big, "-w", " %{http_code}",
                      f"https://localhost:{port}/up")  # fmt: skip
        assert answer == "too large 413"
        # The service is well, and so is the next request.
        assert curl(service, "-w", " %{http_code}", f"https://localhost:{port}/") == "too large 413"


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_upload_with_expect_and_without(tmp_path: Path, port: int, version: str) -> None:
    body = os.urandom(3 << 20)
    (tmp_path / "body").write_bytes(body)
    received: list[bytes] = []

    def take(sock: socket.socket) -> None:
        peer = Peer(sock)
        while (seen := peer.head()) is not None:
            if "expect" in seen[1]:
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            left = int(seen[1]["content-length"])
            pieces = []
            while left:
                pieces.append(peer.read(min(left, 65536)))
                left -= len(pieces[-1])
            received.append(b"".join(pieces))
            peer.respond(b"thanks")

    with tcp_server(take) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        for expect in ("Expect: 100-continue", "Expect:"):
            assert curl(service, version, "-H", expect, "-T", tmp_path / "body",
                        f"https://localhost:{port}/up") == "thanks"  # fmt: skip
    assert received == [body, body]


@pytest.mark.load
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_download_of_a_gibibyte_to_a_slow_client(tmp_path: Path, port: int, version: str) -> None:
    sent = 0

    def pour(sock: socket.socket) -> None:
        nonlocal sent
        Peer(sock).head()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
        piece = b"x" * (1 << 20)
        for _ in range(GIB >> 20):
            sock.sendall(piece)
            sent += len(piece)

    with tcp_server(pour) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        curl(service, version, "-o", "/dev/null", "-r", "0-0", "--max-filesize", "1",
             f"https://localhost:{port}/", check=False)  # fmt: skip
        sent = 0
        before = service.memory()
        client = subprocess.Popen(
            ["curl", "-sS", version, "--cacert", str(service.ca), f"https://localhost:{port}/"],
            stdout=subprocess.PIPE,
        )
        assert client.stdout is not None
        got = len(client.stdout.read(1 << 20))
        # The client reads no more: the upstream must soon be held back, with all memory flat.
        held = -1

        def settled() -> bool:
            nonlocal held
            same, held = sent == held, sent
            time.sleep(0.3)
            return same

        until("the upstream to be held back", settled)
        assert sent < 64 << 20  # the kernel's socket buffers on the way, and no more
        assert service.memory() - before < FLAT
        highest = 0
        while piece := client.stdout.read(1 << 20):
            got += len(piece)
            highest = max(highest, service.memory())
        assert client.wait(20) == 0
        assert got == GIB
        assert highest - before < FLAT


@pytest.mark.load
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_upload_of_a_gibibyte_to_a_slow_upstream(tmp_path: Path, port: int, version: str) -> None:
    go_on = threading.Event()
    taken = 0

    def take(sock: socket.socket) -> None:
        nonlocal taken
        peer = Peer(sock)
        peer.head()
        assert go_on.wait(60)
        left = GIB - len(peer.buffer)
        while left:
            size = len(sock.recv(min(left, 1 << 20)))
            left -= size
            taken += size
        peer.respond(b"thanks")

    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(GIB)
    with tcp_server(take) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        before = service.memory()
        client = subprocess.Popen(
            ["curl", "-sS", version, "-H", "Expect:", "--cacert", str(service.ca), "-T", str(big),
             f"https://localhost:{port}/up"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        # Nothing is taken yet: what has been sent waits at the client, not in the proxy.
        for _ in range(10):
            time.sleep(0.1)
            assert service.memory() - before < FLAT
        go_on.set()
        highest = 0
        while client.poll() is None:
            highest = max(highest, service.memory())
            time.sleep(0.05)
        assert client.stdout is not None
        assert client.stdout.read() == b"thanks"
        assert highest - before < FLAT


@pytest.fixture
def websocket_upstream() -> Iterator[int]:
    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websocket_server(echo, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


def test_websocket_echo(tmp_path: Path, port: int, websocket_upstream: int) -> None:
    with serving(tmp_path, proxying(port, websocket_upstream)) as service:

        async def talk() -> None:
            context = ssl.create_default_context(cafile=str(service.ca))
            url = f"wss://localhost:{port}/chat"
            async with connect(url, ssl=context, max_size=None) as socket_:
                for message in ("hello", "x" * 3_000_000, b"\x00\x01" * 1000):
                    await socket_.send(message)
                    assert await socket_.recv() == message
                await socket_.ping()

        asyncio.run(asyncio.wait_for(talk(), 30))


def test_last_words_in_a_tunnel_arrive(tmp_path: Path, port: int) -> None:
    """A WebSocket's Close frame, say, right before the client closes TLS."""
    heard: list[bytes] = []

    def listen(sock: socket.socket) -> None:
        Peer(sock).head()
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n"
                     b"Connection: upgrade\r\nUpgrade: words\r\n\r\n")  # fmt: skip
        words = b""
        while data := sock.recv(65536):
            words += data
        heard.append(words)

    with tcp_server(listen) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        context = ssl.create_default_context(cafile=str(service.ca))
        for _ in range(10):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=20) as sock,
                context.wrap_socket(sock, server_hostname="localhost") as client,
            ):
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n"
                               b"Connection: upgrade\r\nUpgrade: words\r\n\r\n")  # fmt: skip
                assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
                client.sendall(b"x" * 200_000)
        until("the last words", lambda: len(heard) == 10)
    assert {len(words) for words in heard} == {200_000}


def test_a_client_that_goes_away_ends_its_upstream_request(tmp_path: Path, port: int) -> None:
    ended = threading.Event()

    def drip(sock: socket.socket) -> None:
        Peer(sock).head()
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                sock.sendall(b"drip\n")
                time.sleep(0.05)
        except OSError:
            ended.set()

    with tcp_server(drip) as upstream, serving(tmp_path, proxying(port, upstream)) as service:
        client = subprocess.Popen(
            [program("curl"), "-sSN", "--cacert", str(service.ca), f"https://localhost:{port}/"],
            stdout=subprocess.PIPE,
        )
        assert client.stdout is not None
        assert client.stdout.readline() == b"drip\n"
        client.send_signal(signal.SIGKILL)
        client.wait()
        assert ended.wait(10)
