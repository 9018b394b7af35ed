from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dwaarx import __version__
from dwaarx.cli import main
from dwaarx.config import reader
from dwaarx.console import client

ROOT = Path(__file__).parents[1]


class StandardInput:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.fixture
def dwaarfile(tmp_path: Path) -> Path:
    path = tmp_path / "Dwaarfile"
    path.write_text("localhost {\n    respond x\n}\n")
    return path


def test_check_says_what_it_read(dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(dwaarfile)]) == 0
    assert capsys.readouterr() == (f"{dwaarfile}: OK: 1 site, 0 resolver pools\n", "")
    dwaarfile.write_text("localhost { }\na.localhost { }\nresolvers { }")
    assert main(["check", str(dwaarfile)]) == 0
    assert capsys.readouterr().out == f"{dwaarfile}: OK: 2 sites, 1 resolver pool\n"


def test_check_prints_each_problem(dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dwaarfile.write_text("localhost {\n    respont x\n    tls\n}\n")
    assert main(["check", str(dwaarfile)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{dwaarfile}:2:5: `respont` is not a directive of a site; did you mean `respond`?",
        (
            f"{dwaarfile}:3:5: a word is missing: expected `tls CERT KEY {{ ocsp FILE }}`, "
            "`tls internal` or `tls { dns … }`"
        ),
    ]


def test_check_looks_at_the_files(dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dwaarfile.write_text("a.test {\n    tls a.pem a.key\n}\n")
    assert main(["check", str(dwaarfile)]) == 1
    assert capsys.readouterr().err == (
        f"{dwaarfile}:2:5: {dwaarfile.parent}/a.pem: cannot be read: No such file or directory\n"
    )


def test_warnings_do_not_fail(dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = dwaarfile.parent / "keys"
    keys.touch()
    dwaarfile.write_text("{\nconsole ssh :1 { authorized_keys keys }\n}\n")
    assert main(["check", str(dwaarfile)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{dwaarfile}: OK: 0 sites, 0 resolver pools\n"
    assert err == f"{dwaarfile}:2:34: warning: {keys} holds no key: nobody can log in\n"


def test_the_default_dwaarfile(
    dwaarfile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(dwaarfile.parent)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "Dwaarfile: OK: 1 site, 0 resolver pools\n"
    dwaarfile.unlink()
    monkeypatch.setattr(reader, "DEFAULT_PATHS", (Path("Dwaarfile"), dwaarfile))
    assert main(["check"]) == 1
    assert capsys.readouterr().err == (
        f"Dwaarfile:1:1: there is neither ./Dwaarfile nor {dwaarfile}: name one\n"
    )


def test_fmt_prints(dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dwaarfile.write_text("localhost { respond x }")
    assert main(["fmt", str(dwaarfile)]) == 0
    assert capsys.readouterr() == ("localhost {\n    respond x\n}\n", "")
    assert dwaarfile.read_text() == "localhost { respond x }"


def test_fmt_check(dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", "--check", str(dwaarfile)]) == 0
    assert capsys.readouterr() == ("", "")
    dwaarfile.write_text("localhost { }")
    assert main(["fmt", "--check", str(dwaarfile)]) == 1
    assert capsys.readouterr() == ("", f"{dwaarfile}: not formatted\n")


@pytest.mark.parametrize("option", ["-w", "--overwrite"])
def test_fmt_overwrites(option: str, dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = dwaarfile.with_name("link")
    link.symlink_to(dwaarfile)
    dwaarfile.write_text("localhost { }")
    dwaarfile.chmod(0o640)
    assert main(["fmt", option, str(link)]) == 0
    assert dwaarfile.read_text() == "localhost {\n}\n"
    assert dwaarfile.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    before = dwaarfile.stat().st_ino
    assert main(["fmt", option, str(dwaarfile)]) == 0
    assert dwaarfile.stat().st_ino == before
    assert capsys.readouterr() == ("", "")


def test_fmt_cannot_write(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    try:
        os.write(write, b"localhost { }")
        os.close(write)
        assert main(["fmt", "-w", f"/dev/fd/{read}"]) == 1
    finally:
        os.close(read)
    assert capsys.readouterr().err.startswith(f"/dev/fd/{read}: cannot be written: ")


def test_fmt_keeps_the_owner(
    dwaarfile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root formats a file of the service's user, mode 0600: the service has to read it again."""
    before = dwaarfile.stat()
    calls: list[tuple[Path, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda *words: calls.append(words))
    dwaarfile.write_text("localhost { }")
    assert main(["fmt", "-w", str(dwaarfile)]) == 0
    assert calls == [(dwaarfile, before.st_uid, before.st_gid)]

    def refuse(*_words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    dwaarfile.write_text("localhost { }")
    assert main(["fmt", "-w", str(dwaarfile)]) == 1
    assert capsys.readouterr().err == (
        f"{dwaarfile}: its owner is now you: Operation not permitted\n"
    )
    assert dwaarfile.read_text() == "localhost {\n}\n"


def test_output_is_utf_8_whatever_the_locale(dwaarfile: Path) -> None:
    name = os.fsencode(dwaarfile) + b"\xff\xc3\xbc"
    text = 'localhost {\n    respond "ü"\n}\n'.encode()
    Path(os.fsdecode(name)).write_bytes(text)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}

    def said(command: str) -> bytes:
        words = [sys.executable, "-m", "dwaarx.cli", command, name]
        return subprocess.run(words, env=environment, capture_output=True, check=True).stdout

    assert said("fmt") == text
    assert said("check") == name + b": OK: 1 site, 0 resolver pools\n"


@pytest.mark.parametrize("command", ["fmt", "check"])
def test_an_output_that_cannot_be_written(command: str, dwaarfile: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("wb") as full:
        for target, reason in ((full.fileno(), "No space left on device"), (write, "Broken pipe")):
            done = subprocess.run(
                [sys.executable, "-m", "dwaarx.cli", command, dwaarfile],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=target,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert done.returncode == 1
            assert done.stderr == f"dwaarx: standard output: {reason}\n"
    os.close(write)


def test_fmt_reads_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", StandardInput(b"a { b }"))
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr() == ("a {\n    b\n}\n", "")
    monkeypatch.setattr(sys, "stdin", StandardInput(b"a {\n\xff"))
    assert main(["fmt", "-"]) == 1
    assert capsys.readouterr().err == "-:2:1: the byte 0xff is not UTF-8: save the file as UTF-8\n"
    monkeypatch.setattr(sys, "stdin", StandardInput(b"a"))
    assert main(["fmt", "-w", "-"]) == 2
    assert capsys.readouterr().err == "dwaarx fmt: standard input cannot be overwritten\n"


def test_fmt_names_the_place(dwaarfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dwaarfile.write_text("a {\n")
    assert main(["fmt", str(dwaarfile)]) == 1
    assert capsys.readouterr() == (
        "",
        f"{dwaarfile}:1:3: this `{{` is never closed: expected a `}}`\n",
    )


def test_console(
    dwaarfile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Path, str | None]] = []

    def run(socket_path: Path, expression: str | None) -> int:
        calls.append((socket_path, expression))
        return 7

    monkeypatch.setattr(client, "run", run)
    assert main(["console", "--socket", "/run/x.sock"]) == 7
    dwaarfile.write_text("{\nstorage data\n}\n")
    assert main(["console", "--config", str(dwaarfile), "help()"]) == 7
    monkeypatch.chdir(dwaarfile.parent)
    assert main(["console", "1+1"]) == 7
    assert calls == [
        (Path("/run/x.sock"), None),
        (dwaarfile.parent / "data" / "console.sock", "help()"),
        (Path("data/console.sock"), "1+1"),
    ]
    dwaarfile.write_text("nonsense")
    assert main(["console"]) == 1
    problem, hint = capsys.readouterr().err.splitlines()
    assert problem.startswith("Dwaarfile:1:1: expected `{`")
    assert hint == "dwaarx console: --socket STORAGE/console.sock does without the Dwaarfile"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"dwaarx {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["chekc"], ["fmt", "-w", "--check", "x"], ["console", "-c", "x", "-s", "y"]],
)
def test_wrong_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: dwaarx" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_as_a_module(
    dwaarfile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dwaarx", "fmt", str(dwaarfile)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("dwaarx.cli", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == dwaarfile.read_text()
