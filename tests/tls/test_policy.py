from __future__ import annotations

import contextlib
import errno
import os
import ssl

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock

from dwaarx.tls.listener import Endpoint, Listener
from dwaarx.tls.policy import base_context, certificate_context
from tests.certs.pki import Entity, make_ca, make_leaf
from tests.tls.memory import Certificate, Client
from tests.tls.recorder import Recorder


def nothing(connection: SSL.Connection) -> bytes:
    return b""


@pytest.fixture(scope="module")
def ca() -> Entity:
    return make_ca()


def listener(*leaves: Entity) -> Listener:
    context = certificate_context(
        [(leaf.key, [leaf.certificate, *leaf.chain]) for leaf in leaves], nothing
    )
    made = Listener(Recorder, Clock(), base=base_context())
    made.set_endpoints([("", Endpoint(Certificate(context), (b"h2", b"http/1.1")))])
    return made


def test_both_key_types_side_by_side(ca: Entity) -> None:
    """The client's ciphers choose; each certificate brings its own chain."""
    inter = make_ca("Intermediate", ca)
    other = make_ca("Other Root", key_type="rsa2048")
    ecdsa, rsa = make_leaf(inter), make_leaf(other, key_type="rsa2048")
    both = listener(ecdsa, rsa)
    old = ssl.TLSVersion.TLSv1_2
    first = Client(both, ca, version=old, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256").handshake()
    assert first.serial() == ecdsa.certificate.serial_number
    second = Client(both, other, version=old, ciphers="ECDHE-RSA-AES128-GCM-SHA256").handshake()
    assert second.serial() == rsa.certificate.serial_number


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_served(ca: Entity, version: ssl.TLSVersion) -> None:
    client = Client(listener(make_leaf(ca)), ca, version=version).handshake()
    assert client.tls.version() == version.name.replace("_", ".")


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "DEFAULT@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),  # no forward secrecy
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256"),  # no AEAD
    ],
)
def test_what_the_profile_leaves_out(ca: Entity, version: ssl.TLSVersion, ciphers: str) -> None:
    client = Client(listener(make_leaf(ca)), ca, version=version, ciphers=ciphers)
    with pytest.raises(ssl.SSLError):
        client.handshake()


def test_what_no_handshake_shows(ca: Entity) -> None:
    leaf = make_leaf(ca)
    for context in (
        base_context(),
        certificate_context([(leaf.key, [leaf.certificate])], nothing),
    ):
        # Setting nothing returns what is set.
        assert context.set_options(0) & SSL.OP_NO_RENEGOTIATION
        assert context.set_options(0) & SSL.OP_NO_COMPRESSION
        assert context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_groups_are_the_profiles(ca: Entity, version: ssl.TLSVersion) -> None:
    one = listener(make_leaf(ca, key_type="rsa2048"))
    for group in ("prime256v1", "secp384r1"):
        Client(one, ca, version=version, group=group).handshake()
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        Client(one, ca, version=version, group="secp521r1").handshake()


def test_the_first_group_resists_quantum_computers(ca: Entity) -> None:
    leaf = make_leaf(ca)
    server = SSL.Connection(certificate_context([(leaf.key, [leaf.certificate])], nothing), None)
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    server.set_accept_state()
    client.set_connect_state()
    for one, other in ((client, server), (server, client), (client, server)):
        with contextlib.suppress(SSL.WantReadError):
            one.do_handshake()
        other.bio_write(one.bio_read(1 << 16))
    server.do_handshake()
    assert server.get_group_name() == "X25519MLKEM768"


def test_the_clients_order_decides(ca: Entity) -> None:
    one = listener(make_leaf(ca))
    chacha, aes = "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-GCM-SHA384"
    for first, second in ((chacha, aes), (aes, chacha)):
        ciphers = f"{first}:{second}"
        client = Client(one, ca, version=ssl.TLSVersion.TLSv1_2, ciphers=ciphers).handshake()
        cipher = client.tls.cipher()
        assert cipher is not None
        assert cipher[0] == first


def test_a_key_that_does_not_fit_is_refused(ca: Entity) -> None:
    one, other = make_leaf(ca), make_leaf(ca)
    with pytest.raises(SSL.Error):
        certificate_context([(other.key, [one.certificate])], nothing)


def test_alpn_takes_the_servers_first(ca: Entity) -> None:
    one = listener(make_leaf(ca))
    client = Client(one, ca, alpn=("http/1.1", "h2")).handshake()
    assert client.tls.selected_alpn_protocol() == "h2"


def test_no_shared_protocol_is_a_fatal_alert(ca: Entity) -> None:
    client = Client(listener(make_leaf(ca)), ca, alpn=("dot", "smtp"))
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        client.handshake()


def test_no_alpn_is_served(ca: Entity) -> None:
    client = Client(listener(make_leaf(ca)), ca).handshake()
    assert client.tls.selected_alpn_protocol() is None


def test_no_descriptor_left(ca: Entity, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", none_left)
    leaf = make_leaf(ca)
    with pytest.raises(SSL.Error, match="Too many open files"):
        certificate_context([(leaf.key, [leaf.certificate])], nothing)
