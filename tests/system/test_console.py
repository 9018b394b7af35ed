"""The console beyond the quick start: over SSH, changed live, and one for each storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.processes import Service, free_port, listening, run, until

Serve = Callable[[str], Service]


def dwaarfile(port: int, console: str = "") -> str:
    return f"""
{{
    http_port 0
    {console}
}}
localhost:{port} {{
    bind 127.0.0.1
    respond "hello"
}}
"""


def make_key(folder: Path, name: str) -> Path:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    return folder / name


def ssh(port: int, key: Path, expression: str) -> str:
    return run("ssh", "-p", str(port), "-i", key, "-F", "none", "-o", "IdentitiesOnly=yes",
               "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "operator@127.0.0.1", expression,
               check=False)  # fmt: skip


def test_over_ssh_with_authorized_keys(serve: Serve, tmp_path: Path) -> None:
    key, stranger = make_key(tmp_path, "key"), make_key(tmp_path, "stranger")
    keys = tmp_path / "authorized_keys"
    keys.write_text((tmp_path / "key.pub").read_text())
    port, ssh_port = free_port(), free_port()
    console = f"console ssh 127.0.0.1:{ssh_port} {{ authorized_keys {keys} }}"
    service = serve(dwaarfile(port, console))
    assert "dwaarx 0." in ssh(ssh_port, key, "showVersion()")
    assert "Permission denied" in ssh(ssh_port, stranger, "showVersion()")
    assert not (service.storage / "console.sock").exists()

    # From SSH to the socket, live; and a file that is no good changes nothing.
    service.write(dwaarfile(port))
    service.hangup()
    assert "dwaarx 0." in service.console("showVersion()")
    until("the SSH port to close", lambda: not listening(ssh_port))
    keys.write_text("no key\n")
    service.write(dwaarfile(port, console))
    service.hangup()
    assert "reload refused" in service.log()
    assert "dwaarx 0." in service.console("showVersion()")


def test_a_second_service_on_one_storage_says_why_it_ends(serve: Serve, tmp_path: Path) -> None:
    service = serve(dwaarfile(free_port()))
    other = tmp_path / "other"
    text = service.dwaarfile.read_text()
    other.write_text(text[: text.index("localhost:")] + f"localhost:{free_port()} {{\n"
                     " bind 127.0.0.1\n respond other\n}\n")  # fmt: skip
    said = run("twistd", "-n", "--pidfile=", "dwaarx", "--config", other, check=False)
    assert "another dwaarx" in said
    assert "Traceback" not in said
    assert "hello" in run("dwaarx", "console", "--socket", service.storage / "console.sock",
                          "'hello'")  # fmt: skip


def test_console_off(serve: Serve) -> None:
    service = serve(dwaarfile(free_port(), "console off"))
    assert not (service.storage / "console.sock").exists()
    assert "no dwaarx is listening" in service.console("1", check=False)


@pytest.mark.parametrize(
    ("lines", "said"),
    [("a = 20\na + 22\n", "42\n"), ("print('one')\n1/0\n", "ZeroDivisionError")],
)
def test_expressions_from_a_pipe(serve: Serve, lines: str, said: str) -> None:
    service = serve(dwaarfile(free_port()))
    answer = run("dwaarx", "console", "--config", service.dwaarfile, stdin=lines, check=False)
    assert said in answer
