"""What the arguments of console functions mean; whatever is wrong is told by its name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dwaarx.config.addresses import ip_literal
from dwaarx.config.model import Address, CertificateFiles
from dwaarx.console.errors import ConsoleError

# One path, or several side by side (an ECDSA and an RSA certificate).
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_OPTIONS = ("ocspResponses",)
_MAX_PORT = 65_535


def read_address(text: str, default_port: int) -> Address:
    """Read `IP`, `IPv4:PORT` or `[IPv6]:PORT`."""
    if not isinstance(text, str):
        raise ConsoleError(f'address is a string such as "127.0.0.1:{default_port}", not {text!r}')
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConsoleError(f"{text!r} is not an address: expected [IPv6] or [IPv6]:PORT")
        port = rest[1:] if rest else str(default_port)
    elif text.count(":") > 1:
        host, port = text, str(default_port)
    else:
        host, colon, port = text.partition(":")
        if not colon:
            port = str(default_port)
    literal = ip_literal(host)
    if literal is None:
        raise ConsoleError(f"{text!r} is not an address: {host!r} is no IP address to listen on")
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= _MAX_PORT):
        raise ConsoleError(
            f"{text!r} is not an address: the port is a number from 1 to {_MAX_PORT}"
        )
    return Address(str(literal), int(port))


def read_sources(
    certificate: Paths, key: Paths, options: Mapping[str, object] | None
) -> tuple[CertificateFiles, ...]:
    """Join certificates, keys and the option `ocspResponses`, which go together one by one."""
    certificates = read_paths("certificate", certificate)
    keys = read_paths("key", key)
    if len(certificates) != len(keys):
        raise ConsoleError(
            f"each certificate needs its key: {len(certificates)} certificates, {len(keys)} keys"
        )
    responses = _read_responses(options, len(certificates))
    return tuple(map(CertificateFiles, certificates, keys, responses))


def read_paths(name: str, value: Paths) -> list[Path]:
    """Read one path or a list of them; relative ones start at the service's folder."""
    return [read_path(name, each) for each in _as_list(name, value)]


def read_path(name: str, value: object) -> Path:
    """Read a path that must not be empty."""
    if not isinstance(value, str | os.PathLike) or str(value) == "" or "\0" in str(value):
        raise ConsoleError(f"{name} is the path of a file, not {value!r}")
    # Absolute, since messages and showCertificates() shall say which file is meant.
    return Path(value).absolute()


def read_urls(value: str | Sequence[str]) -> tuple[str, ...]:
    """Read one path of a URL or a list of them."""
    return tuple(map(_read_url, _as_list("urls", value)))


def _read_url(url: object) -> str:
    if not (isinstance(url, str) and url.startswith("/") and url.isascii()):
        raise ConsoleError(f'urls are paths such as "/dns-query", not {url!r}')
    if not url.isprintable() or set(url) & set(" ?#"):
        raise ConsoleError(f"urls are paths without white space, query or fragment: {url!r}")
    return url


def _read_responses(options: Mapping[str, object] | None, count: int) -> list[Path | None]:
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ConsoleError(f'options is a dict such as {{"ocspResponses": […]}}, not {options!r}')
    for name in options:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(str(name), _OPTIONS, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"there is: {', '.join(_OPTIONS)}"
            raise ConsoleError(f"unknown option {name!r}; {hint}")
    value = options.get("ocspResponses")
    if value is None or value == []:
        return [None] * count
    paths = [
        None if each is None else read_path("ocspResponses", each)
        for each in _as_list("ocspResponses", value)
    ]
    if len(paths) != count:
        raise ConsoleError(
            f"ocspResponses has one file (or None) per certificate: {len(paths)} for {count}"
        )
    return paths


def _as_list(name: str, value: object) -> list[object]:
    if isinstance(value, str | os.PathLike):
        return [value]
    if not isinstance(value, list | tuple) or not value:
        raise ConsoleError(f"{name} is a path or a list of paths, not {value!r}")
    return list(value)
