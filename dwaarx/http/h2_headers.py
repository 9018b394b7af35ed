"""HTTP/2 field blocks: HPACK both ways, and what makes a message malformed (RFC 9113 section 8).

Encoding keeps no dynamic table, as HAProxy and nginx do: a field's bytes are then the same on
every connection, so that they are made once for the process, and a block is a join of them.
Decoding remembers whole blocks: a client's requests repeat, and a block made of references means
the same as long as the decoder's dynamic table stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError

from dwaarx.http.events import Field, Fields, RequestHead
from dwaarx.http.fields import (
    CONNECTION_SPECIFIC,
    FieldError,
    is_target,
    is_token,
    is_value,
    parse_authority,
    parse_content_length,
)
from dwaarx.http.frames import ErrorCode, H2ConnectionError, StreamError

# SETTINGS_MAX_HEADER_LIST_SIZE: names, values and 32 for each field (section 10.5.1). Browsers
# keep to 8 to 16 KiB, since servers refuse more; 64 KiB are what hpack and Go allow.
MAX_LIST_SIZE = 65_536
# A list up to this is decoded, to say 431 to its sender; what grows larger is a bomb.
MAX_DECODED_SIZE = 2 * MAX_LIST_SIZE
# Each field costs microseconds in every later step; no honest request has a third of this.
MAX_FIELDS = 200
# Before decoding: Huffman coding makes no honest list longer than it is.
MAX_BLOCK_SIZE = MAX_LIST_SIZE

# Blocks and lists up to these are remembered, so many of them for a connection: 400 KiB at worst.
REMEMBERED_BLOCKS = 32
REMEMBERED_BLOCK_SIZE = 512
REMEMBERED_LIST_SIZE = 8192

# Field values up to this length are remembered encoded, so many of them for the process.
REMEMBERED_VALUE_SIZE = 128
REMEMBERED_FIELDS = 4096

# Differ with each response: remembering them would only push others out.
_VOLATILE = frozenset(
    (b"age", b"content-range", b"etag", b"expires", b"last-modified", b"location", b"x-request-id")
)
# Never to be put into a table by anyone on the way (RFC 7541 section 7.1.3).
_SECRET = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))


class RefusedError(Exception):
    """A well-formed request that gets a response from the session itself: its status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _malformed(reason: str) -> StreamError:
    return StreamError(ErrorCode.PROTOCOL_ERROR, f"malformed: {reason}")


# --- sending

# A dynamic table of no size: "with incremental indexing" then adds nothing, here or there.
_encoder = Encoder()
_encoder.header_table_size = 0

# The first block of a connection tells the peer so, and no later SETTINGS_HEADER_TABLE_SIZE of
# it can be under 0 and ask for another update (section 4.3.1).
NO_DYNAMIC_TABLE = b"\x20"

# Literal without indexing, with the name of the static table's 28th entry.
_CONTENT_LENGTH = b"\x0f\x0d"


@lru_cache(maxsize=REMEMBERED_FIELDS)
def _remembered(name: bytes, value: bytes) -> bytes:
    return _encoder.add((name, value), False, True)


def _encode_field(field: Field) -> bytes:
    name, value = field
    if name == b"content-length" and len(value) < 127:
        return _CONTENT_LENGTH + bytes((len(value),)) + value
    if name in _SECRET:
        return _encoder.add(field, True, False)
    if len(value) > REMEMBERED_VALUE_SIZE or name in _VOLATILE:
        return _encoder.add(field, False, False)
    return _remembered(name, value)


def encode_fields(fields: Iterable[Field]) -> bytes:
    """Return a field block: of a request or response with its pseudo-fields, or of trailers."""
    return b"".join(map(_encode_field, fields))


def encode_response(status: int, fields: Fields) -> bytes:
    """Return the field block of a response's head."""
    return _remembered(b":status", b"%d" % status) + encode_fields(fields)


# --- receiving


