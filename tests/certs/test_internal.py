from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.logger import capturedLogs

from dwaarx.certs import schedule
from dwaarx.certs.errors import CertificateError
from dwaarx.certs.internal import InternalCA
from dwaarx.certs.matching import issued_by
from dwaarx.certs.ocsp import verify
from dwaarx.certs.storage import Storage
from tests.certs import pki

NAMES = ("localhost", "*.example.com", "127.0.0.1", "::1")


class Time:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


@pytest.fixture
def ca(storage, time):
    return InternalCA(storage, time)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_the_root(ca, time, tmp_path):
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is needed
    root = ca.root().certificate
    assert issued_by(root, root)
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    assert root.not_valid_before_utc == time.now - timedelta(minutes=5)
    assert root.not_valid_after_utc == time.now + schedule.ROOT_LIFETIME
    constraints = extension(root, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=1)
    usage = extension(root, x509.KeyUsage)
    assert usage.critical
    assert usage.value == pki.key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True)
    assert extension(
        root, x509.SubjectKeyIdentifier
    ).value == x509.SubjectKeyIdentifier.from_public_key(root.public_key())


def test_the_roots_files(ca, tmp_path):
    root = ca.root()
    whole = tmp_path / "internal/root.pem"
    assert whole.read_bytes() == root.pem()
    assert stat.S_IMODE(whole.stat().st_mode) == 0o600
    assert ca.root_path == tmp_path / "internal/root.crt"
    assert x509.load_pem_x509_certificate(ca.root_path.read_bytes()) == root.certificate
    assert b"PRIVATE" not in ca.root_path.read_bytes()
    assert stat.S_IMODE(ca.root_path.stat().st_mode) == 0o644


def test_a_leaf(ca, time):
    pair = ca.issue(NAMES)
    leaf, issuer = pair.certificate, ca.issuer().certificate
    assert pair.names == NAMES
    assert pair.chain == (issuer,)
    assert issued_by(leaf, issuer)
    assert isinstance(pair.key, ec.EllipticCurvePrivateKey)
    assert leaf.not_valid_before_utc == time.now - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == time.now + timedelta(days=7)
    assert not extension(leaf, x509.SubjectAlternativeName).critical
    assert extension(leaf, x509.BasicConstraints).value.ca is False
    assert extension(leaf, x509.KeyUsage).value == pki.key_usage(digital_signature=True)
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert (
        extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier
        == extension(issuer, x509.SubjectKeyIdentifier).value.digest
    )
    assert leaf.subject.rfc4514_string() == "CN=localhost"


def test_the_leafs_file(ca, tmp_path):
    pair = ca.issue(("*.example.com",))
    [path] = (tmp_path / "certificates").iterdir()
    assert path.read_bytes() == pair.pem()
    assert path.name.startswith("_.example.com-")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ca.issue(("::1",))
    ca.issue(("*.example.com", "example.com"))
    names = sorted(each.name for each in (tmp_path / "certificates").iterdir())
    assert len(names) == 3
    assert any(name.startswith("__1-") for name in names)


def test_a_name_too_long_for_a_common_name(ca):
    name = ".".join(["x" * 40, "y" * 40, "test"])
    leaf = ca.issue((name,)).certificate
    assert list(leaf.subject) == []
    assert extension(leaf, x509.SubjectAlternativeName).critical


@pytest.mark.parametrize(
    "names", [(), ("",), ("a b",), ("localhost", "bücher.example"), ("*",), ("a.*.b",), ("x" * 64,)]
)
def test_names_that_are_none(ca, names):
    with pytest.raises(CertificateError, match="names"):
        ca.issue(names)


def test_a_leaf_is_taken_again_until_it_is_due(ca, storage, time):
    first = ca.issue(NAMES)
    again = InternalCA(storage, time)
    assert again.issue(NAMES).certificate == first.certificate
    time.now += timedelta(days=4, hours=15)
    assert again.issue(NAMES).certificate == first.certificate
    time.now += timedelta(hours=1)
    renewed = again.issue(NAMES)
    assert renewed.certificate != first.certificate
    assert renewed.issuer == first.issuer
    assert again.issue(NAMES).certificate == renewed.certificate


def test_a_leaf_from_the_future_is_made_anew(ca, time):
    first = ca.issue(NAMES)
    time.now -= timedelta(days=1)
    assert ca.issue(NAMES).certificate != first.certificate


