"""config/quickstart.Dwaarfile as `make run` starts it, but on ports of the test's own."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import (
    PATIENCE,
    Service,
    free_port,
    openssl_client,
    program,
    run,
    serving,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {"8443": free_port(), "8853": free_port(), "8080": free_port()}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int]) -> Iterator[Service]:
    text = (ROOT / "config" / "quickstart.Dwaarfile").read_text()
    text = re.sub(r"\b(8443|8853|8080)\b", lambda match: str(ports[match[1]]), text)
    text = re.sub(r"(?m)^\s*(#.*)?\n", "", text)
    with serving(tmp_path_factory.mktemp("quickstart"), text) as running:
        yield running


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_page_with_a_staple(
    service: Service, ports: dict[str, int], version: str, host: str
) -> None:
    page = run("curl", "-sS", "--cacert", service.ca, "--cert-status", version, "-w",
               "%{http_version}", f"https://{host}:{ports['8443']}/")  # fmt: skip
    assert "dwaarx" in page
    assert page.endswith(version.removeprefix("--http").removesuffix(".0"))


def test_plain_http_redirects(service: Service, ports: dict[str, int]) -> None:
    answer = run("curl", "-sSI", f"http://localhost:{ports['8080']}/a?b")
    assert "308" in answer.split("\n")[0]
    assert f"location: https://localhost:{ports['8443']}/a?b" in answer.lower()


@pytest.mark.parametrize("way", [("8853", "+tls"), ("8443", "+tls"), ("8443", "+https")])
def test_local_records(service: Service, ports: dict[str, int], way: tuple[str, str]) -> None:
    answer = run("kdig", f"@127.0.0.1#{ports[way[0]]}", way[1], f"+tls-ca={service.ca}",
                 "+tls-hostname=localhost", "+short", "hello.test")  # fmt: skip
    assert answer == "127.0.0.1\n"


@pytest.mark.parametrize("words", [(), ("-alpn", "dot")])
@pytest.mark.parametrize("port", ["8443", "8853"])
def test_openssl_sees_the_staple(
    service: Service, ports: dict[str, int], port: str, words: tuple[str, ...]
) -> None:
    said = openssl_client(ports[port], "-servername", "localhost", *words, ca=service.ca)
    assert "OCSP Response Status: successful (0x0)" in said
    assert "Cert Status: good" in said
    assert "Verification: OK" in said


def test_console_one_shot(service: Service) -> None:
    assert "internal" in service.console("showCertificates()")
    assert service.console("1 + 1") == "2\n"
    failed = service.console("reloadConfg()", check=False)
    assert "NameError" in failed
    done = subprocess.run(
        [program("dwaarx"), "console", "--socket", str(service.storage / "console.sock"), "1/0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ZeroDivisionError" in done.stderr


def test_console_socket_is_private(service: Service) -> None:
    assert (service.storage / "console.sock").stat().st_mode & 0o777 == 0o600


def test_interactive_console(service: Service) -> None:
    """A real terminal: a banner, completion by Tab, colour, and the end by Ctrl-D."""
    master, slave = pty.openpty()
    client = subprocess.Popen(
        [program("dwaarx"), "console", "--socket", str(service.storage / "console.sock")],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(slave)
    seen = b""

    def see(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(master, 4096)

    see(b">>> ")
    os.write(master, b"showVer\t")
    see(b"sion")
    os.write(
        master, b")\r" if b"showVersion(" in re.sub(rb"\x1b\[[0-9;]*m", b"", seen) else b"()\r"
    )
    see(b"dwaarx 0.")
    assert b"\x1b[" in seen
    os.write(master, b"\x04")
    assert client.wait(PATIENCE) == 0
    os.close(master)


def test_chromium_shows_the_page(service: Service, ports: dict[str, int], tmp_path: Path) -> None:
    page = run("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
               "--no-first-run", "--disable-background-networking", "--disable-component-update",
               "--disable-sync", "--ignore-certificate-errors", f"--user-data-dir={tmp_path}",
               "--virtual-time-budget=5000", "--dump-dom",
               f"https://localhost:{ports['8443']}/")  # fmt: skip
    assert "dwaarx" in page
    assert "<html" in page
