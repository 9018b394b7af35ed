from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.logger import capturedLogs, formatEvent

from dwaarx.certs import minting, schedule
from dwaarx.certs.errors import CertificateError, OcspError
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


@pytest.fixture
def disk(monkeypatch):
    """What cannot be written now: names in the storage begin with one of these words."""
    full: set[str] = set()
    write = Storage.write

    def refuse(self, name, data, mode=0o600):
        if name.startswith(tuple(full)):
            raise OSError(28, "No space left on device")
        write(self, name, data, mode)

    monkeypatch.setattr(Storage, "write", refuse)
    return full


def told(logs) -> list[str]:
    """The warnings and errors, in words."""
    return [formatEvent(each) for each in logs if each["log_level"].name in ("warn", "error")]


def take_key_away(ca, tmp_path) -> bytes:
    """Leave the certificate alone in root.pem, as docs/internal-ca.md says; return what was."""
    path = tmp_path / "internal/root.pem"
    whole = path.read_bytes()
    path.write_bytes(ca.root_path.read_bytes())
    return whole


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


def test_a_leaf_that_is_to_be_forgotten(ca, disk):
    first, other = ca.issue(NAMES), ca.issue(("other.test",))
    disk.add("certificates/")
    ca.forget(NAMES)
    assert ca.load(NAMES) is None
    second = ca.issue(NAMES)
    assert second.certificate != first.certificate
    assert ca.issue(NAMES).certificate == ca.load(NAMES).certificate == second.certificate
    assert ca.load(("other.test",)).certificate == other.certificate


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


# --- the intermediate -------------------------------------------------------


def test_the_intermediate(ca, time, tmp_path):
    issuer, root = ca.issuer(), ca.root().certificate
    certificate = issuer.certificate
    assert issued_by(certificate, root)
    assert issuer.chain == (root,)
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    assert certificate.not_valid_before_utc == time.now - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == time.now + timedelta(days=365)
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert extension(certificate, x509.KeyUsage).value == pki.key_usage(
        digital_signature=True, key_cert_sign=True, crl_sign=True
    )
    assert (
        extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
        == extension(root, x509.SubjectKeyIdentifier).value.digest
    )
    with pytest.raises(x509.ExtensionNotFound):
        extension(certificate, x509.ExtendedKeyUsage)
    path = tmp_path / "internal/intermediate.pem"
    assert path.read_bytes() == issuer.pem()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_intermediate_is_taken_again_until_it_is_due(ca, storage, time):
    first = ca.issuer().certificate
    leaf = ca.issue(NAMES)
    again = InternalCA(storage, time)
    assert again.issuer().certificate == first
    time.now += timedelta(days=243)
    assert again.issuer().certificate == first
    time.now += timedelta(days=1)
    second = again.issuer()
    assert second.certificate != first
    assert second.chain == (again.root().certificate,)
    assert not again.is_fresh(leaf, NAMES)
    assert again.issue(NAMES).issuer == second.certificate


def test_a_leaf_goes_with_its_intermediate(ca, time, tmp_path):
    first = ca.issue(NAMES)
    assert ca.load(NAMES).certificate == first.certificate
    (tmp_path / "internal/intermediate.pem").unlink()
    ca.reload_root()
    assert ca.load(NAMES) is None
    with pytest.raises(OcspError, match="was not issued by the CA"):
        ca.sign_staple(first)
    second = ca.issue(NAMES)
    assert second.issuer == ca.issuer().certificate != first.issuer
    verify(ca.sign_staple(second), second.certificate, second.issuer, time.now)


def test_an_intermediate_ends_with_its_root_and_is_not_made_in_vain(ca, time):
    ends = ca.root().certificate.not_valid_after_utc
    time.now = ends - timedelta(days=100)
    last = ca.issuer().certificate
    assert last.not_valid_after_utc == ends
    time.now = ends - timedelta(days=31)  # a third is left, but another would not live longer
    assert ca.issuer().certificate == last


