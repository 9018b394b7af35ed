"""A connection's transport as the house asks for it: one name for the interfaces that are used."""

from __future__ import annotations

from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport


class Transport(ITCPTransport, IConsumer, IPushProducer):
    """What Twisted's streams are, plain or TLS: they can be paused, and can pause us.

    Those over TLS have no loseWriteConnection, and those on a Unix socket nothing of TCP.
    """
