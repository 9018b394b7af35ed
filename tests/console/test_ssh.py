"""The SSH console with conch's own client on real sockets."""

import socket
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.conch.error import ConchError
from twisted.conch.ssh import channel, common, connection, keys, session, transport, userauth
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from dwaarx.config.model import Address, ConsoleSsh
from dwaarx.console import ssh
from dwaarx.console.errors import ConsoleError
from dwaarx.console.server import console_service
from dwaarx.console.ssh_keys import HOST_KEY, AuthorizedKeys

from .running import PATIENCE
from .screen import Screen


def make_key():
    return keys.Key(ed25519.Ed25519PrivateKey.generate())


def line_of(key):
    return key.public().toString("openssh", comment=b"someone")


class Auth(userauth.SSHUserAuthClient):
    def __init__(self, user, then, key, password):
        super().__init__(user, then)
        self._keys = [key] if key else []
        self._password = password

    def getPublicKey(self):
        return self._keys.pop() if self._keys else None

    def signData(self, publicKey, signData):
        key = self.transport.factory.key
        return succeed(key.sign(signData, b"rsa-sha2-256" if key.type() == "RSA" else None))

    def getPassword(self, prompt=None):
        password, self._password = self._password, None
        return None if password is None else succeed(password)

    def getGenericAnswers(self, name, instruction, prompts):
        return fail(ConchError("none"))


class Channel(channel.SSHChannel):
    name = b"session"

    def __init__(self, run, done):
        super().__init__()
        self.run = run
        self.done = done
        self.out = b""
        self.err = b""
        self.status = None

    def channelOpen(self, data):
        self.run(self)

    def dataReceived(self, data):
        self.out += data

    def extReceived(self, kind, data):
        self.err += data

    def request_exit_status(self, data):
        self.status = int.from_bytes(data, "big")

    def closed(self):
        self.done.callback(self)


class Connection(connection.SSHConnection):
    def __init__(self, run, done):
        super().__init__()
        self._run = run
        self._done = done

    def serviceStarted(self):
        super().serviceStarted()
        self.openChannel(Channel(self._run, self._done))


class Client(transport.SSHClientTransport):
    def verifyHostKey(self, pubKey, fingerprint):
        self.factory.host_key = pubKey
        return succeed(1)

    def connectionSecure(self):
        factory = self.factory
        then = Connection(factory.run, factory.done)
        self.requestService(Auth(b"anyone", then, factory.key, factory.password))

    def connectionLost(self, reason):
        super().connectionLost(reason)
        if not self.factory.done.called:
            self.factory.done.errback(ConchError("refused"))


class Factory(ClientFactory):
    protocol = Client

    def __init__(self, run, key, password):
        self.run, self.key, self.password = run, key, password
        self.done = Deferred()