def test_an_intermediate_from_the_future_is_made_anew(ca, storage, time):
    first = ca.issuer().certificate
    time.now -= timedelta(days=1)
    assert ca.issuer().certificate != first


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("garbage", "holds no PEM"),
        ("leaf", "holds no CA certificate"),
        ("root", "was not issued by the present root"),
        ("stranger", "was not issued by the present root"),
        ("expired", "expired at"),
    ],
)
@pytest.mark.parametrize("offline", [False, True])
def test_an_intermediate_of_no_use(ca, storage, time, tmp_path, damage, reason, offline):
    ca.issue(NAMES)
    present = ca.issuer()
    root = pki.Entity(ca.root().certificate, ca.root().key)
    past = time.now - 10 * pki.DAY
    data = {
        "garbage": b"garbage",
        "leaf": pki.make_leaf(root, not_before=past),
        "root": root,
        "stranger": pki.make_ca(not_before=past),
        "expired": pki.make_ca("Sub", root, not_before=past, lifetime=pki.DAY),
    }[damage]
    if isinstance(data, pki.Entity):
        data = data.key_pem + data.pem
    path = tmp_path / "internal/intermediate.pem"
    path.write_bytes(data)
    if not offline:
        with capturedLogs() as logs:
            ca.reload_root()
        [line] = told(logs)
        assert line.startswith("a new internal intermediate is made")
        assert reason in line
        assert path.read_bytes() == ca.issuer().pem() != present.pem()
        return
    take_key_away(ca, tmp_path)
    # A running service goes on with the one that it has.
    with pytest.raises(CertificateError, match="put the root's key back") as caught:
        ca.reload_root()
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert ca.issuer().certificate == present.certificate
    with pytest.raises(CertificateError, match=reason):
        InternalCA(storage, time).load(NAMES)
    assert path.read_bytes() == data


def test_an_own_intermediate_put_there_is_used(storage, time, tmp_path):
    past = time.now - pki.DAY
    root = pki.make_ca("Own root", key_type="rsa2048", not_before=past)
    sub = pki.make_ca("Own sub", root, key_type="p384", not_before=past)
    storage.write("internal/root.pem", root.pem)
    storage.write("internal/intermediate.pem", sub.key_pem + sub.pem)
    ca = InternalCA(storage, time)
    with capturedLogs() as logs:
        pair = ca.issue(NAMES)
        staple = ca.sign_staple(pair)
    assert told(logs) == []
    assert pair.chain == (sub.certificate,)
    assert issued_by(pair.certificate, sub.certificate)
    verify(staple, pair.certificate, sub.certificate, time.now)
    assert ca.root_path.read_bytes() == root.pem


def test_a_leaf_of_the_root_itself_is_renewed(ca, storage, time):
    """As they were made before there was an intermediate."""
    made = ca.root()
    root = minting.KeyPair(made.certificate, (), made.key)
    old = minting.make_leaf(NAMES, root, time.now)
    storage.write(ca.path_name(NAMES), old.pem())
    assert ca.load(NAMES) is None
    assert ca.issue(NAMES).issuer == ca.issuer().certificate


# --- a root whose key is elsewhere ------------------------------------------


def test_without_the_roots_key_all_goes_on(ca, storage, time, tmp_path):
    first = ca.issue(NAMES)
    root = ca.root().certificate
    take_key_away(ca, tmp_path)
    ca.reload_root()
    assert ca.root().key is None
    assert ca.root().pem() == ca.root_path.read_bytes()
    for each in (ca, InternalCA(storage, time)):
        assert each.root().certificate == root
        assert each.issue(NAMES).certificate == first.certificate
    time.now += timedelta(days=6)
    with capturedLogs() as logs:
        second = ca.issue(NAMES)
    assert told(logs) == []
    assert second.issuer == first.issuer
    verify(ca.sign_staple(second), second.certificate, second.issuer, time.now)


def test_the_roots_key_is_asked_for_in_time(ca, storage, time, tmp_path):
    begun = time.now
    first = ca.issue(NAMES)
    whole = take_key_away(ca, tmp_path)
    ca.reload_root()
    time.now = begun + timedelta(days=245)
    with capturedLogs() as logs:
        for _ in range(72):
            time.now += timedelta(hours=1)
            assert ca.issue(NAMES).issuer == first.issuer
    lines = told(logs)
    assert len(lines) == 3  # once a day
    assert "the internal intermediate ends at" in lines[0]
    assert "put the root's key back into" in lines[0]
    # To the very end, leaves end with it.
    time.now = begun + timedelta(days=364)
    last = ca.issue(NAMES)
    assert last.certificate.not_valid_after_utc == begun + timedelta(days=365)
    time.now = begun + timedelta(days=365)
    with pytest.raises(CertificateError, match="expired at"):
        ca.issue(NAMES)
    with pytest.raises(OcspError, match=r"nobody can sign: .*intermediate.pem: expired at"):
        ca.sign_staple(last)
    (tmp_path / "internal/root.pem").write_bytes(whole)
    ca.reload_root()
    assert ca.issue(NAMES).issuer == ca.issuer().certificate != first.issuer


def test_neither_the_roots_key_nor_an_intermediate(storage, time):
    own = pki.make_ca("Own", not_before=time.now - pki.DAY)
    storage.write("internal/root.pem", own.pem)
    with pytest.raises(CertificateError, match="is missing; to make another, put"):
        InternalCA(storage, time).issue(NAMES)


