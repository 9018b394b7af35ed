"""What listeners answer to a CA that validates a name: http-01 and tls-alpn-01.

The tables are written by the threads that obtain certificates and read by the listeners; each
step on them is one operation on a dict, which is atomic.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

# The one protocol of a handshake for tls-alpn-01 (RFC 8737 section 6.2).
ALPN_PROTOCOL = b"acme-tls/1"

# id-pe-acmeIdentifier (RFC 8737 section 6.1).
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")

# Validation takes seconds; the rest is for clocks that differ.
_LIFETIME = timedelta(days=2)


class Challenges:
    """The proofs that are awaited at present."""

    def __init__(self) -> None:
        self._http: dict[str, bytes] = {}
        self._alpn: dict[str, SSL.Context] = {}

    # --- http-01 (RFC 8555 section 8.3) -------------------------------------

    def present_http(self, token: str, key_authorization: str) -> None:
        """Answer this token from now on."""
        self._http[token] = key_authorization.encode("ascii")

    def remove_http(self, token: str) -> None:
        """Answer this token no more."""
        self._http.pop(token, None)

    def http_answer(self, token: str) -> bytes | None:
        """Return the body for `/.well-known/acme-challenge/TOKEN`; None if it is not awaited.

        Whatever host it is asked of: CAs follow redirects, so it may differ from the name; and
        nobody but the account that the answer names can use it, which is one for each CA.
        """
        return self._http.get(token)

    # --- tls-alpn-01 (RFC 8737) ---------------------------------------------

    def present_alpn(self, name: str, key_authorization: str) -> None:
        """Answer handshakes of ALPN `acme-tls/1` for this name from now on."""
        self._alpn[name.lower()] = _alpn_context(name.lower(), key_authorization)

    def remove_alpn(self, name: str) -> None:
        """Answer handshakes for this name as any other from now on."""
        self._alpn.pop(name.lower(), None)

    def alpn_context(self, name: str) -> SSL.Context | None:
        """Return the context for a handshake of ALPN `acme-tls/1`; None if it is not awaited."""
        return self._alpn.get(name.lower())

    @property
    def alpn_pending(self) -> bool:
        """Whether any name is awaited, so that a ClientHello is worth a look."""
        return bool(self._alpn)


def alpn_certificate(
    name: str, key_authorization: str, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Return the self-signed certificate that proves a name (RFC 8737 section 3)."""
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    octet_string = bytes((0x04, len(digest))) + digest
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, octet_string), critical=True)
        .sign(key, hashes.SHA256())
    )


def _alpn_context(name: str, key_authorization: str) -> SSL.Context:
    key = ec.generate_private_key(ec.SECP256R1())
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(alpn_certificate(name, key_authorization, key))
    context.use_privatekey(key)
    context.set_alpn_select_callback(_select_protocol)
    return context


def _select_protocol(_: SSL.Connection, offered: list[bytes]) -> bytes:
    if offered == [ALPN_PROTOCOL]:
        return ALPN_PROTOCOL
    raise SSL.Error([("ALPN", "", "not the one protocol of tls-alpn-01")])  # as OpenSSL's look
