from __future__ import annotations

import base64
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.certs.acme import ari
from dwaarx.certs.errors import AcmeError
from tests.certs import pki

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# The example of RFC 9773 section 4.1: this key identifier and this serial give this name.
EXAMPLE_KEY = bytes.fromhex("69885b6b87464041e1b37b847bd0ae2cde01c8d4")
EXAMPLE_SERIAL = 0x8765_4321
EXAMPLE_ID = "aYhba4dGQEHhs3uEe9CuLN4ByNQ.AIdlQyE"


def certificate(serial: int, key_id: bytes | None) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(pki.name("leaf"))
        .issuer_name(pki.name("ca"))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + pki.DAY)
    )
    if key_id is not None:
        extension = x509.AuthorityKeyIdentifier(key_id, None, None)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def body(start: object, end: object, **more: object) -> bytes:
    return json.dumps({"suggestedWindow": {"start": start, "end": end}, **more}).encode()


def test_the_example_of_the_rfc() -> None:
    assert ari.certificate_id(certificate(EXAMPLE_SERIAL, EXAMPLE_KEY)) == EXAMPLE_ID


@given(serial=st.integers(1, 2**159 - 1), key_id=st.binary(min_size=1, max_size=40))
@settings(max_examples=20)
def test_the_id_holds_the_serial_as_der_does(serial: int, key_id: bytes) -> None:
    parts = ari.certificate_id(certificate(serial, key_id)).split(".")
    first, second = (base64.urlsafe_b64decode(part + "==") for part in parts)
    assert first == key_id
    assert int.from_bytes(second, "big", signed=True) == serial
    assert second[0] or len(second) == 1 or second[1] >= 0x80  # the shortest form


def test_without_the_issuers_key_there_is_no_id() -> None:
    with pytest.raises(AcmeError, match="authorityKeyIdentifier"):
        ari.certificate_id(certificate(1, None))


def test_a_window() -> None:
    window = ari.parse(
        body(
            "2026-01-02T00:00:00Z",
            "2026-01-03T02:00:00.123456789+02:00",
            explanationURL="https://ca.test/why",
        )
    )
    assert window.start == datetime(2026, 1, 2, tzinfo=UTC)
    assert window.end == datetime(2026, 1, 3, 0, 0, 0, 123456, tzinfo=UTC)
    assert window.explanation == "https://ca.test/why"


@pytest.mark.parametrize("explanation", [None, 5, "https://ca.test/\x1b[2J"])
def test_an_explanation_that_is_none(explanation: object) -> None:
    window = ari.parse(
        body("2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", explanationURL=explanation)
    )
    assert window.explanation is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b'{"suggestedWindow": 5}',
        b'{"suggestedWindow": {"start": "2026-01-02T00:00:00Z"}}',
        b"[" * 100_000,
        body(1, 2),
        body("2026-01-02", "2026-01-03"),
        body("2026-01-02T00:00:00", "2026-01-03T00:00:00"),
        body("2026-02-30T00:00:00Z", "2026-03-03T00:00:00Z"),
        body("0001-01-01T00:00:00+23:59", "2026-03-03T00:00:00Z"),
        body("2026-01-02T00:00:00Z", "9999-12-31T23:59:59-23:59"),
    ],
)
def test_what_is_no_window(data: bytes) -> None:
    with pytest.raises(AcmeError, match="holds no window"):
        ari.parse(data)


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    same = "2026-01-02T00:00:00Z"
    with pytest.raises(AcmeError, match="before it starts"):
        ari.parse(body(same, same))


@given(data=st.binary(max_size=100) | st.recursive(
    st.none() | st.integers() | st.text(max_size=20),
    lambda inner: st.dictionaries(
        st.sampled_from(["suggestedWindow", "start", "end", "explanationURL"]), inner
    ),
    max_leaves=5,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
@settings(max_examples=100)
def test_nothing_but_the_one_error(data: bytes) -> None:
    with pytest.raises(AcmeError):
        ari.parse(data)


@given(
    start=st.timedeltas(timedelta(days=-400), timedelta(days=400)),
    length=st.timedeltas(timedelta(microseconds=1), timedelta(days=400)),
    seed=st.integers(),
)
def test_the_moment_is_in_the_window_or_now(start: timedelta, length: timedelta, seed: int) -> None:
    window = ari.Window(NOW + start, NOW + start + length)
    moment = ari.choose(window, random.Random(seed), NOW)
    assert moment >= NOW
    if window.end <= NOW:
        assert moment == NOW
    else:
        assert max(NOW, window.start) <= moment <= window.end


def test_two_certificates_are_not_renewed_at_once() -> None:
    window = ari.Window(NOW, NOW + pki.DAY)
    rng = random.Random(1)
    assert ari.choose(window, rng, NOW) != ari.choose(window, rng, NOW)
