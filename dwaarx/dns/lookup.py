"""A query's way through a pool: attempts at upstreams until one answers, or time is up."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.interfaces import IReactorTime

from dwaarx.dns.answer import (
    EDE_NETWORK_ERROR,
    EDE_NO_REACHABLE_AUTHORITY,
    EDE_NOT_READY,
    EDE_OTHER,
    error,
    rcode,
    relay,
)
from dwaarx.dns.asking import request
from dwaarx.dns.channel import Channel
from dwaarx.dns.expiry import Expiry
from dwaarx.dns.message import (
    FORMERR,
    NOTAUTH,
    NOTIMP,
    REFUSED,
    SERVFAIL,
    MalformedMessageError,
    Query,
)
from dwaarx.dns.policies import Policy
from dwaarx.dns.resolver import Respond
from dwaarx.dns.upstream import Upstream

# How long one attempt may take: more than a recursive resolver usually needs for a name that it
# has to look for, and so short that a stub (it waits 5 s) still gets a second server's answer.
ATTEMPT_TIMEOUT = 2.0

# No attempt begins later than this, in seconds since the query came: a third one does, after two
# that timed out a little late; when it is over stubs and browsers have given up.
LAST_BEGIN = 4.5

# How many queries may wait for upstreams at once. Each holds about 2 kB, so some 20 MB; at 2 s
# for each that is 5,000 failing queries a second.
MAX_OUTSTANDING = 10_000

# How many of them may be of one client: none can take the place of all others, be it by resetting
# DoH streams, whose lookups go on. A resolver behind which many people sit needs 100 ms for a
# query when it is slow, and so gets 20,000 a second.
MAX_OUTSTANDING_OF_CLIENT = 2_000

# With these codes an upstream says that it will not or cannot do it; another one may.
_TRY_NEXT = frozenset((FORMERR, SERVFAIL, NOTIMP, REFUSED, NOTAUTH))


@attrs.frozen
class Pool:
    """The upstreams for names under `name` ("" for all the rest)."""

    name: str
    upstreams: tuple[Upstream, ...]
    policy: Policy


class Lookups:
    """All lookups under way: their timeouts, and how many there are."""

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.expiry = Expiry(clock, ATTEMPT_TIMEOUT)
        self.outstanding = 0
        self._clients: dict[str, int] = {}  # how many of them are whose
        self._stopped = False

    def start(self, pool: Pool, query: Query, respond: Respond) -> None:
        """Ask a pool's upstreams; `respond` is called once, perhaps before this returns."""
        if self._stopped:
            respond(error(query, SERVFAIL, EDE_NOT_READY, "shutting down"))
            return
        if not pool.upstreams:
            respond(error(query, SERVFAIL, EDE_NO_REACHABLE_AUTHORITY, "no upstream is configured"))
            return
        clients, client = self._clients, query.client
        waiting = clients.get(client, 0)
        if self.outstanding >= MAX_OUTSTANDING or waiting >= MAX_OUTSTANDING_OF_CLIENT:
            respond(error(query, SERVFAIL, EDE_OTHER, "too many queries are waiting"))
            return
        self.outstanding += 1
        clients[client] = waiting + 1
        Lookup(self, pool, query, respond).next_attempt()

    def ended(self, client: str) -> None:
        """Hear that a lookup of a client's is over."""
        self.outstanding -= 1
        waiting = self._clients[client] - 1
        if waiting:
            self._clients[client] = waiting
        else:
            del self._clients[client]

    def stop(self) -> None:
        """Answer all that wait with SERVFAIL, and all that come from now on."""
        self._stopped = True
        for waiter in self.expiry.stop():
            if isinstance(waiter, Lookup):
                waiter.give_up(EDE_NOT_READY, "shutting down")


