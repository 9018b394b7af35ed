"""TLS clients by OpenSSL: full handshakes that ask for a staple, one after the other.

Run as a program it is one process of the load; `handshake` is also used for the latencies.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from operator import attrgetter

from OpenSSL import SSL
from OpenSSL._util import lib
from storages import server_name

# So long a server may take; one that takes longer has failed.
PATIENCE = 10.0

# One group that every server has, so that all do the same.
GROUPS = "X25519"

# Every so many handshakes it is looked whether the certificate is that of the name.
LOOKED_AT = 20


class BadHandshakeError(Exception):
    """The server did not do what is measured."""


class Client:
    """Handshakes with one port of 127.0.0.1; sessions are never resumed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._staple = b""
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        lib.SSL_CTX_set1_curves_list(attrgetter("_context")(self._context), GROUPS.encode())
        self._context.set_ocsp_client_callback(self._stapled)

    def _stapled(self, connection: SSL.Connection, staple: bytes, data: object) -> bool:
        self._staple = staple
        return True

    def handshake(self, name: str, *, look: bool = False) -> float:
        """Connect, shake hands and close in order; return the seconds up to the handshake's end."""
        self._staple = b""
        begin = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE) as sock:
            sock.settimeout(None)  # a timeout would make it non-blocking, for OpenSSL
            connection = SSL.Connection(self._context, sock)
            connection.set_tlsext_host_name(name.encode())
            connection.request_ocsp()
            connection.set_connect_state()
            connection.do_handshake()
            took = time.perf_counter() - begin
            if not self._staple:
                raise BadHandshakeError(f"no staple for {name}")
            if look:
                certificate = connection.get_peer_certificate(as_cryptography=True)
                subject = certificate.subject.rfc4514_string() if certificate else "nobody"
                if subject != f"CN={name}":
                    raise BadHandshakeError(f"{subject} for {name}")
            connection.shutdown()
            # The server is done when it has closed, too.
            try:
                while connection.recv(4096):
                    pass
            except (SSL.ZeroReturnError, SSL.SysCallError):
                pass
        return took


def numbers(kind: str, names: int, rng: random.Random) -> Iterator[int]:
    """Yield numbers of names: `uniform`, `zipf` (the k-th 1/k as often), or each FROM-TO once."""
    if kind == "uniform":
        while True:
            yield rng.randrange(names)
    elif kind == "zipf":
        weights = list(accumulate(1 / rank for rank in range(1, names + 1)))
        # The popular ones are anywhere in the storage.
        order = list(range(names))
        random.Random(names).shuffle(order)
        while True:
            yield order[bisect(weights, rng.random() * weights[-1])]
    else:
        first, _, last = kind.partition("-")
        yield from range(int(first), int(last))


def load(port: int, chosen: Iterator[int], end: Callable[[], bool]) -> tuple[int, float]:
    """Shake hands until the end; return how often, and in how many seconds."""
    client = Client(port)
    done = 0
    begin = time.perf_counter()
    for number in chosen:
        client.handshake(server_name(number), look=done % LOOKED_AT == 0)
        done += 1
        if end():
            break
    return done, time.perf_counter() - begin


def main() -> None:
    """Arguments: PORT KIND NAMES SECONDS SEED; prints [handshakes, seconds]."""
    port, kind, names, seconds, seed = sys.argv[1:]
    chosen = numbers(kind, int(names), random.Random(int(seed)))
    first = list(islice(chosen, 1))  # what it takes to choose is not measured
    print("ready", flush=True)
    sys.stdin.readline()
    stop = time.perf_counter() + float(seconds)

    def all_of_them() -> Iterator[int]:
        yield from first
        yield from chosen

    print(json.dumps(load(int(port), all_of_them(), lambda: time.perf_counter() >= stop)))


if __name__ == "__main__":
    main()