class World:
    def __init__(self, running, folder, namespace):
        self.running = running
        self.folder = folder
        self.key = make_key()
        self.authorized = folder / "authorized_keys"
        self.authorized.write_bytes(b"# who may\n\n" + line_of(self.key) + b"\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config = ConsoleSsh(Address("127.0.0.1", self.port), self.authorized)
        self.service = console_service(self.config, folder / "storage", namespace, running.reactor)
        running.call(self.service.startService)

    def connect(self, run, key=None, password=None):
        """Log in and let `run` use a channel; gives it when it is closed."""
        factory = Factory(run, key, password)

        def begin():
            self.running.reactor.connectTCP("127.0.0.1", self.port, factory)
            return factory.done

        channel = self.running.call(begin)
        channel.host_key = factory.host_key
        self.running.call(channel.conn.transport.loseConnection)
        return channel

    def execute(self, command, key=None):
        def run(channel):
            channel.conn.sendRequest(channel, b"exec", common.NS(command.encode()), wantReply=1)

        return self.connect(run, key or self.key)


@pytest.fixture
def world(running, tmp_path):
    made = World(running, tmp_path, {"f": lambda: 7, "never": lambda: made.never})
    made.cancelled = []
    made.never = Deferred(made.cancelled.append)
    yield made
    running.call(made.service.stopService)


def test_one_expression(world):
    done = world.execute("print('so') or f()")
    assert (done.out, done.err, done.status) == (b"so\n7\n", b"", 0)


def test_an_error_goes_to_standard_error_with_status_1(world):
    done = world.execute("print('so') or 1/0")
    assert (done.out, done.status) == (b"so\n", 1)
    assert done.err == b"ZeroDivisionError: division by zero\n"


def test_a_terminal(world):
    def run(channel):
        request = session.packRequest_pty_req(b"xterm", (24, 60, 0, 0), b"")
        channel.conn.sendRequest(channel, b"pty-req", request)
        channel.conn.sendRequest(channel, b"shell", b"")
        channel.conn.sendRequest(
            channel, b"window-change", session.packRequest_window_change((24, 80, 0, 0))
        )
        channel.write(b"f()\r")
        channel.write(b"\x04")

    done = world.connect(run, world.key)
    screen = Screen(80)
    screen.feed(done.out)
    assert "help() lists the functions" in screen.text
    assert ">>> f()\n7\n>>>" in screen.text


def test_a_terminal_ends_with_its_input(world):
    def run(channel):
        request = session.packRequest_pty_req(b"xterm", (24, 60, 0, 0), b"")
        channel.conn.sendRequest(channel, b"pty-req", request)
        channel.conn.sendRequest(channel, b"shell", b"")
        channel.conn.sendEOF(channel)

    assert b">>> " in world.connect(run, world.key).out


def test_a_shell_without_a_terminal_is_told_so(world):
    def run(channel):
        channel.conn.sendRequest(channel, b"shell", b"")

    assert b"a terminal is needed" in world.connect(run, world.key).out


def test_what_is_run_is_not_logged(world):
    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        assert world.execute("'sec' + 'ret'").out == b"'secret'\n"
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert events
    assert not any("sec" in formatEvent(event) for event in events)


def test_one_channel_runs_one_expression(world):
    def run(channel):
        for command in (b"1", b"2"):
            channel.conn.sendRequest(channel, b"exec", common.NS(command))

    assert world.connect(run, world.key).out == b"1\n"


def test_there_is_no_forwarding(world):
    refused = []

    class Forwarding(channel.SSHChannel):
        name = b"direct-tcpip"

        def openFailed(self, reason):
            refused.append(reason)
            session.conn.sendRequest(session, b"exec", common.NS(b"1"))

    def run(opened):
        nonlocal session
        session = opened
        opened.conn.openChannel(Forwarding(), b"")

    session = None
    problems = []

    def observe(event):
        if event["log_level"] >= LogLevel.error:
            problems.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        assert world.connect(run, world.key).out == b"1\n"
    finally:
        globalLogPublisher.removeObserver(observe)
    (reason,) = refused
    assert "the console has sessions only" in str(reason)
    assert problems == []


def test_closing_cancels_what_is_waited_for(world):
    def run(channel):
        accepted = channel.conn.sendRequest(channel, b"exec", common.NS(b"never()"), wantReply=1)
        accepted.addCallback(lambda _: channel.loseConnection())

    world.connect(run, world.key)
    assert world.cancelled == [world.never]


def refused(world, **login):
    with pytest.raises(ConchError, match="refused"):
        world.connect(lambda channel: channel.loseConnection(), **login)


def test_another_key_is_refused(world):
    refused(world, key=make_key())


def test_a_password_is_refused(world):
    refused(world, password=b"secret")


def test_a_key_that_cannot_sign_is_refused(world):
    class Thief(keys.Key):
        def sign(self, data, signatureType=None):
            return make_key().sign(data)

    refused(world, key=Thief(world.key._keyObject))


@pytest.mark.parametrize(
    "key",
    [
        keys.Key(rsa.generate_private_key(65537, 2048)),
        keys.Key(ec.generate_private_key(ec.SECP384R1())),
    ],
)
def test_keys_of_other_kinds_are_let_in(world, key):
    world.authorized.write_bytes(line_of(key))
    assert world.execute("1", key).out == b"1\n"


def test_a_signature_by_sha_1_is_refused(world):
    class Old(keys.Key):
        def sign(self, data, signatureType=None):
            return super().sign(data, b"ssh-rsa")

    key = Old(rsa.generate_private_key(65537, 2048))
    world.authorized.write_bytes(line_of(key))
    refused(world, key=key)


def test_a_key_taken_out_of_the_file_is_refused_at_once(world):
    assert world.execute("1").out == b"1\n"
    other = make_key()
    world.authorized.write_bytes(line_of(other))
    refused(world, key=world.key)
    assert world.execute("1", other).out == b"1\n"
    world.authorized.unlink()
    refused(world, key=other)


def test_the_host_key_is_made_once_and_kept(world, running):
    path = world.folder / "storage" / HOST_KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    first = world.execute("1").host_key
    running.call(world.service.stopService)
    world.service = console_service(world.config, world.folder / "storage", {}, running.reactor)
    running.call(world.service.startService)
    assert world.execute("1").host_key == first
    assert path.read_bytes() == before


def test_a_broken_host_key_is_told_and_kept(world, running):
    path = world.folder / "storage" / HOST_KEY
    path.write_text("nonsense")
    with pytest.raises(ConsoleError, match="is no Ed25519 key"):
        console_service(world.config, world.folder / "storage", {}, running.reactor)
    assert path.read_text() == "nonsense"


def test_a_host_key_of_another_kind_is_told(world, running):
    key = keys.Key(ec.generate_private_key(ec.SECP256R1()))
    (world.folder / "storage" / HOST_KEY).write_bytes(key.toString("openssh"))
    with pytest.raises(ConsoleError, match="is no Ed25519 key"):
        console_service(world.config, world.folder / "storage", {}, running.reactor)


def test_a_storage_that_cannot_be_used_is_told(world, running, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConsoleError, match="cannot be made"):
        console_service(world.config, tmp_path / "file" / "storage", {}, running.reactor)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "console").touch()
    with pytest.raises(ConsoleError, match="cannot be read"):
        console_service(world.config, tmp_path / "other", {}, running.reactor)


