"""Which console is open: the one that the Dwaarfile asks for, changed live."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger

from dwaarx.config.model import Config, Console, ConsoleOff, ConsoleSsh
from dwaarx.console.errors import ConsoleError
from dwaarx.console.server import console_service
from dwaarx.reactor import Reactor

_log = Logger()


class ConsoleSwitch:
    """Opens, changes and closes the console, in the two halves in which a Config is applied."""

    def __init__(self, namespace: Mapping[str, object], reactor: Reactor) -> None:
        self._namespace = namespace
        self._reactor = reactor
        self._open: tuple[Console, Service] | None = None  # None: not yet, or not any more
        self._next: tuple[Console, Service] | None = None

    def prepare(self, config: Config) -> None:
        """Make the console that a Config asks for, if it is another; raises ConsoleError.

        It already listens, unless it has to wait for the start or for the present one's address.
        """
        present = self._open
        if present is not None and config.console == present[0]:
            return
        service = console_service(config.console, config.storage, self._namespace, self._reactor)
        if present is not None and _address(config.console) != _address(present[0]):
            service.startService()
        self._next = (config.console, service)

    def abandon(self) -> None:
        """Forget what was prepared, as the Config is not put in place."""
        forgotten, self._next = self._next, None
        if forgotten is not None and forgotten[1].running:
            forgotten[1].stopService()

    def open(self) -> None:
        """Open what was prepared first; raises ConsoleError."""
        if self._next is not None:
            self._next[1].startService()
            self._open, self._next = self._next, None

    def change(self) -> None:
        """Put what was prepared in the place of what is open."""
        if self._open is None or self._next is None:
            return
        former, present = self._open[1], self._next
        self._open, self._next = present, None
        stopped = maybeDeferred(former.stopService)

        # Only now is the address free that they share.
        def start(_: object) -> None:
            if self._open is not present:
                return
            try:
                present[1].startService()
            except ConsoleError as error:
                # The next Dwaarfile may try again.
                self._open = (ConsoleOff(), Service())
                _log.error("there is no console any more: {error}", error=str(error))

        if not present[1].running:
            stopped.addCallback(start)

    def close(self) -> Deferred[None]:
        """Close the console; fires when it is closed."""
        former, self._open = self._open, None
        if former is None:
            return succeed(None)
        return maybeDeferred(former[1].stopService)


def _address(console: Console) -> object:
    """Return what a console listens on: an address, or its kind."""
    return console.address if isinstance(console, ConsoleSsh) else type(console)
