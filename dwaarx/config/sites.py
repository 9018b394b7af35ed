"""Site blocks: addresses, certificates, DNS over TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from dwaarx.config import addresses, statements, values
from dwaarx.config.errors import Problems, WrongError, quoted
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
from dwaarx.config.routes import NOT_YET, REPEATABLE, RouteReader
from dwaarx.config.statements import Grammar, read_block
from dwaarx.config.syntax import Word

DOT_PORT: Final = 853
HTTP_PORT: Final = 80
# As in Caddy: names that no public CA can issue for have certificates of the local CA.
_INTERNAL: Final = re.compile(r"(?:.+\.)?(?:localhost|local|internal|home\.arpa)")
_TLS_UPCOMING: Final = """
    alpn ca ca_root ciphers client_auth curves dns dns_challenge_override_domain dns_ttl eab
    force_automate get_certificate insecure_secrets_log issuer key_type load on_demand profile
    propagation_delay propagation_timeout protocols renewal_window_ratio resolvers
    reuse_private_keys
"""
_TLS: Final = Grammar("`tls`", not_yet=frozenset(_TLS_UPCOMING.split()))
_SITE: Final = Grammar("a site", not_yet=NOT_YET, repeatable=REPEATABLE | {"tls", "dns_over_tls"})
_TLS_FORM: Final = "tls CERT KEY { ocsp FILE }` or `tls internal"


@attrs.frozen
class PlacedSite:
    """A site, with the place of each of its addresses."""

    site: Site
    locations: tuple[Location, ...]


@attrs.frozen
class _Place:
    """An address of a site and the word that says it."""

    address: SiteAddress
    word: Word


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
        self._wrong = False
        self._bind = options.bind
        self._files: dict[Path, CertificateFiles] = {}
        self._internal: Location | None = None
        self._tls: Location | None = None
        self._dot: list[tuple[Address, Location]] = []
        self._dot_given: Location | None = None

    def site(self, words: tuple[Word, ...], statement: Statement) -> PlacedSite | None:
        location = words[0].location
        routes = RouteReader(self._problems)
        table = {
            **routes.directives(),
            "tls": self._read_tls,
            "bind": self._read_bind,
            "dns_over_tls": self._read_dns_over_tls,
        }
        read_block(statement.block or (), _SITE, table, self._problems)
        places: list[_Place] = []
        for word in _split_at_commas(words):
            try:
                places.append(_Place(self._address(word), word))
            except WrongError as error:
                self._problems.note(error.problem)
                self._wrong = True
        if not places:
            if not self._wrong:
                self._problems.add(location, "expected the address of a site before `{`")
            return None
        try:
            certificate = self._certificate(places)
            dot = self._dot_addresses(certificate)
        except WrongError as error:
            self._problems.note(error.problem)
            return None
        if self._wrong:
            return None
        site = Site(
            addresses=tuple(place.address for place in places),
            routes=routes.routes(),
            certificate=certificate,
            dns_over_tls=dot,
            bind=self._bind,
            location=location,
        )
        return PlacedSite(site, tuple(place.word.location for place in places))

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

    def _certificate(self, places: list[_Place]) -> SiteCertificates | None:
        secure = [place for place in places if place.address.tls]
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
        if self._tls is not None and self._internal is None:
            return None  # the `tls` was refused
        names = tuple(dict.fromkeys(place.address.host or "localhost" for place in secure))
        if self._internal is not None:
            return InternalCertificate(names, self._internal)
        for place in secure:
            refusal = self._why_not_internal(place)
            if refusal is not None:
                self._problems.add(place.word.location, refusal)
                self._wrong = True
        return InternalCertificate(names, places[0].word.location)

    def _why_not_internal(self, place: _Place) -> str | None:
        """Say why an address gets no certificate of the local CA by itself; None: it does."""
        host, shown = place.address.host, quoted(place.word.text)
        if not host:
            return (
                f"{shown} has no name, so it needs `tls CERT KEY` or `tls internal`"
                " (or `http://` for plain HTTP)"
            )
        if not self._options.auto_https:
            return f"{shown} needs `tls CERT KEY` or `tls internal`: auto_https is off"
        if not is_internal(host):
            return (
                "certificates by ACME are not available yet: give `tls CERT KEY` or `tls internal`"
            )
        return None

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
            # A block alone configures certificates by ACME.
            read_block(statement.block, _TLS, {}, self._problems)
        found = statements.words(statement, _TLS_FORM, 1, 2)
        internal = len(found) == 1
        if internal and found[0].text != "internal":
            message = f"a word is missing after {quoted(found[0].text)}: expected `{_TLS_FORM}`"
            raise WrongError(found[0].location, message)
        if first is not None and (internal or self._internal is not None):
            message = f"`tls internal` stands alone in a site; the other `tls` is at {first}"
            raise WrongError(statement.location, message)
        staples: list[Word] = []

        def ocsp(inner: Statement) -> None:
            if internal:
                message = "`ocsp` goes with `tls CERT KEY`: the local CA staples by itself"
                raise WrongError(inner.location, message)
            staples.append(statements.one_word(inner, "ocsp FILE"))

        read_block(statement.block or (), _TLS, {"ocsp": ocsp}, self._problems)
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

    def _dot_addresses(self, certificate: SiteCertificates | None) -> tuple[Address, ...]:
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


def is_internal(host: str) -> bool:
    """Whether no public CA can issue for the host: localhost, .internal and the like, and IPs."""
    return bool(_INTERNAL.fullmatch(host)) or addresses.ip_literal(host) is not None


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
        start = 0
        for part in word.text.split(","):
            if part:
                # Text from the environment has no columns of its own.
                offset = start if word.text == word.raw else 0
                place = attrs.evolve(word.location, column=word.location.column + offset)
                yield attrs.evolve(word, text=part, location=place)
            start += len(part) + 1
