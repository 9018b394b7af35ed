"""The local CA behind `tls internal`: a root trusted by hand, an intermediate, and its leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.logger import Logger

from dwaarx.certs import minting, ocsp_sign, schedule
from dwaarx.certs.errors import CertificateError, OcspError, Refusal
from dwaarx.certs.matching import PARSE_ERRORS, issued_by, keys_match
from dwaarx.certs.pair import KeyPair, load_certificates, load_key, load_pair
from dwaarx.certs.storage import Storage, read_file
from dwaarx.tls.policy import PrivateKey
from dwaarx.words import reason_of, utc

_log = Logger()

_ROOT = "internal/root.pem"
_FORMER_ROOT = "internal/root.old.pem"
_ROOT_CERTIFICATE = "internal/root.crt"
_INTERMEDIATE = "internal/intermediate.pem"

# Who has taken the root's key away is told each day that it is wanted, not at each look.
_REMINDER = timedelta(days=1)

# How much of what could not be written is tried again with the next leaf: each waits for the
# disk, and the service with it.
_LATE_WRITES = 10


@attrs.frozen
class Root:
    """The root, with its key unless that is kept elsewhere."""

    certificate: x509.Certificate
    key: PrivateKey | None

    @property
    def takes_intermediates(self) -> bool:
        """Whether a CA may stand between it and a leaf; not so with a path length of 0."""
        extension = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        return extension.value.path_length != 0

    def pem(self) -> bytes:
        """Return what `internal/root.pem` holds."""
        if self.key is None:
            return self.certificate.public_bytes(Encoding.PEM)
        return KeyPair(self.certificate, (), self.key).pem()


class InternalCA:
    """Issues certificates from an intermediate below a root; both are kept in the storage.

    The root is `internal/root.pem` (key and certificate in one file, 0600), the intermediate
    `internal/intermediate.pem`; the root's certificate alone is `internal/root.crt` (0644), for
    clients. They are read, or made, when first needed. A damaged root is never overwritten, and
    one that cannot be written is not used, because people trust it by hand. A root without its
    key will do for as long as the intermediate lives. A root of path length 0, which cannot be
    one made here, issues leaves itself.
    """

    def __init__(self, storage: Storage, now: Callable[[], datetime]) -> None:
        self._storage = storage
        self._now = now
        self._root: Root | None = None
        self._intermediate: KeyPair | None = None
        # What could not be written, by its name in the storage, and what was said of each name.
        self._unwritten: dict[str, KeyPair] = {}
        # The names in the storage of leaves that are not to be taken again.
        self._forgotten: set[str] = set()
        self._told: dict[str, str] = {}
        self._reminded: datetime | None = None
        self._retry_root: datetime | None = None

    @property
    def root_path(self) -> Path:
        """The PEM file of the root's certificate, which clients are to trust."""
        return self._storage.path(_ROOT_CERTIFICATE)

    def root(self) -> Root:
        """Return the root, made anew if there is none or it ends soon; raises CertificateError."""
        if self._root is None:
            self._root = self._load_root()
        if self._now() >= schedule.root_renewal(self._root.certificate.not_valid_after_utc):
            self._root = self._successor(self._root)
        return self._root

    def issuer(self) -> KeyPair:
        """Return what signs leaves and staples now: the intermediate, made anew if it is due.

        Raises CertificateError.
        """
        root = self.root()
        if not root.takes_intermediates:
            return self._as_issuer(root)
        present = self._intermediate
        if present is None or self._out_of_date(present) is not None:
            present = self._load_intermediate(root)
        if present is None or self._is_due(present, root):
            present = self._make_intermediate(root, present)
        self._intermediate = present
        return present

    def reload_root(self) -> None:
        """Read root and intermediate again; raises CertificateError, and then keeps the present."""
        former = self._root, self._intermediate
        try:
            self._root, self._intermediate = self._load_root(), None
            self.issuer()
        except CertificateError:
            self._root, self._intermediate = former
            raise

    # --- the leaves ---------------------------------------------------------

    def path_name(self, names: Sequence[str]) -> str:
        """Return the name in the storage of the file that keeps the leaf of these names."""
        return f"certificates/{minting.file_name(names)}"

    def load(self, names: Sequence[str]) -> KeyPair | None:
        """Return the leaf that is kept for these names; None if a new one is due.

        Raises CertificateError if root or intermediate cannot be used.
        """
        name = self.path_name(names)
        if name in self._forgotten:
            return None
        pair = self._unwritten.get(name) or self._load_leaf(name)
        return pair if pair is not None and self.is_fresh(pair, names) else None

    def issue(self, names: Sequence[str]) -> KeyPair:
        """Return a pair for these DNS names, wildcards and IP literals; its chain is the issuer.

        The one that is kept is taken again if it is fresh; else a new one is made and kept: in
        memory with a warning if it cannot be written. Raises CertificateError.
        """
        self._write_late()
        kept = self.load(names)
        if kept is not None:
            return kept
        issuer, name = self.issuer(), self.path_name(names)
        try:
            pair = minting.make_leaf(names, issuer, self._now())
        except ValueError as error:
            path = self._storage.path(name)
            raise CertificateError(path, f"cannot be made for these names: {error}") from error
        self._keep(name, pair)
        return pair

    def forget(self, names: Sequence[str]) -> None:
        """Let the next leaf for these names be a new one; raises CertificateError."""
        name = self.path_name(names)
        self._unwritten.pop(name, None)
        try:
            self._storage.remove(name)
        except OSError as error:
            path = self._storage.path(name)
            raise CertificateError(path, f"cannot be removed: {reason_of(error)}") from error

    def is_fresh(self, pair: KeyPair, names: Sequence[str]) -> bool:
        """Whether a pair fits the names and the present issuer, and is not due for renewal.

        Raises CertificateError if root or intermediate cannot be used.
        """
        certificate = pair.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return (
            sorted(pair.names) == sorted(minting.normal(name) for name in names)
            and pair.issuer == self.issuer().certificate
            and begin <= self._now() < schedule.leaf_renewal(begin, end)
        )

    def sign_staple(self, pair: KeyPair) -> bytes:
        """Sign an OCSP response for a leaf of the present issuer; raises OcspError."""
        try:
            issuer = self.issuer()
        except CertificateError as error:
            raise OcspError(Refusal.SIGNER, f"nobody can sign: {error}") from error
        return ocsp_sign.generate(
            pair.certificate, issuer.certificate, issuer.key, self._now(), schedule.STAPLE_VALIDITY
        )

    def _load_leaf(self, name: str) -> KeyPair | None:
        path = self._storage.path(name)
        if not _exists(path):
            return None
        try:
            return load_pair(path, path)
        except CertificateError as error:
            self._tell(name, f"an internal certificate is damaged, a new one is made: {error}")
            return None

    # --- the root -----------------------------------------------------------

    def _load_root(self) -> Root:
        path = self._storage.path(_ROOT)
        if not _exists(path):
            return self._make_root()
        advice = (
            "restore the file from a backup; or remove it, then a new root is made, "
            "which clients have to be told to trust"
        )
        try:
            certificate = load_certificates(path)[0]
            key = load_key(path) if b"PRIVATE KEY-----" in read_file(path) else None
        except CertificateError as error:
            raise CertificateError(
                path, f"the internal root is damaged: {error.reason}; {advice}"
            ) from error
        except OSError as error:
            raise CertificateError(path, f"cannot be read: {reason_of(error)}") from error
        if not (_is_ca(certificate) and issued_by(certificate, certificate)):
            raise CertificateError(path, f"holds no self-signed CA certificate; {advice}")
        if key is not None and not keys_match(key, certificate):
            raise CertificateError(
                path, f"the internal root is damaged: its key is not the certificate's; {advice}"
            )
        root = Root(certificate, key)
        self._publish(root)
        return root

    def _make_root(self) -> Root:
        made = minting.make_root(self._now())
        root = Root(made.certificate, made.key)
        self._write(_ROOT, root.pem(), 0o600)
        self._publish(root)
        _log.info(
            "made a new internal root; clients have to trust {path}", path=str(self.root_path)
        )
        return root

    def _successor(self, root: Root) -> Root:
        """Make a new root in place of one that ends soon; that one, for as long as it fails."""
        ends = root.certificate.not_valid_after_utc
        if root.key is None:
            # Whoever took the key away does not want one here that he knows nothing of.
            self._remind(
                f"the internal root ends at {utc(ends)}, and its key is not here: put another "
                f"root in the place of {self._storage.path(_ROOT)}, or remove it to have one made"
            )
            return root
        now = self._now()
        if now < ends and self._retry_root is not None and now < self._retry_root:
            return root
        _log.warn(
            "the internal root ends at {ends}, so a new one is made: "
            "clients must be given the new {path}",
            ends=utc(ends),
            path=str(self.root_path),
        )
        try:
            # Should it be someone's own, its key is not lost.
            self._write(_FORMER_ROOT, root.pem(), 0o600)
            made = self._make_root()
        except CertificateError as error:
            if now >= ends:
                raise
            _log.error("the internal root stays for now: {reason}", reason=str(error))
            self._retry_root = now + schedule.RETRY
            return root
        self._intermediate = self._retry_root = None
        return made

    def _publish(self, root: Root) -> None:
        """See that root.crt holds the root's certificate."""
        data = root.certificate.public_bytes(Encoding.PEM)
        try:
            if self._storage.read(_ROOT_CERTIFICATE) == data:
                return
        except OSError:
            pass  # missing or unreadable: written again below, which says what is wrong
        try:
            self._write(_ROOT_CERTIFICATE, data, 0o644)
        except CertificateError as error:
            self._tell(_ROOT_CERTIFICATE, str(error))

    # --- the intermediate ---------------------------------------------------

    def _as_issuer(self, root: Root) -> KeyPair:
        if root.key is None:
            raise CertificateError(
                self._storage.path(_ROOT),
                "holds no key, and a root of path length 0 must sign the leaves itself",
            )
        return KeyPair(root.certificate, (), root.key)

    def _load_intermediate(self, root: Root) -> KeyPair | None:
        """Return the one that is kept; None if there is none, or it is of no use.

        Raises CertificateError if it is of no use and no other can be made.
        """
        path = self._storage.path(_INTERMEDIATE)
        pair = self._unwritten.get(_INTERMEDIATE)
        try:
            if pair is None:
                pair = load_pair(path, path) if _exists(path) else None
            flaw = None if pair is None else self._flaw(pair, root)
        except CertificateError as error:
            flaw = error.reason
        if flaw is None:
            return pair
        if root.key is not None:
            self._tell(_INTERMEDIATE, f"a new internal intermediate is made: {path}: {flaw}")
            return None
        raise CertificateError(path, f"{flaw}; {self._want_of_key()}")

    def _flaw(self, pair: KeyPair, root: Root) -> str | None:
        """Say why an intermediate cannot issue now; None if it can."""
        certificate = pair.certificate
        if certificate == root.certificate or not issued_by(certificate, root.certificate):
            return "was not issued by the present root"
        if not _is_ca(certificate):
            return "holds no CA certificate"
        return self._out_of_date(pair)

    def _out_of_date(self, pair: KeyPair) -> str | None:
        begin, end = pair.certificate.not_valid_before_utc, pair.certificate.not_valid_after_utc
        if self._now() >= end:
            return f"expired at {utc(end)}"
        if self._now() < begin:
            return f"is not valid before {utc(begin)}"
        return None

    def _is_due(self, pair: KeyPair, root: Root) -> bool:
        """Whether a third of its life is left, unless another could not live any longer."""
        begin, end = pair.certificate.not_valid_before_utc, pair.certificate.not_valid_after_utc
        return (
            self._now() >= schedule.leaf_renewal(begin, end)
            and end < root.certificate.not_valid_after_utc
        )

    def _make_intermediate(self, root: Root, former: KeyPair | None) -> KeyPair:
        if root.key is None:
            if former is None:
                path = self._storage.path(_INTERMEDIATE)
                raise CertificateError(path, f"is missing; {self._want_of_key()}")
            ends = utc(former.certificate.not_valid_after_utc)
            self._remind(f"the internal intermediate ends at {ends}; {self._want_of_key()}")
            return former
        pair = minting.make_intermediate(root.certificate, root.key, self._now())
        self._keep(_INTERMEDIATE, pair)
        _log.info(
            "made a new internal intermediate, good until {end}",
            end=utc(pair.certificate.not_valid_after_utc),
        )
        return pair

    def _want_of_key(self) -> str:
        path = self._storage.path(_ROOT)
        return f"to make another, put the root's key back into {path} and reload"

    # --- the disk -----------------------------------------------------------

    def _write(self, name: str, data: bytes, mode: int) -> None:
        try:
            self._storage.write(name, data, mode)
        except OSError as error:
            raise CertificateError(
                self._storage.path(name), f"cannot be written: {reason_of(error)}"
            ) from error
        self._told.pop(name, None)

    def _keep(self, name: str, pair: KeyPair) -> None:
        """Write a pair; or hold it in memory, where it serves as well until the next start."""
        try:
            self._write(name, pair.pem(), 0o600)
        except CertificateError as error:
            self._unwritten[name] = pair
            self._tell(name, f"kept in memory only: {error}")
        else:
            self._unwritten.pop(name, None)

    def _write_late(self) -> None:
        """Write some of what could not be written before, until that fails again."""
        for name, pair in list(islice(self._unwritten.items(), _LATE_WRITES)):
            self._keep(name, pair)
            if name in self._unwritten:
                return

    def _tell(self, name: str, text: str) -> None:
        """Warn of a file, once for as long as the same is wrong with it."""
        if self._told.get(name) != text:
            self._told[name] = text
            _log.warn("{text}", text=text, path=str(self._storage.path(name)))

    def _remind(self, text: str) -> None:
        now = self._now()
        if self._reminded is None or now >= self._reminded + _REMINDER:
            self._reminded = now
            _log.warn("{text}", text=text)


def _exists(path: Path) -> bool:
    """Whether there is such a file; raises CertificateError if that cannot be known."""
    try:
        return path.exists()
    except OSError as error:
        raise CertificateError(path, f"cannot be read: {reason_of(error)}") from error


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, *PARSE_ERRORS):
        return False
    return constraints.value.ca
