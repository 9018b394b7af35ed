"""The console over SSH: public keys of one file, no passwords, a host key kept in the storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from twisted.application.service import Service
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser, ISession
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.connection import (
    MSG_CHANNEL_OPEN_FAILURE,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    SSHConnection,
)
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession, SSHSessionProcessProtocol
from twisted.conch.ssh.transport import DISCONNECT_BY_APPLICATION, SSHServerTransport
from twisted.conch.ssh.userauth import SSHUserAuthServer
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ConnectionDone, ProcessTerminated
from twisted.internet.interfaces import (
    IListeningPort,
    ILoggingContext,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from dwaarx.certs.storage import Storage
from dwaarx.config.model import ConsoleSsh
from dwaarx.console.answer import Answer, answer
from dwaarx.console.errors import ConsoleError
from dwaarx.console.evaluate import Attempt, fresh
from dwaarx.console.manhole import Terminal
from dwaarx.console.ssh_keys import SIGNATURES, AuthorizedKeys, Checker, fingerprint, host_key
from dwaarx.deadline import Deadline
from dwaarx.reactor import Reactor
from dwaarx.words import reason_of

_log = Logger()

# From connecting to being logged in; whoever must type a passphrase has connected before.
LOGIN_TIME = 60.0
# An agent offers its keys one after the other; OpenSSH's server allows 6.
MAX_ATTEMPTS = 6
MAX_CONNECTIONS = 32

# Conch also offers CBC (its plaintext can be recovered: RFC 4344), triple DES, MD5 and SHA-1,
# and Diffie-Hellman without curves, which needs a file of primes or SHA-1.
CIPHERS = [b"aes256-ctr", b"aes192-ctr", b"aes128-ctr"]
MACS = [b"hmac-sha2-512", b"hmac-sha2-256"]
KEY_EXCHANGES = [
    name for name in SSHServerTransport.supportedKeyExchanges if b"diffie-hellman" not in name
]


class _Input:
    """Takes what the client sends, as the transport of conch's process protocol."""

    def __init__(self, session: ConsoleSession) -> None:
        self._session = session

    def write(self, data: bytes) -> None:
        self._session.received(data)

    def loseConnection(self) -> None:
        self._session.closed()


@implementer(ISession)
class ConsoleSession:
    """One session channel: a terminal, or one expression."""

    def __init__(self, namespace: Mapping[str, object], clock: IReactorTime) -> None:
        self._namespace = namespace
        self._clock = clock
        self._size: tuple[int, int] | None = None
        self._terminal: Terminal | None = None
        self._waiting: Deferred[Answer] | None = None
        self._closed = False

    def getPty(self, term: bytes, windowSize: tuple[int, ...], attrs: object) -> None:
        """Note the size of the client's window."""
        height, width = windowSize[:2]
        self._size = width, height

    def openShell(self, proto: SSHSessionProcessProtocol) -> None:
        """Open a terminal."""
        proto.makeConnection(_Input(self))
        if self._size is None:
            proto.write(b"dwaarx: a terminal is needed (ssh -t), or an expression\r\n")
            self._clock.callLater(0, proto.loseConnection)
            return
        self._terminal = Terminal(self._namespace, *self._size)
        self._terminal.makeConnection(proto)

    def execCommand(self, proto: SSHSessionProcessProtocol, command: bytes) -> None:
        """Run one expression: its result goes to standard output, an error to standard error."""
        proto.makeConnection(_Input(self))
        # The client is to hear first that its request was accepted.
        self._clock.callLater(0, self._run, proto, command)

    def _run(self, proto: SSHSessionProcessProtocol, command: bytes) -> None:
        if self._closed:
            return
        self._waiting = answer(command.decode("utf-8", "replace"), fresh(self._namespace))
        self._waiting.addCallback(self._answered, proto)

    def _answered(self, result: Answer, proto: SSHSessionProcessProtocol) -> None:
        self._waiting = None
        if self._closed:
            return
        shown = "" if result.result is None else f"{result.result}\n"
        proto.outReceived(f"{result.output}{shown}".encode())
        if result.error is not None:
            proto.errReceived(f"{result.error}\n".encode())
        proto.processEnded(Failure(ProcessTerminated(0 if result.ok else 1)))

    def received(self, data: bytes) -> None:
        """Take the terminal's keys; an expression reads nothing."""
        if self._terminal is not None:
            self._terminal.dataReceived(data)

    def windowChanged(self, newWindowSize: tuple[int, ...]) -> None:
        """Draw anew for the window's new size."""
        height, width = newWindowSize[:2]
        if self._terminal is not None:
            self._terminal.resize(width, height)

    def eofReceived(self) -> None:
        """Leave, as nothing more will be typed."""
        if self._terminal is not None:
            self._terminal.loseConnection()

    def closed(self) -> None:
        """Give up what is still waited for."""
        self._closed = True
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            terminal.connectionLost(Failure(ConnectionDone()))
        if self._waiting is not None:
            self._waiting.cancel()


