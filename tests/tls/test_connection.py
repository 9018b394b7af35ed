from __future__ import annotations

import contextlib
import gc
import ssl
import weakref
from collections.abc import Callable

import pytest
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from dwaarx.certs.acme.challenges import Challenges
from dwaarx.log import show_debug
from dwaarx.tls.client_hello import MAX_HELLO
from dwaarx.tls.connection import CLOSE_NOTIFY, WatchfulTransport
from dwaarx.tls.listener import Endpoint, Listener
from dwaarx.tls.policy import base_context
from tests.certs.pki import Entity, make_leaf
from tests.tls.memory import Certificate, Client, certificate
from tests.tls.recorder import Recorder


def test_an_unfinished_handshake_is_timed_out(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example")
    assert (listener.accepted, listener.open) == (1, 1)
    clock.advance(9)
    assert not client.transport.aborted
    clock.advance(1)
    assert client.transport.aborted
    client.server.connectionLost()
    assert (listener.open, listener.tls_failures) == (0, 1)
    assert made == []
    assert not clock.getDelayedCalls()


def test_garbage_ends_the_handshake(listener: Listener, ca: Entity, made: list[Recorder]) -> None:
    client = Client(listener, ca, "a.example")
    client.server.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
    assert client.transport.disconnecting
    show_debug()
    with capturedLogs() as logs:
        client.server.connectionLost()
    show_debug(show=False)
    assert (listener.tls_failures, made) == (1, [])
    assert [formatEvent(each).partition(": [")[0] for each in logs] == [
        "192.0.2.7: TLS handshake failed"
    ]


def test_a_peer_that_does_not_close_is_dropped(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    made[0].transport.loseConnection()
    clock.advance(CLOSE_NOTIFY - 1)
    assert not client.transport.disconnecting
    clock.advance(1)
    # What the socket still holds goes out before it closes.
    assert client.transport.disconnecting
    assert not client.transport.aborted
    clock.advance(60 - CLOSE_NOTIFY)
    assert client.transport.aborted


def test_a_short_idle_limit_holds_for_the_close_too(ca: Entity, clock: Clock) -> None:
    listener = Listener(Recorder, clock, base=base_context(), idle=2)
    leaf = make_leaf(ca, ["a.example"])
    listener.set_endpoints([("a.example", Endpoint(certificate(leaf), (b"h2",)))])
    client = Client(listener, ca, "a.example").handshake()
    client.server.loseConnection()
    clock.advance(2)
    assert client.transport.aborted


def test_a_peer_gets_no_more_time_by_being_told_again(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    for _ in range(3):
        made[0].transport.loseConnection()
        clock.advance(20)
    assert client.transport.aborted


def test_what_comes_after_the_end_does_nothing(
    listener: Listener, ca: Entity, clock: Clock
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    client.server.connectionLost()
    client.server.loseConnection()
    client.server.abortConnection()
    assert not client.transport.aborted
    assert not clock.getDelayedCalls()


def cut_off(client: Client) -> None:
    """End amid the handshake."""
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.pump()


CLOSE_NOTIFY_ALERT = bytes.fromhex("15 0303 0002 0100")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_close_notify_amid_the_handshake(
    listener: Listener, ca: Entity, version: ssl.TLSVersion
) -> None:
    client = Client(listener, ca, "a.example", version=version)
    cut_off(client)
    client.server.dataReceived(CLOSE_NOTIFY_ALERT)
    assert client.transport.disconnecting
    client.server.connectionLost(Failure(ConnectionDone()))
    assert (listener.open, listener.tls_failures) == (0, 1)


def fail(client: Client) -> None:
    """End by garbage."""
    client.server.dataReceived(b"GET / HTTP/1.1\r\n\r\n")


def shake_hands(client: Client) -> None:
    """End without a word after the handshake."""
    client.handshake()


@pytest.mark.parametrize("begin", [cut_off, fail, shake_hands])
def test_openssls_memory_is_given_back_at_once(
    listener: Listener, ca: Entity, begin: Callable[[Client], None]
) -> None:
    client = Client(listener, ca, "a.example")
    begin(client)
    connection = weakref.ref(client.server.getHandle())
    gc.disable()  # the cycles that it would break are what is looked for
    try:
        client.server.connectionLost(Failure(ConnectionDone()))
        assert connection() is None
    finally:
        gc.enable()


class Producer:
    """A streaming producer that never has anything to say."""

    def pauseProducing(self) -> None:
        """Do nothing."""

    def resumeProducing(self) -> None:
        """Do nothing."""

    def stopProducing(self) -> None:
        """Do nothing."""


def break_tls(client: Client) -> None:
    client.server.dataReceived(b"\x17\x03\x03\x00\x20" + bytes(32))


def close_tls(client: Client) -> None:
    with contextlib.suppress(ssl.SSLError):
        client.tls.unwrap()
    client.pump()


@pytest.mark.parametrize("end", [break_tls, close_tls])
def test_when_tls_is_over_the_socket_waits_neither_for_the_producer_nor_for_the_peer(
    listener: Listener,
    ca: Entity,
    clock: Clock,
    made: list[Recorder],
    end: Callable[[Client], None],
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    made[0].transport.registerProducer(Producer(), True)
    end(client)
    assert client.transport.disconnecting
    assert client.transport.producer is None
    clock.advance(59)
    assert not client.transport.aborted
    clock.advance(1)
    assert client.transport.aborted
    client.server.connectionLost()
    assert not clock.getDelayedCalls()


def test_a_broken_handshake_gets_no_more_time(listener: Listener, ca: Entity, clock: Clock) -> None:
    client = Client(listener, ca, "a.example")
    client.server.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
    assert client.transport.disconnecting
    clock.advance(10)
    assert client.transport.aborted


def test_a_waiting_producer_does_not_outlast_the_deadline(
    listener: Listener, ca: Entity, clock: Clock, made: list[Recorder]
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    assert made[0].transport is not None
    made[0].transport.registerProducer(Producer(), True)
    made[0].transport.loseConnection()
    assert not client.transport.disconnecting  # Twisted waits for the producer
    clock.advance(CLOSE_NOTIFY)
    assert not client.transport.disconnecting
    clock.advance(60 - CLOSE_NOTIFY)
    assert client.transport.aborted


def test_the_deadline_of_the_handshake_ends_with_it(
    listener: Listener, ca: Entity, clock: Clock
) -> None:
    client = Client(listener, ca, "a.example").handshake()
    clock.advance(1000)
    assert not client.transport.aborted
    assert not client.transport.disconnecting


# --- no certificate ------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_name_without_a_certificate(
    listener: Listener,
    ca: Entity,
    leaves: dict[str, Entity],
    made: list[Recorder],
    capfd: pytest.CaptureFixture[str],
    version: ssl.TLSVersion,
) -> None:
    http = (b"h2", b"http/1.1")
    holder = Certificate(None)
    listener.set_endpoints(
        [
            ("none.example", Endpoint(holder, http)),
            ("a.example", Endpoint(certificate(leaves["a.example"]), http)),
        ]
    )
    with capturedLogs() as logs:
        for name in ("none.example", None, "unknown.example"):
            client = Client(listener, ca, name, ("h2",), version=version)
            with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
                client.handshake()
            client.server.connectionLost(Failure(ConnectionDone()))
    assert (listener.open, listener.tls_failures, made) == (0, 3, [])
    assert logs == []
    assert capfd.readouterr().err == ""
    Client(listener, ca, "a.example", version=version).handshake()
    # As soon as there is one, it is served.
    holder.context = certificate(make_leaf(ca, ["none.example"])).context
    Client(listener, ca, "none.example", version=version).handshake()


# --- tls-alpn-01 ------------------------------------------------------------------

ACME = ("acme-tls/1",)
NO_PROTOCOL = r"(?i)no.application.protocol"


class Pending:
    """The challenges that are pending, by name."""

    def __init__(self) -> None:
        self.contexts: dict[str, SSL.Context] = {}

    @property
    def alpn_pending(self) -> bool:
        return bool(self.contexts)

    def alpn_context(self, name: str) -> SSL.Context | None:
        return self.contexts.get(name)


@pytest.fixture
def pending(listener: Listener) -> Pending:
    pending = Pending()
    listener.challenges = pending
    return pending


@pytest.fixture
def proof(ca: Entity, pending: Pending) -> Entity:
    """The certificate that is to be shown for b.example, whose challenge is pending."""
    leaf = make_leaf(ca, ["b.example"])
    context = certificate(leaf).context
    assert context is not None
    pending.contexts["b.example"] = context
    return leaf


class Dribbler(Client):
    """A client whose bytes come one by one."""

    def pump(self) -> None:
        receive = self.server.dataReceived

        def one_by_one(data: bytes) -> None:
            for byte in data:
                receive(bytes([byte]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.server, "dataReceived", one_by_one)
            super().pump()


@pytest.mark.parametrize("kind", [Client, Dribbler])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ca_is_shown_the_proof_and_nothing_else(
    listener: Listener,
    ca: Entity,
    clock: Clock,
    made: list[Recorder],
    proof: Entity,
    version: ssl.TLSVersion,
    kind: type[Client],
) -> None:
    client = kind(listener, ca, "b.example", ACME, version=version).handshake()
    assert client.serial() == proof.certificate.serial_number
    assert client.tls.selected_alpn_protocol() == "acme-tls/1"
    assert client.tls.read() == b""  # a close_notify came; without one this raises
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    clock.advance(CLOSE_NOTIFY)
    assert client.transport.disconnecting
    show_debug()
    with capturedLogs() as logs:
        client.server.connectionLost(Failure(ConnectionDone()))
    show_debug(show=False)
    assert logs == []
    assert (listener.open, listener.tls_failures, made) == (0, 0, [])
    assert not clock.getDelayedCalls()


def test_the_certificate_that_acme_makes(listener: Listener, ca: Entity) -> None:
    challenges = Challenges()
    listener.challenges = challenges
    challenges.present_alpn("B.example", "token.thumbprint")
    client = Client(listener, ca, "b.example", ACME)
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        client.handshake()
    challenges.remove_alpn("b.example")
    with pytest.raises(ssl.SSLError, match=NO_PROTOCOL):
        Client(listener, ca, "b.example", ACME).handshake()


@pytest.mark.parametrize(
    ("name", "protocols"),
    [
        ("a.example", ACME),  # no challenge for it
        (None, ACME),
        ("b.example", (*ACME, "x")),
        ("b.example", ("x", *ACME)),
    ],
)
def test_what_is_no_ca_is_refused_as_without_challenges(
    listener: Listener,
    ca: Entity,
    proof: Entity,
    made: list[Recorder],
    name: str | None,
    protocols: tuple[str, ...],
) -> None:
    with pytest.raises(ssl.SSLError, match=NO_PROTOCOL):
        Client(listener, ca, name, protocols).handshake()
    assert made == []


def test_a_ca_that_comes_uncalled(listener: Listener, ca: Entity, pending: Pending) -> None:
    client = Client(listener, ca, "a.example", ACME)
    assert not isinstance(client.server, WatchfulTransport)
    with pytest.raises(ssl.SSLError, match=NO_PROTOCOL):
        client.handshake()


@pytest.mark.parametrize("kind", [Client, Dribbler])
@pytest.mark.parametrize(
    ("name", "protocols"), [("a.example", ("h2",)), ("a.example", ()), (None, ("http/1.1",))]
)
def test_others_are_served_while_a_ca_is_expected(
    listener: Listener,
    ca: Entity,
    leaves: dict[str, Entity],
    proof: Entity,
    made: list[Recorder],
    kind: type[Client],
    name: str | None,
    protocols: tuple[str, ...],
) -> None:
    client = kind(listener, ca, name, protocols).handshake()
    assert isinstance(client.server, WatchfulTransport)
    assert client.serial() == leaves["a.example"].certificate.serial_number
    client.send(b"request")
    assert b"".join(made[0].received) == b"request"
    assert made[0].accepted.server_name == name


def test_what_is_no_hello_gets_the_alert_that_openssl_has(
    listener: Listener, ca: Entity, proof: Entity
) -> None:
    alerts = []
    for contexts in ({}, listener.challenges.contexts):
        listener.challenges.contexts = contexts
        client = Client(listener, ca, "a.example")
        client.server.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        alerts.append((client.transport.value(), client.transport.disconnecting))
        client.server.connectionLost(Failure(ConnectionDone()))
    assert alerts[0] == alerts[1]
    assert listener.tls_failures == 2


def test_a_hello_that_does_not_come_is_timed_out(
    listener: Listener, ca: Entity, clock: Clock, proof: Entity
) -> None:
    client = Client(listener, ca, "b.example", ACME)
    client.server.dataReceived(b"\x16\x03\x01\x01\x00\x01")
    assert client.transport.value() == b""
    clock.advance(10)
    assert client.transport.aborted
    client.server.connectionLost(Failure(ConnectionDone()))
    assert (listener.open, listener.tls_failures) == (0, 1)


def test_a_hello_without_end_is_not_held(listener: Listener, ca: Entity, proof: Entity) -> None:
    """OpenSSL, which gets it all, refuses it."""
    client = Client(listener, ca, "b.example", ACME)
    client.server.dataReceived(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(2 * MAX_HELLO))
    assert client.transport.disconnecting
