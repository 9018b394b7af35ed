"""Where the console is offered: a Unix socket in the storage, an SSH port, or nowhere."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from dwaarx.config.model import Console, ConsoleOff, ConsoleUnix
from dwaarx.console import SOCKET_NAME
from dwaarx.console.errors import ConsoleError
from dwaarx.console.protocol import ConsoleFactory
from dwaarx.reactor import Reactor

_log = Logger()

# sun_path of struct sockaddr_un holds 108 bytes, one of them the NUL.
MAX_SOCKET_PATH = 107
# A living dwaarx accepts at once; this only bounds the wait if its backlog is full.
PROBE_TIME = 2.0


def console_service(
    config: Console, storage_path: Path, namespace: Mapping[str, object], reactor: Reactor
) -> Service:
    """Make the service that offers `namespace` as the Dwaarfile's `console` says.

    Raises ConsoleError if that cannot work: an authorized_keys file without a usable key, a
    host key that cannot be read. Starting it raises ConsoleError if it cannot listen.
    """
    if isinstance(config, ConsoleOff):
        return Service()
    if isinstance(config, ConsoleUnix):
        return UnixConsole(storage_path / SOCKET_NAME, namespace, reactor)
    # Imported only here, since conch's SSH installs a reactor when it is imported.
    from dwaarx.console.ssh import SshConsole

    return SshConsole(config, storage_path, namespace, reactor)


class UnixConsole(Service):
    """The console on a Unix socket of mode 0600."""

    def __init__(self, path: Path, namespace: Mapping[str, object], reactor: Reactor) -> None:
        self.path = path
        self._factory = ConsoleFactory(namespace, reactor)
        self._reactor = reactor
        self._port: IListeningPort | None = None
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise ConsoleError(
                f"{path}: a socket's path is at most {MAX_SOCKET_PATH} bytes long: choose a "
                "shorter `storage`, or `console off`"
            )

    def startService(self) -> None:
        """Listen; raises ConsoleError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_folder(self.path.parent)
            with _alone_in(self.path.parent):
                _clear(self.path)
                self._port = self._listen()
        except (OSError, CannotListenError) as error:
            raise ConsoleError(f"{self.path}: the console cannot listen: {error}") from error
        Service.startService(self)
        _log.info("console: on {path}", path=str(self.path))

    def stopService(self) -> Deferred[None] | None:
        """Stop listening and remove the socket; open sessions go on until they end."""
        Service.stopService(self)
        port, self._port = self._port, None
        return None if port is None else port.stopListening()

    def _listen(self) -> IListeningPort:
        # Under this umask the socket is born with mode 0600, so that there is no moment in
        # which others could open it.
        before = os.umask(0o177)
        try:
            return self._reactor.listenUNIX(os.fspath(self.path), self._factory, mode=0o600)
        finally:
            os.umask(before)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which somebody else could put a socket of theirs in place of ours."""
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConsoleError(f"{folder}: others than its owner may write there: chmod go-w it")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep two processes from clearing the socket away for each other; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    """Remove the socket of a process that is gone; raises ConsoleError if it is not gone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConsoleError(f"{path}: is no socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIME)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ConsoleError(f"{path}: cannot tell whether it is in use: {error}") from error
    raise ConsoleError(f"{path}: another dwaarx runs with this storage")
