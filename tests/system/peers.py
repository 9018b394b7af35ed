"""The peers behind dwaarx: nsd as the authoritative server, and small HTTP servers with manners."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.system.processes import background, free_port, run

LONG_TXT = " ".join(f'"{index:03d}{"x" * 247}"' for index in range(20))  # 5,000 bytes of text

ZONE = f"""$ORIGIN example.org.
$TTL 300
@ SOA ns.example.org. admin.example.org. 1 3600 900 604800 60
@ NS ns.example.org.
ns A 192.0.2.1
www A 192.0.2.80
here A 127.0.0.1
www AAAA 2001:db8::80
alias CNAME www
long TXT {LONG_TXT}
* A 192.0.2.99
"""


@contextmanager
def nsd(folder: Path) -> Iterator[int]:
    """Serve example.org by a real nsd on 127.0.0.1; gives the port."""
    port = free_port()
    (folder / "zone").write_text(ZONE)
    configuration = folder / "nsd.conf"
    configuration.write_text(
        f"""server:
    ip-address: 127.0.0.1@{port}
    username: ""
    chroot: ""
    pidfile: ""
    database: ""
    zonesdir: "{folder}"
    xfrdir: "{folder}"
    zonelistfile: "{folder}/zone.list"
    xfrdfile: "{folder}/xfrd.state"
    server-count: 1
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: example.org
    zonefile: zone
"""
    )

    def ready() -> bool:
        answer = run("kdig", "+time=1", "+retry=0", f"@127.0.0.1#{port}", "www.example.org", "A",
                     "+short", check=False)  # fmt: skip
        return "192.0.2.80" in answer

    with background("nsd", "-d", "-c", configuration, ready=ready, log=folder / "nsd.log"):
        yield port


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def tcp_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run `answer` in a thread for each connection; gives the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):  # the other side went away: what the tests provoke
                answer(self.request)

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Peer:
    """A connection of an upstream, read by line and by length."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def head(self) -> tuple[str, dict[str, str]] | None:
        """Read a request's head: its first line, and its fields by lower-case name."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                return None
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in
                  (line.partition(":") for line in lines)}  # fmt: skip
        return first, fields

    def read(self, size: int) -> bytes:
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data or self.sock.recv(size)

    def respond(self, body: bytes, status: str = "200 OK", *fields: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
        self.sock.sendall("\r\n".join(lines).encode() + body)


def echo_head(sock: socket.socket) -> None:
    """Answer every request with its own head as text/plain."""
    peer = Peer(sock)
    while (seen := peer.head()) is not None:
        first, fields = seen
        left = int(fields.get("content-length", "0"))
        while left:
            left -= len(peer.read(left))
        text = "\n".join([first, *(f"{name}: {value}" for name, value in fields.items())])
        peer.respond(text.encode(), "200 OK", "Content-Type: text/plain")


def small_page(sock: socket.socket) -> None:
    """Answer every request with 1 KiB."""
    peer = Peer(sock)
    while peer.head() is not None:
        peer.respond(b"x" * 1024)
