"""DNS messages on a stream: behind two octets of length each (RFC 1035 section 4.2.2, RFC 7766)."""

from __future__ import annotations


class MessageStream:
    """Cuts a stream of octets into messages.

    It holds at most one message and what one read brought beyond it, as long as `next` is
    called until it returns None before more is read.
    """

    __slots__ = ("_buffer", "_position")

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0

    def receive(self, data: bytes) -> None:
        """Take what the peer sent."""
        if self._position < len(self._buffer):
            self._buffer = self._buffer[self._position :] + data
        else:
            self._buffer = data
        self._position = 0

    def next(self) -> bytes | None:
        """Return the next whole message, or None."""
        start = self._position + 2
        buffer = self._buffer
        if start > len(buffer):
            return None
        end = start + (buffer[start - 2] << 8 | buffer[start - 1])
        if end > len(buffer):
            return None
        self._position = end
        return buffer[start:end]

    @property
    def unfinished(self) -> bool:
        """Whether octets are left that `next` has not returned."""
        return self._position < len(self._buffer)


def framed(message: bytes) -> bytes:
    """Return a message behind its length."""
    return len(message).to_bytes(2, "big") + message