class Lookup:
    """One query on its way; `channel` and `id` are set by the channel that carries it now."""

    __slots__ = (
        "_again",
        "_answer",
        "_began",
        "_lookups",
        "_pool",
        "_query",
        "_respond",
        "_sent",
        "_unreachable",
        "_untried",
        "_upstream",
        "channel",
        "deadline",
        "id",
        "question",
        "request",
    )

    def __init__(self, lookups: Lookups, pool: Pool, query: Query, respond: Respond) -> None:
        self._lookups = lookups
        self._pool = pool
        self._query = query
        self._respond = respond
        self._began = self._sent = lookups.clock.seconds()
        self._upstream: Upstream | None = None
        self._untried: Sequence[Upstream] = pool.upstreams
        self._again: list[Upstream] | None = []  # None: the second round
        self._answer: bytes | None = None  # the last failure that an upstream answered
        self._unreachable = True  # whether the network itself refused every attempt
        self.channel: Channel | None = None
        self.id = b""
        self.deadline: float | None = None
        self.question = query.question
        self.request = request(query)

    @property
    def may_use_tcp(self) -> bool:
        """Whether what came over UDP may be asked for again over TCP."""
        return self._upstream is not None and self._upstream.falls_back

    @property
    def sent(self) -> float:
        """When the attempt under way began."""
        return self._sent

    def next_attempt(self) -> None:
        """Go to the next upstream that takes the question, or give up."""
        lookups = self._lookups
        while True:
            now = lookups.clock.seconds()
            if now - self._began > LAST_BEGIN:
                return self._run_out()
            if not self._untried:
                # Once more those that said nothing: a datagram or a connection may have got lost.
                if not self._again or self._answer is not None:
                    return self._run_out()
                self._untried, self._again = self._again, None
            upstream = self._pool.policy(self._untried, self._query.name)
            self._untried = [other for other in self._untried if other is not upstream]
            self._upstream = upstream
            self._sent = now
            upstream.outstanding += 1
            upstream.queries += 1
            if upstream.ask(self):
                lookups.expiry.add(self, now)
                return None
            self._leave(failed=True)

    def answered(self, wire: bytes, *, truncated: bool = False) -> None:
        """Take the answer that matches the question; `truncated`: TC was set, over UDP."""
        upstream = self._upstream
        assert upstream is not None
        if truncated and upstream.falls_back:
            return self.change_to_tcp()
        now = self._lookups.clock.seconds()
        try:
            answer = relay(wire, self._query)
        except MalformedMessageError:
            self._unreachable = False
            self._leave(failed=True)
            return self.next_attempt()
        upstream.took(now - self._sent)
        self._leave(failed=False)
        if rcode(wire) in _TRY_NEXT:
            self._answer = answer
            return self.next_attempt()
        return self._finish(answer)

    def change_to_tcp(self) -> None:
        """Ask the same upstream again over TCP."""
        upstream = self._upstream
        assert upstream is not None
        self._sent = now = self._lookups.clock.seconds()
        upstream.ask_over_tcp(self)
        self._lookups.expiry.add(self, now)

    def failed(self, *, lost: bool) -> None:
        """Hear that the attempt came to nothing; `lost`: with a connection that had stood."""
        if lost:
            self._unreachable = False
            self._repeat_later()
        self._leave(failed=True)
        self.next_attempt()

    def timed_out(self) -> None:
        """Hear that the upstream has been silent for too long."""
        if self.channel is not None:
            self.channel.timed_out(self)
        self._unreachable = False
        self._repeat_later()
        self._leave(failed=True)
        self.next_attempt()

    def give_up(self, code: int, text: str) -> None:
        """Answer SERVFAIL, whatever is under way."""
        if self.channel is not None:
            self.channel.forget(self)
        if self._upstream is not None:
            self._leave(failed=False)
        self._finish(error(self._query, SERVFAIL, code, text))

    def _repeat_later(self) -> None:
        if self._again is not None and self._upstream is not None:
            self._again.append(self._upstream)

    def _leave(self, *, failed: bool) -> None:
        upstream = self._upstream
        assert upstream is not None
        self._upstream = None
        self.channel = None
        self.deadline = None
        upstream.left(failed=failed)

    def _run_out(self) -> None:
        if self._answer is not None:
            self._finish(self._answer)
        elif self._unreachable:
            self.give_up(EDE_NETWORK_ERROR, "no upstream can be reached")
        else:
            self.give_up(EDE_NO_REACHABLE_AUTHORITY, "no upstream answered")

    def _finish(self, answer: bytes) -> None:
        self._lookups.ended(self._query.client)
        self._respond(answer)
