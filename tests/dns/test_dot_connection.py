import dns.edns
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from dwaarx.config.model import Record, Resolvers, Timeouts
from dwaarx.dns.dot import MAX_OUTSTANDING, WRITE_SIZE
from dwaarx.dns.dot_connection import DotConnection
from dwaarx.dns.forwarder import Forwarder
from dwaarx.http.exchange import ConnectionInfo
from tests.dns.fakes import Reactor, Transport, configure, frame, make, unframe

INFO = ConnectionInfo("127.0.0.1", 4000, "127.0.0.1", 853, secure=True)
TIMEOUTS = Timeouts(read_header=10, idle=60)


class Resolver:
    """Answers names under "now" at once; keeps the others for the test to answer."""

    def __init__(self):
        self.waiting = []

    def resolve(self, query, respond):
        answer = query.wire[:2] + b"answer"
        if query.name.startswith(b"\3now"):
            respond(answer)
        elif query.name.startswith(b"\3big"):
            respond(query.wire[:2] + bytes(60_000))
        else:
            self.waiting.append(lambda: respond(answer))

    def answer(self, place=0):
        self.waiting.pop(place)()


class Peer:
    def __init__(self, timeouts=TIMEOUTS, transport=None):
        self.clock = Clock()
        self.resolver = Resolver()
        self.transport = transport or Transport()
        self.connection = DotConnection(INFO, self.resolver, timeouts, self.clock)
        self.connection.makeConnection(self.transport)

    def send(self, *wires: bytes) -> None:
        self.connection.dataReceived(frame(*wires))

    def ids(self) -> list[int]:
        return [int.from_bytes(wire[:2], "big") for wire in unframe(self.transport.take())]

    def lose(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))
        assert not self.clock.getDelayedCalls()

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting


def wire(number: int, name: str = "later.test") -> bytes:
    return make(name, id=number).to_wire()


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    peer.lose()


def test_what_is_known_is_answered_in_one_write(peer):
    peer.send(*(wire(n, "now.test") for n in range(100)))
    assert peer.transport.writes == 1
    assert peer.ids() == list(range(100))


def test_octet_by_octet(peer):
    for octet in frame(wire(1, "now.test"), wire(2, "now.test")):
        peer.connection.dataReceived(bytes([octet]))
    assert peer.ids() == [1, 2]


def test_answers_out_of_order_and_a_slow_one_holds_up_none(peer):
    peer.send(wire(1), wire(2, "now.test"), wire(3), wire(4))
    assert peer.ids() == [2]
    peer.resolver.answer(2)
    peer.resolver.answer(1)
    peer.clock.advance(0)
    assert peer.ids() == [4, 3]
    assert peer.transport.writes == 2  # those of one turn leave together
    peer.resolver.answer()
    peer.clock.advance(0)
    assert peer.ids() == [1]


def test_what_is_malformed_is_answered_and_the_connection_lives(peer):
    peer.send(wire(7)[:14], wire(8, "now.test"))
    first, second = unframe(peer.transport.take())
    assert dns.message.from_wire(first).rcode() == dns.rcode.FORMERR
    assert second[:2] == b"\0\x08"
    assert not peer.closed


@pytest.mark.parametrize("message", [b"", b"\0", bytes(11), b"\1\2\x81\x80" + bytes(8)])
def test_what_cannot_be_answered_ends_the_connection(peer, message):
    peer.send(wire(1, "now.test"), message, wire(2, "now.test"))
    assert peer.ids() == [1]
    assert peer.closed
    peer.send(wire(3, "now.test"))
    assert peer.ids() == []
    peer.clock.advance(5)
    assert peer.transport.aborted  # a peer that does not let itself be closed


