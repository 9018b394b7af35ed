"""From a Dwaarfile to the model: the top level, and what several blocks have to agree on."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dwaarx.config import sites, statements
from dwaarx.config.errors import (
    MAX_PROBLEMS,
    ConfigError,
    Problem,
    Problems,
    WrongError,
    likely,
    quoted,
)
from dwaarx.config.expand import BadTextError, Statement, expand, read_text
from dwaarx.config.model import (
    AcmeSettings,
    AutomaticCertificates,
    Config,
    Location,
    Resolvers,
)
from dwaarx.config.options import Options, default_storage, read_options
from dwaarx.config.reserved import is_internal
from dwaarx.config.resolvers import read_resolvers
from dwaarx.config.sites import PlacedSite
from dwaarx.config.syntax import Word

_BOTH_KINDS: Final = "port {} would serve both TLS and plain HTTP"
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
    with _no_collector():
        top = expand(text, file, environ, problems)
        config = _Reader(file, environ, problems).config(top)
    problems.check()
    return config


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the collector of circles away from what holds none, but has a million parts.

    It would go through all of them again and again: a third of the time of a large file.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
        if self._options.acme_settings > 1:
            self._check_settings()
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
            ocsp=options.ocsp,
            certificate_cache=options.certificate_cache,
            acme_cas=options.acme_cas,
            warnings=self._problems.warnings,
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
        # The first site of each port and host, and where else they are.
        first: dict[int, dict[str, PlacedSite]] = defaultdict(dict)
        everywhere: set[tuple[int, str]] = set()
        bound: set[tuple[int, str, str]] = set()
        kinds = _Kinds()
        for placed in self._sites:
            site = placed.site
            wrong: list[tuple[int, str]] = []
            for index, address in enumerate(site.addresses):
                host, port = address.host, address.port
                known = first[port].get(host)
                taken = known is not None
                if known is None:
                    first[port][host] = placed
                if site.bind:
                    mine = {(port, host, bind) for bind in site.bind}
                    # Beside one that is on other addresses it may stand.
                    if known is not None and known.site.bind:
                        taken = (port, host) in everywhere or not bound.isdisjoint(mine)
                    bound |= mine
                elif taken:
                    everywhere.add((port, host))
                if taken and known is not None:
                    place = known.place_of(host, port)
                    message = f"the address {address} is taken already, by the site at {place}"
                    wrong.append((index, message))
                fits = [kinds.add(bind, port, address.tls) for bind in site.bind or ("",)]
                if not all(fits):
                    wrong.append((index, _BOTH_KINDS.format(port)))
                if len(wrong) > MAX_PROBLEMS:
                    break
            words = placed.address_words() if wrong else []
            for index, message in wrong:
                self._problems.add(words[index].location, message)
            for dot in site.dns_over_tls:
                if not kinds.add(dot.host, dot.port, True):
                    message = _BOTH_KINDS.format(dot.port)
                    self._problems.add(placed.words[0].location, message)

    def _check_settings(self) -> None:
        """Find names whose certificate by ACME two sites want with different settings."""
        seen: dict[str, tuple[AcmeSettings, PlacedSite]] = {}
        for placed in self._sites:
            certificate = placed.site.certificate
            if not isinstance(certificate, AutomaticCertificates):
                continue
            for address, word in zip(placed.site.addresses, placed.address_words(), strict=True):
                if not address.tls or is_internal(address.host):
                    continue
                settings, other = seen.setdefault(address.host, (certificate.acme, placed))
                if settings != certificate.acme:
                    message = (
                        f"the certificate for {quoted(address.host)} has other settings in the "
                        f"site at {other.place_of(address.host)}"
                    )
                    self._problems.add(word.location, message)

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


class _Kinds:
    """Finds ports that would serve both TLS and plain HTTP."""

    def __init__(self) -> None:
        self._found: set[tuple[int, str | None, bool]] = set()
        # What has been looked at since the last new kind.
        self._settled: set[tuple[int, str, bool]] = set()

    def add(self, host: str, port: int, tls: bool) -> bool:
        """Note a listener, host "" being every address; return whether it fits to the others."""
        kind = port, host, tls
        if kind in self._settled:
            return True
        # None: on any address at all.
        fits = not {(port, host or None, not tls), (port, "", not tls)} & self._found
        if fits and kind in self._found:
            self._settled.add(kind)
        else:
            self._found |= {kind, (port, None, tls)}
            self._settled.clear()
        return fits
