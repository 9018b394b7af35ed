"""Which console is open: the one that the Dwaarfile asks for, changed live."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger

from dwaarx.config.model import Config, Console, ConsoleSsh
from dwaarx.console.errors import ConsoleError
from dwaarx.console.server import console_service
from dwaarx.reactor import Reactor

_log = Logger()


class ConsoleSwitch:
    """Opens, changes and closes the console, in the two halves in which a Config is applied."""

    def __init__(self, namespace: Mapping[str, object], reactor: Reactor) -> None:
        self._namespace = namespace
        self._reactor = reactor
        self._open: tuple[Console, IService] | None = None
        self._next: tuple[Console, IService] | None = None

    def prepare(self, config: Config) -> None:
        """Make the console that a Config asks for, if it is another; raises ConsoleError."""
        self._next = None
        if self._open is None or config.console != self._open[0]:
            service = console_service(
                config.console, config.storage, self._namespace, self._reactor
            )
            self._next = (config.console, service)

    def open(self) -> None:
        """Open what was prepared; raises ConsoleError, and then what was open still is."""
        if self._next is None:
            return
        prepared, self._next = self._next, None
        prepared[1].startService()
        self._open = prepared

    def change(self) -> None:
        """Put what was prepared in the place of what is open; a failure is logged."""
        former = self._open
        if former is None or self._next is None:
            return
        if _address(former[0]) != _address(self._next[0]):
            try:
                self.open()
            except ConsoleError as error:
                _log.error("the console stays as it was: {error}", error=str(error))
            else:
                former[1].stopService()
            return

        # The present one has to give its address up first.
        def open_next(_: object) -> None:
            try:
                self.open()
            except ConsoleError as error:
                self._open = None
                _log.error("there is no console any more: {error}", error=str(error))

        maybeDeferred(former[1].stopService).addCallback(open_next)

    def close(self) -> Deferred[None]:
        """Close the console; fires when it is closed."""
        former, self._open = self._open, None
        if former is None:
            return succeed(None)
        return maybeDeferred(former[1].stopService)


def _address(console: Console) -> object:
    """Return what a console listens on: an address, or its kind."""
    return console.address if isinstance(console, ConsoleSsh) else type(console)