def test_a_root_without_key_that_ends_soon_is_not_replaced(ca, time, tmp_path):
    root = ca.root().certificate
    time.now = root.not_valid_after_utc - timedelta(days=100)
    ca.issuer()
    take_key_away(ca, tmp_path)
    ca.reload_root()
    time.now = root.not_valid_after_utc - timedelta(days=29)
    with capturedLogs() as logs:
        ca.issue(NAMES)
        ca.issue(NAMES)
    [line] = told(logs)
    assert "the internal root ends at" in line
    assert ca.root().certificate == root


def test_a_root_with_the_key_of_another(ca, storage, time, tmp_path):
    own, other = pki.make_ca("Own"), pki.make_ca("Other")
    storage.write("internal/root.pem", other.key_pem + own.pem)
    with pytest.raises(CertificateError, match="its key is not the certificate's"):
        ca.root()


def test_a_root_that_cannot_be_read_again(ca, tmp_path, monkeypatch):
    root = ca.root()

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dwaarx.certs.internal.read_file", denied)
    with pytest.raises(CertificateError, match="cannot be read: Permission denied"):
        ca.reload_root()
    assert ca.root() is root


@pytest.mark.parametrize("offline", [False, True])
def test_an_own_root_of_path_length_0_signs_leaves_itself(storage, time, offline):
    key = pki.make_key()
    name = pki.name("Short")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(time.now - pki.DAY)
        .not_valid_after(time.now + pki.YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, pki.hashes.SHA256())
    )
    root = pki.Entity(certificate, key)
    storage.write("internal/root.pem", root.pem if offline else root.key_pem + root.pem)
    ca = InternalCA(storage, time)
    if offline:
        with pytest.raises(CertificateError, match="must sign the leaves itself"):
            ca.issue(NAMES)
        return
    pair = ca.issue(NAMES)
    assert pair.chain == (certificate,)
    assert ca.load(NAMES).certificate == pair.certificate
    verify(ca.sign_staple(pair), pair.certificate, certificate, time.now)
    assert not storage.path("internal/intermediate.pem").exists()


# --- a disk that cannot be written ------------------------------------------


def test_a_leaf_that_cannot_be_written_is_used_from_memory(ca, storage, time, disk):
    disk.add("certificates/")
    with capturedLogs() as logs:
        first = ca.issue(NAMES)
        for _ in range(3):
            assert ca.issue(NAMES) is first
            assert ca.load(NAMES) is first
        other = ca.issue(("other.test",))
    lines = told(logs)
    assert len(lines) == 2  # once for each name
    assert "kept in memory only" in lines[0]
    assert "No space left on device" in lines[0]
    time.now += timedelta(days=5)
    second = ca.issue(NAMES)  # renewed in memory too
    assert second.certificate != first.certificate
    disk.clear()
    assert ca.issue(NAMES).certificate == second.certificate
    assert storage.read(ca.path_name(NAMES)) == second.pem()
    assert storage.read(ca.path_name(("other.test",))) == other.pem()
    disk.add("certificates/")
    time.now += timedelta(days=5)
    with capturedLogs() as logs:
        ca.issue(NAMES)
    assert len(told(logs)) == 1  # it is news again


def test_an_intermediate_that_cannot_be_written_is_used_from_memory(ca, storage, disk):
    disk.add("internal/intermediate")
    with capturedLogs() as logs:
        pair = ca.issue(NAMES)
        ca.reload_root()
        assert ca.issue(NAMES).certificate == pair.certificate
    [line] = told(logs)
    assert "internal/intermediate.pem" in line
    disk.clear()
    ca.issue(NAMES)
    assert storage.read("internal/intermediate.pem") == ca.issuer().pem()


def test_a_root_that_cannot_be_written_is_not_used(ca, disk):
    disk.add("internal/root.pem")
    with pytest.raises(CertificateError, match="cannot be written: No space left on device"):
        ca.issue(NAMES)
    with pytest.raises(CertificateError):
        ca.root()


def test_a_root_crt_that_cannot_be_written(ca, storage, time, disk):
    disk.add("internal/root.crt")
    with capturedLogs() as logs:
        ca.issue(NAMES)
        ca.reload_root()
    [line] = told(logs)
    assert "root.crt: cannot be written" in line


def test_a_root_whose_successor_cannot_be_written_stays(ca, time, disk):
    root = ca.root().certificate
    time.now = root.not_valid_after_utc - timedelta(days=29)
    disk.add("internal/root")
    with capturedLogs() as logs:
        for _ in range(30):
            assert issued_by(ca.issue(NAMES).issuer, root)
            time.now += timedelta(minutes=1)
    lines = told(logs)
    assert len(lines) == 6  # two at a try, and a try each 10 minutes
    assert "the internal root stays for now" in lines[1]
    time.now = root.not_valid_after_utc
    with pytest.raises(CertificateError, match="cannot be written"):
        ca.issue(NAMES)
    disk.clear()
    assert issued_by(ca.issue(NAMES).issuer, ca.root().certificate)
    assert ca.root().certificate != root
