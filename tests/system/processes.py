"""Programs that the system tests start and end: dwaarx itself, and its real peers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

# A start, an answer: much longer than any takes, and short enough that a hang is seen.
PATIENCE = 30.0


def program(name: str) -> str:
    """Return the path of a program; `make test` has installed it, so its absence is a failure."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    assert found, f"{name} is not installed: run `make test`, or tools/apt-packages test"
    return found


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that the kernel picked, free for TCP and UDP on 127.0.0.1 and ::1."""
    while True:
        with socket.socket(socket.AF_INET6, kind) as first:
            first.bind(("::1", 0))
            port: int = first.getsockname()[1]
            try:
                for other in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET, other) as second:
                        second.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(what: str, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Look again and again until there is something to see; fails when patience is over."""
    end = time.monotonic() + patience
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"waited {patience} s in vain: {what}"
        time.sleep(0.02)


def listening(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def run(*words: str | Path, check: bool = True, stdin: str = "", timeout: float = 60) -> str:
    """Run a program to its end and return what it printed on both outputs."""
    done = subprocess.run(
        [program(str(words[0])), *map(str, words[1:])],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        text=True,
        errors="replace",
    )
    assert not check or done.returncode == 0, (
        f"{words} ended with {done.returncode}:\n{done.stdout}"
    )
    return done.stdout


class Service:
    """A dwaarx of the test's own: `twistd -n dwaarx --config …` with its files in one folder."""

    def __init__(self, folder: Path, dwaarfile: str) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        self.dwaarfile = folder / "Dwaarfile"
        self.log_file = folder / "log"
        self.write(dwaarfile)
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0  # where the log of the present process begins

    def write(self, dwaarfile: str) -> None:
        """Write the Dwaarfile; `storage` is added to its global options."""
        text = dwaarfile.strip() + "\n"
        if re.match(r"\{\s*\n", text):
            text = re.sub(r"\A\{\s*\n", f"{{\n    storage {self.storage}\n", text)
        else:
            text = f"{{\n    storage {self.storage}\n    http_port 0\n}}\n{text}"
        self.dwaarfile.write_text(text)

    def start(self) -> None:
        """Start it, after a stop or `kill` once more, and wait until it serves."""
        self.launch()
        until("the service's start", lambda: self.exited() or self._serves())
        assert not self.exited(), self.log()

    def launch(self) -> None:
        """Start it and wait for nothing: for the very first connection."""
        self._begun = len(self.log()) if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [program("twistd"), "-n", "--pidfile=", "dwaarx", "--config", str(self.dwaarfile)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )

    def _serves(self) -> bool:
        return "serves" in self.log()[self._begun :]

    def exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ca(self) -> Path:
        return self.storage / "internal" / "root.crt"

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def logged(self, words: str) -> str:
        """Wait until the log holds these words; returns the whole log."""
        return until(f"{words!r} in the log", lambda: self.log() if words in self.log() else None)

    def hangup(self) -> None:
        """Have the Dwaarfile read again, and wait until it was."""
        before = self._reloads()
        os.kill(self.pid, signal.SIGHUP)
        until("the reload", lambda: self._reloads() > before)

    def _reloads(self) -> int:
        log = self.log()
        return log.count("reloaded ") + log.count("reload refused")

    def console(self, expression: str, *, check: bool = True) -> str:
        """Evaluate an expression on the console; returns what was printed."""
        return run("dwaarx", "console", "--socket", self.storage / "console.sock", expression,
                   check=check)  # fmt: skip

    def refusal(self, expression: str) -> str:
        """Evaluate an expression that is to fail, with exit status 1; returns the reason."""
        socket_path = self.storage / "console.sock"
        with pytest.raises(AssertionError, match="ended with 1:") as caught:
            run("dwaarx", "console", "--socket", socket_path, expression)
        return str(caught.value).partition("ended with 1:\n")[2]

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match
        return int(match[1]) * 1024

    def kill(self) -> None:
        """End it as a crash would: kill -9."""
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait(PATIENCE)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"the service did not stop:\n{self.log()}") from None
        log = self.log() if self.log_file.exists() else ""
        assert "Traceback" not in log, log
        assert "Unhandled" not in log, log


@contextmanager
def serving(folder: Path, dwaarfile: str) -> Iterator[Service]:
    """Run a service for the length of a block; its log must hold no traceback."""
    service = Service(folder, dwaarfile)
    service.start()
    try:
        yield service
    except BaseException:
        print(service.log())
        raise
    finally:
        service.stop()


@contextmanager
def background(*words: str | Path, ready: Callable[[], bool], log: Path) -> Iterator[int]:
    """Run another program until the block ends; `ready` says when it may be used."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program(str(words[0])), *map(str, words[1:])],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        until(
            f"the start of {words[0]}: {log.read_text()}",
            lambda: process.poll() is not None or ready(),
        )
        assert process.poll() is None, log.read_text()
        yield process.pid
    finally:
        process.terminate()
        process.wait(PATIENCE)


def openssl_client(port: int, *words: str, host: str = "127.0.0.1", ca: Path | None = None) -> str:
    """Shake hands by `openssl s_client -status` and return all it printed."""
    trust: Sequence[str] = ("-CAfile", str(ca), "-verify_return_error") if ca else ()
    return run("openssl", "s_client", "-connect", f"{host}:{port}", "-status", *trust, *words,
               check=False)  # fmt: skip
