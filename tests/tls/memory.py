"""TLS in memory: a client and a listener's connection, with the wire between them in hand."""

from __future__ import annotations

import ssl
import warnings

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from dwaarx.tls.connection import TlsTransport
from dwaarx.tls.listener import Listener
from dwaarx.tls.policy import certificate_context
from tests.certs.pki import Entity

PEER = IPv4Address("TCP", "192.0.2.7", 4711)
HOST = IPv4Address("TCP", "127.0.0.1", 443)


class MemoryTransport(StringTransport):
    """A TCP transport in memory that knows how it was ended."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        StringTransport.abortConnection(self)

    def loseWriteConnection(self) -> None:
        """Nothing to close: what was written can be read all the same."""


class Client:
    """A TLS client by the ssl module, whose bytes are carried to a server's protocol by `pump`."""

    def __init__(
        self,
        listener: Listener,
        root: Entity,
        name: str | None = "localhost",
        alpn: tuple[str, ...] = (),
        *,
        version: ssl.TLSVersion | None = None,
        ciphers: str | None = None,
        group: str | None = None,
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = name is not None
        context.load_verify_locations(cadata=root.pem.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if version is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
        if ciphers:
            context.set_ciphers(ciphers)
        if group:
            context.set_ecdh_curve(group)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        factory = listener.factory()
        server = factory.buildProtocol(PEER)
        assert isinstance(server, TlsTransport)
        self.server = server
        self.transport = MemoryTransport(HOST, PEER)
        server.makeConnection(self.transport)

    def pump(self) -> None:
        """Carry all that waits, both ways."""
        while True:
            out = self._out.read()
            if out:
                self.server.dataReceived(out)
            back = self.transport.value()
            self.transport.clear()
            if back:
                self._in.write(back)
            if not out and not back:
                return

    def handshake(self) -> Client:
        """Shake hands; raises ssl.SSLError as the client sees it."""
        for _ in range(4):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.pump()
            except ssl.SSLError:
                self.pump()
                raise
            else:
                self.pump()
                return self
        raise AssertionError("the handshake came to no end")

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.pump()

    def receive(self) -> bytes:
        self.pump()
        try:
            return self.tls.read()
        except ssl.SSLWantReadError:
            return b""

    def serial(self) -> int:
        certificate = self.tls.getpeercert()
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)


class Certificate:
    """What an endpoint needs of a certificate: its context."""

    def __init__(self, context: SSL.Context | None) -> None:
        self.context = context


def certificate(leaf: Entity) -> Certificate:
    return Certificate(certificate_context([(leaf.key, [leaf.certificate])], lambda _: b""))
