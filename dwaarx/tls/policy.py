"""The TLS policy, and the contexts made by it: Mozilla's intermediate profile, version 6.0.

Every connection starts in the process's one base context, which holds no certificate; the
servername callback, which OpenSSL calls whether or not the client sent SNI, switches it to the
context of the certificate chosen. So the session-ticket keys, which belong to the context that a
connection starts in, outlive every renewal, and a session resumes whichever certificate it had.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL._util import lib

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

# https://wiki.mozilla.org/Security/Server_Side_TLS, intermediate: in TLS 1.2 nothing but
# forward secrecy with an AEAD. The client's order decides (each of these is strong enough, and
# the client knows whether it has AES in hardware), so CIPHER_SERVER_PREFERENCE stays off.
TLS12_CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)
TLS13_CIPHERS = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

# The profile's key exchanges. OpenSSL's own list has finite-field groups besides, which cost the
# server several times as much, at the client's wish; ML-KEM came with OpenSSL 3.5.
GROUPS = ":".join(
    (
        *(("X25519MLKEM768",) if SSL.OPENSSL_VERSION_NUMBER >= 0x3050_0000 else ()),
        "X25519",
        "prime256v1",
        "secp384r1",
    )
)

# One id for every context: a session made under one certificate may resume under another.
SESSION_ID_CONTEXT = b"dwaarx"


class Negotiation(Protocol):
    """What the callbacks here ask of a connection; none of it may raise."""

    @property
    def protocols(self) -> Sequence[bytes]:
        """The ALPN names that are served, the most wanted first; known after `choose`."""

    def choose(self, server_name: bytes | None) -> SSL.Context | None:
        """Return the context for an SNI name as sent (None: no SNI); None if it has none."""


class Negotiator(Protocol):
    """A connection's app data: the transport, which carries the negotiation."""

    @property
    def negotiation(self) -> Negotiation:
        """The negotiation of this one connection."""


class NoSharedProtocol(SSL.Error):
    """The client offered ALPN, and nothing of what it offered is served here.

    RFC 7301 section 3.2 asks for a fatal alert then; to go on without ALPN would let a
    cross-protocol attack (ALPACA) choose what its bytes are read as.
    """


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    negotiator: Negotiator = connection.get_app_data()
    for protocol in negotiator.negotiation.protocols:
        if protocol in offered:
            return protocol
    raise NoSharedProtocol([("ALPN", "", "no shared protocol")])  # as OpenSSL's errors look


def _switch_context(connection: SSL.Connection) -> None:
    negotiator: Negotiator = connection.get_app_data()
    context = negotiator.negotiation.choose(connection.get_servername())
    # Without one, OpenSSL finds that the base context has no certificate: handshake_failure.
    if context is not None:
        connection.set_context(context)


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_cipher_list(TLS12_CIPHERS.encode())
    context.set_tls13_ciphersuites(TLS13_CIPHERS.encode())
    _set_groups(context)
    # Renegotiation doubles the handshake's cost at the client's wish; compression leaks (CRIME).
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    # About 34 kB less for each idle connection.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_id(SESSION_ID_CONTEXT)
    # Tickets carry the sessions; a server-side cache would only hold memory.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(_select_protocol)
    return context


def _set_groups(context: SSL.Context) -> None:
    """Set the groups by OpenSSL's function, bound since cryptography 47; pyOpenSSL offers none."""
    pointer = attrgetter("_context")(context)
    if lib.SSL_CTX_set1_curves_list(pointer, GROUPS.encode()) != 1:
        raise SSL.Error([("SSL", "SSL_CTX_set1_curves_list", f"does not take {GROUPS}")])


def base_context() -> SSL.Context:
    """Make the context that connections start in; one for the life of the process."""
    context = _context()
    context.set_tlsext_servername_callback(_switch_context)
    return context


def certificate_context(
    identities: Sequence[tuple[PrivateKey, Sequence[x509.Certificate]]],
    staple: Callable[[SSL.Connection], bytes],
) -> SSL.Context:
    """Make the context of one certificate, or of several for the same names.

    `identities` holds keys with their chains, leaf first; the keys are of different types
    (ECDSA beside RSA), and OpenSSL takes the one that fits the client. `staple` is asked for the
    OCSP response (DER, b"" for none) in a handshake whose client wants one; it must not raise,
    for an exception there ends the handshake. Raises `OpenSSL.SSL.Error` if a key does not fit,
    or no file descriptor is left.
    """
    context = _context()
    for key, chain in identities:
        _use_chain(context, chain)
        context.use_privatekey(key)
        context.check_privatekey()
    # The staple's look-up goes as data, and not within the callback, which pyOpenSSL ties into a
    # circle: so what a context held is freed with it, and not when Python looks for circles.
    context.set_ocsp_server_callback(_staple, staple)
    return context


def _staple(connection: SSL.Connection, staple: Callable[[SSL.Connection], bytes] | None) -> bytes:
    return b"" if staple is None else staple(connection)


def _use_chain(context: SSL.Context, chain: Sequence[x509.Certificate]) -> None:
    """Set a chain for its key's type only.

    `add_extra_chain_cert` sets one chain for every key type; only the function that reads a
    file keeps them apart. The file is in memory and holds certificates, no key.
    """
    try:
        descriptor = os.memfd_create("chain")
    except OSError as error:
        raise SSL.Error([("memfd", "", error.strerror)]) from error
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.writelines(each.public_bytes(Encoding.PEM) for each in chain)
        context.use_certificate_chain_file(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
