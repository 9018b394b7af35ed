"""What the proxy says in a request's fields about whom it comes from, and in both ways of itself.

Nothing that the client says about its own way here is passed on: an upstream that trusts
dwaarx would believe it. The names are compared with `_` read as `-`, since CGI and WSGI make
one variable of both.
"""

from __future__ import annotations

from functools import lru_cache

from dwaarx.http.events import Field, RequestHead
from dwaarx.http.exchange import ConnectionInfo

PSEUDONYM = b"dwaarx"

# Claims about the client's address and way, which are dropped besides `x-forwarded-*`; and what
# the session to the upstream writes itself.
_CLAIMS = frozenset(
    (b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip")
)
_OWN = frozenset((b"content-length", b"host"))

# Names and origins come again and again; a client that makes new ones only makes work for itself.
_REMEMBERED = 1024


@lru_cache(_REMEMBERED)
def _passes(name: bytes) -> bool:
    plain = name.replace(b"_", b"-")
    return not (plain.startswith(b"x-forwarded") or plain in _CLAIMS or plain in _OWN)


@lru_cache(_REMEMBERED)
def _origin(client: str, secure: bool, authority: bytes) -> tuple[Field, ...]:
    address = client.encode("ascii", "replace")
    scheme = b"https" if secure else b"http"
    # RFC 7239 6: an IPv6 address is bracketed and quoted; so is any host with more than a token.
    node = b'"[%b]"' % address if b":" in address else address
    fields: list[Field] = [(b"x-forwarded-for", address), (b"x-forwarded-proto", scheme)]
    forwarded = b"for=%b;proto=%b" % (node, scheme)
    if authority:
        # An authority (RFC 3986) holds neither a quote nor a backslash.
        fields.append((b"x-forwarded-host", authority))
        forwarded += b';host="%b"' % authority
    fields.append((b"forwarded", forwarded))
    return tuple(fields)


@lru_cache(16)
def via(version: bytes) -> Field:
    """Return our Via for a message that came in this version (RFC 9110 section 7.6.3)."""
    return b"via", version + b" " + PSEUDONYM


def upstream_fields(request: RequestHead, info: ConnectionInfo) -> list[Field]:
    """Return the fields for the upstream: without Host and Content-Length, which it adds."""
    passes = _passes
    fields = [field for field in request.fields if passes(field[0])]
    fields += _origin(info.client, info.secure, request.authority)
    fields.append(via(request.version))
    return fields