def test_keepalive_names_our_idle_time(tmp_path):
    reactor = Reactor()
    forwarder = Forwarder(reactor, tmp_path / "none")
    configure(forwarder, (Resolvers(records=(Record("a.test", "A", "127.0.0.1"),)),))
    transport = Transport()
    connection = DotConnection(INFO, forwarder, TIMEOUTS, reactor)
    connection.makeConnection(transport)
    asked = make("a.test", options=[dns.edns.GenericOption(11, b"")]).to_wire()
    connection.dataReceived(frame(asked, make("a.test", edns=True).to_wire()))
    first, second = unframe(transport.take())
    assert b"\0\x0b\0\2\x02\x58" in first  # 60 s
    assert b"\0\x0b\0\2" not in second
    connection.connectionLost()


# --- deadlines ----------------------------------------------------------------------


def test_an_idle_connection_is_closed(peer):
    peer.clock.advance(59)
    peer.send(wire(1, "now.test"))
    peer.clock.advance(59)
    assert not peer.closed
    peer.clock.advance(1)
    assert peer.closed
    assert not peer.transport.aborted
    peer.clock.advance(5)
    assert peer.transport.aborted


@pytest.mark.parametrize("size", [1, 2, 10])
def test_half_a_message_then_silence(peer, size):
    peer.connection.dataReceived(frame(wire(1))[:size])
    peer.clock.advance(9)
    peer.connection.dataReceived(frame(wire(1))[size : size + 1])  # buys no time
    peer.clock.advance(0.9)
    assert not peer.closed
    peer.clock.advance(0.2)
    assert peer.closed


def test_half_a_message_after_whole_ones_has_its_time_from_then_on(peer):
    data = frame(wire(1, "now.test"))
    peer.connection.dataReceived(data + data[:5])
    peer.clock.advance(9)
    peer.connection.dataReceived(data[5:] + data[:5])
    peer.clock.advance(9)
    assert not peer.closed
    peer.clock.advance(1)
    assert peer.closed


def test_who_waits_for_an_answer_is_not_idle(peer):
    peer.send(wire(1))
    peer.clock.advance(600)
    assert not peer.closed
    peer.resolver.answer()
    peer.clock.advance(0)
    assert peer.ids() == [1]
    peer.clock.advance(59)
    assert not peer.closed
    peer.clock.advance(1)
    assert peer.closed


def test_half_a_message_while_an_answer_is_awaited(peer):
    peer.connection.dataReceived(frame(wire(1)) + b"\0")
    peer.clock.advance(10)
    assert peer.closed
    peer.resolver.answer()


def test_a_peer_that_does_not_read_is_cut_off(peer):
    peer.connection.pauseProducing()
    assert peer.transport.producerState == "paused"
    peer.clock.advance(59)
    assert not peer.transport.aborted
    peer.clock.advance(1)
    assert peer.transport.aborted


def test_answers_to_a_peer_that_does_not_read_buy_no_time(peer):
    peer.send(*(wire(n) for n in range(10)))
    peer.connection.pauseProducing()
    for _ in range(6):
        peer.clock.advance(9)
        peer.resolver.answer()
    assert not peer.transport.aborted
    peer.clock.advance(6)
    assert peer.transport.aborted


def test_a_peer_that_reads_again_goes_on(peer):
    peer.connection.pauseProducing()
    peer.send(wire(1, "now.test"))  # was under way
    assert peer.ids() == []
    peer.clock.advance(59)
    peer.connection.resumeProducing()
    assert peer.ids() == [1]
    assert peer.transport.producerState == "producing"
    peer.clock.advance(59)
    assert not peer.closed


# --- limits -------------------------------------------------------------------------


def test_so_many_at_once(peer):
    count = MAX_OUTSTANDING + 50
    peer.send(*(wire(n) for n in range(count)))
    assert len(peer.resolver.waiting) == MAX_OUTSTANDING
    assert peer.transport.producerState == "paused"
    for _ in range(10):
        peer.resolver.answer()
    peer.clock.advance(0)
    assert peer.ids() == list(range(10))
    assert len(peer.resolver.waiting) == MAX_OUTSTANDING
    while peer.resolver.waiting:
        peer.resolver.answer()
        peer.clock.advance(0)
    assert peer.ids() == list(range(10, count))
    assert peer.transport.producerState == "producing"
    peer.clock.advance(60)
    assert peer.closed


