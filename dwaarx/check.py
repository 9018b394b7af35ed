"""What `dwaarx check` finds beyond what is read: what does not go together, and files."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import ocsp

from dwaarx.certs.errors import CertificateError, OcspError
from dwaarx.certs.files import MAX_STAPLE, read_staple
from dwaarx.certs.pair import KeyPair, load_pair
from dwaarx.certs.storage import read_file
from dwaarx.config.errors import Problem
from dwaarx.config.model import (
    AcmeCa,
    AcmeSettings,
    AutomaticCertificates,
    CertificateFiles,
    Config,
    ConsoleSsh,
    Location,
    Resolvers,
    Site,
)
from dwaarx.dns.errors import ResolversError
from dwaarx.dns.records import compile_records
from dwaarx.plan import PlanError, make_plan
from dwaarx.words import reason_of, utc


def check(config: Config, now: datetime | None = None) -> tuple[list[Problem], list[Problem]]:
    """Return the errors and the warnings of a Dwaarfile that could be read; `now` is in UTC.

    With an error the service does not start, or does not do what is written; with a warning it
    starts and does it.
    """
    checker = _Checker(now or datetime.now(UTC))
    try:
        make_plan(config)
    except PlanError as error:
        checker.errors.extend(error.problems)
    checker.warnings.extend(config.warnings)
    for ca in config.acme_cas:
        checker.acme_ca(ca)
    for site in config.sites:
        checker.site(site)
    for block in config.resolvers:
        checker.records(block)
    if isinstance(config.console, ConsoleSsh):
        checker.authorized_keys(config.console)
    return checker.errors, checker.warnings


class _Checker:
    def __init__(self, now: datetime) -> None:
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self._now = now
        # Files that several sites name are looked at, and complained about, once.
        self._pairs: dict[CertificateFiles, KeyPair | None] = {}
        self._settings: set[int] = set()
        self._open: set[str] = set()

    def site(self, site: Site) -> None:
        if isinstance(site.certificate, AutomaticCertificates):
            self._acme(site.certificate.acme)
        if not isinstance(site.certificate, tuple):
            return
        hosts = [address.host for address in site.addresses if address.tls and address.host]
        types: dict[str, Path] = {}
        for files in site.certificate:
            place = _place(files.location)
            if files not in self._pairs:
                self._pairs[files] = self._pair(files, place)
            pair = self._pairs[files]
            if pair is None:
                continue
            for host in hosts:
                if not covers(pair.names, host):
                    message = f"{files.certificate} is not a certificate for {host}"
                    self._warn(place, message)
            other = types.setdefault(pair.key_type, files.certificate)
            if other != files.certificate:
                message = (
                    f"the keys of {other} and {files.certificate} are both {pair.key_type}: "
                    "certificates side by side have keys of different types"
                )
                self.errors.append(Problem(place, message))

    def acme_ca(self, ca: AcmeCa) -> None:
        if ca.eab is not None:
            self._secret(ca.eab.location)
        if ca.bundle is None:
            return
        place = _place(ca.location)
        try:
            usable = _is_bundle(ca.bundle)
        except OSError as error:
            message = f"{ca.bundle}: cannot be read: {reason_of(error)}"
            self.errors.append(Problem(place, message))
            return
        if not usable:
            self.errors.append(Problem(place, f"{ca.bundle}: holds no PEM certificate"))

    def _acme(self, settings: AcmeSettings) -> None:
        # Sites with the same settings share the object.
        if id(settings) not in self._settings:
            self._settings.add(id(settings))
            if settings.dns is not None:
                self._secret(settings.dns.location)

    def _secret(self, place: Location | None) -> None:
        """Warn of a secret whose file every user can read, once for each file."""
        if place is None or place.file in self._open:
            return
        for message in _open_to_all(Path(place.file)):
            self._open.add(place.file)
            self._warn(place, f"every user can read this secret: {message}")

    def records(self, block: Resolvers) -> None:
        try:
            compile_records(block.records)
        except ResolversError as error:
            self.errors.append(Problem(_place(block.location), str(error)))

    def authorized_keys(self, console: ConsoleSsh) -> None:
        place = _place(console.location)
        try:
            data = read_file(console.authorized_keys)
        except OSError as error:
            message = f"{console.authorized_keys}: cannot be read: {reason_of(error)}"
            self.errors.append(Problem(place, message))
        else:
            lines = (line.strip() for line in data.splitlines())
            if not any(line and not line.startswith(b"#") for line in lines):
                self._warn(place, f"{console.authorized_keys} holds no key: nobody can log in")

    def _pair(self, files: CertificateFiles, place: Location) -> KeyPair | None:
        pair: KeyPair | None = None
        try:
            pair = load_pair(files.certificate, files.key)
        except CertificateError as error:
            self.errors.append(Problem(place, str(error)))
        else:
            for message in (*self._dates(files, pair), *_key_mode(files.key)):
                self._warn(place, message)
        self._staple(files, pair, _place(files.ocsp_location or files.location))
        return pair

    def _dates(self, files: CertificateFiles, pair: KeyPair) -> Iterator[str]:
        certificate = pair.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if end < self._now:
            yield f"{files.certificate} expired at {utc(end)}"
        if begin > self._now:
            yield f"{files.certificate} is not valid before {utc(begin)}"
        if pair.issuer is None and certificate.issuer != certificate.subject:
            yield (
                f"{files.certificate} does not hold its issuer's certificate: append it, for "
                "clients and staples need it"
            )

    def _staple(self, files: CertificateFiles, pair: KeyPair | None, place: Location) -> None:
        if files.ocsp is not None:
            try:
                data = read_file(files.ocsp, MAX_STAPLE)
            except OSError as error:
                message = f"{files.ocsp}: cannot be read: {reason_of(error)}"
                self.errors.append(Problem(place, message))
                return
            if data:
                try:
                    ocsp.load_der_ocsp_response(data)
                except ValueError:
                    message = f"{files.ocsp} is not an OCSP response in DER"
                    self.errors.append(Problem(place, message))
                    return
        if pair is None or not (files.ocsp or pair.must_staple):
            return
        try:
            read_staple(files, pair, self._now)
        except OcspError as error:
            effect = "nothing is stapled"
            if pair.must_staple:
                effect = "clients refuse this must-staple certificate without one"
            self._warn(place, f"{error.reason}; {effect}")

    def _warn(self, place: Location, message: str) -> None:
        self.warnings.append(Problem(place, message))


def covers(names: Iterable[str], host: str) -> bool:
    """Whether a certificate with these names is one for the host of a site (RFC 6125 6.4.3)."""
    known = {name.lower() for name in names}
    if host in known:
        return True
    parent = host.partition(".")[2]
    return bool(parent) and not host.startswith("*.") and f"*.{parent}" in known


def _is_bundle(file: Path) -> bool:
    """Whether a file is one of certificates in PEM; raises OSError if it cannot be read."""
    if not read_file(file):
        return False
    try:
        # As it is read when it is used: what else stands in the file is no matter.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        return False
    return True


def _key_mode(key: Path) -> Iterator[str]:
    for message in _open_to_all(key):
        yield f"every user can read the key {key}: {message}"


def _open_to_all(file: Path) -> Iterator[str]:
    """Yield what to do about a file that every user can read."""
    try:
        mode = file.stat().st_mode
    except OSError:
        # It has just been read; if it is gone now, the next reload says so.
        return
    # A group may be meant to read it, such as Debian's ssl-cert.
    if mode & stat.S_IROTH:
        yield f"chmod o-rwx {file}"


def _place(location: Location | None) -> Location:
    assert location is not None, "what a Dwaarfile says has a place"
    return location
