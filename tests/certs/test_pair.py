from __future__ import annotations

import re
from base64 import b64encode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from dwaarx.certs.errors import CertificateError
from dwaarx.certs.pair import key_name, load_certificates, load_key, load_pair
from dwaarx.certs.storage import MAX_FILE
from tests.certs import pki

KEY_NAMES = {
    "p256": ("ECDSA P-256", "ECDSA"),
    "p384": ("ECDSA P-384", "ECDSA"),
    "p521": ("ECDSA P-521", "ECDSA"),
    "rsa2048": ("RSA 2048", "RSA"),
    "ed25519": ("Ed25519", "Ed25519"),
}


@pytest.fixture(scope="module")
def root():
    return pki.make_ca("Root")


@pytest.fixture(scope="module")
def intermediate(root):
    return pki.make_ca("Intermediate", root)


@pytest.mark.parametrize("key_type", KEY_NAMES)
def test_every_accepted_key_type(tmp_path, root, key_type):
    leaf = pki.make_leaf(
        root, ["example.com", "*.example.com", "192.0.2.1", "2001:db8::1"], key_type=key_type
    )
    written = leaf.write(tmp_path)
    pair = load_pair(written.certificate, written.key)
    assert pair.certificate == leaf.certificate
    assert pair.chain == (root.certificate,)
    assert pair.issuer == root.certificate
    assert pair.names == ("example.com", "*.example.com", "192.0.2.1", "2001:db8::1")
    assert not pair.must_staple
    assert (key_name(pair.key), pair.key_type) == KEY_NAMES[key_type]


def test_key_and_chain_in_one_file_as_pem_writes_them(tmp_path, root):
    leaf = pki.make_leaf(root)
    written = leaf.write(tmp_path)
    both = tmp_path / "both.pem"
    pair = load_pair(written.certificate, written.key)
    both.write_bytes(pair.pem())
    again = load_pair(both, both)
    assert (again.certificate, again.chain) == (pair.certificate, pair.chain)


@pytest.mark.parametrize("key_type", ["p256", "rsa2048"])
def test_the_traditional_key_formats(tmp_path, root, key_type):
    leaf = pki.make_leaf(root, key_type=key_type)
    written = leaf.write(tmp_path)
    traditional = leaf.key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    # What `openssl ecparam -genkey` writes in front of the key.
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    written.key.write_bytes(parameters + traditional)
    assert load_pair(written.certificate, written.key).certificate == leaf.certificate


def test_no_chain_is_no_issuer(tmp_path, root):
    written = pki.make_leaf(root).write(tmp_path, chain=False)
    pair = load_pair(written.certificate, written.key)
    assert pair.issuer is None
    assert pair.chain == ()


def test_a_self_signed_certificate_has_no_issuer(tmp_path, root):
    written = root.write(tmp_path)
    pair = load_pair(written.certificate, written.key)
    assert pair.chain == ()
    assert pair.names == ()


def test_a_chain_out_of_order_with_strangers_is_put_right(tmp_path, root, intermediate):
    leaf = pki.make_leaf(intermediate)
    impostor = pki.make_ca("Intermediate", root)
    stranger = pki.make_ca("Stranger")
    written = leaf.write(tmp_path)
    order = [leaf, stranger, root, leaf, impostor, intermediate]
    written.certificate.write_bytes(pki.pem_of([each.certificate for each in order]))
    pair = load_pair(written.certificate, written.key)
    assert pair.chain == (intermediate.certificate, root.certificate)


def test_cross_signed_certificates_are_no_endless_chain(tmp_path):
    one, two = pki.make_ca("One"), pki.make_ca("Two")
    one_by_two = pki.make_ca("One", two, key=one.key)
    two_by_one = pki.make_ca("Two", one, key=two.key)
    leaf = pki.make_leaf(one)
    written = leaf.write(tmp_path)
    chain = [leaf, two_by_one, one_by_two]
    written.certificate.write_bytes(pki.pem_of([each.certificate for each in chain]))
    pair = load_pair(written.certificate, written.key)
    assert pair.chain == (one_by_two.certificate, two_by_one.certificate)


def test_must_staple(tmp_path, root):
    written = pki.make_leaf(root, must_staple=True).write(tmp_path)
    assert load_pair(written.certificate, written.key).must_staple
    other = pki.make_leaf(
        root, extra=[(x509.TLSFeature([x509.TLSFeatureType.status_request_v2]), False)]
    )
    written = other.write(tmp_path)
    assert not load_pair(written.certificate, written.key).must_staple


def refused(certificate, key):
    with pytest.raises(CertificateError) as caught:
        load_pair(certificate, key)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.reason}"
    return caught.value


def test_a_key_of_another_certificate(tmp_path, root):
    written = pki.make_leaf(root).write(tmp_path)
    other = pki.make_leaf(root).write(tmp_path, "other")
    error = refused(written.certificate, other.key)
    assert error.path == other.key
    assert "is not the key of the certificate in" in error.reason


