from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest
from cryptography import x509
from OpenSSL import SSL

from dwaarx.certs.acme.challenges import ACME_IDENTIFIER, Challenges

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
KEY_AUTHORIZATION = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


def shake_hands(context: SSL.Context, name: str, protocols: list[bytes]) -> SSL.Connection:
    """Shake hands in memory; returns the client's side, or raises what either side raised."""
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if protocols:
        client_context.set_alpn_protos(protocols)
    client = SSL.Connection(client_context)
    client.set_tlsext_host_name(name.encode())
    client.set_connect_state()
    server = SSL.Connection(context)
    server.set_accept_state()
    left = [client, server]
    for _ in range(10):
        for this, other in ((client, server), (server, client)):
            if this in left:
                try:
                    this.do_handshake()
                    left.remove(this)
                except SSL.WantReadError:
                    pass
            with suppress(SSL.WantReadError):
                other.bio_write(this.bio_read(65536))
        if not left:
            return client
    raise AssertionError("the handshake does not end")


def test_a_token_is_answered_while_it_is_presented() -> None:
    challenges = Challenges()
    assert challenges.http_answer(TOKEN) is None
    challenges.present_http(TOKEN, KEY_AUTHORIZATION)
    assert challenges.http_answer(TOKEN) == KEY_AUTHORIZATION.encode()
    assert challenges.http_answer(TOKEN + "x") is None
    challenges.remove_http(TOKEN)
    challenges.remove_http(TOKEN)
    assert challenges.http_answer(TOKEN) is None


def test_a_name_is_awaited_while_it_is_presented() -> None:
    challenges = Challenges()
    assert not challenges.alpn_pending
    challenges.present_alpn("Example.test", KEY_AUTHORIZATION)
    assert challenges.alpn_pending
    assert challenges.alpn_context("eXample.test") is not None
    assert challenges.alpn_context("other.test") is None
    challenges.remove_alpn("example.test")
    challenges.remove_alpn("example.test")
    assert challenges.alpn_context("example.test") is None
    assert not challenges.alpn_pending


def test_the_certificate_is_as_rfc_8737_wants_it() -> None:
    challenges = Challenges()
    challenges.present_alpn("example.test", KEY_AUTHORIZATION)
    context = challenges.alpn_context("example.test")
    assert context is not None
    client = shake_hands(context, "example.test", [b"acme-tls/1"])
    assert client.get_alpn_proto_negotiated() == b"acme-tls/1"
    certificate = client.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    certificate.verify_directly_issued_by(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.DNSName("example.test")]
    identifier = certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER)
    assert identifier.critical
    assert isinstance(identifier.value, x509.UnrecognizedExtension)
    digest = hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()
    assert identifier.value.value == b"\x04\x20" + digest


@pytest.mark.parametrize("protocols", [[b"h2"], [b"acme-tls/1", b"http/1.1"]])
def test_no_other_protocol_is_spoken(protocols: list[bytes]) -> None:
    challenges = Challenges()
    challenges.present_alpn("example.test", KEY_AUTHORIZATION)
    context = challenges.alpn_context("example.test")
    assert context is not None
    with pytest.raises(SSL.Error):
        shake_hands(context, "example.test", protocols)