class BlockDecoder:
    """Decodes the field blocks of one connection, in order; every block must be given to it."""

    __slots__ = ("_decoder", "_heads")

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_DECODED_SIZE)
        self._heads: dict[bytes, RequestHead] = {}

    def request(self, block: bytes) -> RequestHead:
        """Return a request's head.

        Raises StreamError if it is malformed, RefusedError if it is not to be served, and
        H2ConnectionError if the block cannot be decoded.
        """
        small = len(block) <= REMEMBERED_BLOCK_SIZE
        if small and (head := self._heads.get(block)) is not None:
            return head
        fields, size, same = self._decode(block)
        if size > MAX_LIST_SIZE or len(fields) > MAX_FIELDS:
            raise RefusedError(431)
        head = request_head(fields)
        if same and small and size <= REMEMBERED_LIST_SIZE:
            if len(self._heads) >= REMEMBERED_BLOCKS:
                self._heads.clear()
            self._heads[block] = head
        return head

    def trailers(self, block: bytes) -> Fields:
        """Return a message's trailers; raises as `request` does."""
        fields, size, _ = self._decode(block)
        if size > MAX_LIST_SIZE or len(fields) > MAX_FIELDS:
            raise StreamError(ErrorCode.ENHANCE_YOUR_CALM, "the trailers are too large")
        for name, value in fields:
            _check_field(name, value)
        return tuple(fields)

    def skip(self, block: bytes) -> None:
        """Decode the block of a stream that is closed, for the table's sake only."""
        self._decode(block)

    def _decode(self, block: bytes) -> tuple[list[Field], int, bool]:
        """Return the fields, their list size, and whether the dynamic table stayed as it was."""
        # An addition to the table always puts a new object first, or clears it; a change of its
        # size can only take entries away, and matters to a table without any as well.
        whole = self._decoder.header_table
        table = whole.dynamic_entries
        most = whole.maxsize
        count = len(table)
        first = table[0] if count else None
        try:
            # Plain tuples: the library's own type has no use beyond this.
            fields = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise H2ConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, "a field list is over 128 KiB"
            ) from error
        except HPACKError as error:
            raise H2ConnectionError(
                ErrorCode.COMPRESSION_ERROR, "a field block cannot be decoded"
            ) from error
        same = len(table) == count and (not count or table[0] is first) and whole.maxsize == most
        if not same:
            self._heads.clear()
        return fields, sum(len(name) + len(value) + 32 for name, value in fields), same


@lru_cache(maxsize=1024)
def _is_name(name: bytes) -> bool:
    """Whether this is a regular field's name that may come: a lower-case token (section 8.2)."""
    return is_token(name) and name == name.lower() and name not in CONNECTION_SPECIFIC


def _check_field(name: bytes, value: bytes) -> None:
    # Long names are looked at without remembering them, for memory's sake.
    if not (_is_name(name) if len(name) <= 64 else _is_name.__wrapped__(name)):
        raise _malformed("a field name that is not allowed")
    if not is_value(value):
        raise _malformed("a field value that is not allowed")
    if name == b"te" and value.lower() != b"trailers":
        raise _malformed("TE other than trailers")


_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_SCHEMES = frozenset((b"http", b"https"))


def request_head(fields: list[Field]) -> RequestHead:
    """Return the head that these fields of a request make (section 8.3.1); raises StreamError.

    Raises RefusedError(501) for CONNECT: this is no forward proxy.
    """
    pseudo: dict[bytes, bytes] = {}
    regular: list[Field] = []
    hosts: list[bytes] = []
    cookies: list[bytes] = []
    lengths: list[bytes] = []
    for field in fields:
        name, value = field
        if name[:1] == b":":
            if regular or hosts or cookies:
                raise _malformed("a pseudo-field after a regular one")
            if name not in _PSEUDO or name in pseudo:
                raise _malformed("a pseudo-field that is unknown or given twice")
            pseudo[name] = value
            continue
        _check_field(name, value)
        if name == b"cookie":
            # Crumbs are joined where the first was (section 8.2.3).
            if not cookies:
                regular.append(field)
            cookies.append(value)
        elif name == b"host":
            hosts.append(value)
        else:
            if name == b"content-length":
                lengths.append(value)
            regular.append(field)
    if len(cookies) > 1:
        joined = (b"cookie", b"; ".join(cookies))
        regular = [joined if name == b"cookie" else (name, value) for name, value in regular]
    method = pseudo.get(b":method", b"")
    if not is_token(method):
        raise _malformed(":method is missing or no token")
    if method == b"CONNECT":
        raise RefusedError(501)
    scheme = pseudo.get(b":scheme", b"")
    if scheme not in _SCHEMES:
        raise _malformed(":scheme is missing or neither http nor https")
    target = pseudo.get(b":path", b"")
    if not is_target(target) or (target == b"*" and method != b"OPTIONS"):
        raise _malformed(":path is missing or no path")
    try:
        return RequestHead(
            method=method,
            scheme=scheme,
            authority=_authority(pseudo.get(b":authority"), hosts),
            target=target,
            fields=tuple(regular),
            version=b"2",
            content_length=parse_content_length(lengths),
        )
    except FieldError as error:
        raise _malformed(str(error)) from error


def _authority(authority: bytes | None, hosts: list[bytes]) -> bytes:
    """Return the authority; it may stand in Host instead, and in both if they agree."""
    if len(hosts) > 1:
        raise _malformed("two Host fields")
    if authority is None:
        if not hosts:
            raise _malformed("neither :authority nor Host")
        return parse_authority(hosts[0])
    parsed = parse_authority(authority)
    if hosts and parse_authority(hosts[0]) != parsed:
        raise _malformed(":authority and Host differ")
    return parsed