class ConsoleChannel(SSHSession):
    """A session channel; unlike its base it does not log what is to be run."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Conch would make it when it is first asked for: by one name up to 26.4, by both since.
        self._console = self.session = self._session = ISession(self.avatar)

    def request_exec(self, data: bytes) -> int:
        """Run an expression, unless the channel has been used already."""
        if self.client is not None:
            return 0
        command, _ = getNS(data)
        self.client = SSHSessionProcessProtocol(self)
        self._console.execCommand(self.client, command)
        return 1


class ConsoleConnection(SSHConnection):
    """Carries the channels of one login: sessions alone, there is no forwarding."""

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """Open a session; refuse anything else, which conch would log with a traceback."""
        kind, rest = getNS(packet)
        if kind == b"session":
            super().ssh_CHANNEL_OPEN(packet)
            return
        _log.warn("console: refused a channel of SSH: {kind!r}", kind=kind)
        refusal = rest[:4] + OPEN_ADMINISTRATIVELY_PROHIBITED.to_bytes(4)
        assert self.transport is not None
        self.transport.sendPacket(
            MSG_CHANNEL_OPEN_FAILURE, refusal + NS(b"the console has sessions only") + NS(b"")
        )


class ConsoleUser(ConchUser):
    """Whoever is logged in: may open sessions, and nothing else (no forwarding)."""

    def __init__(self, namespace: Mapping[str, object], clock: IReactorTime) -> None:
        super().__init__()
        self._namespace = namespace
        self._clock = clock
        self.channelLookup[b"session"] = ConsoleChannel

    def __conform__(self, interface: type[Interface]) -> ConsoleSession | None:
        """Give each channel a session of its own, when conch asks for one."""
        return ConsoleSession(self._namespace, self._clock) if interface is ISession else None


@implementer(IRealm)
class ConsoleRealm:
    """Gives everyone who is let in the same rights."""

    def __init__(self, namespace: Mapping[str, object], clock: IReactorTime) -> None:
        self._namespace = namespace
        self._clock = clock

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> tuple[type[Interface], object, Callable[[], None]]:
        """Make the avatar."""
        name = bytes(avatarId).decode("utf-8", "replace")
        _log.info("console: opened over SSH by {name!r}", name=name)
        return IConchUser, ConsoleUser(self._namespace, self._clock), lambda: None


# --- the port -------------------------------------------------------------------


class UserAuth(SSHUserAuthServer):
    """Bounds how often a client may try."""

    attemptsBeforeDisconnect = MAX_ATTEMPTS

    def serviceStarted(self) -> None:
        """Begin."""
        assert self.transport is not None
        self.clock = cast("ConsoleSshFactory", self.transport.factory).clock
        super().serviceStarted()


class ConsoleTransport(SSHServerTransport):
    """One connection: it must log in soon, and what it sends wrong only ends it."""

    transport: ITCPTransport
    factory: ConsoleSshFactory

    def connectionMade(self) -> None:
        """Wait for the login, if there are not too many connections yet."""
        self.factory.connections += 1
        self.supportedCiphers, self.supportedMACs = CIPHERS, MACS
        self.supportedKeyExchanges = KEY_EXCHANGES
        self._deadline = Deadline(self.factory.clock, self._expired)
        self._deadline.set(LOGIN_TIME)
        if self.factory.connections > MAX_CONNECTIONS:
            self.transport.abortConnection()
        else:
            super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of the SSH protocol."""
        with Attempt() as attempt:
            super().dataReceived(data)
        if attempt.error is not None:
            _log.warn("console: not SSH as it should be: {error!r}", error=attempt.error)
            self.transport.abortConnection()

    def sendExtInfo(self, extensions: list[tuple[bytes, bytes]]) -> None:
        """Tell what clients may sign with (RFC 8308 section 3.1).

        Conch tells what the host key signs with; clients then hold back their RSA keys.
        """
        own = {b"server-sig-algs": b",".join(SIGNATURES)}
        super().sendExtInfo(list({**dict(extensions), **own}.items()))

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """Hear why the client leaves."""
        level = LogLevel.info if reasonCode == DISCONNECT_BY_APPLICATION else LogLevel.warn
        _log.emit(
            level,
            "console: the SSH client left: {description!r} ({code})",
            description=description.decode("utf-8", "replace"),
            code=reasonCode,
        )

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Forget the connection."""
        self._deadline.stop()
        self.factory.connections -= 1
        super().connectionLost(reason)

    def _expired(self) -> None:
        if getattr(self, "avatar", None) is None:
            self.transport.abortConnection()


@implementer(ILoggingContext)
class ConsoleSshFactory(SSHFactory):
    """Makes the protocol for each client of the SSH port."""

    noisy = False

    def logPrefix(self) -> str:
        """Say who is starting, in Twisted's own lines of the log."""
        return "console"

    protocol: Any = ConsoleTransport

    def __init__(self, portal: Portal, key: Key, clock: IReactorTime) -> None:
        self.services = {b"ssh-userauth": UserAuth, b"ssh-connection": ConsoleConnection}
        self.portal = portal
        self.publicKeys = {key.sshType(): key.public()}
        self.privateKeys = {key.sshType(): key}
        self.clock = clock
        self.connections = 0


