from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from dwaarx.certs.acme import chain
from dwaarx.certs.acme.problems import CaError
from tests.certs import pki

NAME = "example.test"
ROOT = pki.make_ca()
CA = pki.make_ca("Test Intermediate", ROOT)
KEY = ec.generate_private_key(ec.SECP256R1())
NOW = pki.utc_now()


def sent(*names: str, **more: object) -> bytes:
    leaf = pki.make_leaf(CA, names or (NAME,), key=KEY, **more)
    return pki.pem_of(leaf.chain[:2])


def test_what_was_asked_for() -> None:
    pair = chain.check(sent(), KEY, NAME, NOW)
    assert pair.names == (NAME,)
    assert pair.chain == (CA.certificate,)
    assert pair.key is KEY
    assert pair.must_staple is False


def test_a_wildcard_and_capitals() -> None:
    assert chain.check(sent("*.Example.test"), KEY, "*.example.test", NOW).names


def test_a_leaf_alone_and_one_with_the_root() -> None:
    leaf = pki.make_leaf(CA, [NAME], key=KEY)
    assert chain.check(leaf.pem, KEY, NAME, NOW).chain == ()
    assert len(chain.check(pki.pem_of(leaf.chain), KEY, NAME, NOW).chain) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no usable certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no usable"),
        (sent() * 6, "chain of 12"),
        (pki.make_leaf(CA, [NAME]).pem, "for another key"),
        (sent("other.test"), "certificate for other.test$"),
        (sent(NAME, "other.test"), "certificate for example.test, other.test$"),
        (sent(not_before=NOW - timedelta(days=40)), "is the clock right"),
        (sent(not_before=NOW + timedelta(days=1)), "is the clock right"),
        (pki.pem_of([pki.make_leaf(CA, [NAME], key=KEY).certificate, ROOT.certificate]), "issue"),
    ],
)
def test_what_was_not_asked_for(data: bytes, reason: str) -> None:
    with pytest.raises(CaError, match=reason):
        chain.check(data, KEY, NAME, NOW)


def test_a_certificate_without_names() -> None:
    nameless = pki.pem_of(pki.make_leaf(CA, [], key=KEY).chain[:2])
    with pytest.raises(CaError, match="for no name"):
        chain.check(nameless, KEY, NAME, NOW)


def test_a_certificate_whose_names_cannot_be_read() -> None:
    odd = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x03\x82\x01\xff")
    leaf = pki.make_leaf(CA, [], key=KEY, extra=[(odd, False)])
    with pytest.raises(CaError, match="certificate that is wrong"):
        chain.check(leaf.pem, KEY, NAME, NOW)


def test_our_clock_may_be_a_little_late() -> None:
    assert chain.check(sent(not_before=NOW + timedelta(minutes=30)), KEY, NAME, NOW)
