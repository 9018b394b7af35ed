"""What lies between a lookup and the sockets that carry its question."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """A socket or connection to an upstream, with the questions that it carries by their id."""

    def forget(self, asker: Asker) -> None:
        """Carry this question no longer: nobody waits for the answer."""

    def timed_out(self, asker: Asker) -> None:
        """Forget this question, since no answer came in time."""


class Asker(Protocol):
    """Who asks: a lookup, as channels see it.

    `request` is the message without its id; a channel sets `id` and `channel` when it takes the
    question, and has let go of it before it calls `answered`, `change_to_tcp` or `failed`.
    """

    channel: Channel | None
    id: bytes
    question: bytes
    request: bytes

    @property
    def may_use_tcp(self) -> bool:
        """Whether what came over UDP may be asked for again over TCP."""

    @property
    def sent(self) -> float:
        """When the question was sent, by the reactor's clock."""

    def answered(self, wire: bytes, *, truncated: bool = False) -> None:
        """Take the answer that matches the question; `truncated`: TC was set, over UDP."""

    def change_to_tcp(self) -> None:
        """Ask the same upstream again over TCP."""

    def failed(self, *, lost: bool) -> None:
        """Hear that nothing will come; `lost`: a connection that had stood ended."""
