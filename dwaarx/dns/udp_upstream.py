"""Asking an upstream over UDP, from sockets whose ports change all the time (RFC 5452)."""

from __future__ import annotations

import socket

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.config.model import Address
from dwaarx.dns.asking import matches, matches_in_any_case
from dwaarx.dns.channel import Asker
from dwaarx.dns.message import HEADER_SIZE
from dwaarx.dns.randomness import random16
from dwaarx.reactor import Reactor

# A port of its own for each query would cost two system calls and a descriptor; so each query
# draws one of a few sockets, none of which lives for long: whoever wants to forge an answer must
# guess port and id, and what he learns of a port is soon worth nothing.
SOCKETS = 16
QUERIES_PER_SOCKET = 100
SECONDS_PER_SOCKET = 30.0

# Our OPT asks for 1,232 octets at most; some servers send a little more.
_MAX_DATAGRAM = 4096

# Datagrams that one socket takes in one turn of the reactor, so that the others get theirs.
_READS_PER_TURN = 64


@implementer(IReadDescriptor)
class UdpSocket:
    """A connected socket and the questions that went out by it.

    Raises OSError if it cannot be opened. Twisted's own Port is not used: it logs a line for
    every port that opens and closes.
    """

    __slots__ = ("_fd", "_peer", "_reactor", "_retired", "_socket", "_waiting", "left", "opened")

    def __init__(self, reactor: Reactor, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            # The kernel draws the port, and from here on drops what others send to it.
            self._socket.connect((address.host, address.port))
            self._peer = self._socket.getpeername()
        except OSError:
            self._socket.close()
            raise
        self._fd = self._socket.fileno()
        self._reactor = reactor
        self._waiting: dict[bytes, Asker] = {}
        self._retired = False
        self.left = QUERIES_PER_SOCKET
        self.opened = reactor.seconds()
        reactor.addReader(self)

    def ask(self, asker: Asker) -> bool:
        """Send a question; False if the network refuses it."""
        waiting = self._waiting
        number = random16()
        while number in waiting:
            number = random16()
        self.left -= 1
        try:
            self._socket.send(number + asker.request)
        except OSError:
            # It may well be about an earlier datagram (ICMP); their askers need not wait.
            if waiting:
                self._reactor.callLater(0, self._fail)
            return False
        waiting[number] = asker
        asker.id = number
        asker.channel = self
        return True

    def forget(self, asker: Asker) -> None:
        """Carry this question no longer."""
        self._waiting.pop(asker.id, None)
        if self._retired and not self._waiting:
            self.close()

    def timed_out(self, asker: Asker) -> None:
        """Carry this question no longer."""
        self.forget(asker)

    def retire(self) -> None:
        """Close as soon as no question is out."""
        self._retired = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close now."""
        if self._fd >= 0:
            self._reactor.removeReader(self)
            self._fd = -1
            self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""
        return self._fd

    def logPrefix(self) -> str:
        """Return what Twisted puts before log lines."""
        return "dns"

    def connectionLost(self, reason: Failure) -> None:
        """Hear from the reactor that the descriptor is of no use."""
        self.close()
        self._fail()

    def doRead(self) -> None:
        """Take what has come."""
        for _ in range(_READS_PER_TURN):
            if self._fd < 0:
                return
            try:
                wire, peer = self._socket.recvfrom(_MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # refused by ICMP
                self._fail()
                return
            if peer == self._peer:
                self._received(wire)

    def _received(self, wire: bytes) -> None:
        waiting = self._waiting
        asker = waiting.get(wire[:2])
        if asker is None or len(wire) < HEADER_SIZE:
            return
        if matches(wire, asker.question):
            del waiting[wire[:2]]
            asker.answered(wire, truncated=bool(wire[2] & 2))
        elif asker.may_use_tcp and matches_in_any_case(wire, asker.question):
            # Forged, or from a server that does not keep the letters: TCP tells.
            del waiting[wire[:2]]
            asker.change_to_tcp()
        else:
            return
        if self._retired and not waiting:
            self.close()

    def _fail(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for asker in waiting.values():
            asker.failed(lost=False)
        if self._retired and not self._waiting:
            self.close()


class UdpUpstream:
    """The sockets to one upstream."""

    __slots__ = ("_address", "_reactor", "_sockets")

    def __init__(self, reactor: Reactor, address: Address) -> None:
        self._reactor = reactor
        self._address = address
        self._sockets: list[UdpSocket | None] = [None] * SOCKETS

    def ask(self, asker: Asker) -> bool:
        """Send a question from a socket drawn at random; False if the network refuses it."""
        place = random16()[0] % SOCKETS
        sock = self._sockets[place]
        if (
            sock is None
            or sock.left <= 0
            or asker.sent - sock.opened > SECONDS_PER_SOCKET
            or sock.fileno() < 0
        ):
            if sock is not None:
                self._sockets[place] = None
                sock.retire()
            try:
                sock = self._sockets[place] = UdpSocket(self._reactor, self._address)
            except OSError:
                return False
        return sock.ask(asker)

    def retire(self) -> None:
        """Close every socket once it has no question out; asking again opens others."""
        sockets, self._sockets = self._sockets, [None] * SOCKETS
        for sock in sockets:
            if sock is not None:
                sock.retire()