class Narrow(Transport):
    """Pauses its producer at each write, as a transport does whose buffer is full."""

    def write(self, data):
        super().write(data)
        self.producer.pauseProducing()


def test_big_answers_do_not_pile_up():
    peer = Peer(transport=Narrow())
    peer.send(*(wire(n, "big.test") for n in range(20)))
    written = len(peer.transport.value())
    assert WRITE_SIZE <= written < WRITE_SIZE + 65_537
    assert peer.transport.producerState == "paused"
    seen = peer.ids()
    while peer.transport.producerState == "paused":
        peer.connection.resumeProducing()
        seen += peer.ids()
        if len(seen) == 20:
            break
    assert seen == list(range(20))
    peer.lose()


# --- the end ------------------------------------------------------------------------


def test_drain_when_idle(peer):
    peer.connection.drain()
    assert peer.closed
    # The client's close_notify must be read, or the end takes until it is cut.
    assert peer.transport.producerState == "producing"
    peer.send(wire(1))
    assert peer.resolver.waiting == []


def test_drain_answers_what_was_asked(peer):
    peer.send(wire(1), wire(2))
    peer.connection.drain()
    peer.connection.drain()
    assert peer.transport.producerState == "paused"
    assert not peer.closed
    peer.resolver.answer()
    peer.clock.advance(0)
    assert not peer.closed
    peer.resolver.answer()
    peer.clock.advance(0)
    assert peer.ids() == [1, 2]
    assert peer.closed
    assert peer.transport.producerState == "producing"
    peer.connection.drain()


def test_drain_answers_what_the_limits_held_back(peer):
    count = MAX_OUTSTANDING + 20
    peer.send(*(wire(n) for n in range(count)))
    peer.connection.drain()
    while peer.resolver.waiting:
        peer.resolver.answer()
        peer.clock.advance(0)
    assert peer.ids() == list(range(count))
    assert peer.closed


def test_drain_waits_for_a_peer_that_does_not_read():
    peer = Peer()
    peer.connection.pauseProducing()
    peer.connection.drain()
    assert not peer.closed
    peer.connection.resumeProducing()
    assert peer.closed
    peer.lose()


def test_answers_after_the_end_are_dropped():
    peer = Peer()
    peer.send(wire(1), wire(2))
    peer.resolver.answer()
    peer.lose()
    peer.resolver.answer()
    peer.clock.advance(0)
    assert peer.transport.value() == b""
    peer.connection.pauseProducing()
    peer.connection.resumeProducing()
    peer.connection.stopProducing()
    assert not peer.clock.getDelayedCalls()


def test_nothing_is_asked_or_answered_between_the_close_and_the_end(peer):
    peer.send(wire(1), wire(2))
    peer.resolver.answer()
    peer.send(wire(3), b"", wire(4))
    assert peer.closed
    assert peer.ids() == [1]
    assert len(peer.resolver.waiting) == 2
    peer.resolver.answer()
    peer.clock.advance(0)
    assert peer.ids() == []
    assert len(peer.resolver.waiting) == 1
    peer.connection.pauseProducing()
    peer.connection.resumeProducing()


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_octets(pieces):
    peer = Peer()
    for piece in pieces:
        peer.connection.dataReceived(piece)
    while peer.resolver.waiting:
        peer.resolver.answer()
    peer.clock.advance(0)
    unframe(peer.transport.take())
    peer.clock.advance(70)
    assert peer.closed
    peer.lose()


@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(0, 0xFF))
def test_any_messages(messages, octet):
    peer = Peer()
    peer.send(*(bytes([0, octet, 1, 0, 0, 1]) + message for message in messages))
    while peer.resolver.waiting:
        peer.resolver.answer()
    peer.clock.advance(0)
    assert len(unframe(peer.transport.take())) <= len(messages)
    peer.lose()
