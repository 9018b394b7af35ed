"""Who may be heard in the log: what a client can provoke is told only where it was asked for.

twistd writes down every event, whatever its level, so that a port scan would fill the disk.
"""

from __future__ import annotations

from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)

_levels = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)
_observer = FilteringLogObserver(globalLogPublisher, [_levels])


def quiet_logger(namespace: str) -> Logger:
    """Return a module's logger whose debug events go nowhere unless `show_debug` was called."""
    return Logger(namespace, observer=_observer)


def show_debug(*, show: bool = True) -> None:
    """Let debug events be written, too."""
    level = LogLevel.debug if show else LogLevel.info
    _levels.setLogLevelForNamespace("dwaarx", level)
