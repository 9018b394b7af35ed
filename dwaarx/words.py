"""How times and the system's errors are put to people."""

from __future__ import annotations

from datetime import datetime


def utc(moment: datetime) -> str:
    """Write a time that is in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def reason_of(error: OSError) -> str:
    """Say what an OSError means, without the path and errno that `str` adds."""
    return error.strerror or str(error)
