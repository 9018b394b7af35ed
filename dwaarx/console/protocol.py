r"""What is spoken on the console's Unix socket.

The client's first line is a JSON object. `{"mode": "eval", "expression": "…"}` is answered with
one line `{"ok": bool, "output": str, "result": str or null, "error": str or null}` and a close;
with `"more": true` further such lines may follow, in the same namespace. `{"mode": "terminal",
"width": 80, "height": 24}` is followed by the raw bytes of a terminal both ways; a new size of
its window is told as `ESC [ 8 ; rows ; columns t`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    ILoggingContext,
    IPushProducer,
    IReactorTime,
    ISystemHandle,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.console.answer import Answer, answer
from dwaarx.console.evaluate import fresh
from dwaarx.console.manhole import Terminal
from dwaarx.deadline import Deadline
from dwaarx.transport import Transport

_log = Logger()

# An expression is typed or comes from a script; a file's contents do not go this way.
MAX_REQUEST = 1 << 20
# The client writes its line right after connecting, and reads the answer as it comes.
REQUEST_TIME = 10.0
REPLY_TIME = 10.0
# People and scripts at once; more is a script gone wrong.
MAX_CONNECTIONS = 32

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class RequestError(Exception):
    """The client's line is not a request."""


@attrs.frozen
class Request:
    """`expression` is None for a terminal; `more` keeps the connection for further requests."""

    expression: str | None
    more: bool = False
    width: int = 80
    height: int = 24


def parse_request(line: bytes) -> Request:
    """Read a line; raises RequestError."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("expected one JSON object on one line") from None
    if not isinstance(value, dict):
        raise RequestError("expected a JSON object")
    mode = value.get("mode")
    if mode == "eval":
        expression, more = value.get("expression"), value.get("more", False)
        if not isinstance(expression, str) or not isinstance(more, bool):
            raise RequestError('mode "eval" needs "expression", a string')
        return Request(expression, more)
    if mode == "terminal":
        width, height = value.get("width", 80), value.get("height", 24)
        if not isinstance(width, int) or not isinstance(height, int):
            raise RequestError('"width" and "height" are numbers')
        return Request(None, False, width, height)
    raise RequestError('"mode" is "eval" or "terminal"')


class UnixTransport(Transport, ISystemHandle):
    """What Twisted's connections on Unix sockets are."""

    disconnecting: bool


def peer_of(transport: UnixTransport) -> tuple[int, int]:
    """Tell process id and user id of whoever opened a Unix socket, as the kernel knows them."""
    handle = cast("socket.socket", transport.getHandle())
    raw = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


@implementer(IPushProducer)
class ConsoleProtocol(Protocol):
    """One client of the console's socket."""

    transport: UnixTransport
    factory: ConsoleFactory

    def __init__(self, namespace: Mapping[str, object], clock: IReactorTime) -> None:
        self._shared = namespace
        self._namespace = fresh(namespace)
        self._buffer = bytearray()
        self._deadline = Deadline(clock, self._expired)
        self._terminal: Terminal | None = None
        self._waiting: Deferred[Answer] | None = None
        self._closing = False
        self._paused = False

    def connectionMade(self) -> None:
        """Let in the service's own user and root, nobody else."""
        self.transport.registerProducer(self, True)
        pid, uid = peer_of(self.transport)
        # The socket's mode says the same, but does not hold if someone changes it.
        if uid not in (0, os.geteuid()):
            _log.warn("console: refused user {uid} (process {pid})", uid=uid, pid=pid)
            self._refuse("only root and the user that dwaarx runs as may use the console")
            return
        _log.info("console: opened by user {uid} (process {pid})", uid=uid, pid=pid)
        self._deadline.set(REQUEST_TIME)

    def dataReceived(self, data: bytes) -> None:
        """Take requests, or a terminal's keys."""
        if self._terminal is not None:
            self._terminal.dataReceived(data)
        elif not self._closing:
            self._buffer += data
            self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Give up what is still waited for: nobody will see it."""
        self._closing = True
        self._deadline.stop()
        self.factory.connections -= 1
        if self._waiting is not None:
            self._waiting.cancel()
        if self._terminal is not None:
            self._terminal.connectionLost(reason)

    # --- whoever does not read what is answered is not listened to ----------------

    def pauseProducing(self) -> None:
        """Take no keys and no requests while their output piles up."""
        self._paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Go on, as what was written has been taken."""
        self._paused = False
        if self.transport.disconnecting:
            # All is written; the transport closes only once it has no producer any more.
            self.transport.unregisterProducer()
            return
        self.transport.resumeProducing()
        self._go_on()

    def stopProducing(self) -> None:
        """Hear that the connection is gone; connectionLost says so too."""

    # --- requests -----------------------------------------------------------------

    def _go_on(self) -> None:
        """Take requests one after the other, each when the one before is answered."""
        while not (self._waiting or self._closing or self._terminal or self._paused):
            end = self._buffer.find(b"\n")
            if end < 0:
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                self._serve(parse_request(line))
            except RequestError as error:
                self._refuse(str(error))
        if len(self._buffer) > MAX_REQUEST:
            self._refuse(f"a request is at most {MAX_REQUEST} bytes long")

    def _serve(self, request: Request) -> None:
        self._deadline.clear()
        if request.expression is None:
            self._terminal = Terminal(self._shared, request.width, request.height)
            self._terminal.makeConnection(self.transport)
            keys = bytes(self._buffer)
            self._buffer.clear()
            self._terminal.dataReceived(keys)
            return
        waiting = self._waiting = answer(request.expression, self._namespace)
        later = False

        def answered(result: Answer) -> None:
            self._waiting = None
            if self._closing:
                return
            self._send(result)
            if not request.more:
                self._close()
            elif later:
                self._go_on()

        waiting.addCallback(answered)
        later = True

    def _send(self, result: Answer) -> None:
        reply = {"ok": result.ok, **attrs.asdict(result)}
        self.transport.write(json.dumps(reply).encode("ascii") + b"\n")

    def _refuse(self, reason: str) -> None:
        if not self._closing:
            self._send(Answer("", None, reason))
            self._close()

    def _close(self) -> None:
        self._closing = True
        self._buffer.clear()
        self._deadline.set(REPLY_TIME)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _expired(self) -> None:
        if self._closing:
            self.transport.abortConnection()
        else:
            self._refuse(f"no request came within {REQUEST_TIME:g} s")


@implementer(ILoggingContext)
class ConsoleFactory(Factory[Any]):
    """Makes the protocol for each client of the console's socket."""

    noisy = False

    def logPrefix(self) -> str:
        """Say who is starting, in Twisted's own lines of the log."""
        return "console"

    def __init__(self, namespace: Mapping[str, object], clock: IReactorTime) -> None:
        self._namespace = namespace
        self._clock = clock
        self.connections = 0

    def buildProtocol(self, addr: IAddress | None) -> ConsoleProtocol | None:
        """Make one, if there are not too many yet."""
        if self.connections >= MAX_CONNECTIONS:
            return None
        self.connections += 1
        protocol = ConsoleProtocol(self._namespace, self._clock)
        protocol.factory = self
        return protocol
