"""Which account orders are placed with: the one that is kept, or one made now."""

from __future__ import annotations

import threading
from collections import defaultdict

import attrs
from acme import messages
from twisted.logger import Logger

from dwaarx.certs.acme.account import Account, AccountId, AccountStore
from dwaarx.certs.acme.answers import Directory
from dwaarx.certs.acme.network import Network, Signer
from dwaarx.certs.acme.problems import CaError
from dwaarx.config.model import AcmeCa, Eab

_log = Logger()


class Registrar:
    """Registers accounts, and keeps what a CA knows of them up to date; used by all threads."""

    def __init__(self, store: AccountStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._locks: dict[AccountId, threading.Lock] = defaultdict(threading.Lock)
        # E-mail addresses that a CA does not take: told once, not for each certificate.
        self._refused: set[tuple[AccountId, str | None]] = set()

    def account(
        self,
        ca: AcmeCa,
        email: str | None,
        directory: Directory,
        network: Network,
        unknown: str | None = None,
    ) -> Account:
        """Return the account to use with a CA, which knows it; raises CaError.

        `unknown` is an account's URL that the CA says it does not know: the account is then
        registered again, unless another thread has done so meanwhile.
        """
        new = Account.new(ca)
        with self._lock:
            lock = self._locks[new.id]
        # At the most two requests long; without it, a start with many names would register as
        # many accounts.
        with lock:
            account = self._store.get(ca)
            if account is None:
                # Kept before it is used: an external account may be bound to one key only.
                account = new
                self._store.put(account)
            if account.url is None or account.url == unknown:
                account = self._register(account, ca.eab, email, directory, network)
            if account.email == email or (account.id, email) in self._refused:
                return account
            try:
                return self._update(account, email, directory, network)
            except CaError as error:
                if error.code != "accountDoesNotExist":
                    raise
                return self._register(account, ca.eab, email, directory, network)

    def _register(
        self,
        account: Account,
        eab: Eab | None,
        email: str | None,
        directory: Directory,
        network: Network,
    ) -> Account:
        message = messages.NewRegistration(
            contact=_contact(email),
            terms_of_service_agreed=True,
            external_account_binding=_binding(account, eab, directory) if eab else None,
        )
        reply = network.post(
            directory.new_account, message, Signer(account.jwk), directory.new_nonce
        )
        # 200 is for a key that the CA knows, and then it does not look at the rest.
        email = email if reply.status == 201 else None
        account = attrs.evolve(account, url=reply.location(), email=email)
        self._store.put(account)
        _log.info("ACME account {url} with {ca}", url=account.url, ca=account.directory)
        return account

    def _update(
        self, account: Account, email: str | None, directory: Directory, network: Network
    ) -> Account:
        """Tell the CA another e-mail address; one that it does not take stops no certificate."""
        signer = Signer(account.jwk, account.url)
        message = messages.UpdateRegistration(contact=_contact(email))
        try:
            network.post(account.url or "", message, signer, directory.new_nonce)
        except CaError as error:
            if not error.rejected or error.code == "accountDoesNotExist":
                raise
            self._refused.add((account.id, email))
            _log.warn(
                "{ca} does not take the e-mail address {email}: {reason}",
                ca=account.directory,
                email=email,
                reason=error.reason,
            )
            return account
        account = attrs.evolve(account, email=email)
        self._store.put(account)
        return account


def _contact(email: str | None) -> tuple[str, ...]:
    return (f"mailto:{email}",) if email is not None else ()


def _binding(account: Account, eab: Eab, directory: Directory) -> dict[str, object]:
    endpoints = messages.Directory({"newAccount": directory.new_account})
    try:
        return messages.ExternalAccountBinding.from_data(
            account.jwk.public_key(), eab.key_id, eab.mac_key.rstrip("="), endpoints
        )
    except ValueError as error:
        raise CaError("the MAC key of eab is no base64url", rejected=True) from error
