"""What each `{placeholder}` of a Dwaarfile stands for; a template is compiled once.

What a client sends comes into a field only from values that cannot break one: method, target
and authority have been held to their grammars by the sessions (no white space, no control
character: `h1_request.read_head` and its HTTP/2 counterpart, with `http.fields`). That is why
`{path}` and `{query}` are the raw ones, percent-encoding and all. The SNI, which no HTTP session
sees, is looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dwaarx.config.placeholders import PLACEHOLDER
from dwaarx.http.exchange import Exchange

Template = Callable[[Exchange], bytes]

_is_server_name = re.compile(r"[A-Za-z0-9._-]+").fullmatch


def host_of(authority: bytes) -> bytes:
    """Return an authority without its port; an IPv6 literal keeps its brackets."""
    host, colon, port = authority.rpartition(b":")
    return host if colon and not port.endswith(b"]") else authority


def _port(exchange: Exchange) -> bytes:
    authority = exchange.request.authority
    named = authority[len(host_of(authority)) + 1 :]
    return named or b"%d" % exchange.info.local_port


def _server_name(exchange: Exchange) -> bytes:
    name = exchange.info.server_name
    return name.encode("ascii") if name and _is_server_name(name) else b""


_VALUES: dict[str, Template] = {
    "host": lambda exchange: host_of(exchange.request.authority),
    "hostport": lambda exchange: exchange.request.authority,
    "method": lambda exchange: exchange.request.method,
    "path": lambda exchange: exchange.request.target.partition(b"?")[0],
    "port": _port,
    "query": lambda exchange: exchange.request.target.partition(b"?")[2],
    "remote_host": lambda exchange: exchange.info.client.encode("ascii", "replace"),
    "scheme": lambda exchange: b"https" if exchange.info.secure else b"http",
    "server_name": _server_name,
    "uri": lambda exchange: exchange.request.target,
}


def compile_template(text: str) -> Template:
    """Return what makes the text's bytes for a request. Raises ValueError for unknown names."""
    parts = PLACEHOLDER.split(text)
    if len(parts) == 1:
        fixed = text.encode("utf-8")
        return lambda _exchange: fixed
    makers: list[bytes | Template] = []
    for at, part in enumerate(parts):
        if at % 2 == 0:
            if part:
                makers.append(part.encode("utf-8"))
        elif part in _VALUES:
            makers.append(_VALUES[part])
        else:
            raise ValueError(f"{{{part}}} stands for nothing")
    if len(makers) == 1:
        only = makers[0]
        assert not isinstance(only, bytes)
        return only

    def fill(exchange: Exchange) -> bytes:
        return b"".join([m if isinstance(m, bytes) else m(exchange) for m in makers])

    return fill