def test_a_leaf_that_is_not_first(tmp_path, root):
    leaf = pki.make_leaf(root)
    written = leaf.write(tmp_path)
    written.certificate.write_bytes(root.pem + leaf.pem)
    error = refused(written.certificate, written.key)
    assert error.path == written.certificate
    assert "put it first" in error.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "holds no PEM"),
        (b"-----BEGIN X-----\nAAAA\n-----END X-----\n", "holds no usable PEM"),
        (b"x" * (MAX_FILE + 1), "cannot be read: is larger than"),
    ],
)
def test_files_that_are_nothing(tmp_path, root, data, reason):
    written = pki.make_leaf(root).write(tmp_path)
    good_certificate = written.certificate.read_bytes()
    written.certificate.write_bytes(data)
    error = refused(written.certificate, written.key)
    assert error.path == written.certificate
    assert error.reason.startswith(reason)
    written.certificate.write_bytes(good_certificate)
    written.key.write_bytes(data)
    error = refused(written.certificate, written.key)
    assert error.path == written.key
    assert error.reason.startswith(reason)


def test_reasons_hold_no_advice_for_programmers(tmp_path, root):
    bad = b"-----BEGIN X-----\n!!!!\n-----END X-----\n"
    written = pki.make_leaf(root).write(tmp_path)
    good_certificate = written.certificate.read_bytes()
    for path in (written.certificate, written.key):
        path.write_bytes(bad)
        reason = refused(written.certificate, written.key).reason
        assert re.fullmatch(r"holds no usable PEM (certificate|key): [A-Za-z ]+", reason)
        written.certificate.write_bytes(good_certificate)


def test_every_half_written_file_is_refused(tmp_path, root):
    leaf = pki.make_leaf(root)
    written = leaf.write(tmp_path, chain=False)
    for path, whole in ((written.certificate, leaf.pem), (written.key, leaf.key_pem)):
        for length in range(0, len(whole) - 2, 7):
            path.write_bytes(whole[:length])
            error = refused(written.certificate, written.key)
            assert error.path == path
            if length > len("-----BEGIN "):
                assert error.reason.startswith("is cut off")
        path.write_bytes(whole)
    assert load_pair(written.certificate, written.key).certificate == leaf.certificate


def test_a_chain_that_is_cut_off_does_not_just_lose_its_issuer(tmp_path, root, intermediate):
    leaf = pki.make_leaf(intermediate)
    written = leaf.write(tmp_path)
    whole = written.certificate.read_bytes()
    wholes = {len(leaf.pem), len(leaf.pem + intermediate.pem)}
    for length in range(len(leaf.pem) - 60, len(whole) - 1, 11):
        written.certificate.write_bytes(whole[:length])
        if length not in wholes and length + 1 not in wholes:
            assert refused(written.certificate, written.key).path == written.certificate


def test_files_that_are_missing_or_folders(tmp_path, root):
    written = pki.make_leaf(root).write(tmp_path)
    error = refused(tmp_path / "nothing", written.key)
    assert error.reason == "cannot be read: No such file or directory"
    error = refused(tmp_path, written.key)
    assert error.reason == "cannot be read: Is a directory"


def test_an_encrypted_key_says_what_to_do(tmp_path, root):
    leaf = pki.make_leaf(root)
    written = leaf.write(tmp_path)
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        written.key.write_bytes(
            leaf.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
        )
        error = refused(written.certificate, written.key)
        assert error.path == written.key
        assert error.reason.startswith("is encrypted: write it without a passphrase")


@pytest.mark.parametrize(
    ("key_type", "reason"),
    [("rsa1024", "is an RSA key of 1024 bits"), ("secp256k1", "is a key on the curve secp256k1")],
)
def test_weak_and_odd_keys(tmp_path, root, key_type, reason):
    written = pki.make_leaf(root, key_type=key_type).write(tmp_path)
    error = refused(written.certificate, written.key)
    assert error.path == written.key
    assert error.reason.startswith(reason)
    assert "accepted is RSA of at least 2048 bits" in error.reason


def test_a_key_that_cannot_sign(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    path = tmp_path / "x25519.key"
    path.write_bytes(
        X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(CertificateError, match="is a key of another type"):
        load_key(path)


def test_an_extension_that_is_wrong(tmp_path, root):
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x82\x05a")
    leaf = pki.make_leaf(root, [], extra=[(broken, False)])
    written = leaf.write(tmp_path)
    error = refused(written.certificate, written.key)
    assert error.path == written.certificate
    assert error.reason.startswith("has a name or an extension that is wrong")


def test_a_name_whose_string_has_no_string_s_tag(tmp_path, root):
    leaf = pki.make_leaf(root, ["a.test"])
    der = leaf.certificate.public_bytes(Encoding.DER)
    subject = der.index(b"\x0c\x06a.test")
    changed = der[:subject] + b"\x00" + der[subject + 1 :]
    written = leaf.write(tmp_path)
    written.certificate.write_bytes(
        b"-----BEGIN CERTIFICATE-----\n" + b64encode(changed) + b"\n-----END CERTIFICATE-----\n"
    )
    error = refused(written.certificate, written.key)
    assert error.path == written.certificate
    assert error.reason.startswith(("has a name", "holds no usable PEM certificate"))


def test_load_certificates_keeps_the_order_of_the_file(tmp_path, root, intermediate):
    path = tmp_path / "many.pem"
    path.write_bytes(intermediate.pem + b"a comment\n" + root.pem)
    assert load_certificates(path) == [intermediate.certificate, root.certificate]
