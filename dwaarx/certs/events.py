"""What happens to certificates, as log lines that people and programs read: `event key=value …`."""

from __future__ import annotations

import json
import re

from twisted.logger import Logger, LogLevel

_log = Logger()

# What needs no quotes in a line.
_PLAIN = re.compile(r"[\w.:/@*+,=-]+", re.ASCII)


def tell(event: str, /, level: LogLevel = LogLevel.info, **fields: object) -> None:
    """Log an event of the certificates: obtained, renewed, stapled, failed, revoked and others.

    The line is `event key=value …`, in the order given; a value with other characters than those
    of names and URLs stands in quotes, as JSON does it, so that nobody else's text can begin a
    line. None and "" are left out. The log event has `certificate_event`, and the fields by their
    names.
    """
    shown = {key: value for key, value in fields.items() if value not in (None, "")}
    line = " ".join((event, *(f"{key}={_quoted(value)}" for key, value in shown.items())))
    _log.emit(level, "{line}", line=line, certificate_event=event, **shown)


def _quoted(value: object) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    # JSON leaves the line ends of Unicode as they are, and what turns text around on a screen.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in quoted)
