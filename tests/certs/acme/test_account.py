from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from josepy.b64 import b64encode
from twisted.logger import LogEvent, globalLogPublisher

from dwaarx.certs.acme.account import Account, AccountStore
from dwaarx.certs.storage import Storage
from dwaarx.config.model import AcmeCa, Eab
from tests.certs import pki

CA = AcmeCa("https://ca.test/dir")


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    seen: list[LogEvent] = []
    globalLogPublisher.addObserver(seen.append)
    yield seen
    globalLogPublisher.removeObserver(seen.append)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


def kept(store: AccountStore, ca: AcmeCa, url: str = "https://ca.test/1") -> Account:
    account = attrs.evolve(Account.new(ca), url=url, email="ops@example.test")
    store.put(account)
    return account


def test_an_account_outlives_the_process(storage: Storage) -> None:
    store = AccountStore(storage)
    assert store.get(CA) is None
    account = kept(store, CA)
    assert store.get(CA) is account
    again = AccountStore(storage).get(CA)
    assert again is not None
    assert again.jwk == account.jwk
    assert (again.url, again.email) == (account.url, account.email)
    path = storage.path("acme/ca.test/account.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_accounts_of_one_host_do_not_overwrite_each_other(storage: Storage) -> None:
    cas = [
        CA,
        AcmeCa("https://CA.test/other"),
        AcmeCa("https://ca.test:8443/dir"),
        AcmeCa("https://ca.test/dir", None, Eab("kid-1", "a2V5")),
        AcmeCa("https://ca.test/dir", None, Eab("kid-2", "a2V5")),
    ]
    store = AccountStore(storage)
    accounts = [kept(store, ca, f"https://ca.test/{index}") for index, ca in enumerate(cas)]
    again = AccountStore(storage)
    for ca, account in zip(cas, accounts, strict=True):
        found = again.get(ca)
        assert found is not None
        assert (found.url, found.jwk) == (account.url, account.jwk)
    assert len(list(storage.root.rglob("account.json"))) == 1


def test_two_services_on_one_storage_keep_each_others_accounts(storage: Storage) -> None:
    """An external account may be bound once only: its key must not get lost."""
    one, other = AccountStore(storage), AccountStore(storage)
    bound = AcmeCa(CA.directory, None, Eab("kid", "a2V5"))
    assert one.get(CA) is None
    assert other.get(CA) is None
    account = kept(other, bound)
    assert one.get(CA) is None
    kept(one, CA)
    found = one.get(bound)
    assert found is not None
    assert found.jwk == account.jwk
    assert len(json.loads(storage.read("acme/ca.test/account.json"))["accounts"]) == 2
    again = other.get(CA)  # registered by the other meanwhile: not once more
    assert again is not None
    assert again.url == "https://ca.test/1"


@pytest.mark.parametrize(
    ("directory", "folder"),
    [
        ("https://ca.test/dir", "ca.test"),
        ("https://[2001:db8::1]/dir", "2001_db8__1"),
        ("https://..:1/dir", "_"),
        ("dir", "unknown"),
    ],
)
def test_the_folder_is_one_within_the_storage(
    storage: Storage, directory: str, folder: str
) -> None:
    kept(AccountStore(storage), AcmeCa(directory))
    (path,) = storage.root.rglob("account.json")
    assert path.parent == storage.root / "acme" / folder


def test_keys_are_not_shown(storage: Storage) -> None:
    account = kept(AccountStore(storage), CA)
    assert "key" not in repr(account).lower()
    assert str(account.key.private_numbers().private_value) not in repr(account)


def test_key_authorizations_are_of_full_length() -> None:
    """A coordinate that begins with zeros keeps them (RFC 7518 section 6.2.1.2)."""
    for _ in range(300):
        account = Account.new(CA)
        public = account.jwk.public_key().to_partial_json()
        assert {len(public["x"]), len(public["y"])} == {43}
    token, _, thumbprint = account.key_authorization("token").partition(".")
    assert token == "token"
    assert thumbprint == b64encode(account.jwk.thumbprint()).decode()


def test_a_disk_that_takes_nothing_warns_once_and_is_tried_again(
    storage: Storage, events: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AccountStore(storage)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(storage, "write", full)
        account = kept(store, CA)
        assert store.get(CA) is account
        assert store.get(CA) is account
    (event,) = events
    assert event["log_level"].name == "warn"
    assert event["reason"] == "No space left on device"
    assert "PRIVATE" not in str(event)
    assert store.get(CA) is account
    assert AccountStore(storage).get(CA) is not None


def test_a_file_that_cannot_be_read_is_not_written_over(
    storage: Storage, events: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(AccountStore(storage), CA)
    path = storage.path("acme/ca.test/account.json")
    store = AccountStore(storage)
    with monkeypatch.context() as patch:

        def denied(name: str) -> bytes:
            raise PermissionError(13, "Permission denied")

        patch.setattr(storage, "read", denied)
        assert store.get(CA) is None
    account = kept(store, CA)
    assert store.get(CA) is account
    assert json.loads(path.read_text())["accounts"][0]["url"] == before.url
    found = AccountStore(storage).get(CA)
    assert found is not None
    assert found.jwk == before.jwk
    assert [event["reason"] for event in events] == ["Permission denied"]


def an_account(**other: object) -> dict[str, object]:
    document: dict[str, object] = {
        "directory": "d",
        "eab": None,
        "url": None,
        "email": None,
        "key": "k",
    }
    return document | other


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"accounts": [5]}).encode(),
        json.dumps({"accounts": [{}]}).encode(),
        json.dumps({"accounts": [an_account()]}).encode(),
        json.dumps({"accounts": [an_account(key=5)]}).encode(),
        json.dumps({"accounts": [an_account(directory=None)]}).encode(),
    ],
)
def test_a_damaged_file_is_kept_aside(
    storage: Storage, events: list[LogEvent], data: bytes
) -> None:
    storage.write("acme/ca.test/account.json", data)
    store = AccountStore(storage)
    assert store.get(CA) is None
    kept(store, CA)
    assert storage.read("acme/ca.test/account.damaged.json") == data
    assert AccountStore(storage).get(CA) is not None
    (event,) = events
    assert "account.damaged.json" in event["consequence"]


@pytest.mark.parametrize("email", [5, ["x"]])
def test_a_damaged_field_makes_a_damaged_file(storage: Storage, email: object) -> None:
    kept(AccountStore(storage), CA)
    path = storage.path("acme/ca.test/account.json")
    document = json.loads(path.read_text())
    document["accounts"][0]["email"] = email
    path.write_text(json.dumps(document))
    assert AccountStore(storage).get(CA) is None


def test_a_key_of_another_kind_is_none(storage: Storage) -> None:
    kept(AccountStore(storage), CA)
    path = storage.path("acme/ca.test/account.json")
    document = json.loads(path.read_text())
    document["accounts"][0]["key"] = pki.make_ca(key_type="p384").key_pem.decode()
    path.write_text(json.dumps(document))
    assert AccountStore(storage).get(CA) is None


def test_a_damaged_file_that_cannot_be_kept_aside_stays(
    storage: Storage, events: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("acme/ca.test/account.json", b"damaged")
    store = AccountStore(storage)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(storage, "move", full)
        assert store.get(CA) is None
    account = kept(store, CA)
    assert store.get(CA) is account
    assert storage.read("acme/ca.test/account.json") == b"damaged"
    (event,) = events
    assert event["consequence"] == "a new ACME account is made, and kept in memory"
