"""A month of `tls internal`, seen by clients of a running frontend."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IReactorTime

from dwaarx import frontend as module
from dwaarx.certs import ocsp
from dwaarx.certs.manager import CertificateManager
from dwaarx.certs.storage import Storage
from dwaarx.frontend import Frontend
from tests.certs.handshakes import begin
from tests.certs.pki import utc_now
from tests.system.processes import free_port
from tests.test_frontend import Port, Reactor, read
from tests.tls.memory import HOST, PEER, MemoryTransport

LOOK = timedelta(hours=2)
MONTH = timedelta(days=30)


class Visitor:
    """A client that asks for a staple, and keeps its connection."""

    def __init__(self, port: Port) -> None:
        self._tls, self.staples = begin()
        self._server = port.factory.buildProtocol(PEER)
        self._transport = MemoryTransport(HOST, PEER)
        self._server.makeConnection(self._transport)
        self._tls.set_tlsext_host_name(b"localhost")
        for _ in range(4):
            with contextlib.suppress(SSL.WantReadError):
                self._tls.do_handshake()
            self._carry()

    def _carry(self) -> None:
        with contextlib.suppress(SSL.WantReadError):
            self._server.dataReceived(self._tls.bio_read(65536))
        if self._transport.value():
            self._tls.bio_write(self._transport.value())
            self._transport.clear()

    @property
    def chain(self) -> list[x509.Certificate]:
        chain = self._tls.get_peer_cert_chain(as_cryptography=True)
        assert chain is not None
        return chain

    def ask(self) -> bytes:
        self._tls.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._carry()
        return self._tls.recv(65536)

    def leave(self) -> None:
        self._server.connectionLost()


def trusted(chain: list[x509.Certificate], root: x509.Certificate, now: datetime) -> None:
    """Verify as a client does whose clock says `now`."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root))
    store.set_time(now.replace(tzinfo=None))
    leaf, *above = map(crypto.X509.from_cryptography, chain)
    crypto.X509StoreContext(store, leaf, above).verify_certificate()


def test_a_month_of_the_internal_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time a new client gets a certificate and a staple that are good at that time."""
    reactor, begun = Reactor(), utc_now()

    def now() -> datetime:
        return begun + timedelta(seconds=reactor.seconds())

    def manager(storage: Storage, clock: IReactorTime) -> CertificateManager:
        return CertificateManager(storage, clock, now)

    monkeypatch.setattr(module, "CertificateManager", manager)
    text = f"localhost:{free_port()} {{\n tls internal\n respond hello\n}}"
    frontend = Frontend(read(tmp_path, text, " timeouts {\n idle 60d\n }\n"), reactor)
    frontend.privilegedStartService()
    frontend.startService()
    (port,) = reactor.ports
    first = Visitor(port)
    assert first.ask().endswith(b"hello")
    root = x509.load_pem_x509_certificate((tmp_path / "storage/internal/root.crt").read_bytes())
    serials, staples = set(), set()
    while reactor.seconds() < MONTH.total_seconds():
        visitor = Visitor(port)
        leaf, intermediate = visitor.chain
        trusted(visitor.chain, root, now())
        (staple,) = visitor.staples
        ocsp.verify(staple, leaf, intermediate, now())
        assert visitor.ask().endswith(b"hello")
        serials.add(leaf.serial_number)
        staples.add(staple)
        visitor.leave()
        reactor.advance(LOOK.total_seconds())
    # A leaf lasts 7 days, of which 4 2/3 pass before the next; a staple one day of its two.
    assert len(serials) == 7
    assert 30 <= len(staples) <= 37
    # A month later the first connection is as it was.
    assert first.ask().endswith(b"hello")
    first.leave()
    stopping = frontend.stopService()
    reactor.pump([0.1] * 3)
    assert stopping.called
    assert reactor.getDelayedCalls() == []
