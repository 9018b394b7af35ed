"""A CA with its responder, the names that it signs, and their clients; for tests of ACME.

town = Town(tmp_path, responder=True)
with town:
    service = serve(town.dwaarfile("example.test {\\nrespond hello\\n}"))
    first = town.wait("example.test")
    with town.load("example.test") as load:
        service.console('renewCertificate("example.test")')
    assert load.failures == []
"""

from __future__ import annotations

import ast
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ocsp
from OpenSSL import SSL

from tests.certs import pki
from tests.system.acme_peers import Front, Pebble
from tests.system.ocsp_peers import ALLOW, Handshake, Responder, Site, handshake
from tests.system.processes import PATIENCE, Service, free_port, until

# How long a client waits for whatever it waits for.
_CLIENT_PATIENCE = 10.0


class Town:
    """A Pebble whose names are at the ports `http` and `tls`; a context manager.

    With `responder`, its certificates name `responder`, which answers for them. Without `plain`
    nobody listens where the CA looks for http-01. Other options are those of Pebble.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stem: str = "ca",
        http: int | None = None,
        tls: int | None = None,
        plain: bool = True,
        responder: bool = False,
        **options: Any,
    ) -> None:
        self.folder = folder / stem
        self.http = http or free_port()
        self.tls = tls or free_port()
        self._responds = responder
        self._responder_port = free_port()
        ocsp_url = f"http://127.0.0.1:{self._responder_port}/ocsp" if responder else None
        self.ca = Pebble(
            self.folder,
            self.http if plain else free_port(),
            self.tls,
            ocsp_url=ocsp_url,
            **options,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.ca.close)
            self.ca.start()
            if self._responds:
                self.responder = Responder(self.folder, self.issuer)
                self.responder.port = self._responder_port
                stack.enter_context(self.responder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            print(self.ca.log)
        self._stack.close()

    # --- for the Dwaarfile --------------------------------------------------

    def acme_ca(self, front: Front | None = None, block: str = "") -> str:
        """Return the directive that names the CA, or what stands before it."""
        return _directive(front or self.ca, block)

    def dwaarfile(
        self,
        *sites: str,
        options: str = ALLOW,
        cas: Sequence[str] = (),
        http: int | None = None,
        email: str = "ops@example.test",
    ) -> str:
        """Return a Dwaarfile for these sites; `cas` are directives, else this CA's."""
        lines = [
            "{",
            f"http_port {self.http if http is None else http}",
            f"https_port {self.tls}",
            "bind 127.0.0.1",
            f"email {email}" if email else "",
            *(cas or [self.acme_ca()]),
            options,
            "}",
            *sites,
        ]
        return "\n".join(line for line in lines if line) + "\n"

    # --- the CA -------------------------------------------------------------

    @property
    def issuer(self) -> pki.Entity:
        """What the CA issues with at present."""
        key = load_pem_private_key(self.ca.intermediate_key(), None)
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        return pki.Entity(x509.load_pem_x509_certificate(self.ca.intermediate()), key)

    @property
    def trust(self) -> Path:
        """The CA's root of the present, for clients."""
        path = self.folder / "root.pem"
        root = self.ca.root()
        if not path.exists() or path.read_bytes() != root:  # clients may be reading it
            path.write_bytes(root)
        return path

    def orders(self) -> int:
        """Count the orders since the CA's last start."""
        return self.ca.log.rpartition("Starting Pebble ACME server")[2].count("Added order ")

    def accounts(self) -> int:
        """Count the accounts that were made since the CA's last start."""
        log = self.ca.log.rpartition("Starting Pebble ACME server")[2]
        return max(map(int, re.findall(r"There are now (\d+) accounts", log)), default=0)

    def demand_staples(self, chain: bytes) -> bytes:
        """Sign a leaf again, now must-staple: pebble leaves that out. For `Front.amend`."""
        leaf, *above = x509.load_pem_x509_certificates(chain)
        builder = (
            x509.CertificateBuilder()
            .subject_name(leaf.subject)
            .issuer_name(leaf.issuer)
            .public_key(leaf.public_key())
            .serial_number(leaf.serial_number)
            .not_valid_before(leaf.not_valid_before_utc)
            .not_valid_after(leaf.not_valid_after_utc)
            .add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
        )
        for extension in leaf.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return pki.pem_of([builder.sign(self.issuer.key, hashes.SHA256()), *above])

    # --- clients ------------------------------------------------------------

    def handshake(self, name: str, port: int | None = None, *words: str) -> Handshake:
        """Shake hands by `openssl s_client -status`, which trusts this CA."""
        return handshake(port or self.tls, name, self.trust, *words)

    def wait(
        self, name: str, port: int | None = None, *, staple: bool = False, but: Sequence[int] = ()
    ) -> int:
        """Wait for a certificate of this CA, of another serial than these; return its serial.

        With `staple` it must be stapled, from the very first handshake that gets it on.
        """

        def look() -> int | None:
            seen = self.handshake(name, port)
            if seen.serial is None or seen.serial in but:
                return None
            assert "Verify return code: 0 (ok)" in seen.text, seen.text
            assert seen.good or not staple, seen.text
            return seen.serial

        return until(f"a certificate for {name}", look)

    def load(self, name: str, port: int | None = None, **options: Any) -> Load:
        """Return clients that want good certificates of this CA; options are those of Load."""
        return Load(port or self.tls, name, self.trust, self.issuer.certificate, **options)

    def site(self, certificate: x509.Certificate) -> Site:
        """Return a certificate of the CA as `responder` takes it."""
        nowhere = Path("nowhere")
        return Site(pki.Entity(certificate, self.issuer.key), nowhere, nowhere)


