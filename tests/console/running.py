"""A reactor of its own in a thread, for tests with real sockets and blocking clients."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from twisted.internet.defer import maybeDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

PATIENCE = 20.0  # a test that waits longer than this has failed


class Running:
    """Runs a reactor until `close`."""

    def __init__(self):
        self.reactor = EPollReactor()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stopped:
            self.reactor.iterate(0.05)

    def call(self, function, *args):
        """Call in the reactor's thread; give its result, waited for if it is a Deferred."""
        future = Future()

        def run():
            deferred = maybeDeferred(function, *args)
            deferred.addCallbacks(
                future.set_result, lambda failure: future.set_exception(failure.value)
            )

        self.reactor.callFromThread(run)
        return future.result(PATIENCE)

    def close(self):
        def stop():
            self._stopped = True

        self.reactor.callFromThread(stop)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        for selectable in self.reactor.removeAll():
            selectable.connectionLost(Failure(ConnectionDone()))
