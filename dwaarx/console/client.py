"""`dwaarx console`: the other end of the socket, for a person or a script."""

from __future__ import annotations

import codeop
import json
import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from dwaarx.words import reason_of

# The service accepts at once, unless it is stopped or its backlog full.
CONNECT_TIME = 10.0
CHUNK = 65_536
INTERRUPTED = 130  # what shells give for Ctrl-C


class ClientError(Exception):
    """The console cannot be reached, or does not answer as it should."""


def run(socket_path: Path, expression: str | None) -> int:
    """Evaluate one expression; without one be a terminal, or run the lines of standard input.

    Results go to standard output, errors to standard error. Returns the exit status: 0, or 1
    after an error.
    """
    try:
        if expression is not None:
            return _run_all(socket_path, [expression])
        if sys.stdin.isatty():
            return _interactive(socket_path)
        return _run_all(socket_path, _statements(sys.stdin))
    except ClientError as error:
        sys.stderr.write(f"dwaarx console: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIME)
    try:
        connection.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        raise ClientError(
            f"no dwaarx is listening at {path}: is it running, and is this its storage?"
        ) from None
    except OSError as error:
        connection.close()
        raise ClientError(f"cannot open {path}: {reason_of(error)}") from error
    # An answer takes as long as it takes; Ctrl-C ends the wait.
    connection.settimeout(None)
    return connection


def _send(connection: socket.socket, request: dict[str, object]) -> None:
    try:
        connection.sendall(json.dumps(request).encode("ascii") + b"\n")
    except (BrokenPipeError, ConnectionResetError):
        # The service refuses; why stands in its answer, which is read next.
        return


# --- expressions --------------------------------------------------------------


def _run_all(path: Path, expressions: Iterable[str]) -> int:
    """Run one after the other in one session, up to the first error."""
    with _connect(path) as connection, connection.makefile("rb") as answers:
        for expression in expressions:
            _send(connection, {"mode": "eval", "expression": expression, "more": True})
            try:
                line = answers.readline()
            except ConnectionResetError:
                line = b""
            if not _show(_read(line)):
                return 1
    return 0


def _read(line: bytes) -> dict[str, object]:
    try:
        answer = json.loads(line)
    except ValueError:
        raise ClientError("the service closed the connection without an answer") from None
    if not isinstance(answer, dict):
        raise ClientError("the service's answer is not understood")
    return answer


def _show(answer: dict[str, object]) -> bool:
    output, result, error = (answer.get(key) for key in ("output", "result", "error"))
    if output:
        sys.stdout.write(str(output))
    if result is not None:
        sys.stdout.write(f"{result}\n")
    sys.stdout.flush()
    if error is not None:
        sys.stderr.write(f"{error}\n")
    return answer.get("ok") is True


def _statements(lines: Iterable[str]) -> Iterator[str]:
    """Join the lines of a block, which an empty line ends; lines without code are left out."""
    source = ""
    for line in lines:
        source += line
        if not source.strip() or (source == line and line.lstrip().startswith("#")):
            source = ""
        elif _is_whole(source):
            yield source
            source = ""
    if source.strip():
        yield source


def _is_whole(source: str) -> bool:
    try:
        return codeop.compile_command(source.removesuffix("\n")) is not None
    except (SyntaxError, ValueError, OverflowError):
        # Nothing that follows makes it right: the service says what is wrong.
        return True


# --- a terminal ---------------------------------------------------------------


def _interactive(path: Path) -> int:
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    with _connect(path) as connection:
        width, height = os.get_terminal_size(stdin)
        _send(connection, {"mode": "terminal", "width": width, "height": height})
        greeting = connection.recv(CHUNK)
        if greeting.startswith(b"{"):
            raise ClientError(str(_read(greeting).get("error")))
        with _raw(stdin), _resizes() as resized:
            _write(stdout, greeting)
            _copy(connection, stdin, stdout, resized)
    return 0


def _copy(connection: socket.socket, stdin: int, stdout: int, resized: int) -> None:
    """Carry bytes both ways until either end is done."""
    remote = connection.fileno()
    while True:
        ready, _, _ = select.select([remote, stdin, resized], [], [])
        try:
            if resized in ready:
                os.read(resized, CHUNK)
                width, height = os.get_terminal_size(stdin)
                connection.sendall(b"\x1b[8;%d;%dt" % (height, width))
            if remote in ready:
                data = connection.recv(CHUNK)
                if not data:
                    return
                _write(stdout, data)
            if stdin in ready:
                keys = os.read(stdin, CHUNK)
                if not keys:
                    return
                connection.sendall(keys)
        except OSError:
            # The service or the terminal is gone.
            return


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Have each key as it is pressed; the terminal's former mode comes back in any case."""
    before = termios.tcgetattr(terminal)
    handler = signal.signal(signal.SIGTERM, _leave)
    try:
        tty.setraw(terminal, termios.TCSADRAIN)
        yield
    finally:
        # A terminal that has been closed needs no mode any more.
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, handler)


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _resizes() -> Iterator[int]:
    """Give a descriptor that can be read from when the window has changed its size."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def resized(_number: int, _: FrameType | None) -> None:
        # Full means that enough of them wait already.
        with suppress(BlockingIOError):
            os.write(writer, b"w")

    handler = signal.signal(signal.SIGWINCH, resized)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, handler)
        os.close(reader)
        os.close(writer)
