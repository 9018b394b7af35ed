"""What a Dwaarfile says of certificates by ACME: the CAs, and a site's own settings.

Keys stand beside other words here, so no refusal shows a word that may be one.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import dns.exception
import dns.name

from dwaarx.config import addresses, statements, values
from dwaarx.config.errors import Problems, WrongError, likely, listed, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import AcmeCa, Eab, Location, Rfc2136
from dwaarx.config.statements import Directive, Grammar, read_block
from dwaarx.config.syntax import Word

DNS_PORT: Final = 53
# RFC 8945 section 6, without the truncated ones; and without MD5, which no server needs any more.
ALGORITHMS: Final = ("hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1")

SiteSettings = tuple[Rfc2136 | None, str | None, bool]

_CA: Final = Grammar("`acme_ca`")
_CA_FORM: Final = "acme_ca DIRECTORY [BUNDLE] { eab KEY_ID MAC_KEY; profile NAME }"
_EAB_FORM: Final = "eab KEY_ID MAC_KEY"
_DNS_FORM: Final = "dns rfc2136 SERVER KEYNAME SECRET [ALGORITHM]"
# The local part without what a mailto: URL gives another meaning (RFC 6068 section 2).
_LOCAL_PART: Final = re.compile(r"[A-Za-z0-9!#$'*+/=^_`{|}~.-]{1,64}")
_BASE64URL: Final = re.compile(r"([A-Za-z0-9_-]+)={0,2}")
# Directories and names of profiles are short; what they are compared with is not theirs to choose.
_MAX_URL: Final = 2048
_MAX_NAME: Final = 255


def read_email(statement: Statement) -> str:
    """Return the address of `email`; its domain becomes an A-label."""
    word = statements.one_word(statement, "email ADDRESS")
    local, _at, domain = word.text.rpartition("@")
    name = addresses.host_name(domain)
    if name is None or not _LOCAL_PART.fullmatch(local):
        message = f"{quoted(word.text)} is not an email address: expected one such as ops@a.example"
        raise WrongError(word.location, message)
    return f"{local}@{name}"


def read_ca(statement: Statement, folder: Path, problems: Problems) -> AcmeCa:
    """Return the CA of one `acme_ca`; what is wrong in its block goes to `problems`."""
    found = statements.words(statement, _CA_FORM, 1, 2)
    directory = _directory(found[0])
    bundle = values.file_path(found[1], folder) if len(found) == 2 else None
    eab: Eab | None = None
    profile: str | None = None

    def read_eab(inner: Statement) -> None:
        nonlocal eab
        key_id, key = _secret_words(inner, _EAB_FORM, 2, 2)
        matched = _BASE64URL.fullmatch(key.text)
        # One character of four holds no whole byte.
        if matched is None or len(matched[1]) % 4 == 1:
            raise WrongError(key.location, f"the key is not base64url: expected `{_EAB_FORM}`")
        if not key_id.text:
            raise WrongError(key_id.location, f"a word is empty: expected `{_EAB_FORM}`")
        eab = Eab(key_id.text, matched[1], _written_at(key))

    def read_profile(inner: Statement) -> None:
        nonlocal profile
        profile = _profile(inner)

    table = {"eab": read_eab, "profile": read_profile}
    read_block(statement.block or (), _CA, table, problems)
    return AcmeCa(directory, bundle, eab, profile, found[-1].location)


def _directory(word: Word) -> str:
    text = word.text
    expected = "expected the URL of its directory, such as https://ca.example/directory"
    # What has an `@` may hold a password.
    shown = quoted(text) if "@" not in text else "this"
    wrong = WrongError(word.location, f"{shown} is not a CA: {expected}")
    if not text.isascii() or len(text) > _MAX_URL or any(c <= " " or c == "\x7f" for c in text):
        raise wrong
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        raise wrong from None
    literal = addresses.ip_literal(host)
    if url.scheme not in ("https", "http") or (literal is None and not addresses.host_name(host)):
        raise wrong
    if port == 0 or url.fragment:
        raise wrong
    if url.username is not None or url.password is not None:
        raise WrongError(word.location, f"a directory has no user name: {expected}")
    loopback = literal.is_loopback if literal else f".{host}".endswith(".localhost")
    if url.scheme == "http" and not loopback:
        message = f"{shown} is not safe: `http://` is for a CA on this machine only"
        raise WrongError(word.location, message)
    return text


def _profile(statement: Statement) -> str:
    word = statements.one_word(statement, "profile NAME")
    if not word.text or not word.text.isprintable() or len(word.text) > _MAX_NAME:
        raise WrongError(word.location, f"{quoted(word.text)} is not the name of a profile")
    return word.text


class SiteAcme:
    """Reads the block of a site's `tls { … }`: how its certificates by ACME are obtained."""

    def __init__(self) -> None:
        self.dns_given = False  # perhaps not as it should be
        self.dns: Rfc2136 | None = None
        self.profile: str | None = None
        self.must_staple = False

    @property
    def settings(self) -> SiteSettings:
        """The part of AcmeSettings that a site says: dns, profile, must_staple."""
        return self.dns, self.profile, self.must_staple

    def directives(self) -> dict[str, Directive]:
        """Return the directives for `read_block`."""
        return {
            "dns": self._read_dns,
            "profile": self._read_profile,
            "must_staple": self._read_must_staple,
        }

    def _read_dns(self, statement: Statement) -> None:
        self.dns_given = True
        statements.no_block(statement)
        provider = statements.words(statement, _DNS_FORM, 1)[0]
        if provider.text != "rfc2136":
            hint = likely(provider.text, ["rfc2136"])
            message = f"there is no DNS provider {quoted(provider.text)}{hint}"
            raise WrongError(provider.location, message)
        _provider, server, key, secret, *rest = _secret_words(statement, _DNS_FORM, 4, 5)
        self.dns = Rfc2136(
            addresses.server_address(server, DNS_PORT),
            _key_name(key),
            _base64(secret),
            _algorithm(rest[0]) if rest else ALGORITHMS[0],
            _written_at(secret),
        )

    def _read_profile(self, statement: Statement) -> None:
        self.profile = _profile(statement)

    def _read_must_staple(self, statement: Statement) -> None:
        statements.no_block(statement)
        statements.words(statement, "must_staple", 0, 0)
        self.must_staple = True


