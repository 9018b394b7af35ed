from __future__ import annotations

import contextlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from dwaarx.tls.client_hello import MAX_HELLO, ClientHello, ClientHelloReader
from dwaarx.tls.policy import GROUPS, _set_groups


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, data)


def sni(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def alpn(*protocols: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, each) for each in protocols)))


def body(*extensions: bytes, tail: bytes = b"") -> bytes:
    start = b"\x03\x03" + bytes(32) + vector(1, bytes(32)) + vector(2, b"\x13\x01") + b"\x01\x00"
    return start + vector(2, b"".join(extensions)) + tail


def message(body: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(3, body)


def records(message: bytes, size: int = 1 << 14, kind: int = 22) -> bytes:
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(bytes([kind]) + b"\x03\x01" + vector(2, part) for part in parts)


def read(chunks: Iterable[bytes]) -> ClientHello | None:
    """Feed chunks until the hello is there."""
    reader = ClientHelloReader()
    fed = b""
    for chunk in chunks:
        fed += chunk
        hello = reader.receive(chunk)
        assert reader.received == fed
        if hello is not None:
            return hello
    return None


def each_byte(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


HELLO = body(extension(10, b"\x00\x02\x00\x1d"), sni(b"A.Test."), alpn(b"h2", b"http/1.1"))
EXPECTED = ClientHello("a.test", (b"h2", b"http/1.1"))


def test_whole() -> None:
    assert read([records(message(HELLO))]) == EXPECTED


@pytest.mark.parametrize("size", [1, 3, 7, 100, 1 << 14])
def test_byte_by_byte_in_records_of_any_size(size: int) -> None:
    wire = records(message(HELLO), size)
    assert read(each_byte(wire)) == EXPECTED
    assert read(each_byte(wire[:-1])) is None
    assert read([wire + b"anything"]) == EXPECTED


@pytest.mark.parametrize(
    ("hello", "expected"),
    [
        (body(), ClientHello(None, ())),
        (body()[:-2], ClientHello(None, ())),  # TLS 1.2 without extensions
        (body(sni(b"a.test")), ClientHello("a.test", ())),
        (body(alpn(b"acme-tls/1")), ClientHello(None, (b"acme-tls/1",))),
        (body(sni("ä.test".encode())), ClientHello(None, ())),
    ],
)
def test_what_may_be_missing(hello: bytes, expected: ClientHello) -> None:
    assert read([records(message(hello))]) == expected


@pytest.mark.parametrize(
    "hello",
    [
        body(tail=b"\x00"),
        body()[:-1],
        body()[:20],
        body(sni(b"a"), sni(b"a")),
        body(sni(b"a", b"b")),
        body(sni(b"a", kind=1)),
        body(sni(b"")),
        body(extension(0, b"\x00\x00")),
        body(extension(0, b"")),
        body(extension(0, vector(2, b"\x00\x00\x01a") + b"\x00")),
        body(alpn()),
        body(alpn(b"h2", b"")),
        body(extension(16, vector(2, b"\x05h2"))),
        body(extension(16, b"\xff\xff")),
        body(b"\x00"),
    ],
)
def test_broken_hellos(hello: bytes) -> None:
    for chunks in ([records(message(hello))], each_byte(records(message(hello), 5))):
        with pytest.raises(ValueError):
            read(chunks)


@pytest.mark.parametrize(
    ("start", "judged_at"),
    [
        (b"GET / HTTP/1.1\r\n", 1),
        (bytes.fromhex("8046010301"), 1),  # SSL 2
        (b"\x15\x03\x01\x00\x02\x01\x00", 1),  # an alert
        (b"\x16\x02\x01", 2),
        (b"\x16\x03\x01\x00\x00", 5),
        (b"\x16\x03\x01\x40\x01", 5),
        (b"\x16\x03\x01\x00\x01\x02", 6),
        (records(b"\x01\x00\x3f\xfd"), 9),
    ],
)
def test_what_is_no_hello_is_told_at_once(start: bytes, judged_at: int) -> None:
    assert read(each_byte(start[: judged_at - 1])) is None
    with pytest.raises(ValueError):
        read(each_byte(start[:judged_at]))
    with pytest.raises(ValueError):
        read([start + bytes(100)])


def test_the_largest() -> None:
    most = MAX_HELLO - 5 - 4
    room = most - len(body(sni(b"a.test"), extension(21, b"")))
    wire = records(message(body(sni(b"a.test"), extension(21, bytes(room)))))
    assert len(wire) == MAX_HELLO
    assert read(each_byte(wire)) == ClientHello("a.test", ())


def test_records_that_hold_little_are_bounded_too() -> None:
    """Six bytes on the wire for each byte of the hello."""
    reader = ClientHelloReader()
    wire = records(message(body(extension(21, bytes(MAX_HELLO // 4)))), 1)
    for at in range(0, MAX_HELLO, 64):
        assert reader.receive(wire[at : at + 64]) is None
    with pytest.raises(ValueError, match="too large"):
        reader.receive(wire[MAX_HELLO : MAX_HELLO + 1])


names = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True)


@settings(max_examples=60)
@given(
    name=names,
    protocols=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5),
    others=st.dictionaries(st.integers(17, 65535), st.binary(max_size=40), max_size=5),
    size=st.integers(1, 300),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_any_hello_however_it_is_cut(
    name: str,
    protocols: list[bytes],
    others: dict[int, bytes],
    size: int,
    cuts: list[int],
) -> None:
    extensions = [extension(*each) for each in others.items()]
    hello = body(*extensions, sni(name.encode()), alpn(*protocols))
    wire = records(message(hello), size)
    at = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    chunks = [wire[start:end] for start, end in pairwise(at)]
    assert read(chunks) == ClientHello(name, tuple(protocols))


@settings(max_examples=150)
@given(
    st.binary(max_size=200),
    st.integers(0, 200),
    st.integers(0, 255),
    st.integers(1, 200),
)
def test_no_bytes_do_harm(junk: bytes, at: int, byte: int, size: int) -> None:
    """Junk in a record, and a good hello with one byte changed: a hello, None or ValueError."""
    changed = bytearray(records(message(HELLO)))
    changed[at % len(changed)] = byte
    for wire in (junk, records(junk), records(message(junk), size), bytes(changed)):
        outcomes = []
        for chunks in ([wire], each_byte(wire)):
            try:
                outcomes.append(read(chunks))
            except ValueError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]


# --- hellos that OpenSSL makes ------------------------------------------------


def openssl_hello(
    name: bytes | None, protocols: list[bytes], groups: str = "", version: int | None = None
) -> bytes:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        context.set_max_proto_version(version)
    if groups:
        _set_groups(context)
    if protocols:
        context.set_alpn_protos(protocols)
    connection = SSL.Connection(context, None)
    if name is not None:
        connection.set_tlsext_host_name(name)
    connection.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(1 << 16)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("name", [None, b"a.test"])
@pytest.mark.parametrize("protocols", [[], [b"acme-tls/1"], [b"h2", b"http/1.1"]])
def test_openssls_hello(version: int, name: bytes | None, protocols: list[bytes]) -> None:
    wire = openssl_hello(name, protocols, GROUPS, version)
    expected = ClientHello(name.decode() if name else None, tuple(protocols))
    assert read([wire]) == expected
    assert read(each_byte(wire)) == expected


def test_openssls_hello_with_a_post_quantum_key_share() -> None:
    wire = openssl_hello(b"a.test", [b"acme-tls/1"], GROUPS)
    assert len(wire) > (1300 if "MLKEM" in GROUPS else 200)
    assert read(each_byte(wire)) == ClientHello("a.test", (b"acme-tls/1",))
