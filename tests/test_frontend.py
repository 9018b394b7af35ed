from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from dwaarx.certs.errors import CertificateErrors
from dwaarx.certs.pair import load_certificates
from dwaarx.config import parse
from dwaarx.config.errors import ConfigError
from dwaarx.config.model import Address, CertificateFiles, Config
from dwaarx.console.errors import ConsoleError
from dwaarx.frontend import Frontend, FrontendError
from dwaarx.plan import PlanError
from dwaarx.tls.sockets import BindError
from tests.certs.pki import Entity, make_ca, make_key, make_leaf
from tests.http.fakes import FakeUpstream
from tests.system.processes import free_port
from tests.tls.memory import HOST, PEER, Client, MemoryTransport


class Port:
    """An adopted listening socket."""

    def __init__(self, sock: socket.socket, factory: Any) -> None:
        self.sock = sock
        self.factory = factory

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.sock.getsockname()[:2])

    def stopListening(self) -> Deferred[None]:
        self.sock.close()
        return succeed(None)


class Reactor(MemoryReactorClock):
    """A reactor in memory, but for the sockets that are adopted."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.fails_at = -1

    def adoptStreamPort(self, fd: int, family: int, factory: object) -> Port:
        if len(self.ports) == self.fails_at:
            self.fails_at = -1
            raise OSError(errno.EMFILE, "Too many open files")
        port = Port(socket.socket(fileno=os.dup(fd)), factory)
        self.ports.append(port)
        return port


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ca = make_ca()
    for stem in ("one", "two"):
        make_leaf(ca, ["a.test"]).write(tmp_path, stem)
    return tmp_path


def read(folder: Path, text: str, options: str = "") -> Config:
    file = folder / "Dwaarfile"
    head = f" storage {folder}/storage\n http_port 0\n bind 127.0.0.1\n{options}"
    file.write_text(f"{{\n{head}}}\n{text}\n")
    return parse(file.read_text(), str(file))


def site(folder: Path, port: int, stem: str = "one") -> str:
    return f"a.test:{port} {{\n tls {folder}/{stem}.pem {folder}/{stem}.key\n respond hello\n}}"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def frontend(reactor: Reactor, folder: Path, port: int) -> Iterator[Frontend]:
    frontend = Frontend(read(folder, site(folder, port)), reactor)
    frontend.privilegedStartService()
    frontend.startService()
    yield frontend
    stopping = frontend.stopService()
    reactor.pump([0.1] * 3)
    assert stopping.called


def addresses(frontend: Frontend) -> list[str]:
    return [status.address for status in frontend.binds()]


def test_start(frontend: Frontend, port: int, folder: Path) -> None:
    (status,) = frontend.binds()
    assert status.address == f"127.0.0.1:{port}"
    assert status.protocols == ("https/1.1", "h2")
    assert status.names == ("a.test",)
    assert status.origin == "Dwaarfile"
    assert status.certificates == (f"{folder}/one.pem",)
    assert (status.connections, status.accepted, status.tls_failures) == (0, 0, 0)


def test_a_storage_that_cannot_be_made(reactor: Reactor, folder: Path, port: int) -> None:
    config = read(folder, site(folder, port))
    (folder / "storage").touch()
    with pytest.raises(FrontendError, match=f"storage {folder}/storage: File exists"):
        Frontend(config, reactor)


def test_a_start_clears_the_storage(reactor: Reactor, folder: Path, port: int) -> None:
    left = folder / "storage" / "certificates" / f".a.pem.{'0' * 16}.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    frontend = Frontend(read(folder, site(folder, port)), reactor)
    frontend.privilegedStartService()
    assert not left.exists()
    frontend.stopService()
    reactor.pump([0.1] * 3)


def test_reload_says_what_changed(frontend: Frontend, folder: Path, port: int) -> None:
    other = free_port()
    read(folder, site(folder, other))
    assert frontend.reload() == (
        f"1 site, 1 listener, now listening on 127.0.0.1:{other}, "
        f"no longer listening on 127.0.0.1:{port}"
    )
    assert addresses(frontend) == [f"127.0.0.1:{other}"]


def test_an_unchanged_site_keeps_its_identity(frontend: Frontend, folder: Path, port: int) -> None:
    before = frontend.config.sites[0]
    assert before.certificate is not None
    identity = frontend.manager.acquire([before.certificate])[before.certificate]
    read(folder, "\n\n" + site(folder, port))
    assert frontend.reload() == "1 site, 1 listener"
    assert frontend.config.sites[0] == before
    assert frontend.manager.acquire([before.certificate])[before.certificate] is identity


def test_what_is_named_no_more_is_kept_no_more(
    reactor: Reactor, frontend: Frontend, folder: Path, port: int
) -> None:
    proxying = f"http://a.test:{port} {{\n reverse_proxy 192.0.2.10:8080\n}}"
    read(folder, proxying)
    frontend.reload()
    assert frontend.manager.status() == []
    client, _ = _connected(reactor.ports[-1])
    client.dataReceived(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    upstream = FakeUpstream(reactor).accept()
    upstream.says(b"HTTP/1.1 204 No Content\r\n\r\n")
    read(folder, proxying + "\n" + site(folder, free_port()))
    frontend.reload()
    assert not upstream.gone
    read(folder, site(folder, free_port()))
    frontend.reload()
    assert upstream.gone
    client.connectionLost(Failure(ConnectionDone()))


def test_a_listener_that_is_gone_ends_its_idle_connections(
    reactor: Reactor, frontend: Frontend, folder: Path, port: int
) -> None:
    read(folder, f"http://a.test:{port} {{\n respond hello\n}}")
    frontend.reload()
    protocol, transport = _connected(reactor.ports[-1])
    protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert b" 200 " in transport.value()
    assert not transport.disconnecting
    read(folder, f"http://a.test:{free_port()} {{\n respond hello\n}}")
    frontend.reload()
    assert transport.disconnecting
    protocol.connectionLost(Failure(ConnectionDone()))


SHORT = """ timeouts {
  handshake 1s
  read_header 2s
  idle 3s
  drain 500ms
 }
