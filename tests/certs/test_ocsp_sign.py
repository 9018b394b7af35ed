from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp as x509_ocsp

from dwaarx.certs.errors import CertificateError, OcspError, Refusal
from dwaarx.certs.ocsp import verify
from dwaarx.certs.ocsp_sign import MAX_DAYS, generate, generate_to_file
from tests.certs import pki

NOW = pki.utc_now()
ROOT = pki.make_ca("Root")
LEAF = pki.make_leaf(ROOT)


@pytest.mark.parametrize("key_type", ["p256", "p384", "rsa2048", "ed25519"])
def test_what_is_made_verifies(key_type):
    ca = pki.make_ca("CA", key_type=key_type)
    leaf = pki.make_leaf(ca)
    now = NOW.replace(microsecond=123)
    der = generate(leaf.certificate, ca.certificate, ca.key, now, timedelta(days=2))
    staple = verify(der, leaf.certificate, ca.certificate, now)
    assert staple.this_update == NOW - timedelta(minutes=5)
    assert staple.next_update == NOW + timedelta(days=2)
    response = x509_ocsp.load_der_ocsp_response(der)
    assert isinstance(response.hash_algorithm, hashes.SHA1)
    assert response.certificates == []


def test_it_ends_with_the_certificate():
    leaf = pki.make_leaf(ROOT, lifetime=pki.DAY)
    der = generate(leaf.certificate, ROOT.certificate, ROOT.key, NOW, timedelta(days=9))
    staple = verify(der, leaf.certificate, ROOT.certificate, NOW)
    assert staple.next_update == leaf.certificate.not_valid_after_utc


def refusal(leaf, ca, key, validity=pki.DAY, now=NOW) -> tuple[Refusal, str]:
    with pytest.raises(OcspError) as caught:
        generate(leaf.certificate, ca.certificate, key, now, validity)
    return caught.value.kind, caught.value.reason


def test_a_certificate_of_another_ca():
    other = pki.make_ca("Other")
    kind, reason = refusal(LEAF, other, other.key)
    assert kind is Refusal.NO_ISSUER
    assert "was not issued by the CA 'CN=Other': its issuer is 'CN=Root'" in reason


def test_a_certificate_of_another_ca_of_the_same_name():
    namesake = pki.make_ca("Root")
    kind, reason = refusal(LEAF, namesake, namesake.key)
    assert kind is Refusal.NO_ISSUER
    assert "another key signed it" in reason


def test_a_key_that_is_not_the_cas():
    kind, reason = refusal(LEAF, ROOT, LEAF.key)
    assert kind is Refusal.SIGNER
    assert reason == "the key is not that of the CA 'CN=Root'"


@pytest.mark.parametrize("validity", [timedelta(0), timedelta(seconds=-1)])
def test_no_validity(validity):
    assert refusal(LEAF, ROOT, ROOT.key, validity)[0] is Refusal.EXPIRED


def test_an_expired_certificate():
    kind, reason = refusal(LEAF, ROOT, ROOT.key, now=NOW + 40 * pki.DAY)
    assert kind is Refusal.EXPIRED
    assert reason.startswith("the certificate expired at")


# --- files ------------------------------------------------------------------


class Files:
    """The four paths of generateOCSPResponse."""

    def __init__(self, folder: Path) -> None:
        leaf, ca = LEAF.write(folder, "leaf"), ROOT.write(folder, "ca")
        self.certificate, self.ca, self.ca_key = leaf.certificate, ca.certificate, ca.key
        self.leaf_key = leaf.key
        self.output = folder / "leaf.ocsp"

    def generate(self, days=1, minutes=0):
        return generate_to_file(
            self.certificate, self.ca, self.ca_key, self.output, days, minutes, NOW
        )


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_the_file_is_written_for_everyone_to_read(files):
    staple = files.generate(days=2, minutes=30)
    assert files.output.read_bytes() == staple.der
    assert stat.S_IMODE(files.output.stat().st_mode) == 0o644
    assert staple.next_update == NOW + timedelta(days=2, minutes=30)
    again = files.generate(days=0, minutes=1)
    assert files.output.read_bytes() == again.der


@pytest.mark.parametrize("which", ["certificate", "ca", "ca_key"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_each_file_that_cannot_be_read_is_named(files, which, damage):
    path = getattr(files, which)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"garbage")
    with pytest.raises(CertificateError) as caught:
        files.generate()
    assert caught.value.path == path
    assert not files.output.exists()


def test_files_that_do_not_belong_together_write_nothing(files):
    files.output.write_bytes(b"before")
    files.ca_key = files.leaf_key
    with pytest.raises(OcspError, match="the key is not that of the CA"):
        files.generate()
    assert files.output.read_bytes() == b"before"


def test_a_path_that_cannot_be_written(files, tmp_path):
    files.output = tmp_path / "nowhere" / "leaf.ocsp"
    with pytest.raises(CertificateError) as caught:
        files.generate()
    assert caught.value.path == files.output
    assert caught.value.reason == "cannot be written: No such file or directory"
    files.output = Path("/dev/null")
    with pytest.raises(CertificateError, match="is not a regular file"):
        files.generate()


@pytest.mark.parametrize(
    ("days", "minutes", "error", "reason"),
    [
        (0, 0, ValueError, "both 0"),
        (-1, 0, ValueError, "days must not be negative"),
        (1, -1, ValueError, "minutes must not be negative"),
        (MAX_DAYS, 1, ValueError, "at most"),
        (10**30, 0, ValueError, "at most"),
        (0, 10**30, ValueError, "at most"),
        (1.5, 0, TypeError, "days must be a whole number"),
        ("1", 0, TypeError, "days must be a whole number"),
        (1, None, TypeError, "minutes must be a whole number"),
        (True, 0, TypeError, "days must be a whole number"),
    ],
)
def test_days_and_minutes(files, days, minutes, error, reason):
    with pytest.raises(error, match=reason):
        files.generate(days, minutes)
    assert not files.output.exists()
