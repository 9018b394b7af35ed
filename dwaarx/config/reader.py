"""From a Dwaarfile to the model: the top level, and what several blocks have to agree on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dwaarx.config import sites, statements
from dwaarx.config.errors import ConfigError, Problem, Problems, WrongError, likely, quoted
from dwaarx.config.expand import BadTextError, Statement, expand, read_text
from dwaarx.config.model import Address, Config, Location, Resolvers
from dwaarx.config.options import Options, default_storage, read_options
from dwaarx.config.resolvers import read_resolvers
from dwaarx.config.sites import PlacedSite
from dwaarx.config.syntax import Word

DEFAULT_PATHS = (Path("Dwaarfile"), Path("/etc/dwaarx/Dwaarfile"))


def default_path() -> Path:
    """Return the Dwaarfile that is meant when none is named; raises ConfigError."""
    for path in DEFAULT_PATHS:
        if path.exists():
            return path
    first, second = DEFAULT_PATHS
    message = f"there is neither ./{first} nor {second}: name one"
    raise ConfigError([Problem(Location(str(first), 1, 1), message)])


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read a Dwaarfile and what it imports; raises ConfigError.

    `environ` is what `{$NAME}` is taken from, by default the process's environment.
    """
    return parse(load_text(path), str(path), environ)


def load_text(path: str | Path) -> str:
    """Return a Dwaarfile's text; raises ConfigError when it cannot be read or is not UTF-8."""
    file = str(path)
    try:
        return read_text(Path(path))
    except BadTextError as error:
        place, reason = Location(file, error.line, error.column), str(error)
    except OSError as error:
        place, reason = Location(file, 1, 1), f"cannot read the file: {error.strerror or error}"
    except ValueError as error:
        place, reason = Location(file, 1, 1), str(error)
    raise ConfigError([Problem(place, reason)])


def parse(text: str, file: str, environ: Mapping[str, str] | None = None) -> Config:
    """Read a Dwaarfile's text; raises ConfigError.

    `file` names it in errors; its folder is where relative paths and imports begin.
    """
    problems = Problems()
    environ = os.environ if environ is None else environ
    top = expand(text, file, environ, problems)
    config = _Reader(file, environ, problems).config(top)
    problems.check()
    return config


class _Reader:
    def __init__(self, file: str, environ: Mapping[str, str], problems: Problems) -> None:
        self._file = file
        self._folder = Path(file).parent
        self._environ = environ
        self._problems = problems
        self._options = Options()
        self._sites: list[PlacedSite] = []
        self._resolvers: list[Resolvers] = []

    def config(self, top: tuple[Statement, ...]) -> Config:
        rest = self._read_options(top)
        waiting: list[Word] = []
        for statement in rest:
            goes_on = False
            try:
                goes_on = self._statement(statement, waiting)
            except WrongError as error:
                self._problems.note(error.problem)
            if not goes_on:
                waiting = []
        if waiting:
            message = "expected another address after the comma, and `{`"
            self._problems.add(waiting[-1].location, message)
        self._check_addresses()
        self._check_pools()
        options = self._options
        storage = options.storage or default_storage(self._environ)
        if storage is None:
            message = "there is no home folder to keep certificates in: give `storage FOLDER`"
            raise ConfigError([Problem(Location(self._file, 1, 1), message)])
        return Config(
            file=self._file,
            sites=tuple(placed.site for placed in self._sites),
            resolvers=tuple(self._resolvers),
            storage=storage,
            http_port=options.http_port,
            bind=options.bind,
            redirect_http=options.redirect_http,
            console=options.console,
            timeouts=options.timeouts,
        )

    def _read_options(self, top: tuple[Statement, ...]) -> tuple[Statement, ...]:
        options, rest = None, []
        for statement in top:
            if statement.words:
                rest.append(statement)
            elif rest and rest[-1].block is None:
                message = "this `{` belongs at the end of the line before"
                self._problems.add(statement.location, message)
            elif options is not None:
                message = "there are two blocks of global options; the first is at "
                self._problems.add(statement.location, message + str(options.location))
            else:
                options = statement
                if rest:
                    message = "the block of global options stands at the top, before all sites"
                    self._problems.add(statement.location, message)
        self._options = read_options(options, self._folder, self._problems)
        return tuple(rest)

    def _statement(self, statement: Statement, waiting: list[Word]) -> bool:
        """Read a site or pool; return whether its addresses, in `waiting`, go on on a new line."""
        first = statement.words[0]
        if not waiting and first.text == "resolvers" and not first.quote:
            pool = read_resolvers(statement, self._problems)
            self._resolvers.append(pool)
            return False
        waiting.extend(statement.words)
        if statement.block is None:
            if waiting[-1].text.endswith(","):
                return True
            raise WrongError(first.location, self._without_block(first))
        site = sites.read_site(
            tuple(waiting), statement, self._options, self._folder, self._problems
        )
        if site is not None:
            self._sites.append(site)
        return False

    def _without_block(self, word: Word) -> str:
        name = quoted(word.text)
        if word.text in statements.PLACES:
            return f"{name} is a directive: it stands {statements.PLACES[word.text]}"
        hint = likely(word.text, [*statements.PLACES, "import"])
        if "did you mean" not in hint:
            hint = ""
        return f"expected `{{` after the address of a site ({name}){hint}"

    def _check_addresses(self) -> None:
        """Find two sites with one address, and ports that would be both plain and TLS."""
        seen: dict[tuple[str, int, str], Location] = {}
        anyhow: dict[tuple[str, int], Location] = {}
        kinds: set[tuple[int, str | None, bool]] = set()
        for placed in self._sites:
            site = placed.site
            binds = site.bind or ("",)
            for address, location in zip(site.addresses, placed.locations, strict=True):
                key = address.host, address.port
                everywhere = (*key, "") in seen or (key in anyhow and not site.bind)
                if everywhere or any((*key, bind) in seen for bind in binds):
                    first = anyhow[key]
                    message = f"the address {address} is taken already, by the site at {first}"
                    self._problems.add(location, message)
                anyhow.setdefault(key, location)
                for bind in binds:
                    seen.setdefault((*key, bind), location)
                    self._check_kind(kinds, Address(bind, address.port), address.tls, location)
            for dot in site.dns_over_tls:
                self._check_kind(kinds, dot, True, placed.locations[0])

    def _check_kind(
        self,
        kinds: set[tuple[int, str | None, bool]],
        address: Address,
        tls: bool,
        location: Location,
    ) -> None:
        port, host = address.port, address.host
        # None: on any address at all.
        overlapping = host or None
        if {(port, overlapping, not tls), (port, "", not tls)} & kinds:
            message = f"port {port} would serve both TLS and plain HTTP"
            self._problems.add(location, message)
        kinds |= {(port, host, tls), (port, None, tls)}

    def _check_pools(self) -> None:
        seen: dict[str, Location] = {}
        for pool in self._resolvers:
            assert pool.location is not None
            for suffix in pool.suffixes or ("",):
                if suffix in seen:
                    what = f"for {quoted(suffix)}" if suffix else "for all names"
                    message = f"there are two `resolvers` {what}; the first is at {seen[suffix]}"
                    self._problems.add(pool.location, message)
                seen.setdefault(suffix, pool.location)
