"""CAs and name servers for ACME: pebble, what it lacks, and a bind9 that takes updates."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509

from tests.certs import pki
from tests.system.processes import PATIENCE, background, free_port, listening, program, run, until

EAB_KEY_ID = "kid-1"
EAB_MAC_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

PROFILES = {"default": "The usual", "shortlived": "Six days"}


class Pebble:
    """A pebble with a TLS certificate of its own CA (`bundle`), at `directory`.

    It validates http-01 on `http_port` and tls-alpn-01 on `tls_port` of 127.0.0.1, whatever the
    name; unless `dns_server` (HOST:PORT) is given, which also holds the TXT records then. It keeps
    accounts in memory only: `restart` makes it forget them, and gives it another root.
    Without `chaos` it takes every nonce; `nonce_reject` is the percentage that it refuses. Its
    certificates are valid for 5 years, or for `validity` seconds.
    """

    def __init__(
        self,
        folder: Path,
        http_port: int,
        tls_port: int,
        *,
        eab: bool = False,
        ocsp_url: str | None = None,
        dns_server: str | None = None,
        chaos: bool = True,
        nonce_reject: int | None = None,
        validity: int | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.management_port = free_port()
        self._eab = eab
        self._dns_server = dns_server
        self._environment = {"PEBBLE_VA_NOSLEEP": "1"}
        if not chaos:
            self._environment |= {"PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
        if nonce_reject is not None:
            self._environment["PEBBLE_WFE_NONCEREJECT"] = str(nonce_reject)
        self.tls = pki.make_leaf(pki.make_ca("ACME server CA")).write(folder, "pebble")
        self._names: NameServer | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._configure(http_port, tls_port, ocsp_url, validity)

    def _configure(
        self, http_port: int, tls_port: int, ocsp_url: str | None, validity: int | None
    ) -> None:
        settings: dict[str, object] = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management_port}",
            "certificate": str(self.tls.certificate),
            "privateKey": str(self.tls.key),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": ocsp_url or "",
            "externalAccountBindingRequired": self._eab,
        }
        if validity is not None:
            settings["certificateValidityPeriod"] = validity
        if self._eab:
            settings["externalAccountMACKeys"] = {EAB_KEY_ID: EAB_MAC_KEY}
        self._config = self.folder / "pebble.json"
        self._config.write_text(json.dumps({"pebble": settings}))

    @property
    def directory(self) -> str:
        return f"https://localhost:{self.port}/dir"

    @property
    def bundle(self) -> Path:
        """The CA of pebble's own certificate, which clients of its API are to trust."""
        return self.tls.root

    @property
    def log(self) -> str:
        return (self.folder / "pebble.log").read_text(errors="replace")

    def start(self) -> None:
        if self._dns_server is None and self._names is None:
            self._names = NameServer(self.folder)
            self._names.start()
        dns_server = self._dns_server or (self._names.address if self._names else "")
        with (self.folder / "pebble.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("pebble"), "-config", str(self._config), "-dnsserver", dns_server],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | self._environment,
            )
        process = self._process
        for port in (self.port, self.management_port):  # which it opens in any order
            until("pebble", lambda port=port: process.poll() is not None or listening(port))
        assert process.poll() is None, self.log

    def stop(self) -> None:
        """End the CA, not its name server."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(PATIENCE)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        if self._names is not None:
            self._names.stop()

    def root(self) -> bytes:
        """Return the PEM of the root of what it issues; another one at each start."""
        return self._manage("/roots/0")

    def intermediate(self) -> bytes:
        return self._manage("/intermediates/0")

    def intermediate_key(self) -> bytes:
        """Return the PEM of the key that it issues with, for a responder."""
        return self._manage("/intermediate-keys/0")

    def _manage(self, path: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.bundle))
        url = f"https://localhost:{self.management_port}{path}"
        with urllib.request.urlopen(url, context=context, timeout=PATIENCE) as answer:
            data: bytes = answer.read()
        return data


class NameServer:
    """pebble-challtestsrv, as the name server for which every name is at 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.management_port = free_port()
        self._stack = ExitStack()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        off = ("-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "")
        self._stack.enter_context(
            background(
                "pebble-challtestsrv",
                "-management", f"127.0.0.1:{self.management_port}",
                "-dns01", self.address,
                *off,
                ready=lambda: listening(self.management_port) and listening(self.port),
                log=self.folder / "challtestsrv.log",
            )
        )  # fmt: skip

    def stop(self) -> None:
        self._stack.close()


@contextmanager
def pebble(folder: Path, http_port: int, tls_port: int, **options: Any) -> Iterator[Pebble]:
    """Run a Pebble for the length of a block."""
    server = Pebble(folder, http_port, tls_port, **options)
    try:
        server.start()
        yield server
    except BaseException:
        print(server.log)
        raise
    finally:
        server.close()


# --- what pebble lacks ------------------------------------------------------


@attrs.define
class Window:
    """What renewal information says at present (RFC 9773); None: an error 404."""

    start: datetime
    end: datetime
    explanation: str | None = None
    retry_after: int = 21600

    @classmethod
    def in_(cls, begin: timedelta, end: timedelta) -> Window:
        now = datetime.now(UTC)
        return cls(now + begin, now + end)

    def document(self) -> bytes:
        def text(moment: datetime) -> str:
            return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")

        window = {"start": text(self.start), "end": text(self.end)}
        document: dict[str, object] = {"suggestedWindow": window}
        if self.explanation is not None:
            document["explanationURL"] = self.explanation
        return json.dumps(document).encode()


class Front:
    """A CA with renewal information and profiles: a server before pebble, which knows neither.

    What it does not answer itself it passes on, Host and all, so that the signed URLs are right.
    `orders` are the bodies of all newOrder requests. `window` is what renewal information says;
    `asked` are the ids it was asked for. `requests` are the CSRs, and `amend` sees each chain (PEM)
    and returns the one that is handed out. `refuse` sees the body of each newOrder, and may answer
    it with an HTTP status, a problem document and header fields.
    """

    def __init__(self, behind: Pebble) -> None:
        self.behind = behind
        self.bundle = behind.bundle
        self.window: Window | None = None
        self.asked: list[str] = []
        self.orders: list[dict[str, Any]] = []
        self.requests: list[x509.CertificateSigningRequest] = []
        self.amend: Callable[[bytes], bytes] = lambda chain: chain
        self.refuse: Callable[[dict[str, Any]], Refusal | None] = lambda _: None
        self._server = _FrontServer(self)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(behind.tls.certificate, behind.tls.key)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def directory(self) -> str:
        return f"https://localhost:{self.port}/dir"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


Refusal = tuple[int, dict[str, Any], dict[str, str]]


@contextmanager
def front(behind: Pebble) -> Iterator[Front]:
    """Run a Front for the length of a block."""
    server = Front(behind)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _FrontServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: Front) -> None:
        super().__init__(("127.0.0.1", 0), _FrontHandler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away, and some are let go for their tests' sake."""


class _FrontHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _FrontServer

    def log_message(self, *args: object) -> None:
        """Say nothing of each request."""

    def do_GET(self) -> None:
        owner = self.server.owner
        prefix, _, certificate = self.path.rpartition("/")
        if prefix == "/renewal-info":
            owner.asked.append(certificate)
            if owner.window is None:
                self._send(404, b"{}", {"Content-Type": "application/problem+json"})
                return
            self._send(
                200,
                owner.window.document(),
                {
                    "Content-Type": "application/json",
                    "Retry-After": str(owner.window.retry_after),
                },
            )
            return
        self._pass_on(b"")

    def do_HEAD(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        owner = self.server.owner
        if self.path == "/order-plz":
            order = json.loads(_decoded(json.loads(body)["payload"]))
            owner.orders.append(order)
            refusal = owner.refuse(order)
            if refusal is not None:
                status, problem, headers = refusal
                kind = {"Content-Type": "application/problem+json"}
                self._send(status, json.dumps(problem).encode(), headers | kind)
                return
        elif self.path.startswith("/finalize-order/"):
            request = json.loads(_decoded(json.loads(body)["payload"]))
            owner.requests.append(x509.load_der_x509_csr(_decoded(request["csr"])))
        self._pass_on(body)

    def _pass_on(self, body: bytes) -> None:
        owner = self.server.owner
        context = ssl.create_default_context(cafile=str(owner.bundle))
        upstream = http.client.HTTPSConnection(
            "localhost", owner.behind.port, context=context, timeout=PATIENCE
        )
        try:
            upstream.request(self.command, self.path, body or None, dict(self.headers))
            answer = upstream.getresponse()
            data = answer.read()
        except OSError:
            self._send(502, b"", {})
            return
        finally:
            upstream.close()
        if self.path == "/dir" and answer.status == 200:
            document = json.loads(data)
            document["renewalInfo"] = f"https://localhost:{owner.port}/renewal-info"
            document.setdefault("meta", {})["profiles"] = PROFILES
            data = json.dumps(document).encode()
        elif self.path.startswith("/certZ/") and answer.status == 200:
            data = owner.amend(data)
        # Several Link fields become one, as HTTP allows.
        headers: dict[str, str] = {}
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self._send(answer.status, data, headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- names ------------------------------------------------------------------


class Bind:
    """A bind9 that is the primary of ZONES and takes updates of TXT records signed with its key.

    Every name of a zone is at 127.0.0.1; `aliases` are CNAME records of the first zone.
    """

    key_name = "acme-update"
    algorithm = "hmac-sha256"

    def __init__(self, folder: Path, *zones: str, aliases: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.zones = zones or ("example.test",)
        self.port = free_port()
        self.secret = base64.b64encode(os.urandom(32)).decode()
        self._stack = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        blocks = []
        for index, zone in enumerate(self.zones):
            lines = [
                f"$ORIGIN {zone}.",
                "$TTL 60",
                f"@ SOA ns.{zone}. admin.{zone}. 1 3600 900 604800 60",
                f"@ NS ns.{zone}.",
                "@ A 127.0.0.1",
                "* A 127.0.0.1",
            ]
            if index == 0:
                lines += [f"{owner} CNAME {target}" for owner, target in (aliases or {}).items()]
            (folder / f"{zone}.zone").write_text("\n".join(lines) + "\n")
            blocks.append(
                f'zone "{zone}" {{ type primary; file "{zone}.zone"; '
                f"update-policy {{ grant {self.key_name} zonesub TXT; }}; }};"
            )
        self._configuration = folder / "named.conf"
        self._configuration.write_text(
            f"""options {{
    directory "{folder}";
    listen-on port {self.port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    recursion no;
    dnssec-validation no;
    notify no;
}};
controls {{ }};
key "{self.key_name}" {{ algorithm {self.algorithm}; secret "{self.secret}"; }};
"""
            + "\n".join(blocks)
            + "\n"
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "named.log").read_text(errors="replace")

    def start(self) -> None:
        self._stack.enter_context(
            background(
                "named",
                "-g",
                "-n",
                "1",
                "-c",
                self._configuration,
                ready=self._ready,
                log=self.folder / "named.log",
            )
        )

    def _ready(self) -> bool:
        return all("SOA" in self._dig(zone, "SOA") for zone in self.zones)

    def _dig(self, name: str, kind: str) -> str:
        return run("kdig", "+time=1", "+retry=0", "+noall", "+answer", f"@127.0.0.1#{self.port}",
                   name, kind, check=False)  # fmt: skip

    def texts(self, name: str) -> list[str]:
        """Return the TXT records that it answers for a name."""
        lines = self._dig(name, "TXT").splitlines()
        return sorted(line.split('"')[1] for line in lines if "TXT" in line and '"' in line)

    def stop(self) -> None:
        self._stack.close()


@contextmanager
def bind(folder: Path, *zones: str, aliases: dict[str, str] | None = None) -> Iterator[Bind]:
    """Run a Bind for the length of a block."""
    server = Bind(folder, *zones, aliases=aliases)
    try:
        server.start()
        yield server
    except BaseException:
        print(server.log)
        raise
    finally:
        server.stop()