"""


@pytest.fixture(params=["at the start", "by a reload"])
def hasty(
    request: pytest.FixtureRequest, reactor: Reactor, folder: Path, port: int
) -> Iterator[Frontend]:
    """A frontend with short timeouts: TLS on the first port, plain HTTP on the second."""
    text = f"{site(folder, port)}\nhttp://a.test:{free_port()} {{\n respond hello\n}}"
    at_once = request.param == "at the start"
    frontend = Frontend(read(folder, text, SHORT if at_once else ""), reactor)
    frontend.privilegedStartService()
    frontend.startService()
    if not at_once:
        read(folder, text, SHORT)
        frontend.reload()
    yield frontend
    frontend.stopService()
    reactor.pump([0.1] * 10)


def test_the_handshake_has_the_time_of_the_dwaarfile(hasty: Frontend, reactor: Reactor) -> None:
    protocol, transport = _connected(reactor.ports[0])
    reactor.advance(0.9)
    assert not transport.aborted
    reactor.advance(0.1)
    assert transport.aborted
    protocol.connectionLost(Failure(ConnectionDone()))


def test_the_end_of_tls_has_the_time_of_the_dwaarfile(
    hasty: Frontend, reactor: Reactor, folder: Path
) -> None:
    (listener,) = (each._listener for each in hasty._listeners.values() if each.plan.tls)
    (root,) = load_certificates(folder / "one-root.pem")
    client = Client(listener, Entity(root, make_key()), "a.test").handshake()
    client.server.loseConnection()  # and the client says nothing to it
    reactor.advance(2.9)
    assert not client.transport.disconnecting
    reactor.advance(0.1)
    assert client.transport.disconnecting
    client.server.connectionLost(Failure(ConnectionDone()))


def test_sessions_have_the_times_of_the_dwaarfile(hasty: Frontend, reactor: Reactor) -> None:
    protocol, transport = _connected(reactor.ports[1])
    protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert b" 200 " in transport.value()
    transport.clear()
    protocol.dataReceived(b"GET")
    reactor.advance(1.9)
    assert not transport.value()
    reactor.advance(0.1)
    assert b" 408 " in transport.value()
    protocol.connectionLost(Failure(ConnectionDone()))


def test_a_stop_has_the_time_of_the_dwaarfile(hasty: Frontend, reactor: Reactor) -> None:
    protocol, transport = _connected(reactor.ports[1])
    protocol.dataReceived(b"GET / HTTP/1.1\r\n")
    hasty.stopService()
    reactor.pump([0.1] * 4)
    assert not transport.aborted
    reactor.pump([0.1] * 2)
    assert transport.aborted
    protocol.connectionLost(Failure(ConnectionDone()))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a.test:{port} {{\n respnd hello\n}}", ConfigError),
        ("{site}\nhttp://b.test:{port} {{\n respond hello\n}}", (PlanError, ConfigError)),
        ("a.test:{port} {{\n tls none.pem none.key\n respond hello\n}}", CertificateErrors),
        ("{site}\nb.test:{taken} {{\n tls internal\n respond hello\n}}", BindError),
    ],
)
def test_what_fails_changes_nothing(
    frontend: Frontend,
    reactor: Reactor,
    folder: Path,
    port: int,
    text: str,
    error: type[Exception],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        read_before = frontend.config
        file = folder / "Dwaarfile"
        head = file.read_text().split("}")[0] + "}\n"
        file.write_text(head + text.format(port=port, site=site(folder, port), taken=taken))
        with pytest.raises(error):
            frontend.reload()
    assert frontend.config is read_before
    assert addresses(frontend) == [f"127.0.0.1:{port}"]
    assert len(frontend.manager.status()) == 1
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_failed_move_of_an_address_is_undone(
    frontend: Frontend, reactor: Reactor, folder: Path, port: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        text = f"{site(folder, port)}\nb.test:{taken} {{\n tls internal\n respond hello\n}}"
        config = read(folder, text.replace("hello", "x", 1))
        file = folder / "Dwaarfile"
        # From 127.0.0.1 to every address: the listener gives way, and comes back.
        file.write_text(file.read_text().replace(" bind 127.0.0.1\n", ""))
        with pytest.raises(BindError):
            frontend.reload()
    assert config.sites
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert addresses(frontend) == [f"127.0.0.1:{port}"]


class Part:
    """Another part of the service, which notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False

    def prepare(self, config: Config) -> None:
        self.asked.append("prepare")
        if self.fails:
            raise ConsoleError("cannot listen")

    def abandon(self) -> None:
        self.asked.append("abandon")

    def change(self) -> None:
        self.asked.append("change")


