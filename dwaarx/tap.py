"""What `twistd dwaarx` runs: the options, and the service made from the Dwaarfile they name."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ClassVar, cast

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python import usage

from dwaarx import __version__, collector
from dwaarx.certs.errors import CertificateErrors
from dwaarx.config import default_path, load
from dwaarx.config.errors import ConfigError
from dwaarx.config.model import Config
from dwaarx.console.errors import ConsoleError
from dwaarx.console.functions import Console as ConsoleFunctions
from dwaarx.console.switch import ConsoleSwitch
from dwaarx.dns.errors import ResolversError
from dwaarx.frontend import Frontend, FrontendError
from dwaarx.log import show_debug
from dwaarx.plan import PlanError
from dwaarx.reactor import Reactor
from dwaarx.tls import descriptors
from dwaarx.tls.sockets import BindError

_log = Logger()

# What a Dwaarfile, or the machine it meets, can be at fault for; said without a traceback.
OPERATOR_ERRORS = (
    ConfigError,
    PlanError,
    ResolversError,
    CertificateErrors,
    BindError,
    ConsoleError,
    FrontendError,
    OSError,
)


class StartError(SystemExit, Exception):
    """Ends the process with the reason in one line.

    As an Exception too: twistd takes back its pidfile and, in the background, tells the waiting
    parent process only for one; else `twistd dwaarx` would never return.
    """


class Options(usage.Options):
    """The command line of `twistd dwaarx`."""

    synopsis = "[--config FILE]"
    longdesc = "Serve HTTPS, DNS over TLS and DNS over HTTPS as a Dwaarfile says."
    optParameters: ClassVar = [
        ["config", "c", None, "The Dwaarfile; default: ./Dwaarfile, then /etc/dwaarx/Dwaarfile."],
    ]

    optFlags: ClassVar = [
        ["debug", None, "Log what clients do wrong, too: a line for each failed handshake."],
    ]

    def opt_version(self) -> None:
        """Show dwaarx's version and exit."""
        raise SystemExit(f"dwaarx {__version__}")


class DwaarxService(MultiService):
    """The frontend, its console, and SIGHUP."""

    def __init__(self, config: Config, reactor: Reactor) -> None:
        MultiService.__init__(self)
        self.frontend = Frontend(config, reactor)
        MultiService.addService(self, self.frontend)
        self._reactor = reactor
        self._console = ConsoleSwitch(ConsoleFunctions(self.frontend).namespace(), reactor)
        self.frontend.parts.append(self._console)
        self._hung_up = False

    def privilegedStartService(self) -> None:
        """Start, or end the process with the reason in one line."""
        with _or_exit():
            descriptors.raise_limit()
            MultiService.privilegedStartService(self)

    def startService(self) -> None:
        """Serve, open the console, and read the Dwaarfile again at SIGHUP."""
        MultiService.startService(self)
        with _or_exit():
            self._console.open()
        signal.signal(signal.SIGHUP, self._hangup)
        _log.info("dwaarx {version} serves {file}", version=__version__, file=self._file)

    def stopService(self) -> Deferred[list[object]]:
        """Stop serving; SIGHUP is ignored meanwhile, and a second SIGTERM or SIGINT hurries."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hurry)
        return gatherResults([MultiService.stopService(self), self._console.close()])

    @property
    def _file(self) -> str:
        return self.frontend.config.file

    def _hurry(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.frontend.hurry)

    def _hangup(self, number: int, frame: FrameType | None) -> None:
        # One reload answers all the signals before it, so that a storm of them cannot pile up.
        if not self._hung_up:
            self._hung_up = True
            self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        self._hung_up = False
        try:
            done = self.frontend.reload()
        except OPERATOR_ERRORS as error:
            _log.error("reload refused, nothing has changed: {error}", error=str(error))
        else:
            _log.info("reloaded {file}: {done}", file=self._file, done=done)


@contextmanager
def _or_exit() -> Iterator[None]:
    """End the process with one line for what the operator is to mend."""
    try:
        yield
    except OPERATOR_ERRORS as error:
        raise StartError(f"dwaarx: {error}") from error


def makeService(options: Options) -> IService:
    """Make the service; ends the process with the reason if the Dwaarfile is not sound."""
    from twisted.internet import reactor

    twistd: Mapping[str, object] = options.parent or {}
    if twistd.get("uid") is not None or twistd.get("gid") is not None:
        raise StartError(
            "dwaarx: --uid and --gid would leave it without its keys and its storage: start it as "
            "that user, with CAP_NET_BIND_SERVICE for ports below 1024 (see docs/operation.md)"
        )
    if options["debug"]:
        show_debug()
    with _or_exit(), collector.paused():
        # Absolute, because twistd may go to another folder (--rundir) before it is read again.
        config = load(Path(options["config"] or default_path()).absolute())
        return DwaarxService(config, cast("Reactor", reactor))