def _directive(ca: Pebble | Front, block: str = "") -> str:
    return f"acme_ca {ca.directory} {ca.bundle}" + (f" {{\n{block}\n}}" if block else "")


def served(service: Service, name: str) -> x509.Certificate:
    """Return the certificate in the storage; the first one of its file is the leaf."""
    path = service.storage / "certificates" / f"{name.replace('*', 'wildcard_')}.pem"
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def digits(serial: int) -> str:
    """Write a serial number in whole bytes, as openssl, pebble and the log do."""
    text = f"{serial:x}"
    return text.zfill(len(text) + len(text) % 2)


def events(service: Service, event: str, *words: str) -> list[str]:
    """Return the log lines of an event that hold all these words, with their levels."""
    lines = service.log().splitlines()
    return [line for line in lines if f"] {event} " in line and all(word in line for word in words)]


def told(service: Service, event: str, *words: str, times: int = 1) -> list[str]:
    """Wait until an event was logged so often, and return its lines."""

    def look() -> list[str] | None:
        found = events(service, event, *words)
        return found if len(found) >= times else None

    return until(f"{times} times {event} {words} in the log", look)


def rows(service: Service) -> dict[str, dict[str, str]]:
    """Return what showCertificates() says, by the first name of each row."""
    said = service.console(
        "[{k: ' '.join(v) if isinstance(v, tuple) else str(v) for k, v in row.items()}"
        " for row in showCertificates()]"
    )
    table = ast.literal_eval(said)
    assert isinstance(table, list)
    return {row["names"].split()[0]: row for row in table}