def test_an_address_in_use_is_told(world, running):
    second = console_service(world.config, world.folder / "storage", {}, running.reactor)
    with pytest.raises(ConsoleError, match=f"127.0.0.1:{world.port}: the console cannot listen"):
        running.call(second.startService)


def test_garbage_only_ends_the_connection(world):
    for data in (b"GET / HTTP/1.1\r\n\r\n" * 300, b"SSH-2.0-x\r\n" + b"\xff" * 64):
        with socket.create_connection(("127.0.0.1", world.port)) as client:
            client.settimeout(PATIENCE)
            client.sendall(data)
            try:
                while client.recv(65_536):
                    pass
            except ConnectionResetError:
                pass
    assert world.execute("1").out == b"1\n"


class FakeTransport:
    def __init__(self):
        self.written = b""
        self.aborted = False

    def write(self, data):
        self.written += data

    def abortConnection(self):
        self.aborted = True

    def setTcpNoDelay(self, on):
        pass

    def setTcpKeepAlive(self, on):
        pass


def connect_to(factory):
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(FakeTransport())
    return protocol


def make_factory(clock):
    factory = ssh.ConsoleSshFactory(None, make_key(), clock)
    factory.doStart()
    return factory


def test_whoever_does_not_log_in_is_dropped():
    clock = Clock()
    protocol = connect_to(make_factory(clock))
    assert protocol.transport.written.startswith(b"SSH-2.0-")
    clock.advance(ssh.LOGIN_TIME - 1)
    assert not protocol.transport.aborted
    clock.advance(2)
    assert protocol.transport.aborted
    protocol.connectionLost(None)
    assert clock.getDelayedCalls() == []


def test_whoever_has_logged_in_stays():
    clock = Clock()
    protocol = connect_to(make_factory(clock))
    protocol.avatar = object()
    clock.advance(ssh.LOGIN_TIME + 1)
    assert not protocol.transport.aborted


def test_no_algorithm_that_is_broken_is_offered():
    offered = connect_to(make_factory(Clock())).ourKexInitPayload
    assert b"curve25519-sha256" in offered
    assert b"aes256-ctr" in offered
    for broken in (b"sha1", b"md5", b"-cbc", b"3des", b"group-exchange"):
        assert broken not in offered


def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(ssh, "MAX_CONNECTIONS", 1)
    factory = make_factory(Clock())
    first, second = connect_to(factory), connect_to(factory)
    assert second.transport.aborted
    assert second.transport.written == b""
    second.connectionLost(None)
    first.connectionLost(None)
    assert not connect_to(factory).transport.aborted


def test_authorized_keys_of_every_kind_are_read(tmp_path):
    path = tmp_path / "keys"
    all_keys = [
        make_key(),
        keys.Key(ec.generate_private_key(ec.SECP256R1())),
        keys.Key(rsa.generate_private_key(65537, 2048)),
    ]
    path.write_bytes(b"\n".join(line_of(key) for key in all_keys) + b"\n")
    assert AuthorizedKeys(path).getAuthorizedKeys(b"") == [key.public() for key in all_keys]


GOOD = line_of(make_key())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no key"),
        (b"# nobody\n\n", "holds no key"),
        (GOOD + b"\nnonsense\n", "keys:2: expected a public key"),
        (b'command="x" ' + GOOD, "keys:1: expected a public key without options"),
        (b"ssh-ed25519 %%%%", "keys:1: expected a public key"),
        (b"ssh-rsa " + GOOD.split()[1], "keys:1: expected a public key"),
        (make_key().toString("openssh"), "keys:1: expected a public key"),
    ],
    ids=["empty", "comment", "nonsense", "options", "base64", "kind", "private"],
)
def test_a_file_that_is_not_right_is_told_at_the_start(tmp_path, content, message):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(ConsoleError, match=message):
        AuthorizedKeys(path)


def test_a_file_that_is_missing_or_that_others_may_write_is_told(tmp_path):
    path = tmp_path / "keys"
    with pytest.raises(ConsoleError, match="keys: cannot be read: No such file"):
        AuthorizedKeys(path)
    path.write_bytes(GOOD)
    path.chmod(0o664)
    with pytest.raises(ConsoleError, match="others than its owner may write it"):
        AuthorizedKeys(path)


def test_a_bad_line_later_takes_no_key_away(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(GOOD)
    authorized = AuthorizedKeys(path)
    path.write_bytes(b"nonsense\n" + GOOD)
    assert len(authorized.getAuthorizedKeys(b"")) == 1
