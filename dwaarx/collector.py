"""Python's collector of circles, kept away from what is here to stay.

It goes through all that lives, again and again: with 100,000 names that is more than a million
objects, a third of the time of the start, and later a quarter of a second now and then that every
handshake waits for. Whatever has no circle is freed without it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Let a block make as much as it likes, and let nothing of that be looked at afterwards.

    Blocks may stand within each other; the outermost counts.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        settle()
        gc.enable()


def settle() -> None:
    """Let the collector look no more at what lives now, until `sweep`."""
    gc.freeze()


def sweep() -> None:
    """Collect the circles among all that lives, where much was let go; takes its time."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
