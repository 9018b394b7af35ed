"""SIGHUP: sites, certificates, upstreams and listeners change live; nothing else does."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.peers import Peer, small_page, tcp_server
from tests.system.processes import PATIENCE, Service, free_port, listening, run, until

Serve = Callable[[str], Service]


def page(service: Service, port: int, host: str = "localhost") -> str:
    return run("curl", "-sS", "--cacert", service.ca, "--resolve", f"{host}:{port}:127.0.0.1",
               f"https://{host}:{port}/")  # fmt: skip


def site(port: int, text: str, host: str = "localhost") -> str:
    return f'{host}:{port} {{\n    bind 127.0.0.1\n    tls internal\n    respond "{text}"\n}}\n'


def test_sites_and_listeners_come_and_go(serve: Serve) -> None:
    first, second = free_port(), free_port()
    service = serve(site(first, "one"))
    assert page(service, first) == "one"
    assert not listening(second)

    service.write(site(first, "two") + site(first, "other", "other.localhost")
                  + site(second, "second"))  # fmt: skip
    service.hangup()
    assert page(service, first) == "two"
    assert page(service, first, "other.localhost") == "other"
    assert page(service, second) == "second"

    service.write(site(second, "second"))
    service.hangup()
    until("the first listener to close", lambda: not listening(first))
    assert page(service, second) == "second"


def test_an_open_connection_goes_on_and_sees_the_new_site(serve: Serve) -> None:
    port = free_port()
    service = serve(site(port, "one"))
    context = ssl.create_default_context(cafile=str(service.ca))
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)

    def get() -> bytes:
        connection.request("GET", "/")
        return connection.getresponse().read()

    assert get() == b"one"
    sock = connection.sock
    service.write(site(port, "two"))
    service.hangup()
    assert get() == b"two"
    assert connection.sock is sock  # the same connection all along


def test_upstreams_change(serve: Serve) -> None:
    port = free_port()

    def proxying(upstream: int) -> str:
        return (
            f"localhost:{port} {{\n bind 127.0.0.1\n tls internal\n"
            f" reverse_proxy 127.0.0.1:{upstream}\n}}\n"
        )

    service = serve(proxying(free_port()))
    with tcp_server(small_page) as upstream:
        service.write(proxying(upstream))
        service.hangup()
        assert page(service, port) == "x" * 1024


@pytest.mark.parametrize(
    ("broken", "place"),
    [
        ("localhost:{port} {{\n    tls internal\n    respnd hello\n}}\n", "Dwaarfile:7:5: "),
        ("localhost:{port} {{\n    tls internal\n", "Dwaarfile:5:"),
    ],
)
def test_an_invalid_file_is_reported_with_its_place_and_changes_nothing(
    serve: Serve, broken: str, place: str
) -> None:
    port = free_port()
    service = serve(site(port, "one"))
    service.write(broken.format(port=port))
    service.hangup()
    log = service.logged("reload refused")
    assert place in log
    assert page(service, port) == "one"
    answer = service.console("reloadConfig()", check=False)
    assert place in answer


def test_an_address_in_use_changes_nothing(serve: Serve) -> None:
    port = free_port()
    service = serve(site(port, "one"))
    with tcp_server(small_page) as taken:
        service.write(site(port, "two") + site(taken, "x"))
        service.hangup()
        assert f"cannot listen on 127.0.0.1:{taken}: Address already in use" in service.log()
    assert page(service, port) == "one"


def test_a_port_goes_from_one_address_to_every_address(serve: Serve) -> None:
    port = free_port()
    service = serve(site(port, "one"))
    service.write(site(port, "all").replace("    bind 127.0.0.1\n", ""))
    service.hangup()
    assert page(service, port) == "all"
    service.write(site(port, "one again"))
    service.hangup()
    assert page(service, port) == "one again"


def test_a_storm_of_sighups_under_load_fails_no_request(serve: Serve) -> None:
    port = free_port()
    service = serve(site(port, "one"))
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(run, "h2load", "-n", "20000", "-c", "10", "-m", "5",
                              f"https://127.0.0.1:{port}/")  # fmt: skip
        while not loading.done():
            os.kill(service.pid, signal.SIGHUP)
            time.sleep(0.02)
        assert " 20000 succeeded, 0 failed, 0 errored" in loading.result()
    service.logged("reloaded ")


def test_a_console_that_cannot_listen_refuses_the_reload(serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    service = serve(site(port, "one"))
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    with tcp_server(small_page) as taken:
        service.write(
            f"{{\n console ssh 127.0.0.1:{taken} {{ authorized_keys {tmp_path}/key.pub }}\n"
            f" http_port 0\n}}\n{site(port, 'two')}"
        )
        service.hangup()
        assert f"127.0.0.1:{taken}: the console cannot listen" in service.log()
        assert page(service, port) == "one"
        assert service.console("6 * 7") == "42\n"


def test_storage_cannot_change(serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    service = serve(site(port, "one"))
    text = service.dwaarfile.read_text().replace(str(service.storage), str(tmp_path / "other"))
    service.dwaarfile.write_text(text)
    service.hangup()
    assert "storage cannot change" in service.log()
    assert page(service, port) == "one"


def in_background(folder: Path, dwaarfile: str) -> tuple[str, Path]:
    """Start a service by `twistd` without -n; returns what it said, and its folder."""
    service = Service(folder, dwaarfile)
    said = run("twistd", "--logfile", folder / "log", "--pidfile", folder / "pid",
               "--rundir", "/", "dwaarx", "--config", service.dwaarfile, check=False)  # fmt: skip
    return said, service.storage


def test_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.chdir(tmp_path)
    said, storage = in_background(tmp_path, site(port, "one"))
    pid = int((tmp_path / "pid").read_text())
    assert said == ""
    try:
        # Its folder is / now: the Dwaarfile is found again all the same.
        answer = run("dwaarx", "console", "--socket", storage / "console.sock", "reloadConfig()")
        assert answer == "1 site, 1 listener\n"
    finally:
        os.kill(pid, signal.SIGTERM)
    until("the end", lambda: not (tmp_path / "pid").exists())
    assert not (storage / "console.sock").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_start_that_fails_in_the_background_says_so(tmp_path: Path) -> None:
    with tcp_server(small_page) as taken:
        said, _ = in_background(tmp_path, site(taken, "one"))
    assert f"cannot listen on 127.0.0.1:{taken}" in said
    log = (tmp_path / "log").read_text()
    assert f"dwaarx: cannot listen on 127.0.0.1:{taken}: Address already in use" in log
    assert "Traceback" not in log
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("twice", [False, True])
def test_sigterm_lets_a_request_finish_and_a_second_one_does_not(
    serve: Serve, *, twice: bool
) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow(sock: socket.socket) -> None:
        peer = Peer(sock)
        while peer.head() is not None:
            asked.set()
            go.wait(PATIENCE)
            peer.respond(b"done")

    port = free_port()
    with tcp_server(slow) as upstream, ThreadPoolExecutor() as pool:
        proxy = f"reverse_proxy 127.0.0.1:{upstream}"
        service = serve(site(port, "x").replace('respond "x"', proxy))
        getting = pool.submit(run, "curl", "-sS", "--cacert", service.ca,
                              f"https://localhost:{port}/", check=False)  # fmt: skip
        assert asked.wait(PATIENCE)
        os.kill(service.pid, signal.SIGTERM)
        until("the end of listening", lambda: not listening(port))
        assert not service.exited()
        if twice:
            os.kill(service.pid, signal.SIGTERM)
            service.logged("open connections: 1")
            assert "curl: " in getting.result()
        go.set()
        if not twice:
            assert getting.result() == "done"
        until("the end", service.exited)


def test_the_start_fails_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "Dwaarfile"
    file.write_text("localhost {\n    respnd hello\n}\n")
    said = run("twistd", "-n", "--pidfile=", "dwaarx", "--config", file, check=False)
    assert f"{file}:2:5: " in said
    assert "respond" in said  # the likely word
    assert "Traceback" not in said
