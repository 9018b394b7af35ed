"""Site blocks: addresses, certificates, DNS over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from dwaarx.config import addresses, statements, values
from dwaarx.config.acme import SiteAcme
from dwaarx.config.errors import Problem, Problems, WrongError, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import (
    Address,
    CertificateFiles,
    InternalCertificate,
    Location,
    Site,
    SiteAddress,
    SiteCertificates,
)
from dwaarx.config.options import Options, bind_addresses
from dwaarx.config.reserved import is_internal, why_unsigned
from dwaarx.config.routes import NOT_YET, REPEATABLE, RouteReader
from dwaarx.config.statements import Grammar, read_block
from dwaarx.config.syntax import Word

DOT_PORT: Final = 853
HTTP_PORT: Final = 80
_TLS_UPCOMING: Final = """
    alpn ciphers client_auth curves dns_challenge_override_domain dns_ttl force_automate
    get_certificate insecure_secrets_log key_type load on_demand propagation_delay
    propagation_timeout protocols renewal_window_ratio resolvers reuse_private_keys
"""
# What Caddy has for the same purposes.
_TLS_INSTEAD: Final = {
    "ca": "it is named by `acme_ca DIRECTORY` in the global options",
    "ca_root": "it is named by `acme_ca DIRECTORY BUNDLE` in the global options",
    "issuer": "give `acme_ca` in the global options, or `tls internal`",
}
_TLS: Final = Grammar("`tls`", not_yet=frozenset(_TLS_UPCOMING.split()), instead=_TLS_INSTEAD)
_SITE: Final = Grammar("a site", not_yet=NOT_YET, repeatable=REPEATABLE | {"tls", "dns_over_tls"})
_TLS_FORM: Final = "tls CERT KEY { ocsp FILE }`, `tls internal` or `tls { dns … }"


@attrs.frozen
class PlacedSite:
    """A site, and the words that say its addresses."""

    site: Site
    words: tuple[Word, ...]

    def address_words(self) -> list[Word]:
        """Return the word of each address; made when it is asked for, which is for a few."""
        return list(_split_at_commas(self.words))

    def place_of(self, host: str, port: int | None = None) -> Location:
        """Return the place of the first address with this host, and port if it is given."""
        pairs = zip(self.site.addresses, self.address_words(), strict=True)
        return next(
            word.location
            for address, word in pairs
            if address.host == host and port in (None, address.port)
        )


def read_site(
    words: tuple[Word, ...],
    statement: Statement,
    options: Options,
    folder: Path,
    problems: Problems,
) -> PlacedSite | None:
    """Return a site; None when something is wrong with it, which then is in `problems`.

    `words` are its addresses, which may have come from several lines; `statement` has its block.
    """
    return _Reader(options, folder, problems).site(words, statement)


class _Reader:
    def __init__(self, options: Options, folder: Path, problems: Problems) -> None:
        self._options = options
        self._folder = folder
        self._problems = problems
        self._private_pki = options.private_pki
        self._wrong = False
        self._bind = options.bind
        self._files: dict[Path, CertificateFiles] = {}
        self._internal: Location | None = None
        self._acme: SiteAcme | None = None
        # Those of the local CA although the site does not ask for it.
        self._internal_hosts: dict[str, None] = {}
        self._tls: Location | None = None
        self._dot: list[tuple[Address, Location]] = []
        self._dot_given: Location | None = None

    def site(self, words: tuple[Word, ...], statement: Statement) -> PlacedSite | None:
        routes = RouteReader(self._problems)
        table = {
            **routes.directives(),
            "tls": self._read_tls,
            "bind": self._read_bind,
            "dns_over_tls": self._read_dns_over_tls,
        }
        read_block(statement.block or (), _SITE, table, self._problems)
        found: list[SiteAddress] = []
        for word in _split_at_commas(words):
            try:
                address = self._address(word)
                found.append(address)
                if address.tls:
                    self._check_certificate(address.host, word)
            except WrongError as error:
                self._problems.note(error.problem)
                self._wrong = True
        if not found:
            if not self._wrong:
                message = "expected the address of a site before `{`"
                self._problems.add(words[0].location, message)
            return None
        try:
            certificate = self._certificate(found, words[0])
            dot = self._dot_addresses()
        except WrongError as error:
            self._problems.note(error.problem)
            return None
        if self._wrong:
            return None
        site = Site(
            addresses=tuple(found),
            routes=routes.routes(),
            certificate=certificate,
            dns_over_tls=dot,
            bind=self._bind,
            location=words[0].location,
        )
        return PlacedSite(site, words)

    # --- the addresses ------------------------------------------------------

    def _address(self, word: Word) -> SiteAddress:
        text = word.text
        scheme, marks, rest = text.partition("://")
        if not marks:
            scheme, rest = "", text
        if marks and scheme not in ("http", "https"):
            message = f"{quoted(text)} is no address of a site: expected `http://` or `https://`"
            raise WrongError(word.location, message)
        if "{" in rest:
            message = f"placeholders in the address of a site are not available: {quoted(text)}"
            raise WrongError(word.location, message)
        rest = rest.removesuffix("/") if marks else rest
        if "/" in rest:
            message = f"the address of a site has no path: {quoted(text)}; use `handle` for it"
            raise WrongError(word.location, message)
        if not marks and not rest:
            raise WrongError(word.location, "expected the address of a site")
        host, digits = addresses.split(word, rest)
        name = _site_host(word, host)
        given = None if digits is None else addresses.port(word, digits)
        return self._with_port(word, scheme, name, given)

    def _with_port(self, word: Word, scheme: str, host: str, given: int | None) -> SiteAddress:
        options = self._options
        tls = scheme == "https" or bool(self._tls) or options.auto_https
        if scheme == "http" or (not scheme and given is not None and self._is_plain(given)):
            tls = False
        if scheme == "http" and given == options.https_port:
            message = f"`http://` on port {given}, which is the https_port"
            raise WrongError(word.location, message)
        if scheme == "https" and given == options.http_port:
            message = f"`https://` on port {given}, which is the http_port"
            raise WrongError(word.location, message)
        if not tls and given is None and options.http_port == 0:
            message = f"{quoted(word.text)} is plain HTTP, and http_port is 0: give a port"
            raise WrongError(word.location, message)
        if not tls and given == options.https_port:
            message = (
                f"{quoted(word.text)} would be plain HTTP on the https_port: `auto_https off` "
                "asks for `tls CERT KEY` or `tls internal` here"
            )
            raise WrongError(word.location, message)
        if given is None:
            given = options.https_port if tls else options.http_port
        return SiteAddress(host, given, tls)

    def _is_plain(self, port: int) -> bool:
        options = self._options
        return port == options.http_port or (port == HTTP_PORT and port != options.https_port)

    # --- the certificate ----------------------------------------------------

    @property
    def _automatic(self) -> bool:
        """Whether the site says nothing of files or the local CA, and nothing that was refused."""
        return self._tls is None or self._acme is not None

    def _certificate(self, found: list[SiteAddress], first: Word) -> SiteCertificates | None:
        secure = [address for address in found if address.tls]
        if not secure:
            if self._tls is not None:
                message = "`tls` stands in a site whose addresses are all plain HTTP"
                raise WrongError(self._tls, message)
            if self._dot_given is not None:
                message = "`dns_over_tls` stands in a site whose addresses are all plain HTTP"
                raise WrongError(self._dot_given, message)
            return None
        if self._files:
            return tuple(self._files.values())
        if self._internal is not None:
            names = dict.fromkeys(address.host or "localhost" for address in secure)
            return InternalCertificate(tuple(names), self._internal)
        if not self._automatic:
            return None  # the `tls` was refused
        automatic = self._options.automatic(self._acme)
        internal = self._internal_hosts
        if not internal:
            return automatic
        if self._acme is not None and all(each.host in internal for each in secure):
            message = (
                "no public CA signs the names of this site, which have certificates of the local "
                "CA: this `tls` would change nothing"
            )
            raise WrongError(self._tls or first.location, message)
        return attrs.evolve(
            automatic, internal=InternalCertificate(tuple(internal), first.location)
        )

    def _check_certificate(self, host: str, word: Word) -> None:
        """Raise WrongError for a host that gets no certificate by itself, but must."""
        if not self._automatic:
            return
        if not host:
            raise WrongError(
                word.location,
                f"{quoted(word.text)} has no name, so it needs `tls CERT KEY` or `tls internal`"
                " (or `http://` for plain HTTP)",
            )
        if self._acme is None and not self._options.auto_https:
            message = "needs `tls CERT KEY` or `tls internal`: auto_https is off"
            raise WrongError(word.location, f"{quoted(word.text)} {message}")
        if is_internal(host):
            self._internal_hosts[host] = None
            return
        if host.startswith("*.") and not (self._acme and self._acme.dns_given):
            raise WrongError(
                word.location,
                f"{quoted(word.text)} needs `tls {{ dns rfc2136 … }}`: CAs sign a wildcard only "
                "for who can change its zone (or give `tls CERT KEY` or `tls internal`)",
            )
        reason = None if self._private_pki else why_unsigned(host)
        if reason is not None:
            self._problems.warn(lambda: _unsigned(word, host, reason))

    def _read_tls(self, statement: Statement) -> None:
        first, self._tls = self._tls, self._tls or statement.location
        try:
            self._one_tls(statement, first)
        except WrongError:
            self._wrong = True
            raise

    def _one_tls(self, statement: Statement, first: Location | None) -> None:
        found = statement.arguments
        if not found and statement.block:
            self._acme_settings(statement, first)
            return
        found = statements.words(statement, _TLS_FORM, 1, 2)
        internal = len(found) == 1
        if internal and found[0].text != "internal":
            message = f"a word is missing after {quoted(found[0].text)}: expected `{_TLS_FORM}`"
            if "@" in found[0].text:
                message = "the address for the CAs stands in the global options: `email ADDRESS`"
            raise WrongError(found[0].location, message)
        if first is not None and (internal or self._internal or self._acme):
            self._stands_alone(statement, first)
        staples: list[Word] = []

        def ocsp(inner: Statement) -> None:
            if internal:
                message = "`ocsp` goes with `tls CERT KEY`: the local CA staples by itself"
                raise WrongError(inner.location, message)
            staples.append(statements.one_word(inner, "ocsp FILE"))

        def acme(inner: Statement) -> None:
            message = (
                f"{quoted(inner.name)} is for certificates by ACME: expected it in `tls {{ … }}`"
            )
            raise WrongError(inner.location, message + " without a word before the block")

        table = {**dict.fromkeys(SiteAcme().directives(), acme), "ocsp": ocsp}
        read_block(statement.block or (), _TLS, table, self._problems)
        if internal:
            self._internal = statement.location
            return
        files = CertificateFiles(
            values.file_path(found[0], self._folder),
            values.file_path(found[1], self._folder),
            values.file_path(staples[0], self._folder) if staples else None,
            statement.location,
            staples[0].location if staples else None,
        )
        other = self._files.setdefault(files.certificate, files)
        if other is not files:
            message = f"this certificate is given twice; the first is at {other.location}"
            raise WrongError(found[0].location, message)

    def _acme_settings(self, statement: Statement, first: Location | None) -> None:
        if first is not None:
            self._stands_alone(statement, first)
        acme = SiteAcme()

        def ocsp(inner: Statement) -> None:
            message = "`ocsp` goes with `tls CERT KEY`: staples for other certificates are fetched"
            raise WrongError(inner.location, message)

        table = {**acme.directives(), "ocsp": ocsp}
        read_block(statement.block or (), _TLS, table, self._problems)
        self._acme = acme

    def _stands_alone(self, statement: Statement, first: Location) -> None:
        internal = self._internal or any(word.text == "internal" for word in statement.arguments)
        shown = "`tls internal`" if internal else "`tls { … }`"
        message = f"{shown} stands alone in a site; the other `tls` is at {first}"
        raise WrongError(statement.location, message)

    # --- where to listen ----------------------------------------------------

    def _read_bind(self, statement: Statement) -> None:
        self._bind = bind_addresses(statement)

    def _read_dns_over_tls(self, statement: Statement) -> None:
        self._dot_given = self._dot_given or statement.location
        statements.no_block(statement)
        found = statements.words(statement, "dns_over_tls [ADDRESS…]", 0)
        if not found:
            self._dot.append((Address("", DOT_PORT), statement.location))
        for word in found:
            self._dot.append((addresses.listen_address(word, DOT_PORT), word.location))

    def _dot_addresses(self) -> tuple[Address, ...]:
        found: dict[Address, Location] = {}
        for address, location in self._dot:
            hosts = [address.host] if address.host or not self._bind else self._bind
            for expanded in (Address(host, address.port) for host in hosts):
                if self._is_plain(expanded.port):
                    message = f"port {expanded.port} is for plain HTTP: give `dns_over_tls` another"
                    raise WrongError(location, message)
                if expanded in found:
                    known = found[expanded]
                    message = f"the address {expanded} is given twice; the first is at {known}"
                    raise WrongError(location, message)
                found[expanded] = location
        return tuple(found)


def _unsigned(word: Word, host: str, reason: str) -> Problem:
    message = (
        f"no public CA signs {quoted(host)}: {reason}; give `tls internal`, `tls CERT KEY` or "
        "an `acme_ca` with a bundle of its own"
    )
    return Problem(word.location, message)


def _site_host(word: Word, host: str) -> str:
    """Return the host as in SiteAddress."""
    if not host:
        return ""
    literal = addresses.ip_literal(host)
    if literal is not None:
        if "%" in host or literal.is_multicast:
            raise WrongError(word.location, f"{quoted(host)} is not the address of a site")
        return str(literal)
    wildcard = host.startswith("*.")
    name = addresses.host_name(host.removeprefix("*."))
    if name is None:
        message = f"{quoted(word.text)} is no address of a site: expected one such as "
        examples = "`example.com`, `*.example.com`, `localhost:8443` or `http://[::1]:8080`"
        raise WrongError(word.location, message + examples)
    return f"*.{name}" if wildcard else name


def _split_at_commas(words: tuple[Word, ...]) -> Iterator[Word]:
    for word in words:
        text = word.text
        if "," not in text:
            if text:
                yield word
            continue
        # Text from the environment has no columns of its own.
        written = text == word.raw
        start = 0
        for part in text.split(","):
            if part:
                column = word.column + start if written else word.column
                yield Word(part, word.raw, word.file, word.line, column)
            start += len(part) + 1
