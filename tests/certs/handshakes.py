"""TLS handshakes with an Identity: in memory, and on a socket for real clients."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from cryptography import x509
from OpenSSL import SSL

from dwaarx.certs.store import Identity
from dwaarx.tls import policy


class Negotiator:
    """What the contexts ask of a connection: every name is this identity's."""

    protocols: Sequence[bytes] = (b"http/1.1",)

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    @property
    def negotiation(self) -> Negotiator:
        return self

    def choose(self, server_name: bytes | None) -> SSL.Context | None:
        return self.identity.context


def server_connection(identity: Identity, sock: socket.socket | None = None) -> SSL.Connection:
    connection = SSL.Connection(policy.base_context(), sock)
    connection.set_app_data(Negotiator(identity))
    connection.set_accept_state()
    return connection


def begin(ciphers: bytes = b"", *, ask: bool = True) -> tuple[SSL.Connection, list[bytes]]:
    """A client and the staples it gets; ciphers (TLS 1.2) choose the type of certificate."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    staples: list[bytes] = []

    def keep(connection: SSL.Connection, staple: bytes, data: object) -> bool:
        staples.append(staple)
        return True

    context.set_ocsp_client_callback(keep)
    if ciphers:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(ciphers)
    client = SSL.Connection(context, None)
    if ask:
        client.request_ocsp()
    client.set_connect_state()
    return client, staples


def pump(client: SSL.Connection, server: SSL.Connection) -> None:
    """Carry bytes both ways until both have finished the handshake."""
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))


def handshake(
    identity: Identity, ciphers: bytes = b"", *, ask: bool = True
) -> tuple[x509.Certificate, bytes | None, list[x509.Certificate]]:
    """The certificate, staple (None: none came) and chain that a client gets."""
    client, staples = begin(ciphers, ask=ask)
    pump(client, server_connection(identity))
    certificate = client.get_peer_certificate(as_cryptography=True)
    chain = client.get_peer_cert_chain(as_cryptography=True)
    assert certificate is not None
    assert chain is not None
    return certificate, (staples[0] or None) if staples else None, chain


@contextlib.contextmanager
def serving(identity: Identity) -> Iterator[int]:
    """Answer each connection's request with "hello" on a loopback port, until left."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.settimeout(None)
            connection = server_connection(identity, sock)
            with contextlib.suppress(SSL.Error):
                connection.do_handshake()
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                connection.shutdown()
            sock.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
