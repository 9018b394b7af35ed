"""The command `dwaarx`: check a Dwaarfile, format it, speak with the running service."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from dwaarx import __version__
from dwaarx.config import default_path, load
from dwaarx.config.errors import ConfigError, Problem
from dwaarx.config.expand import BadTextError, decode
from dwaarx.config.fmt import format_text
from dwaarx.config.model import Config, Location
from dwaarx.config.reader import load_text
from dwaarx.console import SOCKET_NAME, client
from dwaarx.words import reason_of

_DEFAULT = "default: ./Dwaarfile, then /etc/dwaarx/Dwaarfile"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 1 for what it found, 2 for a wrong command."""
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigError as error:
        _print(sys.stderr, str(error))
        return 1
    except _OutputError as error:
        _print(sys.stderr, f"dwaarx: standard output: {error}")
        return 1


class _OutputError(Exception):
    """What was found cannot be said: standard output is full, or nobody reads it."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwaarx",
        description="Tools for dwaarx. The service itself is started by `twistd -n dwaarx`.",
    )
    parser.add_argument("--version", action="version", version=f"dwaarx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="check | fmt | console")

    check = commands.add_parser("check", help="say what is wrong with a Dwaarfile")
    check.add_argument("file", nargs="?", metavar="FILE", help=_DEFAULT)
    check.set_defaults(command=_check)

    fmt = commands.add_parser("fmt", help="print a Dwaarfile in its canonical form")
    fmt.add_argument("file", nargs="?", metavar="FILE", help=f"`-`: standard input; {_DEFAULT}")
    how = fmt.add_mutually_exclusive_group()
    how.add_argument("-w", "--overwrite", action="store_true", help="write it to the file instead")
    how.add_argument("--check", action="store_true", help="exit with 1 if it is not formatted")
    fmt.set_defaults(command=_fmt)

    console = commands.add_parser("console", help="steer the running service")
    where = console.add_mutually_exclusive_group()
    where.add_argument("-c", "--config", metavar="FILE", help=f"its Dwaarfile; {_DEFAULT}")
    where.add_argument("-s", "--socket", metavar="PATH", help="its console's socket")
    console.add_argument(
        "expression", nargs="?", metavar="EXPRESSION", help="evaluate this instead of asking"
    )
    console.set_defaults(command=_console)
    return parser


def _check(options: argparse.Namespace) -> int:
    # Only this command needs all that reads certificates.
    from dwaarx.check import check

    file = options.file or default_path()
    config = load(file)
    errors, warnings = check(config)
    _print(sys.stderr, *map(str, errors))
    _print(sys.stderr, *(f"{warning.location}: warning: {warning.message}" for warning in warnings))
    if errors:
        return 1
    _output(f"{file}: OK: {_summary(config)}\n")
    return 0


def _summary(config: Config) -> str:
    sites, pools = len(config.sites), len(config.resolvers)
    return (
        f"{sites} {'site' if sites == 1 else 'sites'}, "
        f"{pools} {'resolver pool' if pools == 1 else 'resolver pools'}"
    )


def _fmt(options: argparse.Namespace) -> int:
    if options.file == "-":
        file, text = "-", _standard_input()
        if options.overwrite:
            _print(sys.stderr, "dwaarx fmt: standard input cannot be overwritten")
            return 2
    else:
        file = str(options.file or default_path())
        text = load_text(file)
    formatted = format_text(text, file)
    if options.check:
        if formatted != text:
            _print(sys.stderr, f"{file}: not formatted")
            return 1
        return 0
    if not options.overwrite:
        _output(formatted)
        return 0
    if formatted != text:
        return _overwrite(Path(file), formatted)
    return 0


def _standard_input() -> str:
    try:
        return decode(sys.stdin.buffer.read())
    except BadTextError as error:
        place = Location("-", error.line, error.column)
        raise ConfigError([Problem(place, str(error))]) from error


def _overwrite(path: Path, text: str) -> int:
    from dwaarx.certs.storage import write_atomic

    try:
        # A link stays one, and the file keeps its mode.
        target = path.resolve()
        before = target.stat()
        write_atomic(target, text.encode(), before.st_mode & 0o7777)
    except OSError as error:
        _print(sys.stderr, f"{path}: cannot be written: {reason_of(error)}")
        return 1
    try:
        os.chown(target, before.st_uid, before.st_gid)
    except OSError as error:
        _print(sys.stderr, f"{path}: its owner is now you: {reason_of(error)}")
        return 1
    return 0


def _console(options: argparse.Namespace) -> int:
    if options.socket:
        socket = Path(options.socket)
    else:
        try:
            socket = load(options.config or default_path()).storage / SOCKET_NAME
        except ConfigError as error:
            hint = f"dwaarx console: --socket STORAGE/{SOCKET_NAME} does without the Dwaarfile"
            _print(sys.stderr, str(error), hint)
            return 1
    return client.run(socket, options.expression)


def _output(text: str) -> None:
    """Write to standard output: as a Dwaarfile is encoded, whatever the locale."""
    try:
        sys.stdout.flush()
        # A file's name may hold any byte.
        sys.stdout.buffer.write(text.encode(errors="surrogateescape"))
        sys.stdout.buffer.flush()
    except OSError as error:
        # What could not be written would be tried again at the end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        raise _OutputError(reason_of(error)) from error


def _print(stream: TextIO, *lines: str) -> None:
    stream.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
