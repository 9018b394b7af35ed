"""Names, addresses and servers in memory, for a Fetcher to meet."""

from __future__ import annotations

import contextlib
import gc
import queue

import attrs
from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from dwaarx.certs.errors import FetchError
from dwaarx.certs.fetch import Fetcher

NOW = 1_790_000_000.0
PUBLIC = "93.184.215.14"
LONG = 10  # seconds that a test waits for a thread, before it fails


class ThreadedReactor(MemoryReactorClock):
    """Takes calls from threads; `turn` makes the next one."""

    def __init__(self):
        super().__init__()
        self.from_threads = queue.Queue()

    def callFromThread(self, function, *args, **kwargs):
        self.from_threads.put(lambda: function(*args, **kwargs))

    def turn(self):
        self.from_threads.get(timeout=LONG)()


class Resolver:
    """Answers from `names`: the next list of a name's lists each time; a name not there hangs."""

    def __init__(self):
        self.names = {}
        self.asked = []
        self.receivers = []

    def resolveHostName(self, receiver, host, port=0, types=None, semantics="TCP"):
        self.asked.append(host)
        self.receivers.append(receiver)
        receiver.resolutionBegan(None)
        if host not in self.names:
            return
        answers = self.names[host]
        self.answer(answers.pop(0) if len(answers) > 1 else answers[0])

    def answer(self, addresses, at=-1):
        for address in addresses:
            kind = IPv6Address if ":" in address else IPv4Address
            self.receivers[at].addressResolved(kind("TCP", address, 0))
        self.receivers[at].resolutionComplete()


class Line(StringTransport):
    """A server's end of one connection: what came, and what is said."""

    def __init__(self, reactor):
        super().__init__()
        self.reactor = reactor
        self.protocol = None
        self.ended = None

    def setTcpNoDelay(self, enabled):
        pass

    def loseConnection(self):
        super().loseConnection()
        self._end("lose", ConnectionDone())

    def abortConnection(self):
        self._end("abort", ConnectionAborted())

    def _end(self, how, reason):
        if self.ended is None:
            self.ended = how
            self.reactor.callLater(0, self.protocol.connectionLost, Failure(reason))

    def says(self, *pieces):
        for piece in pieces:
            if self.ended is None:
                self.protocol.dataReceived(piece)
        self.reactor.advance(0)

    def leaves(self, reason=None):
        if self.ended is None:
            self.ended = "left"
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))

    def breaks(self):
        self.leaves(ConnectionLost())

    @property
    def request(self):
        """First line and headers (in lower case) of the request, and its body."""
        head, _, body = self.value().partition(b"\r\n\r\n")
        first, *fields = head.decode().split("\r\n")
        return first, dict(field.lower().split(": ", 1) for field in fields), body


@attrs.define
class Outcome:
    """What became of a fetch."""

    deferred: object
    results: list = attrs.Factory(list)

    @property
    def pending(self):
        return not self.results

    @property
    def fetched(self):
        (result,) = self.results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    @property
    def error(self):
        (result,) = self.results
        assert isinstance(result, Failure), result
        return result.value

    @property
    def kind(self):
        assert isinstance(self.error, FetchError), self.error
        return self.error.kind

    @property
    def reason(self):
        assert isinstance(self.error, FetchError), self.error
        return self.error.reason


class Internet:
    """A reactor, a resolver, a fetcher, and the lines that were made."""

    def __init__(self, reactor, resolver):
        self.reactor = reactor
        self.resolver = resolver
        self.allowed = ()
        self.timeout = 10.0
        self.fetcher = Fetcher(
            self.reactor,
            lambda: self.allowed,
            lambda: self.timeout,
            self.resolver,
            lambda: NOW,
        )
        self.lines = []

    def fetch(self, url="http://ocsp.example/", **options):
        outcome = Outcome(self.fetcher.fetch(url, **options))
        outcome.deferred.addBoth(outcome.results.append)
        return outcome

    @property
    def dialled(self):
        """Address and port of each connection that was asked for, in order."""
        return [(host, port) for host, port, *_ in self.reactor.tcpClients]

    def accept(self):
        """The server takes the latest connection."""
        _, _, factory, _, _ = self.reactor.tcpClients[-1]
        line = Line(self.reactor)
        self.lines.append(line)
        line.protocol = factory.buildProtocol(None)
        line.protocol.makeConnection(line)
        return line

    def refuse(self, reason=None):
        """Nobody listens there."""
        _, _, factory, _, _ = self.reactor.tcpClients[-1]
        factory.clientConnectionFailed(
            self.reactor.connectors[-1], Failure(reason or error.ConnectionRefusedError())
        )

    def swallow(self):
        """The time for the latest attempt passes."""
        _, _, _, seconds, _ = self.reactor.tcpClients[-1]
        self.reactor.advance(seconds)
        self.refuse(error.TimeoutError())

    def answer(self, *pieces, **options):
        """The outcome of a request to which a server says this."""
        outcome = self.fetch(**options)
        self.accept().says(*pieces)
        return outcome


@contextlib.contextmanager
def internet(threaded=None):
    """Make an Internet; nothing of it is left over, and nothing went wrong unheard.

    With a ThreadedReactor in `threaded` it asks socket.getaddrinfo in threads.
    """
    failures = []

    def observe(event):
        if "log_failure" in event:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    try:
        if threaded is not None:
            made = Internet(threaded, None)
        else:
            made = Internet(MemoryReactorClock(), Resolver())
            made.resolver.names["ocsp.example"] = [[PUBLIC]]
        yield made
        made.reactor.advance(0)
        made.fetcher.close()
        made.reactor.advance(0)
        assert made.reactor.getDelayedCalls() == []
        assert all(line.ended for line in made.lines)
        assert made.fetcher._wires == made.fetcher._jobs == set()
        gc.collect()
        assert failures == []
    finally:
        globalLogPublisher.removeObserver(observe)


class TlsServer:
    """A TLS server's end of a Line; `came` is what it decrypted."""

    def __init__(self, line, leaf, newest=SSL.TLS1_3_VERSION):
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(newest)
        context.use_certificate(leaf.certificate)
        for above in leaf.chain[1:-1]:
            context.add_extra_chain_cert(above)
        context.use_privatekey(leaf.key)
        self.line = line
        self.connection = SSL.Connection(context, None)
        self.connection.set_accept_state()
        self.came = b""
        self.alert = None
        for _ in range(4):
            self.pump()

    @property
    def server_name(self):
        return self.connection.get_servername()

    def pump(self):
        self.line.reactor.advance(0)
        if self.line.value():
            self.connection.bio_write(self.line.value())
        self.line.clear()
        try:
            self.came += self.connection.recv(65536)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.alert = "close_notify"
        except SSL.Error as error:
            self.alert = str(error)
        with contextlib.suppress(SSL.WantReadError):
            self.line.says(self.connection.bio_read(65536))

    def says(self, data):
        self.connection.send(data)
        self.pump()
