"""Words that are hosts, ports and addresses."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

import idna

from dwaarx.config.errors import WrongError, quoted
from dwaarx.config.model import Address, IPAddress, IPNetwork
from dwaarx.config.syntax import Word

# RFC 1035 section 2.3.4: 253 characters as text, 63 in a label. Underscores are seen in practice.
_LABEL: Final = r"(?!-)[a-z0-9_-]{1,63}+(?<!-)"
_DNS_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*+")
_MAX_NAME: Final = 253
# Longer words are no address, and reading them as one would be slow.
_MAX_WORD: Final = 1024


def port(word: Word, text: str | None = None, *, least: int = 1) -> int:
    """Return the port of `word`, or of its part `text`."""
    digits = word.text if text is None else text
    if re.fullmatch(r"[0-9]{1,5}", digits) and least <= int(digits) <= 65535:
        return int(digits)
    message = f"{quoted(digits)} is not a port: expected a number from {least} to 65535"
    raise WrongError(word.location, message)


def split(word: Word, text: str) -> tuple[str, str | None]:
    """Return the host (without brackets) and the port of `text`, a part of `word`."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise WrongError(word.location, f"{quoted(text)} is no address: expected `[IPV6]:PORT`")
        if ip_literal(host) is None or ":" not in host:
            raise WrongError(word.location, f"{quoted(host)} is not an IPv6 address")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        if ip_literal(text) is not None:
            message = f"an IPv6 address stands in brackets here: expected `[{text}]`"
            raise WrongError(word.location, message)
        raise WrongError(word.location, f"{quoted(text)} is not an address")
    host, colon, digits = text.partition(":")
    return host, digits if colon else None


def ip_literal(text: str) -> IPAddress | None:
    """Return the IP address that `text` is, or None."""
    # Nearly all words are names; to let ip_address() find that out takes ten times as long.
    if len(text) > _MAX_WORD or (":" not in text and not text[-1:].isdigit()):
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def local_ip(word: Word) -> str:
    """Return the textual IP address of a `bind` word; an IPv6 one may stand in brackets."""
    text = word.text
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address = ip_literal(bare)
    if address is None or address.is_multicast:
        message = f"{quoted(text)} is not a local IP address: expected one such as 127.0.0.1 or ::1"
        raise WrongError(word.location, message)
    return str(address)


def socket_address(word: Word, default_port: int | None = None, text: str | None = None) -> Address:
    """Return `IP:PORT` or `[IPV6]:PORT`; with a default port also a bare IP address.

    `text` is the part of `word` that is looked at, by default all of it.
    """
    text = word.text if text is None else text
    bare = ip_literal(text)
    host, digits = (str(bare), None) if bare else split(word, text)
    address = ip_literal(host)
    if address is None:
        message = f"{quoted(text)} does not begin with an IP address: names are not looked up here"
        raise WrongError(word.location, message)
    if digits is None and default_port is None:
        raise WrongError(word.location, f"the port is missing in {quoted(text)}: `{text}:PORT`")
    number = default_port if digits is None else port(word, digits)
    assert number is not None
    return Address(str(address), number)


def listen_address(word: Word, default_port: int | None = None) -> Address:
    """Return `IP:PORT`, or `:PORT` with the host "" (every address)."""
    if word.text.startswith(":") and ip_literal(word.text) is None:
        return Address("", port(word, word.text[1:]))
    return socket_address(word, default_port)


def network(word: Word) -> IPNetwork:
    """Return a network in CIDR notation; a single address is a network of one."""
    text = word.text
    if len(text) <= _MAX_WORD:
        try:
            return ip_network(text)
        except ValueError:
            try:
                near = ip_network(text, strict=False)
            except ValueError:
                pass
            else:
                message = f"{quoted(text)} has bits behind its prefix; did you mean `{near}`?"
                raise WrongError(word.location, message) from None
    message = f"{quoted(text)} is not a network: expected one such as 192.0.2.0/24 or 2001:db8::/32"
    raise WrongError(word.location, message)


def host_name(text: str) -> str | None:
    """Return a DNS name in lower case, IDNA made into A-labels, without a last dot; else None."""
    if not text or len(text) > _MAX_NAME + 1:
        return None
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    name = text.lower().removesuffix(".")
    if len(name) > _MAX_NAME or not _DNS_NAME.fullmatch(name):
        return None
    if name[-1].isdigit() and name.rpartition(".")[2].isdigit():
        return None
    # Not a copy of what is held anyway.
    return text if text == name else name


def server_address(word: Word, default_port: int) -> Address:
    """Return `IP`, `IP:PORT`, `[IPV6]:PORT`, `HOST` or `HOST:PORT`."""
    host, digits = word.text, None
    literal = ip_literal(host)
    if literal is None:
        host, digits = split(word, word.text)
        literal = ip_literal(host)
    name = str(literal) if literal else host_name(host)
    if name is None or (literal and (literal.is_unspecified or literal.is_multicast)):
        message = f"{quoted(word.text)} is not a server: expected `HOST` or `HOST:PORT`"
        raise WrongError(word.location, message)
    return Address(name, default_port if digits is None else port(word, digits))


def authority(word: Word) -> None:
    """Raise WrongError unless the word is `HOST` or `HOST:PORT`."""
    host, digits = split(word, word.text)
    if digits is not None:
        port(word, digits)
    if ip_literal(host) is None and (host_name(host) is None or not host.isascii()):
        raise WrongError(word.location, f"{quoted(word.text)} is not `HOST` or `HOST:PORT`")


def upstream(word: Word, known: frozenset[str]) -> Address:
    """Return `HOST:PORT`, `HOST`, `:PORT` or these behind `http://`.

    Without a port it is 80, without a host localhost. `known` are directives: a bare word which
    is one of them was rather meant to begin a line.
    """
    text = word.text
    scheme, marks, rest = text.partition("://")
    if marks:
        if scheme in ("https", "h2c") or scheme.startswith("unix"):
            message = f"upstreams by {quoted(scheme + marks)} are not available yet"
            raise WrongError(word.location, message)
        if scheme != "http":
            message = f"{quoted(text)} is no upstream: expected `HOST:PORT` or `http://HOST:PORT`"
            raise WrongError(word.location, message)
        text = rest.removesuffix("/")
    elif text.startswith("unix/"):
        raise WrongError(word.location, "upstreams by `unix/` are not available yet")
    if "{" in text:
        message = f"placeholders in an upstream are not available yet: {quoted(text)}"
        raise WrongError(word.location, message)
    if "/" in text:
        raise WrongError(word.location, f"an upstream has no path: {quoted(text)}")
    if text in known:
        message = f"{quoted(text)} begins a directive: expected it on a line of its own"
        raise WrongError(word.location, message)
    host, digits = split(word, text)
    number = 80 if digits is None else port(word, digits)
    if not host and digits is not None:
        return Address("localhost", number)
    literal = ip_literal(host)
    name = str(literal) if literal else host_name(host)
    if name is None:
        raise WrongError(word.location, f"{quoted(text)} is no upstream: expected `HOST:PORT`")
    return Address(name, number)
