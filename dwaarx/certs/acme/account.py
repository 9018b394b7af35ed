"""The accounts with CAs, and the files that they are kept in."""

from __future__ import annotations

import json
import re
import threading
from functools import cached_property
from urllib.parse import urlsplit

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from josepy.b64 import b64encode
from josepy.jwk import JWKEC
from josepy.util import ComparableECKey
from twisted.logger import Logger

from dwaarx.certs.storage import Storage
from dwaarx.config.model import AcmeCa
from dwaarx.words import reason_of

_log = Logger()

_IN_MEMORY = "a new ACME account is made, and kept in memory"

# The directory's URL and the key id of the external account: other ones are other accounts.
AccountId = tuple[str, str | None]


@attrs.frozen(slots=False)  # slots would leave no room for the cached property
class Account:
    """An account: its key, and the URL by which the CA knows it (None until it does).

    `email` is what the CA was told.
    """

    directory: str
    eab: str | None
    key: ec.EllipticCurvePrivateKey = attrs.field(repr=False)
    url: str | None = None
    email: str | None = None

    @classmethod
    def new(cls, ca: AcmeCa) -> Account:
        """Make an account that the CA does not know yet, with a key of its own."""
        eab = ca.eab.key_id if ca.eab is not None else None
        return cls(ca.directory, eab, ec.generate_private_key(ec.SECP256R1()))

    @property
    def id(self) -> AccountId:
        """What tells the account from others."""
        return (self.directory, self.eab)

    @cached_property
    def jwk(self) -> JWKEC:
        """The key as messages are signed with it."""
        return JWKEC(key=ComparableECKey(self.key))

    def key_authorization(self, token: str) -> str:
        """Return what proves control of a name to the CA (RFC 8555 section 8.1)."""
        return f"{token}.{b64encode(self.jwk.thumbprint()).decode('ascii')}"


class AccountStore:
    """The accounts: in memory, and for the next start in `acme/<host of the CA>/account.json`.

    A file holds the accounts of every directory on that host, whatever its port, and of every
    external account. What another service with the same storage put there is kept, and used. A
    disk that does not take it, or gives no readable file back, only warns. Used by several threads.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._files: dict[str, dict[AccountId, Account]] = {}
        self._unsaved: set[str] = set()
        self._unreadable: set[str] = set()

    def get(self, ca: AcmeCa) -> Account | None:
        """Return the account with a CA; None if there is none yet."""
        eab = ca.eab.key_id if ca.eab is not None else None
        name = _file_name(ca.directory)
        with self._lock:
            if (ca.directory, eab) not in self._files.get(name, {}):
                self._merge(name)
            if name in self._unsaved:
                self._write(name)
            return self._files[name].get((ca.directory, eab))

    def put(self, account: Account) -> None:
        """Keep an account, in the place of the one with its id."""
        name = _file_name(account.directory)
        with self._lock:
            self._files.setdefault(name, {})[account.id] = account
            self._write(name)

    def _merge(self, name: str) -> None:
        """Take up what the file holds and is not known yet."""
        there = {} if name in self._unreadable else self._read(name)
        self._files[name] = {**there, **self._files.get(name, {})}

    def _write(self, name: str) -> None:
        self._merge(name)
        if name in self._unreadable:
            return
        document = {"accounts": [_to_json(each) for each in self._files[name].values()]}
        try:
            self._storage.write(name, json.dumps(document, indent=2).encode(), 0o600)
        except OSError as error:
            if name not in self._unsaved:
                self._unsaved.add(name)
                _log.warn(
                    "{path} cannot be written: {reason}; the ACME account is used from memory",
                    path=str(self._storage.path(name)),
                    reason=reason_of(error),
                )
        else:
            self._unsaved.discard(name)

    def _read(self, name: str) -> dict[AccountId, Account]:
        try:
            data = self._storage.read(name)
        except FileNotFoundError:
            return {}
        except OSError as error:
            # It may hold accounts that somebody needs: it is not written over.
            self._unreadable.add(name)
            self._warn(name, reason_of(error), _IN_MEMORY)
            return {}
        try:
            accounts = [_from_json(each) for each in json.loads(data)["accounts"]]
        except (ValueError, TypeError, KeyError, RecursionError, UnsupportedAlgorithm) as error:
            self._warn(name, f"{error!r:.100}", self._set_aside(name))
            return {}
        return {account.id: account for account in accounts}

    def _set_aside(self, name: str) -> str:
        """Give a damaged file another name; returns what comes of it, in words."""
        try:
            self._storage.move(name, _damaged(name))
        except OSError:
            self._unreadable.add(name)  # rather than lose what can perhaps be mended by hand
            return _IN_MEMORY
        return f"it is {_damaged(name)} now, and a new ACME account is made"

    def _warn(self, name: str, reason: str, consequence: str) -> None:
        _log.warn(
            "{path} cannot be read: {reason}; {consequence}",
            path=str(self._storage.path(name)),
            reason=reason,
            consequence=consequence,
        )


def _damaged(name: str) -> str:
    return name.removesuffix(".json") + ".damaged.json"


def _file_name(directory: str) -> str:
    host = urlsplit(directory).hostname or "unknown"
    return f"acme/{re.sub(r'[^a-z0-9.-]', '_', host.lower()).strip('.') or '_'}/account.json"


def _to_json(account: Account) -> dict[str, str | None]:
    key = account.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "directory": account.directory,
        "eab": account.eab,
        "url": account.url,
        "email": account.email,
        "key": key.decode("ascii"),
    }


def _from_json(document: dict[str, object]) -> Account:
    """Read one account; raises ValueError, TypeError, KeyError or UnsupportedAlgorithm."""
    texts = {name: document[name] for name in ("directory", "eab", "url", "email", "key")}
    directory, eab, url, email, pem = texts.values()
    if not isinstance(directory, str) or not isinstance(pem, str):
        raise TypeError("an account without directory or key")
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ValueError("an account whose key is not P-256")
    return Account(directory, _optional(eab), key, _optional(url), _optional(email))


def _optional(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r:.20} where a text stands")
    return value