class SshConsole(Service):
    """The console on an SSH port."""

    def __init__(
        self,
        config: ConsoleSsh,
        storage_path: Path,
        namespace: Mapping[str, object],
        reactor: Reactor,
    ) -> None:
        """Read the keys; raises ConsoleError."""
        checker = Checker(AuthorizedKeys(config.authorized_keys))
        try:
            key = host_key(Storage(storage_path))
        except OSError as error:
            raise ConsoleError(f"{storage_path}: cannot be made: {reason_of(error)}") from error
        portal = Portal(ConsoleRealm(namespace, reactor), [checker])
        self._factory = ConsoleSshFactory(portal, key, reactor)
        self._fingerprint = fingerprint(key)
        self._address = config.address
        self._reactor = reactor
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Listen; raises ConsoleError."""
        address = self._address
        try:
            self._port = self._reactor.listenTCP(
                address.port, cast("ServerFactory[Any]", self._factory), interface=address.host
            )
        except CannotListenError as error:
            raise ConsoleError(
                f"{address}: the console cannot listen: {error.socketError}"
            ) from error
        super().startService()
        _log.info(
            "console: SSH on {address}, host key {fingerprint}",
            address=str(address),
            fingerprint=self._fingerprint,
        )

    def stopService(self) -> Deferred[None] | None:
        """Stop listening; open sessions go on until they end."""
        super().stopService()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()
