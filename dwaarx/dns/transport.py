"""What the DNS room's connections need of their transports."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport


class StreamTransport(ITCPTransport, IConsumer, IPushProducer):
    """A transport over TCP, plain or TLS, that can be paused and can pause us."""