def _secret_words(statement: Statement, form: str, least: int, most: int) -> tuple[Word, ...]:
    """Return the arguments, among which are secrets: no refusal shows one."""
    statements.no_block(statement)
    found = statements.words(statement, form, least)
    if len(found) > most:
        raise WrongError(found[most].location, f"a word too many: expected `{form}`")
    return found


def _key_name(word: Word) -> str:
    try:
        # 1,024: a name of 255 bytes, each written as \DDD, is not longer.
        name = dns.name.from_text(word.text[:1025], dns.name.root)
    except (dns.exception.DNSException, UnicodeError):
        name = dns.name.root
    if name == dns.name.root:
        raise WrongError(word.location, f"not the name of a key: expected `{_DNS_FORM}`")
    return name.canonicalize().to_text(omit_final_dot=True)


def _base64(word: Word) -> str:
    try:
        secret = base64.b64decode(word.text, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise WrongError(word.location, f"the secret is not base64: expected `{_DNS_FORM}`")
    return word.text


def _algorithm(word: Word) -> str:
    name = word.text.lower().removesuffix(".")
    if name not in ALGORITHMS:
        raise WrongError(word.location, f"not an algorithm: expected {listed(ALGORITHMS)}")
    return name


def _written_at(secret: Word) -> Location | None:
    """Return the place of a secret that stands in the file; None: it comes from elsewhere."""
    from_environment = "{$" in secret.raw and secret.quote != "`"
    return None if from_environment else secret.location