class Load:
    """Clients that shake hands for a name, one handshake after the other in each thread.

    Each must get a certificate for the name, which leads to `trust`, with a staple that is
    good, current and signed by the issuer; and an answer to GET unless `talk` is false.
    `failures` say what was wrong, `serials` are the certificates in the order of their first
    appearance.
    """

    def __init__(
        self,
        port: int,
        name: str,
        trust: Path,
        issuer: x509.Certificate,
        *,
        threads: int = 3,
        staple: bool = True,
        talk: bool = True,
    ) -> None:
        self.handshakes = 0
        self.unstapled = 0
        self.failures: list[str] = []
        self.serials: list[int] = []
        self._port = port
        self._name = name
        self._issuer = issuer
        self._trust = trust
        self._staple = staple
        self._talk = talk
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(index,), daemon=True)
            for index in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until(len(self._threads))
        return self

    def __exit__(self, *ending: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def until(self, count: int) -> None:
        """Wait until there were so many more handshakes."""
        goal = self.handshakes + len(self.failures) + count
        until("handshakes", lambda: self.handshakes + len(self.failures) >= goal)

    def _run(self, index: int) -> None:
        while not self._stop.is_set():
            try:
                serial, stapled = self._shake(old=bool(index % 2))
            except (OSError, SSL.Error, ValueError) as error:
                with self._lock:
                    self.failures.append(f"{datetime.now(UTC)}: {error!r}")
                time.sleep(0.05)  # what goes wrong goes wrong at once
                continue
            with self._lock:
                self.handshakes += 1
                self.unstapled += not stapled
                if serial not in self.serials:
                    self.serials.append(serial)

    def _shake(self, *, old: bool) -> tuple[int, bool]:
        """Shake hands once; return the certificate's serial and whether a staple came."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if old:
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.load_verify_locations(str(self._trust))
        context.set_verify(SSL.VERIFY_PEER, lambda _c, _x, _e, _d, good: bool(good))
        staples: list[bytes] = []

        def keep(_connection: SSL.Connection, staple: bytes, _data: object) -> bool:
            staples.append(staple)
            return True

        context.set_ocsp_client_callback(keep)
        with socket.create_connection(("127.0.0.1", self._port), _CLIENT_PATIENCE) as sock:
            sock.settimeout(None)
            limit = struct.pack("ll", int(_CLIENT_PATIENCE), 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            connection = SSL.Connection(context, sock)
            connection.set_tlsext_host_name(self._name.encode())
            connection.request_ocsp()
            connection.set_connect_state()
            connection.do_handshake()
            leaf = connection.get_peer_certificate(as_cryptography=True)
            assert leaf is not None
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if self._name not in names.get_values_for_type(x509.DNSName):
                raise ValueError(f"a certificate for {names}")
            stapled = bool(staples and staples[0])
            if self._staple:
                _judge(staples[0] if staples else b"", leaf, self._issuer)
            if self._talk:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: {self._name}\r\n\r\n".encode())
                answer = connection.recv(4096)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise ValueError(f"answered with {answer[:40]!r}")
            with suppress(SSL.Error):
                connection.shutdown()
        return leaf.serial_number, stapled


def _judge(staple: bytes, leaf: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raise ValueError unless a staple is good, current, and of this issuer."""
    if not staple:
        raise ValueError(f"no staple with {leaf.serial_number:x}")
    response = ocsp.load_der_ocsp_response(staple)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ValueError(f"the staple says {response.response_status}")
    if response.serial_number != leaf.serial_number:
        raise ValueError(f"the staple of {response.serial_number:x} with {leaf.serial_number:x}")
    if response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise ValueError(f"the staple says {response.certificate_status}")
    end = response.next_update_utc
    if end is not None and end < datetime.now(UTC):
        raise ValueError(f"the staple ended at {end}")
    key, algorithm = issuer.public_key(), response.signature_hash_algorithm
    assert algorithm is not None
    signed = response.signature, response.tbs_response_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(*signed, padding.PKCS1v15(), algorithm)
        else:
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(*signed, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise ValueError("the staple's signature is not the issuer's") from None


class Browser:
    """An HTTP/1.1 connection that stays open."""

    def __init__(self, port: int, name: str, trust: Path) -> None:
        context = ssl.create_default_context(cafile=str(trust))
        raw = socket.create_connection(("127.0.0.1", port), _CLIENT_PATIENCE)
        self._sock = context.wrap_socket(raw, server_hostname=name)
        self._name = name

    def get(self) -> bytes:
        """Return the answer to a GET, head and all."""
        self._sock.sendall(f"GET / HTTP/1.1\r\nHost: {self._name}\r\n\r\n".encode())
        return self._sock.recv(65536)

    def close(self) -> None:
        self._sock.close()
