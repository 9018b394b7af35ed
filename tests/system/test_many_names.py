"""Two thousand certificates by ACME in the storage: each name gets its own, few are held."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from tests.certs import pki
from tests.system.processes import Service, free_port, serving

COUNT = 2000
CACHE = 100
NAMES = [f"host{number}.many.test" for number in range(COUNT)]
CA = pki.make_ca("Intermediate", pki.make_ca("Root"))
KEY = pki.make_key()  # one for all: keys take time


@attrs.frozen
class Stored:
    """What lies in the storage for one name."""

    certificate: x509.Certificate
    staple: bytes


def store(storage: Path, name: str) -> Stored:
    """Put a new certificate of a name and its staple where dwaarx keeps them."""
    # Nobody answers there, and nobody is asked: staples are fresh, and it is a loopback address.
    leaf = pki.make_leaf(CA, [name], key=KEY, ocsp_url="http://127.0.0.1:9/")
    stored = Stored(leaf.certificate, pki.make_response(leaf))
    digest = hashlib.sha256(leaf.certificate.public_bytes(Encoding.DER)).hexdigest()
    (storage / "ocsp" / f"{digest}.der").write_bytes(stored.staple)
    pem = storage / "certificates" / f"{name}.pem"
    temporary = pem.with_suffix(".new")
    temporary.write_bytes(leaf.key_pem + pki.pem_of((leaf.certificate, CA.certificate)))
    temporary.replace(pem)
    return stored


class Many:
    """A service with all the names."""

    def __init__(self, service: Service, port: int, stored: dict[str, Stored]) -> None:
        self.service = service
        self.stored = stored
        self._port = port
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_ocsp_client_callback(self._heard)
        self._staple = b""

    def _heard(self, connection: SSL.Connection, staple: bytes, data: object) -> bool:
        self._staple = staple
        return True

    def get(self, name: str) -> Stored:
        """Shake hands; return what the name is served with."""
        self._staple = b""
        with socket.create_connection(("127.0.0.1", self._port), 10) as sock:
            sock.settimeout(None)
            connection = SSL.Connection(self._context, sock)
            connection.set_tlsext_host_name(name.encode())
            connection.request_ocsp()
            connection.set_connect_state()
            connection.do_handshake()
            certificate = connection.get_peer_certificate(as_cryptography=True)
            connection.shutdown()
        assert certificate is not None
        return Stored(certificate, self._staple)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    folder = tmp_path_factory.mktemp("many")
    storage = folder / "storage"
    for part in ("certificates", "ocsp"):
        (storage / part).mkdir(mode=0o700, parents=True)
    stored = {name: store(storage, name) for name in NAMES}
    port = free_port()
    dwaarfile = f"""
{{
    http_port 0
    https_port {port}
    bind 127.0.0.1
    certificate_cache {CACHE}
    acme_ca https://127.0.0.1:9/directory
}}
{", ".join(NAMES)} {{
    respond "hello"
}}
"""
    with serving(folder, dwaarfile) as service:
        yield Many(service, port, stored)


def test_each_name_gets_its_own_certificate_and_staple(many: Many) -> None:
    for name in Random(1).sample(NAMES, 200):
        assert many.get(name) == many.stored[name]


def test_names_of_nobody_get_the_first_ones(many: Many) -> None:
    for number in range(20):
        assert many.get(f"nobody{number}.test") == many.stored[NAMES[0]]


def test_no_more_are_held_than_certificate_cache_says(many: Many) -> None:
    """Who is held is seen by what is served after a change of the files, which nobody watches."""
    chosen = NAMES[500 : 500 + CACHE + 50]
    for name in chosen:
        assert many.get(name) == many.stored[name]
    let_go, held = chosen[49], chosen[50]
    new = {name: store(many.service.storage, name) for name in (let_go, held)}
    assert many.get(held) == many.stored[held] != new[held]
    assert many.get(let_go) == new[let_go] != many.stored[let_go]
    assert many.get(held) == many.stored[held]
    for name in chosen[:CACHE]:
        many.get(name)
    assert many.get(held) == many.stored[held]  # it was among them
    for name in chosen[51 : 51 + CACHE]:
        many.get(name)
    many.get(chosen[0])
    assert many.get(held) == new[held]
