"""An OCSP responder and CRL server that does whatever it is told to: a program of its own.

    python -m tests.system.responder [--host H] [--port P] [--rules FILE] CA.pem CA.key [...]

It prints `listening PORT` when it may be asked. `/ocsp` speaks OCSP (GET and POST) for all CAs
given, for whatever serial; so does any other path. `/crl` and `/crl/N` are the CRL of the first,
and of the CA number N. Tests start it by `ocsp_peers.Responder` and need not read on, but for
the table of behaviours.

A behaviour is an object {"kind": …, option: …}. Kinds are what is said (ocsp_answers.ANSWERS and,
for CRLs, ocsp_answers.CRLS), or how:

| kind            | what happens                                         | options          |
|-----------------|------------------------------------------------------|------------------|
| `http_NNN`      | status NNN and a short text                          | `retry_after`    |
| `oversize`      | a body of `size` bytes, its beginning a good answer  | `size` (1 MiB)   |
| `endless`       | a body without end, in chunks                        |                  |
| `drip`          | the whole response, byte for byte                    | `interval` (1 s) |
| `hang`          | the request is read and never answered               |                  |
| `reset`         | RST instead of an answer                             |                  |
| `cut`           | half of the body, then the end                       |                  |
| `not_http`      | bytes that are no HTTP                               |                  |
| `redirect`      | to `to`; `{request}` in it is the request for a GET  | `to`, `status`   |
| `redirect_loop` | to ourselves, without end                            | `status` (302)   |
| `refuse_get`    | 405 for GET, an answer for POST                      |                  |

Those that answer in the end say what `answer` names (default: good). Options of all: `delay`
(seconds before anything is sent), `headers` (an object; they replace ours of the same name), `age`
and `validity` (seconds since thisUpdate and until nextUpdate), `by_name` (the responder id is a
name); of `revoked`: `reason` (as cryptography names them) and `since` (seconds ago); of CRLs:
`revoked` (serials in hex), `reason`, `entries` (this many other serials).

Rules are lists of behaviours under a key: `ocsp` and `crl` are for all, a serial number in hex
is for one certificate. Each request takes the first of the list and removes it, unless it is the
last. `POST /control` takes an object of rules, null removes one; `GET /control` returns what was
seen: `requests` (see ocsp_peers.Seen) and the number of `connections`.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import re
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ocsp

from tests.certs.pki import Entity, PrivateKey
from tests.system.ocsp_answers import ANSWERS, CRLS, Authority, answer, crl
from tests.system.peers import Peer

Behaviour = dict[str, Any]
Record = dict[str, Any]

KINDS = {
    "oversize",
    "endless",
    "drip",
    "hang",
    "reset",
    "cut",
    "not_http",
    "redirect",
    "redirect_loop",
    "refuse_get",
}
_STATUS = re.compile(r"http_([1-5][0-9][0-9])")
_CHUNK = b"4000\r\n" + b"\0" * 0x4000 + b"\r\n"


def check(rules: dict[str, list[Behaviour] | None]) -> None:
    """Refuse rules that would not do what was meant; raises ValueError."""
    for key, behaviours in rules.items():
        said = CRLS if key == "crl" else ANSWERS
        for each in behaviours or ():
            kind = each["kind"]
            if not (kind in said or kind in KINDS or _STATUS.fullmatch(kind)):
                raise ValueError(f"no such kind for {key!r}: {kind!r}")
            if each.get("answer", "good") not in said:
                raise ValueError(f"no such answer for {key!r}: {each['answer']!r}")


class State:
    """The rules, and what was seen; for all threads."""

    def __init__(self, authorities: list[Authority], rules: dict[str, list[Behaviour]]) -> None:
        self.authorities = authorities
        self.connections = 0
        self.requests: list[Record] = []
        self._rules = rules
        self._lock = threading.Lock()

    def connected(self, change: int) -> None:
        with self._lock:
            self.connections += change

    def change(self, rules: dict[str, list[Behaviour] | None]) -> None:
        check(rules)
        with self._lock:
            for key, behaviours in rules.items():
                if behaviours:
                    self._rules[key] = behaviours
                else:
                    self._rules.pop(key, None)

    def record(self, record: Record) -> Behaviour:
        """Note a request and say how to behave."""
        with self._lock:
            self.requests.append(record)
            key = record["serial"]
            if record["of"] == "crl":
                key = "crl"
            elif key not in self._rules:
                key = "ocsp"
            left = self._rules.get(key) or [{"kind": "good"}]
            behaviour = left.pop(0) if len(left) > 1 else left[0]
            record["behaviour"] = behaviour["kind"]
            return behaviour

    def seen(self) -> bytes:
        with self._lock:
            return json.dumps({"requests": self.requests, "connections": self.connections}).encode()


class Handler(socketserver.BaseRequestHandler):
    """One connection: requests one after the other."""

    request: socket.socket
    server: Server

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.state.connected(1)
        peer = Peer(self.request)
        with suppress(OSError):
            while (head := peer.head()) is not None:
                first, fields = head
                body = b"".join(_read(peer, int(fields.get("content-length", "0"))))
                method, path, version = first.split(" ", 2)
                if path.startswith("/control"):
                    self._control(peer, method, body)
                    continue
                Exchange(self.server.state, peer, method, path, fields, body).answer()
                closing = "close" in fields.get("connection", "").lower()
                if closing or version == "HTTP/1.0":
                    return

    def _control(self, peer: Peer, method: str, body: bytes) -> None:
        self.server.state.connected(-1)  # a connection for each is what ocsp_peers makes
        if method == "POST":
            try:
                self.server.state.change(json.loads(body))
            except ValueError as error:
                peer.respond(str(error).encode(), "400 Bad Request")
                return
        peer.respond(self.server.state.seen(), "200 OK", "Content-Type: application/json")


def _read(peer: Peer, left: int) -> Iterator[bytes]:
    while left:
        data = peer.read(left)
        if not data:
            raise ConnectionResetError("the body ends early")
        left -= len(data)
        yield data


class Exchange:
    """One request and what is done about it."""

    def __init__(
        self,
        state: State,
        peer: Peer,
        method: str,
        path: str,
        fields: dict[str, str],
        body: bytes,
    ) -> None:
        self._state, self._peer, self._sock = state, peer, peer.sock
        self._method, self._path, self._fields = method, path, fields
        self._is_crl = re.match(r"/crl(/|$)", path) is not None
        self._wanted = b"" if self._is_crl else _wanted(method, path, body)
        serial = None
        with suppress(ValueError):
            serial = f"{ocsp.load_der_ocsp_request(self._wanted).serial_number:X}"
        self._record: Record = {
            "at": time.time(),
            "of": "crl" if self._is_crl else "ocsp",
            "method": method,
            "path": path,
            "fields": fields,
            "serial": serial,
            "sent": 0,
            "took": None,
            "complete": False,
        }
        self._begun = time.monotonic()
        self._behaviour = state.record(self._record)

    def answer(self) -> None:
        """Do as the rules say; raises OSError when the other side has left, or is to leave."""
        try:
            time.sleep(self._behaviour.get("delay", 0))
            self._deliver(self._behaviour["kind"])
            self._record["complete"] = True
        finally:
            self._record["took"] = time.monotonic() - self._begun

    def _deliver(self, kind: str) -> None:
        if self._path.startswith("/loop"):
            kind = "redirect_loop"
        status = _STATUS.fullmatch(kind)
        if status:
            extra = {}
            if "retry_after" in self._behaviour:
                extra["Retry-After"] = str(self._behaviour["retry_after"])
            self._send(self._page(f"{status[1]} As Told", b"as told\n", extra))
        elif kind == "refuse_get" and self._method == "GET":
            self._send(self._page("405 Method Not Allowed", b"POST, please\n", {"Allow": "POST"}))
        elif kind in KINDS and kind != "refuse_get":
            getattr(self, f"_{kind}")()
        else:
            self._send(self._good())

    # --- what is said -------------------------------------------------------

    def _content(self) -> bytes:
        kind = self._behaviour["kind"]
        said = CRLS if self._is_crl else ANSWERS
        kind = kind if kind in said else self._behaviour.get("answer", "good")
        if self._is_crl:
            index = int(self._path.partition("/crl/")[2] or 0)
            return crl(kind, self._state.authorities[index], self._behaviour)
        return answer(kind, self._wanted, self._state.authorities, self._behaviour)

    def _good(self, length: int | None = None) -> bytes:
        """Return the whole response; `length` is what it says of itself."""
        content_type = "application/pkix-crl" if self._is_crl else "application/ocsp-response"
        return self._page("200 OK", self._content(), {"Content-Type": content_type}, length)

    def _page(
        self, status: str, body: bytes, extra: dict[str, str], length: int | None = None
    ) -> bytes:
        fields = {
            "Content-Length": str(len(body) if length is None else length),
            **extra,
            **self._behaviour.get("headers", {}),
        }
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body

    # --- how it is said -----------------------------------------------------

    def _send(self, data: bytes) -> None:
        """Send, and note how much the other side took."""
        view = memoryview(data)
        while view:
            taken = self._sock.send(view)
            self._record["sent"] += taken
            view = view[taken:]

    def _oversize(self) -> None:
        content = self._content()
        size = self._behaviour.get("size", 1 << 20)
        self._send(self._page("200 OK", content + b"\0" * (size - len(content)), {}))

    def _endless(self) -> None:
        self._send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            self._send(_CHUNK)

    def _drip(self) -> None:
        for byte in self._good():
            self._send(bytes([byte]))
            time.sleep(self._behaviour.get("interval", 1))

    def _hang(self) -> None:
        while self._sock.recv(65536):
            pass
        raise ConnectionAbortedError("the other side has had enough")

    def _reset(self) -> None:
        # Lingering for no time is to close by RST.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        raise ConnectionResetError("as told")

    def _cut(self) -> None:
        content = self._content()
        whole = self._good(len(content))
        self._send(whole[: len(whole) - len(content) // 2])
        raise ConnectionAbortedError("as told")

    def _not_http(self) -> None:
        self._send(b"220 mail.test ESMTP\r\n" * 3)
        raise ConnectionAbortedError("as told")

    def _redirect(self) -> None:
        encoded = quote(base64.b64encode(self._wanted), safe="")
        self._move(self._behaviour["to"].replace("{request}", encoded))

    def _redirect_loop(self) -> None:
        turn = int(self._path.partition("/loop/")[2] or 0)
        self._move(f"http://{self._fields.get('host', 'localhost')}/loop/{turn + 1}")

    def _move(self, to: str) -> None:
        status = self._behaviour.get("status", 302)
        self._send(self._page(f"{status} Elsewhere", b"", {"Location": to}))


def _wanted(method: str, path: str, body: bytes) -> bytes:
    """Return the OCSP request in DER; no bytes if there is none."""
    if method != "GET":
        return body
    encoded = re.sub(r"\A/(ocsp(/|\Z))?", "", path)
    with suppress(binascii.Error):
        return base64.b64decode(unquote(encoded), validate=True)
    return b""


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], state: State) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.state = state
        super().__init__(address, Handler)


def load_entity(certificate: Path, key: Path) -> Entity:
    """Read a CA that was written by `pki.Entity.write`."""
    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, PrivateKey)
    loaded = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    return Entity(loaded, private)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rules", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    authorities = [
        Authority(load_entity(certificate, key))
        for certificate, key in zip(given.files[::2], given.files[1::2], strict=True)
    ]
    rules = json.loads(given.rules.read_text()) if given.rules is not None else {}
    check(rules)
    with Server((given.host, given.port), State(authorities, rules)) as server:
        print("listening", server.server_address[1])
        sys.stdout.flush()
        server.serve_forever(0.05)


if __name__ == "__main__":
    main()
