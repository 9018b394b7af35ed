"""The server's side of DNS over TLS, sans-io: octets in, messages out, and a session's limits."""

from __future__ import annotations

from enum import Enum, auto

from dwaarx.dns.stream import MessageStream

# How many queries of one connection may wait for an upstream at once. dnsperf and resolvers that
# forward to us keep up to 100 under way; what comes beyond waits in the client's socket.
MAX_OUTSTANDING = 100

# Answers are handed to the transport when so much of them has gathered, and not only at the end
# of a turn: one read may hold 2,000 queries, each with an answer of up to 64 KiB.
WRITE_SIZE = 262_144


class Wait(Enum):
    """What a session waits for, and so which of its deadlines runs."""

    QUERY = auto()  # for the peer to ask, or to leave
    REST = auto()  # for the rest of a message that has begun
    ANSWER = auto()  # for the resolver
    PEER = auto()  # for a peer that does not read


class DotSession:
    """One client's session: which query may be resolved now, and which answers are to be written.

    Call `receive`, then `next_message` until it returns None, giving each answer to `answer` as it
    comes, then write what `data_to_send` returns. `choked` is the transport's: it takes no more.
    """

    __slots__ = ("_gathered", "_size", "_stream", "choked", "outstanding")

    def __init__(self) -> None:
        self._stream = MessageStream()
        self._gathered: list[bytes] = []
        self._size = 0
        self.outstanding = 0
        self.choked = False

    def receive(self, data: bytes) -> None:
        """Take what the client sent."""
        self._stream.receive(data)

    def next_message(self) -> bytes | None:
        """Return the next message of the client, if one is whole and the limits let it in.

        It counts as outstanding until `answer` is called.
        """
        if self.outstanding >= MAX_OUTSTANDING or self.choked:
            return None
        message = self._stream.next()
        if message is not None:
            self.outstanding += 1
        return message

    def answer(self, message: bytes) -> None:
        """Take the answer to one of the messages, in whatever order."""
        self.outstanding -= 1
        self._gathered.append(len(message).to_bytes(2, "big"))
        self._gathered.append(message)
        self._size += len(message)

    @property
    def full(self) -> bool:
        """Whether so many answers have gathered that they should be written now."""
        return self._size >= WRITE_SIZE

    @property
    def must_pause(self) -> bool:
        """Whether no more shall be read from the client for now."""
        return self.choked or self.outstanding >= MAX_OUTSTANDING

    @property
    def waits_for(self) -> Wait:
        """What the session waits for, once `next_message` has returned None."""
        if self.choked:
            return Wait.PEER
        if self.outstanding >= MAX_OUTSTANDING:
            return Wait.ANSWER
        if self._stream.unfinished:
            return Wait.REST
        return Wait.ANSWER if self.outstanding else Wait.QUERY

    def data_to_send(self) -> bytes:
        """Return all gathered answers, each behind its length."""
        data = b"".join(self._gathered)
        self._gathered.clear()
        self._size = 0
        return data
