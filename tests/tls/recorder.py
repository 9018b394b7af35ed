"""A session that notes what happens to it."""

from __future__ import annotations

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from dwaarx.tls.accepted import Accepted


class Recorder(Protocol):
    """Keeps what came, and how it ended."""

    made: list[Recorder] = []

    def __init__(self, accepted: Accepted) -> None:
        self.accepted = accepted
        self.received: list[bytes] = []
        self.lost: Failure | None = None
        self.drained = False
        Recorder.made.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def drain(self) -> None:
        self.drained = True
        assert self.transport is not None
        self.transport.loseConnection()
