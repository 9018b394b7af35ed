"""The client against the real service, as a script, and as a person at a pseudo-terminal."""

import fcntl
import io
import os
import select
import signal
import socket
import struct
import termios
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.unix import Server

from dwaarx.config.model import ConsoleUnix
from dwaarx.console import client
from dwaarx.console.client import run
from dwaarx.console.server import console_service

from .running import PATIENCE
from .screen import Screen


@pytest.fixture
def path(running, tmp_path):
    namespace = {
        "f": lambda: "text",
        "never": Deferred,
        "say": lambda *words: print(*words),
    }
    service = console_service(ConsoleUnix(), tmp_path, namespace, running.reactor)
    running.call(service.startService)
    yield tmp_path / "console.sock"
    running.call(service.stopService)


def test_one_expression(path, capsys):
    assert run(path, "say('so') or f()") == 0
    assert capsys.readouterr() == ("so\n'text'\n", "")
    assert run(path, "x = 1") == 0
    assert capsys.readouterr() == ("", "")


def test_an_error_goes_to_standard_error_with_status_1(path, capsys):
    assert run(path, "say('so') or missing") == 1
    out, err = capsys.readouterr()
    assert out == "so\n"
    assert err.startswith("NameError: name 'missing'")


@pytest.mark.parametrize("left", [False, True])
def test_nobody_listening_is_told(tmp_path, capsys, left):
    path = tmp_path / "console.sock"
    if left:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    assert run(path, "1") == 1
    assert capsys.readouterr().err == (
        f"dwaarx console: no dwaarx is listening at {path}: "
        "is it running, and is this its storage?\n"
    )


def test_a_socket_that_cannot_be_opened_is_told(tmp_path, capsys):
    assert run(tmp_path / ("x" * 200), "1") == 1
    assert "cannot open" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(tmp_path / "file" / "console.sock", "1") == 1
    assert "Not a directory" in capsys.readouterr().err


def script(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_standard_input_is_run_line_by_line(path, capsys, monkeypatch):
    script(
        monkeypatch,
        "# a comment\nx = 20\n\nx + 1\nfor i in range(2):\n    say(i)\n    # inner\n\nf()",
    )
    assert run(path, None) == 0
    assert capsys.readouterr() == ("21\n0\n1\n'text'\n", "")


@pytest.mark.parametrize("bad", ["missing", "1 +", "f(", "x = '\n"])
def test_a_script_ends_at_its_first_error(path, capsys, monkeypatch, bad):
    script(monkeypatch, f"f()\n{bad}\n")
    assert run(path, None) == 1
    out, err = capsys.readouterr()
    assert out == "'text'\n"
    assert "Error" in err


def test_what_follows_an_error_is_not_run(path, capsys, monkeypatch):
    script(monkeypatch, "missing\nf()\n")
    assert run(path, None) == 1
    assert capsys.readouterr().out == ""


def test_an_empty_script_does_nothing(path, capsys, monkeypatch):
    script(monkeypatch, "\n# nothing\n   \n")
    assert run(path, None) == 0
    assert capsys.readouterr() == ("", "")


class FakeService:
    """Answers one connection with given bytes and closes it."""

    def __init__(self, path, answer):
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(1)
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        connection, _ = self._listening.accept()
        with connection:
            connection.recv(1)
            connection.sendall(self._answer)

    def close(self):
        self._thread.join(PATIENCE)
        self._listening.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed the connection without an answer"),
        (b"nonsense\n", "closed the connection without an answer"),
        (b"[]\n", "is not understood"),
    ],
)
def test_an_answer_that_is_none_is_told(tmp_path, capsys, answer, message):
    service = FakeService(tmp_path / "console.sock", answer)
    assert run(tmp_path / "console.sock", "1") == 1
    assert message in capsys.readouterr().err
    service.close()


def test_ctrl_c_ends_the_wait(tmp_path, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_connect", interrupted)
    assert run(tmp_path, "1") == 130


# --- a terminal -------------------------------------------------------------------


class Person:
    """Someone at the other end of a pseudo-terminal, with a screen."""

    def __init__(self, monkeypatch, width=80):
        self.master, self.slave = os.openpty()
        self.resize(width)
        self.screen = Screen(width)
        self.written = b""
        self._monkeypatch = monkeypatch
        self._closed = False

    def resize(self, width):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))

    def see(self, text):
        """Look at the screen until it shows a text."""
        while text not in self.screen.text:
            assert select.select([self.master], [], [], PATIENCE)[0], self.screen.text
            data = os.read(self.master, 65_536)
            self.written += data
            self.screen.feed(data)

    def type(self, keys):
        os.write(self.master, keys)

    def act(self, play):
        """Run the client here, and `play` at the other end; gives the client's status."""
        before = termios.tcgetattr(self.slave)
        with os.fdopen(os.dup(self.slave), "r") as stdin, os.fdopen(os.dup(self.slave), "w") as out:
            # Here and not before, since pytest sets its own for each phase of a test.
            self._monkeypatch.setattr("sys.stdin", stdin)
            self._monkeypatch.setattr("sys.stdout", out)
            with ThreadPoolExecutor(1) as pool:
                played = pool.submit(play)
                # So that the client ends, too, when the play has failed.
                played.add_done_callback(lambda done: done.exception() and self.close())
                try:
                    return run(self.path, None)
                finally:
                    self._monkeypatch.undo()
                    played.result(PATIENCE)
                    assert termios.tcgetattr(self.slave) == before

    def close(self):
        if not self._closed:
            self._closed = True
            os.close(self.master)
            os.close(self.slave)


@pytest.fixture
def person(path, monkeypatch):
    made = Person(monkeypatch)
    made.path = path
    yield made
    made.close()


def test_a_person_types_completes_and_leaves(person):
    def play():
        person.see(">>>")
        person.type(b"sa")
        person.see(">>> sa")
        person.type(b"\t'hello')\r")
        person.see("\nhello\n>>>")
        person.type(b"\x04")

    assert person.act(play) == 0
    assert "help() lists the functions" in person.screen.text


def test_ctrl_c_is_typed_and_does_not_end_the_client(person):
    def play():
        person.see(">>>")
        person.type(b"half\x03")
        person.see("half^C")
        person.type(b"exit()\r")

    assert person.act(play) == 0


def test_a_new_window_size_reaches_the_service(person):
    def play():
        person.see(">>>")
        person.type(b"1" * 90)
        person.see("\n" + "1" * 14)
        person.screen = Screen(120)
        person.resize(120)
        os.kill(os.getpid(), signal.SIGWINCH)
        person.see(">>> " + "1" * 90)
        person.type(b"\x15\x04")

    assert person.act(play) == 0
    assert signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL


def test_a_terminal_is_left_as_it_was_when_the_client_is_told_to_end(person):
    def play():
        person.see(">>>")
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        person.act(play)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_service_going_away_ends_the_client(person, running):
    def drop():
        for each in running.reactor.getReaders():
            if isinstance(each, Server):
                each.abortConnection()

    def play():
        person.see(">>>")
        running.call(drop)

    assert person.act(play) == 0


def test_a_refusal_is_told_in_words(person, tmp_path, capsys):
    person.path = tmp_path / "other.sock"
    refusal = b'{"ok": false, "output": "", "result": null, "error": "only root"}\n'
    service = FakeService(person.path, refusal)
    assert person.act(lambda: None) == 1
    assert capsys.readouterr().err == "dwaarx console: only root\n"
    service.close()
