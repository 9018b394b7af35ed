"""Addresses of host names, asked for in threads that nothing else waits for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from threading import Thread

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.config.model import IPAddress
from dwaarx.reactor import Reactor

# getaddrinfo cannot be cancelled: with a dead DNS server it holds its thread for half a minute.
# The reactor's own pool would be used up by that, and dials of upstreams would wait.
THREADS = 8

# Nobody has more; what a resolver says beyond them is not looked at.
MAX_ADDRESSES = 16

# The longest that a look-up takes by resolv.conf (30 s, 5 attempts). One that takes longer has
# been lost, and its name is looked up anew.
MAX_LOOKUP = 150.0


def addresses_of(host: str) -> Sequence[str]:
    """Ask the system for a host's addresses, in its order of preference; blocks; raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in found]


class _DaemonThread(Thread):
    """A thread that the end of the process does not wait for."""

    def start(self) -> None:
        self.daemon = True
        super().start()


class _Threads(ThreadPool):
    threadFactory = _DaemonThread

    def abandon(self) -> None:
        """Let the threads end by themselves, when their questions are answered."""
        self.threads.clear()  # those that `stop` waits for
        self.stop()


@implementer(IResolutionReceiver)
class _Lookup:
    """One question, and all who wait for its answer; `done` is called before they are."""

    def __init__(self, host: str, began: float, done: Callable[[_Lookup], None]) -> None:
        self.host = host
        self.began = began
        self.waiting: list[Deferred[Sequence[IPAddress]]] = []
        self._done = done
        self._found: dict[IPAddress, None] = {}

    def add(self, text: str) -> None:
        """Keep an address."""
        if len(self._found) < MAX_ADDRESSES:
            self._found[ip_address(text)] = None

    def finish(self, reason: str = "it has no address") -> None:
        """Tell all who wait; the reason is for the case that nothing was found."""
        self._done(self)
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            if self._found:
                each.callback(tuple(self._found))
            else:
                words = f"the name {self.host} cannot be resolved: {reason}"
                each.errback(FetchError(FetchFailure.UNREACHABLE, words))

    # --- an IHostnameResolver's answer --------------------------------------

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        """Nothing to keep: Twisted's own look-ups cannot be cancelled."""

    def addressResolved(self, address: IAddress) -> None:
        """Keep an address, in the order of the resolver's preference."""
        if isinstance(address, IPv4Address | IPv6Address):
            self.add(address.host)

    def resolutionComplete(self) -> None:
        """That was all."""
        self.finish()

    # --- getaddrinfo's ------------------------------------------------------

    def answered(self, found: Sequence[str]) -> None:
        """Take all addresses at once."""
        for text in found:
            self.add(text)
        self.finish()

    def failed(self, failure: Failure) -> None:
        """There are none: OSError, of which gaierror is one."""
        failure.trap(OSError)
        self.finish(getattr(failure.value, "strerror", None) or failure.getErrorMessage())


class Lookups:
    """Looks names up, each once at a time: a name whose DNS hangs holds a single thread.

    `resolver` is asked instead of the system (`ask`, in threads) if there is one.
    """

    def __init__(
        self,
        reactor: Reactor,
        resolver: IHostnameResolver | None = None,
        ask: Callable[[str], Sequence[str]] = addresses_of,
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._ask = ask
        self._pool: _Threads | None = None
        self._running: dict[str, _Lookup] = {}

    def addresses(self, host: str) -> Deferred[Sequence[IPAddress]]:
        """Return a host's addresses, one at least; fails with FetchError (UNREACHABLE).

        Cancelling gives up the wait; the question goes on for others.
        """
        now = self._reactor.seconds()
        lookup = self._running.get(host)
        fresh = lookup is None or now - lookup.began > MAX_LOOKUP
        if lookup is None or fresh:
            lookup = self._running[host] = _Lookup(host, now, self._forget)
        answer = Deferred[Sequence[IPAddress]](lookup.waiting.remove)
        lookup.waiting.append(answer)
        if fresh:
            self._start(lookup)
        return answer

    def close(self) -> None:
        """End the threads that are idle now, and the others with their questions."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.abandon()

    def _start(self, lookup: _Lookup) -> None:
        if self._resolver is not None:
            self._resolver.resolveHostName(lookup, lookup.host)
            return
        if self._pool is None:
            self._pool = _Threads(0, THREADS, "certificates' look-ups")
            self._pool.start()
        asked = deferToThreadPool(self._reactor, self._pool, self._ask_if_awaited, lookup)
        asked.addCallbacks(self._answered, lookup.failed, (lookup,))

    def _ask_if_awaited(self, lookup: _Lookup) -> Sequence[str] | None:
        """Ask, in a thread; None if all have given up before it was this question's turn."""
        return self._ask(lookup.host) if lookup.waiting else None

    def _answered(self, found: Sequence[str] | None, lookup: _Lookup) -> None:
        if found is None and lookup.waiting:
            self._start(lookup)  # someone came just then
        else:
            lookup.answered(found or ())

    def _forget(self, lookup: _Lookup) -> None:
        if self._running.get(lookup.host) is lookup:
            del self._running[lookup.host]
