"""Who may log in to the console over SSH, and the key by which the service proves itself."""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.checkers import IAuthorizedKeysDB, SSHPublicKeyChecker
from twisted.conch.error import ValidPublicKey
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.keys import FingerprintFormats, Key
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.certs.storage import Storage, read_file
from dwaarx.console.errors import ConsoleError
from dwaarx.console.evaluate import Attempt
from dwaarx.words import reason_of

_log = Logger()

HOST_KEY = "console/ssh_host_ed25519"

# What a client may sign with.
SIGNATURES = (
    b"ssh-ed25519",
    b"sk-ssh-ed25519@openssh.com",
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"sk-ecdsa-sha2-nistp256@openssh.com",
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)


def read_authorized_keys(path: Path) -> tuple[list[Key], list[str]]:
    """Read an authorized_keys file: its keys, and what is wrong with the other lines.

    Raises ConsoleError if the file as a whole cannot be used.
    """
    try:
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConsoleError(f"{path}: others than its owner may write it")
        data = read_file(path)
    except OSError as error:
        raise ConsoleError(f"{path}: cannot be read: {reason_of(error)}") from error
    keys: list[Key] = []
    problems: list[str] = []
    for number, raw in enumerate(data.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        with Attempt() as attempt:
            keys.append(_parse_key(line))
        if attempt.error is not None:
            problems.append(f"{path}:{number}: expected a public key without options before it")
    return keys, problems


def _parse_key(line: bytes) -> Key:
    kind, blob = line.split(None, 2)[:2]
    base64.b64decode(blob, validate=True)
    key: Key = Key.fromString(kind + b" " + blob, "public_openssh")
    if not key.isPublic() or not key.sshType() == kind:
        raise ValueError("not what its first word says")
    return key


@implementer(IAuthorizedKeysDB)
class AuthorizedKeys:
    """The keys of a file, read again at each login, so that taking one out works at once."""

    def __init__(self, path: Path) -> None:
        """Raises ConsoleError, at the start, for whatever is wrong with the file."""
        self._path = path
        keys, problems = read_authorized_keys(path)
        if problems:
            raise ConsoleError("\n".join(problems))
        if not keys:
            raise ConsoleError(f"{path}: holds no key, so nobody could log in")

    def getAuthorizedKeys(self, avatarId: bytes) -> list[Key]:
        """Give the keys; the name that a client logs in by does not matter."""
        try:
            keys, problems = read_authorized_keys(self._path)
        except ConsoleError as error:
            _log.error("console: nobody can log in: {error}", error=str(error))
            return []
        for problem in problems:
            _log.warn("console: {problem}", problem=problem)
        return keys


def host_key(storage: Storage) -> Key:
    """Read the host key, or make it the first time; raises ConsoleError."""
    path = storage.path(HOST_KEY)
    try:
        data = storage.read(HOST_KEY)
    except FileNotFoundError:
        made = Key(Ed25519PrivateKey.generate())
        try:
            storage.write(HOST_KEY, made.toString("openssh"))
        except OSError as error:
            raise ConsoleError(f"{path}: cannot be written: {reason_of(error)}") from error
        return made
    except OSError as error:
        raise ConsoleError(f"{path}: cannot be read: {reason_of(error)}") from error
    with Attempt():
        key: Key = Key.fromString(data, "private_openssh")
        if key.sshType() == b"ssh-ed25519":
            return key
    raise ConsoleError(f"{path}: is no Ed25519 key: take it away, and a new one is made")


def fingerprint(key: Key) -> str:
    """Give a key's fingerprint as ssh shows it."""
    return f"SHA256:{key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip('=')}"


class Checker(SSHPublicKeyChecker):
    """Lets in whoever proves to have one of the keys; anything else is just a refusal."""

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes]:
        """Check a key and its signature."""
        deferred: Deferred[bytes] = SSHPublicKeyChecker.requestAvatarId(self, credentials)
        deferred.addCallback(self._check_algorithm, credentials.signature)
        return deferred.addErrback(self._refuse)

    def _check_algorithm(self, name: bytes, signature: bytes) -> bytes:
        # Conch would take SHA-1 from RSA keys, and DSA.
        if getNS(signature)[0] not in SIGNATURES:
            raise UnauthorizedLogin("signed by an algorithm that is not trusted any more")
        return name

    def _refuse(self, failure: Failure) -> Failure:
        # ValidPublicKey asks the client for the signature. A blob that is no key raises
        # whatever the parser raises: that must not fill the log with tracebacks.
        if failure.check(ValidPublicKey, UnauthorizedLogin):
            return failure
        return Failure(UnauthorizedLogin("not a key"))
