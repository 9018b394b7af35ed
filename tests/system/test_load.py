"""Load by h2load and dnsperf: no error, flat memory, and reloads in the middle of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.peers import small_page, tcp_server
from tests.system.processes import Service, free_port, program, run, serving

pytestmark = pytest.mark.load

# What the process may grow by over a load after it was warmed up: caches and arenas, no leak.
FLAT = 12 << 20


@pytest.fixture
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def service(tmp_path: Path, ports: tuple[int, int]) -> Iterator[Service]:
    https, dot = ports
    with (
        tcp_server(small_page) as upstream,
        serving(
            tmp_path,
            f"""
localhost:{https} {{
    bind 127.0.0.1
    tls internal
    dns_over_tls 127.0.0.1:{dot}
    dns_over_https
    handle /hello {{
        respond "hello"
    }}
    reverse_proxy 127.0.0.1:{upstream}
}}
resolvers {{
    record hello.test A 127.0.0.1
}}
""",
        ) as running,
    ):
        yield running


def h2load_words(port: int, path: str, *words: str, requests: int = 10_000) -> list[str]:
    return ["-n", str(requests), "-c", "8", "-m", "16", *words, f"https://localhost:{port}{path}"]


def assert_all_succeeded(output: str, requests: int) -> None:
    assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in output, output
    assert f"status codes: {requests} 2xx" in output, output


@pytest.mark.parametrize("version", [[], ["--h1"]], ids=["h2", "h1"])
@pytest.mark.parametrize("path", ["/hello", "/proxied"])
def test_ten_thousand_requests(
    service: Service, ports: tuple[int, int], version: list[str], path: str
) -> None:
    words = h2load_words(ports[0], path, *version)
    assert_all_succeeded(run("h2load", *words, timeout=120), 10_000)
    before = service.memory()
    assert_all_succeeded(run("h2load", *words, timeout=120), 10_000)
    assert service.memory() - before < FLAT


def test_uploads_that_nobody_reads(
    service: Service, ports: tuple[int, int], tmp_path: Path
) -> None:
    """More than a window each: who sends all before it reads must not wait for the next one."""
    body = tmp_path / "body"
    body.write_bytes(bytes(600_000))
    words = ["-n", "400", "-c", "4", "-m", "8", "-d", str(body)]
    for _ in range(2):
        before = service.memory()
        output = run("h2load", *words, f"https://localhost:{ports[0]}/hello", timeout=60)
        assert_all_succeeded(output, 400)
    assert service.memory() - before < FLAT
    answer = run("curl", "-sS", "--http2", "--cacert", service.ca, "-H", "Expect:", "-T", body,
                 f"https://localhost:{ports[0]}/hello", timeout=30)  # fmt: skip
    assert answer == "hello"


def dnsperf_words(tmp_path: Path, port: int, queries: int) -> list[str]:
    (tmp_path / "queries").write_text("hello.test A\n" * 100)
    return ["-m", "dot", "-s", "127.0.0.1", "-p", str(port), "-d", str(tmp_path / "queries"),
            "-n", str(queries // 100), "-c", "4", "-q", "200", "-t", "5"]  # fmt: skip


def assert_all_answered(output: str, queries: int) -> None:
    assert re.search(rf"Queries completed:\s+{queries} \(100", output), output
    assert re.search(r"Queries lost:\s+0 \(", output), output
    assert re.search(r"Response codes:\s+NOERROR \d+ \(100.00%\)", output), output


def test_fifty_thousand_dot_queries(
    service: Service, ports: tuple[int, int], tmp_path: Path
) -> None:
    words = dnsperf_words(tmp_path, ports[1], 50_000)
    assert_all_answered(run("dnsperf", *words, timeout=120), 50_000)
    before = service.memory()
    assert_all_answered(run("dnsperf", *words, timeout=120), 50_000)
    assert service.memory() - before < FLAT


@pytest.mark.parametrize("version", [[], ["--h1"]], ids=["h2", "h1"])
def test_hangup_in_the_middle_of_the_load(
    service: Service, ports: tuple[int, int], tmp_path: Path, version: list[str]
) -> None:
    text = service.dwaarfile.read_text()
    clients = [
        subprocess.Popen([program("h2load"), *h2load_words(ports[0], "/proxied", *version,
                                                           requests=20_000)],
                         stdout=subprocess.PIPE, text=True),
        subprocess.Popen([program("dnsperf"), *dnsperf_words(tmp_path, ports[1], 100_000)],
                         stdout=subprocess.PIPE, text=True),
    ]  # fmt: skip
    reloads = 0
    while any(client.poll() is None for client in clients):
        # Each time another listener comes or goes, and a site changes.
        more = f'\nhttp://localhost:{free_port()} {{\n bind 127.0.0.1\n respond "more"\n}}\n'
        extra = f'\nother.localhost:{ports[0]} {{\n bind 127.0.0.1\n respond "{reloads}"\n}}\n'
        service.dwaarfile.write_text(text + extra + (more if reloads % 2 else ""))
        service.hangup()
        reloads += 1
    assert reloads >= 2
    assert "reload refused" not in service.log()
    h2load, dnsperf = (client.communicate(timeout=120)[0] for client in clients)
    assert_all_succeeded(h2load, 20_000)
    assert_all_answered(dnsperf, 100_000)
