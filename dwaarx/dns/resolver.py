"""What the sessions ask of whoever answers queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dwaarx.dns.message import Query

Respond = Callable[[bytes], None]


class Resolver(Protocol):
    """What answers queries: the forwarder."""

    def resolve(self, query: Query, respond: Respond) -> None:
        """Call `respond` with the answer, exactly once, now or later."""
