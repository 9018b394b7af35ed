"""Obtaining certificates beside the reactor: in how many threads, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs
from cryptography import x509
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredSemaphore,
    fail,
    maybeDeferred,
    succeed,
)
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.python.failure import Failure

from dwaarx.certs.acme.authorities import Authorities, Connect, Obtained, Wish
from dwaarx.certs.acme.challenges import Challenges
from dwaarx.certs.acme.network import Network, silence
from dwaarx.certs.errors import AcmeError
from dwaarx.certs.storage import Storage
from dwaarx.config.model import AcmeCertificate
from dwaarx.reactor import Reactor

__all__ = ["Issuer", "Obtained"]

# Each mostly waits for a CA; so 1,000 names take about ten minutes, at a pace that CAs like.
_THREADS = 8

# Two CAs with two kinds of proof each, all of which time out. After it a thread is given up,
# whatever keeps it.
_ATTEMPT_DEADLINE = 1200.0

# How long a stop waits for threads; those in the middle of a network wait take no longer than
# the process, being daemons.
_STOP_PATIENCE = 1.0

Work = Callable[[threading.Event], Obtained]


@attrs.define(eq=False)
class _Job:
    """One attempt: how to stop it, what comes of it, and when its thread is over."""

    outcome: Deferred[Obtained]
    stop: threading.Event = attrs.Factory(threading.Event)
    over: Deferred[None] | None = None

    def fail(self, reason: str) -> None:
        self.stop.set()
        if not self.outcome.called:
            self.outcome.errback(AcmeError(reason))


class Issuer:
    """Obtains certificates by ACME, for the reactor's thread.

    `http_available` says whether a plain listener answers http-01 (it may be changed).
    """

    def __init__(
        self,
        reactor: Reactor,
        storage: Storage,
        challenges: Challenges,
        connect: Connect = Network,
    ) -> None:
        silence()
        self.http_available = True
        self._reactor = reactor
        self._authorities = Authorities(storage, challenges, connect)
        self._places = DeferredSemaphore(_THREADS)
        self._jobs: set[_Job] = set()
        self._stopping = False

    def obtain(
        self,
        certificate: AcmeCertificate,
        former: x509.Certificate | None = None,
        former_ca: str | None = None,
    ) -> Deferred[Obtained]:
        """Return a new certificate, or fail with AcmeError; to be asked once at a time per name.

        `former` is the one that is renewed, and `former_ca` the directory that it came from: that
        CA is told what the new one replaces.
        """
        if self._stopping:
            return fail(AcmeError("dwaarx is stopping"))
        wish = Wish(certificate, former, former_ca, self.http_available)
        job = _Job(Deferred(lambda _: job.stop.set()))
        self._jobs.add(job)
        free: Deferred[None] = Deferred()

        def ended(result: Obtained | Failure) -> Obtained | Failure:
            self._jobs.discard(job)
            free.callback(None)
            return result

        job.outcome.addBoth(ended)
        self._places.run(self._begin, job, free, lambda stop: self._authorities.obtain(wish, stop))
        return job.outcome

    def stop(self) -> Deferred[None]:
        """Let go of everything; fires when the threads are over, or after a second."""
        self._stopping = True
        jobs = list(self._jobs)
        for job in jobs:
            job.fail("dwaarx is stopping")
        threads = DeferredList([job.over for job in jobs if job.over], consumeErrors=True)
        threads.addTimeout(_STOP_PATIENCE, self._reactor)
        return threads.addCallbacks(lambda _: None, lambda failure: failure.trap(DeferredTimeout))

    def _begin(self, job: _Job, free: Deferred[None], work: Work) -> Deferred[None]:
        """Start the thread of a job whose turn it is; fires when another may have its place."""
        if self._stopping or job.outcome.called:
            return succeed(None)  # it has failed, or is about to
        over: Deferred[None] = Deferred()
        job.over = over
        limit = self._reactor.callLater(
            _ATTEMPT_DEADLINE, job.fail, f"no end after {_ATTEMPT_DEADLINE:.0f} s"
        )

        def ended(result: Obtained | Failure) -> None:
            if limit.active():
                limit.cancel()
            over.callback(None)
            if job.outcome.called:
                return  # stopped, cancelled or given up: nobody waits for it
            if isinstance(result, Failure):
                job.outcome.errback(result)
            else:
                job.outcome.callback(result)

        def run() -> None:
            results: list[Obtained | Failure] = []
            maybeDeferred(work, job.stop).addBoth(results.append)
            self._reactor.callFromThread(ended, *results)

        # A daemon, so that it keeps no process alive; Twisted's pools wait for theirs.
        threading.Thread(target=run, name="acme", daemon=True).start()
        return free
