from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dwaarx.certs import acme_files
from dwaarx.certs.acme_files import (
    file_name,
    information_name,
    is_newer,
    pending_information_name,
    pending_name,
)
from dwaarx.certs.errors import CertificateErrors
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.storage import Storage
from tests.certs import pki
from tests.certs.acme_world import pair_of

ROOT = pki.make_ca()
NAME = "example.test"
NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ALL = (file_name, pending_name, information_name, pending_information_name)


@pytest.fixture
def overlay(tmp_path):
    return Overlay(Storage(tmp_path))


def put(overlay, made, name=NAME):
    overlay.write(file_name(name), pair_of(made).pem(), 0.0)
    return made


def test_names():
    assert [each("*.example.test") for each in ALL] == [
        "certificates/wildcard_.example.test.pem",
        "pending/wildcard_.example.test.pem",
        "acme/renewal/wildcard_.example.test.json",
        "pending/wildcard_.example.test.json",
    ]


def test_the_longest_names_fit_and_differ():
    stem = ".".join(["a" * 63] * 3)
    names = [f"{stem}.{'b' * 60}{last}" for last in "xy"] + [f"*.{stem}.{'b' * 58}x"]
    for each in ALL:
        files = [each(name).rpartition("/")[2] for name in names]
        assert len(set(files)) == 3
        # With what is appended to one that is revoked, too.
        assert all(len(file) < 230 for file in files)
        assert not any("*" in file for file in files)


def test_reading(overlay):
    assert acme_files.read(overlay, file_name(NAME), NAME) is None
    made = put(overlay, pki.make_leaf(ROOT, [NAME]))
    pair = acme_files.read(overlay, file_name(NAME), NAME)
    assert pair.pem() == pair_of(made).pem()


def test_a_ca_may_write_names_in_capitals(overlay):
    made = put(overlay, pki.make_leaf(ROOT, ["EXAMPLE.test"]))
    assert acme_files.read(overlay, file_name(NAME), NAME).certificate == made.certificate


@pytest.mark.parametrize("wrong", ["name", "garbage", "folder"])
def test_what_cannot_be_read(overlay, wrong):
    path = overlay.storage.path(file_name(NAME))
    if wrong == "name":
        put(overlay, pki.make_leaf(ROOT, ["other.test"]))
    elif wrong == "garbage":
        overlay.write(file_name(NAME), b"garbage", 0.0)
    else:
        path.mkdir(parents=True)
    with pytest.raises(CertificateErrors) as caught:
        acme_files.read(overlay, file_name(NAME), NAME)
    assert str(path) in str(caught.value)


def test_setting_aside(overlay):
    assert acme_files.set_aside(overlay, NAME, 1, NOW) == ""
    asides = []
    for _ in range(3):
        made = put(overlay, pki.make_leaf(ROOT, [NAME]))
        serial = made.certificate.serial_number
        asides.append(acme_files.set_aside(overlay, NAME, serial, NOW))
    assert asides == [
        "certificates/example.test.revoked-20300102T030405Z.pem",
        "certificates/example.test.revoked-20300102T030405Z-2.pem",
        "certificates/example.test.revoked-20300102T030405Z-3.pem",
    ]
    assert not overlay.exists(file_name(NAME))
    put(overlay, pki.make_leaf(ROOT, [NAME]))
    assert acme_files.set_aside(overlay, NAME, 1, NOW) == ""  # another one by now
    overlay.write(file_name(NAME), b"garbage", 0.0)
    assert acme_files.set_aside(overlay, NAME, 1, NOW).endswith("-4.pem")


def test_newer():
    begin = pki.utc_now()
    one, same_second = (pki.make_leaf(ROOT, not_before=begin).certificate for _ in range(2))
    older = pki.make_leaf(ROOT, not_before=begin - pki.DAY, lifetime=pki.YEAR).certificate
    assert is_newer(one, older)
    assert not is_newer(older, one)
    assert is_newer(one, same_second)
    assert not is_newer(one, one)