def test_ip_literals_in_any_spelling_are_the_same(ca):
    first = ca.issue(("0:0::1",))
    assert first.names == ("::1",)
    assert ca.issue(("0:0::1",)).certificate == first.certificate


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_leaf_is_told_and_made_anew(ca, tmp_path, damage):
    first = ca.issue(NAMES)
    [path] = (tmp_path / "certificates").iterdir()
    path.write_bytes(first.pem()[:-100] if damage is None else damage)
    with capturedLogs() as logs:
        second = ca.issue(NAMES)
    assert second.certificate != first.certificate
    assert path.read_bytes() == second.pem()
    [event] = logs
    assert event["path"] == str(path)


def test_a_leaf_of_another_root_is_made_anew(ca, storage, time, tmp_path):
    first = ca.issue(NAMES)
    (tmp_path / "internal/root.pem").unlink()
    ca.reload_root()
    second = ca.issue(NAMES)
    assert second.issuer != first.issuer
    assert issued_by(second.issuer, ca.root().certificate)


@pytest.mark.parametrize("damage", [b"", b"garbage", "cut", "leaf"])
def test_a_damaged_root_is_never_overwritten(ca, storage, time, tmp_path, damage):
    whole = ca.root().pem()
    path = tmp_path / "internal/root.pem"
    if damage == "cut":
        damage = whole[: len(whole) // 2]
    if damage == "leaf":
        damage = ca.issue(NAMES).pem()
    path.write_bytes(damage)
    with pytest.raises(CertificateError) as caught:
        InternalCA(storage, time).issue(NAMES)
    assert caught.value.path == path
    assert "restore the file from a backup" in caught.value.reason
    assert path.read_bytes() == damage
    # A running service goes on with the root that it has.
    with pytest.raises(CertificateError):
        ca.reload_root()
    assert ca.root().pem() == whole


def test_an_own_root_put_there_is_used(storage, time, tmp_path):
    own = pki.make_ca("Own", key_type="rsa2048", not_before=time.now - pki.DAY)
    storage.write("internal/root.pem", own.key_pem + own.pem)
    ca = InternalCA(storage, time)
    pair = ca.issue(NAMES)
    assert issued_by(pair.issuer, own.certificate)
    assert ca.root_path.read_bytes() == own.pem
    verify(ca.sign_staple(pair), pair.certificate, pair.issuer, time.now)


def test_a_missing_root_crt_is_written_again(ca, storage, time):
    root = ca.root()
    ca.root_path.unlink()
    again = InternalCA(storage, time)
    assert again.root().certificate == root.certificate
    assert x509.load_pem_x509_certificate(again.root_path.read_bytes()) == root.certificate


def test_a_root_that_ends_soon_is_renewed_with_a_warning(ca, time):
    first = ca.root().certificate
    time.now = first.not_valid_after_utc - timedelta(days=31)
    assert ca.root().certificate == first
    time.now += timedelta(days=1)
    with capturedLogs() as logs:
        pair = ca.issue(NAMES)
    root = ca.root().certificate
    assert root != first
    assert issued_by(pair.issuer, root)
    assert logs[0]["log_level"].name == "warn"
    assert x509.load_pem_x509_certificate(ca.root_path.read_bytes()) == root


def test_a_storage_that_cannot_be_written(ca, tmp_path):
    (tmp_path / "internal").write_bytes(b"a file where a folder should be")
    with pytest.raises(CertificateError, match="cannot be written"):
        ca.issue(NAMES)


def test_a_staple(ca, time):
    pair = ca.issue(NAMES)
    staple = verify(ca.sign_staple(pair), pair.certificate, ca.issuer().certificate, time.now)
    assert staple.next_update == time.now + schedule.STAPLE_VALIDITY


def test_an_own_root_without_key_identifier(storage, time):
    key = pki.make_key("ed25519")
    name = pki.name("Bare")
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(time.now - pki.DAY)
        .not_valid_after(time.now + pki.YEAR)
    )
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    root = pki.Entity(bare.add_extension(constraints, critical=True).sign(key, None), key)
    storage.write("internal/root.pem", root.key_pem + root.pem)
    ca = InternalCA(storage, time)
    issuer = ca.issuer().certificate
    assert issued_by(issuer, root.certificate)
    assert len(extension(issuer, x509.AuthorityKeyIdentifier).value.key_identifier) == 20
    pair = ca.issue(NAMES)
    verify(ca.sign_staple(pair), pair.certificate, issuer, time.now)
    # And one that does not even say that it is a CA.
    none = pki.Entity(bare.sign(key, None), key)
    storage.write("internal/root.pem", none.key_pem + none.pem)
    with pytest.raises(CertificateError, match="holds no self-signed CA certificate"):
        InternalCA(storage, time).root()


def test_a_storage_that_cannot_be_searched(ca, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(CertificateError, match="cannot be read: Permission denied"):
        ca.issue(NAMES)
