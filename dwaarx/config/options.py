"""The block of global options at the top of a Dwaarfile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from dwaarx.config import acme, addresses, statements, values
from dwaarx.config.errors import Problems, WrongError, likely, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import (
    AcmeCa,
    AcmeSettings,
    AutomaticCertificates,
    Console,
    ConsoleOff,
    ConsoleSsh,
    ConsoleUnix,
    IPNetwork,
    Location,
    OcspOptions,
    Timeouts,
)
from dwaarx.config.statements import Grammar, read_block
from dwaarx.config.syntax import Word

# Who signs when no `acme_ca` is given.
LETS_ENCRYPT: Final = AcmeCa("https://acme-v02.api.letsencrypt.org/directory")

_PLAIN: Final = acme.SiteAcme().settings
# What Caddy has for the same purposes.
_INSTEAD: Final = {
    "acme_ca_root": "name the file behind the directory: `acme_ca DIRECTORY BUNDLE`",
    "acme_dns": "give `dns rfc2136 …` in a site's `tls { … }`",
    "acme_eab": "give `eab KEY_ID MAC_KEY` in the block of `acme_ca`",
    "cert_issuer": "give `acme_ca`, or `tls internal` in a site",
    "local_certs": "give `tls internal` in each site",
    "ocsp_interval": "give `ocsp { refresh DURATION }`",
    "ocsp_stapling": "stapling cannot be switched off; its options stand in `ocsp { … }`",
}
_GLOBAL: Final = Grammar(
    "the global options",
    not_yet=frozenset({"metrics"}),
    repeatable=frozenset({"acme_ca"}),
    instead=_INSTEAD,
)
_CONSOLE: Final = Grammar("`console ssh`")
_OCSP: Final = Grammar("`ocsp`", repeatable=frozenset({"allow_responder"}))
_TIMEOUTS: Final = Grammar("`timeouts`")
_CONSOLE_SSH: Final = "console ssh ADDRESS { authorized_keys FILE }"

_MINUTE: Final = 60.0
_DAY: Final = 86400.0
# Responders are not to be asked more often than once a minute; and a staple that is not renewed
# for a week says little: public CAs' responses are valid for ten days at most.
_REFRESH: Final = (_MINUTE, 7 * _DAY)
# Less than a round trip fails always; while one waits, the others of its responder do too.
_OCSP_TIMEOUT: Final = (0.1, _MINUTE)
# The next staple is fetched at half of it, and no sooner than after a minute: less would leave
# handshakes without in between. A responder of one's own may answer for months.
_MAX_AGE: Final = (5 * _MINUTE, 365 * _DAY)
# A context takes some 33 kB; nobody has memory for more.
_MOST_CACHED: Final = 10_000_000


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
    email: str | None = None
    acme_cas: tuple[AcmeCa, ...] = (LETS_ENCRYPT,)
    # Whether every CA is somebody's own: on this machine, or with a bundle for itself.
    private_pki: bool = False
    ocsp: OcspOptions = attrs.field(factory=OcspOptions)
    certificate_cache: int = 10_000
    _automatic: dict[acme.SiteSettings, AutomaticCertificates] = attrs.field(
        factory=dict, init=False
    )

    def automatic(self, site: acme.SiteAcme | None) -> AutomaticCertificates:
        """Return what a site with these settings gets; one object for all that have the same."""
        key = site.settings if site is not None else _PLAIN
        if key not in self._automatic:
            settings = AcmeSettings(self.acme_cas, self.email, *key)
            self._automatic[key] = AutomaticCertificates(settings)
        return self._automatic[key]

    @property
    def acme_settings(self) -> int:
        """How many different settings the sites have for certificates by ACME."""
        return len(self._automatic)


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
            "email": reader.email,
            "acme_ca": reader.acme_ca,
            "certificate_cache": reader.certificate_cache,
            "ocsp": reader.ocsp,
        }
        read_block(statement.block or (), _GLOBAL, table, problems)
        if reader.cas:
            options.acme_cas = tuple(reader.cas.values())
            options.private_pki = all(
                ca.bundle or ca.directory.startswith("http:") for ca in options.acme_cas
            )
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
        self.cas: dict[str, AcmeCa] = {}

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

    def email(self, statement: Statement) -> None:
        self._options.email = acme.read_email(statement)

    def acme_ca(self, statement: Statement) -> None:
        ca = acme.read_ca(statement, self._folder, self._problems)
        if ca.directory in self.cas:
            message = f"the CA {quoted(ca.directory)} is given twice"
            raise WrongError(statement.location, message)
        self.cas[ca.directory] = ca

    def certificate_cache(self, statement: Statement) -> None:
        word = statements.one_word(statement, "certificate_cache NUMBER")
        digits = word.text
        plain = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(_MOST_CACHED))
        if not plain or not 1 <= int(digits) <= _MOST_CACHED:
            message = f"{quoted(digits)} is not a number from 1 to {_MOST_CACHED}"
            raise WrongError(word.location, message)
        self._options.certificate_cache = int(digits)

    def ocsp(self, statement: Statement) -> None:
        statements.words(statement, "ocsp { … }", 0, 0)
        block = statements.block(statement, "ocsp")
        given: dict[str, float] = {}
        places: dict[str, Location] = {}
        allowed: dict[IPNetwork, None] = {}
        bounds = {"refresh": _REFRESH, "timeout": _OCSP_TIMEOUT, "max_age": _MAX_AGE}

        def time(inner: Statement) -> None:
            word = statements.one_word(inner, f"{inner.name} DURATION")
            given[inner.name] = _bounded(word, *bounds[inner.name])
            places[inner.name] = word.location

        def allow_responder(inner: Statement) -> None:
            statements.no_block(inner)
            for word in statements.words(inner, "allow_responder NETWORK…", 1):
                network = addresses.network(word)
                if network in allowed:
                    raise WrongError(word.location, f"the network {network} is given twice")
                allowed[network] = None

        table = {**dict.fromkeys(bounds, time), "allow_responder": allow_responder}
        read_block(block, _OCSP, table, self._problems)
        ocsp = attrs.evolve(OcspOptions(), **given, allow=tuple(allowed))
        if ocsp.max_age < ocsp.refresh:
            message = (
                f"`max_age` is shorter than `refresh` ({_written(ocsp.max_age)} and "
                f"{_written(ocsp.refresh)}): there would be no staple in between"
            )
            raise WrongError(places.get("max_age") or places["refresh"], message)
        self._options.ocsp = ocsp


def _bounded(word: Word, least: float, most: float) -> float:
    seconds = values.duration(word)
    if not least <= seconds <= most:
        bounds = f"from {_written(least)} to {_written(most)}"
        raise WrongError(word.location, f"{quoted(word.text)} does not fit here: expected {bounds}")
    return seconds


def _written(seconds: float) -> str:
    """Return a duration as a Dwaarfile has it."""
    for unit, size in (("d", _DAY), ("h", 3600.0), ("m", _MINUTE), ("s", 1.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds * 1000:.0f}ms"
