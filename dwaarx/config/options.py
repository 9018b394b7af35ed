"""The block of global options at the top of a Dwaarfile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dwaarx.config import addresses, statements, values
from dwaarx.config.errors import Problems, WrongError, likely, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import Console, ConsoleOff, ConsoleSsh, ConsoleUnix, Timeouts
from dwaarx.config.statements import Grammar, read_block

_GLOBAL: Final = Grammar(
    "the global options", not_yet=frozenset({"email", "acme_ca", "ocsp", "metrics"})
)
_CONSOLE: Final = Grammar("`console ssh`")
_TIMEOUTS: Final = Grammar("`timeouts`")
_CONSOLE_SSH: Final = "console ssh ADDRESS { authorized_keys FILE }"


@attrs.define
class Options:
    """The global options; those that were not given have their defaults."""

    storage: Path | None = None
    http_port: int = 80
    https_port: int = 443
    bind: tuple[str, ...] = ()
    auto_https: bool = True
    redirect_http: bool = True
    console: Console = attrs.field(factory=ConsoleUnix)
    timeouts: Timeouts = attrs.field(factory=Timeouts)


def default_storage(environ: Mapping[str, str]) -> Path | None:
    """Return where certificates are kept when no `storage` is given; None without a home."""
    if os.getuid() == 0:
        return Path("/var/lib/dwaarx")
    data = environ.get("XDG_DATA_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    if Path(data).is_absolute():
        return Path(data) / "dwaarx"
    home = environ.get("HOME", "")
    try:
        base = Path(home) if Path(home).is_absolute() else Path("~").expanduser()
    except RuntimeError:
        return None
    return base / ".local" / "share" / "dwaarx"


def read_options(statement: Statement | None, folder: Path, problems: Problems) -> Options:
    """Return what the global block says; relative paths are taken from `folder`."""
    options = Options()
    if statement is not None:
        reader = _Reader(options, folder, problems)
        table = {
            "http_port": reader.http_port,
            "https_port": reader.https_port,
            "bind": reader.bind,
            "storage": reader.storage,
            "workers": reader.workers,
            "console": reader.console,
            "auto_https": reader.auto_https,
            "timeouts": reader.timeouts,
        }
        read_block(statement.block or (), _GLOBAL, table, problems)
        if options.http_port == options.https_port:
            message = f"http_port and https_port are both {options.http_port}"
            problems.add(statement.location, message)
    return options


def bind_addresses(statement: Statement) -> tuple[str, ...]:
    """Return the local addresses of a `bind` directive, global or a site's."""
    statements.no_block(statement)
    found: dict[str, None] = {}
    for word in statements.words(statement, "bind ADDRESS…", 1):
        address = addresses.local_ip(word)
        if address in found:
            raise WrongError(word.location, f"the address {address} is given twice")
        found[address] = None
    return tuple(found)


class _Reader:
    def __init__(self, options: Options, folder: Path, problems: Problems) -> None:
        self._options = options
        self._folder = folder
        self._problems = problems

    def http_port(self, statement: Statement) -> None:
        word = statements.one_word(statement, "http_port PORT")
        self._options.http_port = addresses.port(word, least=0)

    def https_port(self, statement: Statement) -> None:
        word = statements.one_word(statement, "https_port PORT")
        self._options.https_port = addresses.port(word)

    def bind(self, statement: Statement) -> None:
        self._options.bind = bind_addresses(statement)

    def storage(self, statement: Statement) -> None:
        word = statements.one_word(statement, "storage FOLDER")
        self._options.storage = values.file_path(word, self._folder)

    def workers(self, statement: Statement) -> None:
        word = statements.one_word(statement, "workers NUMBER|auto")
        if word.text == "auto" or (word.text.isdecimal() and word.text.strip("0") not in ("", "1")):
            raise WrongError(word.location, statements.not_yet(f"workers {word.text}"))
        if word.text != "1":
            message = f"{quoted(word.text)} is not a number of workers: expected `workers 1`"
            raise WrongError(word.location, message)

    def auto_https(self, statement: Statement) -> None:
        word = statements.one_word(statement, "auto_https off|disable_redirects")
        match word.text:
            case "off":
                self._options.auto_https = self._options.redirect_http = False
            case "disable_redirects":
                self._options.redirect_http = False
            case "disable_certs" | "ignore_loaded_certs" | "prefer_wildcard":
                raise WrongError(word.location, statements.not_yet(f"auto_https {word.text}"))
            case _:
                hint = likely(word.text, ["off", "disable_redirects"])
                raise WrongError(word.location, f"{quoted(word.text)} does not fit here{hint}")

    def console(self, statement: Statement) -> None:
        kind = statements.words(statement, "console unix|ssh|off", 1)[0]
        match kind.text:
            case "unix" | "off":
                statements.no_block(statement)
                statements.words(statement, f"console {kind.text}", 1, 1)
                unix = kind.text == "unix"
                self._options.console = ConsoleUnix() if unix else ConsoleOff()
            case "ssh":
                self._options.console = self._ssh(statement)
            case _:
                hint = likely(kind.text, ["unix", "ssh", "off"])
                raise WrongError(kind.location, f"there is no console {quoted(kind.text)}{hint}")

    def _ssh(self, statement: Statement) -> Console:
        address = addresses.listen_address(statements.words(statement, _CONSOLE_SSH, 2, 2)[1])
        console: Console = ConsoleOff()

        def authorized_keys(inner: Statement) -> None:
            nonlocal console
            word = statements.one_word(inner, "authorized_keys FILE")
            path = values.file_path(word, self._folder)
            console = ConsoleSsh(address, path, word.location)

        block = statements.block(statement, "console ssh ADDRESS")
        read_block(block, _CONSOLE, {"authorized_keys": authorized_keys}, self._problems)
        if not any(inner.name == "authorized_keys" for inner in block):
            message = f"a file of keys is missing: expected `{_CONSOLE_SSH}`"
            raise WrongError(statement.location, message)
        return console

    def timeouts(self, statement: Statement) -> None:
        statements.words(statement, "timeouts { … }", 0, 0)
        given: dict[str, float] = {}

        def read(inner: Statement) -> None:
            word = statements.one_word(inner, f"{inner.name} DURATION")
            # Not to wait for what is in progress makes sense; any other 0 would end every request.
            given[inner.name] = values.duration(word, zero=inner.name == "drain")

        table = dict.fromkeys([field.name for field in attrs.fields(Timeouts)], read)
        block = statements.block(statement, "timeouts")
        read_block(block, _TIMEOUTS, table, self._problems)
        self._options.timeouts = attrs.evolve(Timeouts(), **given)