def free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock.connect_ex(("127.0.0.1", port)) != 0


def test_a_socket_that_cannot_be_adopted_changes_nothing(
    frontend: Frontend, reactor: Reactor, folder: Path, port: int
) -> None:
    part = Part()
    frontend.parts.append(part)
    first, second = free_port(), free_port()
    before = frontend.config
    other = site(folder, second, "two")
    read(folder, f"http://a.test:{port} {{\n respond x\n}}\n{other}\n{site(folder, first)}")
    # The present listener gives way, the first new one listens, then descriptors run out.
    reactor.fails_at = len(reactor.ports) + 1
    with pytest.raises(OSError, match="Too many open files"):
        frontend.reload()
    assert part.asked == ["prepare", "abandon"]
    assert frontend.config is before
    assert addresses(frontend) == [f"127.0.0.1:{port}"]
    assert len(frontend.manager.status()) == 1
    assert free(first)
    assert free(second)
    assert not free(port)


def test_an_address_that_does_not_come_back_is_told(
    frontend: Frontend, folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(address: Address) -> socket.socket:
        raise BindError(address, OSError(errno.EADDRINUSE, "Address already in use"))

    told: list[LogEvent] = []
    monkeypatch.setattr("dwaarx.frontend.bind_stream", taken)
    read(folder, f"http://a.test:{port} {{\n respond x\n}}")
    globalLogPublisher.addObserver(told.append)
    try:
        with pytest.raises(BindError):
            frontend.reload()
    finally:
        globalLogPublisher.removeObserver(told.append)
    assert f"127.0.0.1:{port} is not listened on any more" in "\n".join(map(formatEvent, told))


def test_a_part_that_fails_changes_nothing(
    frontend: Frontend, reactor: Reactor, folder: Path, port: int
) -> None:
    part = Part()
    part.fails = True
    frontend.parts.append(part)
    read(folder, site(folder, free_port()))
    with pytest.raises(ConsoleError):
        frontend.reload()
    assert addresses(frontend) == [f"127.0.0.1:{port}"]
    part.fails = False
    frontend.reload()
    assert part.asked == ["prepare", "abandon", "prepare", "change"]


def test_from_tls_to_plain_on_the_same_address(frontend: Frontend, folder: Path, port: int) -> None:
    read(folder, f"http://a.test:{port} {{\n respond hello\n}}")
    frontend.reload()
    (status,) = frontend.binds()
    assert status.protocols == ("http",)
    assert status.certificates == ()
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_storage_cannot_change(frontend: Frontend, folder: Path) -> None:
    file = folder / "Dwaarfile"
    file.write_text(file.read_text().replace("/storage", "/elsewhere"))
    with pytest.raises(FrontendError, match="storage cannot change"):
        frontend.reload()


def test_additions_share_a_listener_and_outlive_a_reload(
    frontend: Frontend, folder: Path, port: int
) -> None:
    address = Address("127.0.0.1", free_port())
    pair = (CertificateFiles(folder / "two.pem", folder / "two.key"),)
    said = frontend.add_tls_local(address, pair)
    assert f"now listening on {address}" in said
    frontend.add_doh_local(address, pair, ("/dns-query",))
    read(folder, site(folder, port))
    frontend.reload()
    status = next(each for each in frontend.binds() if each.address == str(address))
    assert status.protocols == ("https/1.1", "h2", "dot", "doh")
    assert status.doh_paths == ("/dns-query",)
    assert status.names == ("*",)
    assert status.origin == "console"
    with pytest.raises(PlanError, match="already served"):
        frontend.add_doh_local(address, pair, ("/other",))
    with pytest.raises(FrontendError, match="already a listener of the Dwaarfile"):
        frontend.add_tls_local(Address("127.0.0.1", port), pair)


def test_a_stop_waits_for_what_is_in_progress(reactor: Reactor, folder: Path, port: int) -> None:
    frontend = Frontend(read(folder, f"http://a.test:{port} {{\n respond hello\n}}"), reactor)
    frontend.privilegedStartService()
    frontend.startService()
    (listening,) = reactor.ports
    protocol, transport = _connected(listening)
    protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: a.test\r\n")
    stopping = frontend.stopService()
    reactor.pump([0.1] * 20)
    assert not stopping.called
    protocol.dataReceived(b"\r\n")
    assert b"200" in transport.value()
    assert b"connection: close" in transport.value().lower()
    protocol.connectionLost(Failure(ConnectionDone()))
    reactor.pump([0.1] * 2)
    assert stopping.called


def test_a_stop_drops_what_is_left_after_the_drain_time(
    reactor: Reactor, folder: Path, port: int
) -> None:
    frontend = Frontend(read(folder, site(folder, port)), reactor)
    frontend.privilegedStartService()
    frontend.startService()
    protocol, transport = _connected(reactor.ports[0])
    # A handshake that is not done is dropped at once; nothing else is left to wait for.
    stopping = frontend.stopService()
    assert transport.aborted
    with pytest.raises(FrontendError, match="dwaarx is stopping"):
        frontend.reload()
    reactor.pump([1.0] * 31)
    assert stopping.called
    protocol.connectionLost(Failure(ConnectionDone()))


def test_a_stop_can_be_hurried(reactor: Reactor, folder: Path, port: int) -> None:
    frontend = Frontend(read(folder, f"http://a.test:{port} {{\n respond hello\n}}"), reactor)
    frontend.privilegedStartService()
    frontend.startService()
    frontend.hurry()  # nothing is being stopped
    protocol, transport = _connected(reactor.ports[0])
    protocol.dataReceived(b"GET / HTTP/1.1\r\n")
    stopping = frontend.stopService()
    reactor.pump([0.1] * 3)
    assert not transport.aborted
    frontend.hurry()
    reactor.pump([0.1])
    assert transport.aborted
    assert stopping.called
    protocol.connectionLost(Failure(ConnectionDone()))


def test_what_listens_is_told(frontend: Frontend, folder: Path, port: int) -> None:
    told: list[str] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "dwaarx.frontend":
            told.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    new = free_port()
    names = f"b.test:{new}, c.test:{new}, d.test:{new}"
    text = site(folder, port) + f"\n{names} {{\n tls internal\n respond x\n dns_over_tls :{new}\n}}"
    read(folder, text)
    try:
        frontend.reload()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert told == [f"listening on 127.0.0.1:{new}: https/1.1, h2, dot for b.test and 2 more names"]


def _connected(port: Port) -> tuple[Any, MemoryTransport]:
    protocol = port.factory.buildProtocol(PEER)
    transport = MemoryTransport(HOST, PEER)
    protocol.makeConnection(transport)
    return protocol, transport
