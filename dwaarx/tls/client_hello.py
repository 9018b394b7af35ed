"""What a client says first of all: its ClientHello, read before OpenSSL is given it.

OpenSSL asks for the certificate of a name before it knows the ALPN names, while ACME's tls-alpn-01
(RFC 8737) has a certificate of its own for one ALPN name.
"""

from __future__ import annotations

import attrs

from dwaarx.tls.names import normal_name

# All the bytes that are held for a hello which is not whole. One record's worth: those of clients
# that send a post-quantum key share have about 2 kB, and OpenSSL takes no more than 16 KiB either.
MAX_HELLO = 16 * 1024

_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_RECORD_START = b"\x16\x03"  # a handshake, and the same first byte of every version
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
_ALPN = 16


@attrs.frozen
class ClientHello:
    """What a connection is chosen by: the SNI name (as `normal_name`), the ALPN names in order."""

    server_name: str | None
    protocols: tuple[bytes, ...]


class ClientHelloReader:
    """Reads the hello of one connection from the bytes as they come.

    `received` is all that came so far.
    """

    __slots__ = ("_message", "_read", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self._read = 0  # of `received`: where the next record begins
        self._message = bytearray()

    def receive(self, data: bytes) -> ClientHello | None:
        """Take more bytes; return the hello once it is whole, None before.

        What follows it is left alone. Raises ValueError for what is no hello (RFC 8446 section
        4.1.2), or is larger than MAX_HELLO; it is not to be called again after that.
        """
        self.received += data
        while (fragment := self._next_fragment()) is not None:
            self._message += fragment
            if (body := self._body()) is not None:
                return _parse(body)
        if len(self.received) > MAX_HELLO:
            raise ValueError("the hello is too large")
        return None

    def _next_fragment(self) -> bytes | None:
        """Return what the next record carries, None if it is not whole."""
        received, at = self.received, self._read
        header = received[at : at + _RECORD_HEADER]
        # Each byte is judged as soon as it is there, so that nothing else is held back.
        if not _RECORD_START.startswith(header[:2]):
            raise ValueError("not a handshake record")
        if len(header) < _RECORD_HEADER:
            return None
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= MAX_HELLO:
            raise ValueError("a record that is empty or too large")
        start = at + _RECORD_HEADER
        if len(received) < start + length:
            return None
        self._read = start + length
        return bytes(received[start : start + length])

    def _body(self) -> bytes | None:
        """Return the hello without its header, None if it is not whole."""
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        if len(message) < _MESSAGE_HEADER:
            return None
        end = _MESSAGE_HEADER + int.from_bytes(message[1:4], "big")
        if end > MAX_HELLO:
            raise ValueError("the hello is too large")
        return bytes(message[_MESSAGE_HEADER:end]) if len(message) >= end else None


class _Cursor:
    """Takes a structure apart from its front; raises ValueError where it ends too soon."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise ValueError("the hello ends too soon")
        return self._data[start : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Take a vector whose length is written in `size` bytes."""
        return self.take(self.number(size))


def _parse(body: bytes) -> ClientHello:
    cursor = _Cursor(body)
    cursor.take(2 + 32)  # version, random
    cursor.vector(1)  # session id
    cursor.vector(2)  # cipher suites
    cursor.vector(1)  # compression methods
    extensions: dict[int, bytes] = {}
    if cursor:
        left = _Cursor(cursor.vector(2))
        while left:
            kind = left.number(2)
            if kind in extensions:
                raise ValueError("an extension comes twice")
            extensions[kind] = left.vector(2)
    if cursor:
        raise ValueError("bytes after the extensions")
    return ClientHello(
        normal_name(_server_name(extensions[_SERVER_NAME])) if _SERVER_NAME in extensions else None,
        _protocols(extensions[_ALPN]) if _ALPN in extensions else (),
    )


def _server_name(extension: bytes) -> bytes:
    """Return the name of RFC 6066 section 3; there is one, as no other kind of name is defined."""
    names = _only(extension)
    if names.number(1) != _HOST_NAME:
        raise ValueError("a server name of an unknown kind")
    name = names.vector(2)
    if names or not name:
        raise ValueError("not one server name")
    return name


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    """Return the names of RFC 7301 section 3.1."""
    left = _only(extension)
    protocols = []
    while left:
        protocols.append(left.vector(1))
    if not all(protocols):
        raise ValueError("an empty ALPN name")
    return tuple(protocols)


def _only(extension: bytes) -> _Cursor:
    """Return the vector that is all of an extension, and is not empty."""
    whole = _Cursor(extension)
    inner = _Cursor(whole.vector(2))
    if whole or not inner:
        raise ValueError("an extension that is empty, or longer than it says")
    return inner
