"""What the proxy says in a request's fields about whom it comes from, and in both ways of itself.

Nothing that the client says about its own way here is passed on: an upstream that trusts
dwaarx would believe it. The names are compared with whatever is no letter or digit read as `-`,
since CGI and WSGI make one variable of `-` and `_`, and some servers of `.` and the rest as well.
"""

from __future__ import annotations

import re
from functools import lru_cache

from dwaarx.http.events import Field, Fields, RequestHead
from dwaarx.http.exchange import ConnectionInfo
from dwaarx.http.fields import CONNECTION_SPECIFIC

PSEUDONYM = b"dwaarx"

# Claims about the client's address and way, which are dropped besides `x-forwarded-*`; and what
# the session to the upstream writes itself; of CONNECTION_SPECIFIC the usual spellings are gone.
_CLAIMS = frozenset(
    (b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip")
)
_OWN = CONNECTION_SPECIFIC | {b"content-length", b"host"}

# Neither a letter nor a digit; the names are in lower case.
_odd = re.compile(rb"[^0-9a-z]")

# Names and origins come again and again; a client that makes new ones only makes work for itself.
_REMEMBERED = 1024


class ClearedFields(list[Field]):
    """A request's fields without the client's claims: such names here are the Dwaarfile's."""


def without_claims(fields: Fields) -> ClearedFields:
    """Return the fields without what the client says of its way, before `request_header`s."""
    if isinstance(fields, ClearedFields):
        return fields
    return ClearedFields(field for field in fields if not _is_claim(field[0]))


@lru_cache(_REMEMBERED)
def _is_claim(name: bytes) -> bool:
    plain = _odd.sub(b"-", name)
    return plain.startswith(b"x-forwarded") or plain in _CLAIMS


@lru_cache(_REMEMBERED)
def _passes(name: bytes) -> bool:
    return not (_is_claim(name) or _is_own(name))


@lru_cache(_REMEMBERED)
def _is_own(name: bytes) -> bool:
    return _odd.sub(b"-", name) in _OWN


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
    """Return the fields for the upstream: without Host and Content-Length, which it adds.

    What a `request_header` has set takes the place of what would be said here.
    """
    given = request.fields
    origin = _origin(info.client, info.secure, request.authority)
    if isinstance(given, ClearedFields):
        fields = [field for field in given if not _is_own(field[0])]
        names = {field[0] for field in fields}
        fields += [field for field in origin if field[0] not in names]
    else:
        passes = _passes
        fields = [field for field in given if passes(field[0])]
        fields += origin
    fields.append(via(request.version))
    return fields


def upstream_trailers(trailers: Fields) -> Fields:
    """Return a request's trailers without what its head could not claim either.

    Some servers put them among the fields of the head.
    """
    return [field for field in trailers if _passes(field[0])] if trailers else ()
