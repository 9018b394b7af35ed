"""What the console says no to."""

from __future__ import annotations


class ConsoleError(Exception):
    """A call, file or socket of the console that cannot do what it is asked; says why."""
