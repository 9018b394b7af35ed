"""The parts of the reactor and of its transports that the DNS room uses."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    IReactorFDSet,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)


class DnsReactor(IReactorTime, IReactorTCP, IReactorFDSet):
    """Time, TCP connections, and descriptors of our own for UDP."""


class StreamTransport(ITCPTransport, IConsumer, IPushProducer):
    """A transport over TCP, plain or TLS, that can be paused and can pause us."""
