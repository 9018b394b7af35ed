"""The servers that are measured: dwaarx as twistd runs it, and nginx if it is installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from storages import server_name
from tls_client import Client

CHECKOUT = Path(__file__).resolve().parent.parent

# A start with 100,000 names takes seconds; this is for a hang.
PATIENCE = 120.0

_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Memory:
    """Resident memory in MB (10**6 bytes): now, and the most there was."""

    now: float
    most: float


@attrs.define
class Server:
    """A running server; `start` is how long it took to answer, in seconds of time and of CPU."""

    process: subprocess.Popen[bytes]
    port: int
    pids: tuple[int, ...]
    start: float = 0.0
    start_cpu: float = 0.0
    first_handshake: float = 0.0

    def cpu(self) -> float:
        """Return the CPU time that its processes have used, in seconds."""
        used = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
        return used / _TICKS

    def memory(self) -> Memory:
        """Return the memory of its processes together."""
        total = {"VmRSS": 0, "VmHWM": 0}
        for pid in self.pids:
            status = Path(f"/proc/{pid}/status").read_text()
            for key in total:
                match = re.search(rf"{key}:\s+(\d+) kB", status)
                assert match
                total[key] += int(match[1]) * 1024
        return Memory(total["VmRSS"] / 1e6, total["VmHWM"] / 1e6)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def _running(
    words: list[str | Path], port: int, log: Path, environ: dict[str, str] | None = None
) -> Iterator[Server]:
    """Run a server until the block ends, from when its port answers."""
    begin = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environ,
        )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                late = time.perf_counter() - begin > PATIENCE
                if late or process.poll() is not None:
                    raise SystemExit(f"{words[0]} does not start:\n{log.read_text()}") from None
                time.sleep(0.002)
        server = Server(process, port, (process.pid,), time.perf_counter() - begin)
        server.start_cpu = server.cpu()
        Client(port).handshake(server_name(0), look=True)
        server.first_handshake = time.perf_counter() - begin
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def dwaarx(storage: Path, names: int, layout: str) -> Iterator[Server]:
    """Run dwaarx with a storage; layout `one` is a site of all names, `each` one for each name.

    Nothing happens besides: certificates and staples are fresh, so that nothing is due; the CA
    refuses connections, and responders on loopback are refused by dwaarx.
    """
    port, plain = free_port(), free_port()
    hosts = [server_name(number) for number in range(names)]
    body = "\n    respond hello\n}\n"
    sites = f"{', '.join(hosts)} {{{body}"
    if layout == "each":
        sites = "".join(f"{host} {{{body}" for host in hosts)
    file = storage / "Dwaarfile"
    file.write_text(
        f"{{\n    storage {storage}\n    http_port {plain}\n    https_port {port}\n"
        f"    bind 127.0.0.1\n    acme_ca https://127.0.0.1:9/directory\n}}\n{sites}"
    )
    twistd = Path(sys.executable).with_name("twistd")
    words = [twistd, "-n", "--pidfile=", "dwaarx", "--config", file]
    environ = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with _running(words, port, storage / "log", environ) as server:
        yield server


def console(storage: Path, expression: str) -> str:
    """Evaluate an expression, or a statement, on the console of a running dwaarx."""
    words = [Path(sys.executable).with_name("dwaarx"), "console"]
    words += ["--socket", storage / "console.sock", expression]
    environ = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise SystemExit(f"console: {done.stderr}")
    return done.stdout.strip()


def nginx_program() -> str | None:
    """Return where nginx is, None if it is not installed."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def nginx(program: str, storage: Path) -> Iterator[Server]:
    """Run nginx with the first certificate and staple of a storage, in one process."""
    port = free_port()
    folder = storage / "nginx"
    folder.mkdir(exist_ok=True)
    pair = storage / "certificates" / f"{server_name(0)}.pem"
    (staple,) = (storage / "ocsp").iterdir()
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {pair}; ssl_certificate_key {pair};
        ssl_stapling on; ssl_stapling_file {staple};
        return 200 hello;
    }}
}}
"""
    )
    words = [program, "-p", folder, "-c", folder / "nginx.conf"]
    with _running(words, port, folder / "log") as server:
        yield server
