"""Where certificates by ACME lie in the storage, and what is known about them."""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography import x509

from dwaarx.certs.errors import CertificateError, CertificateErrors
from dwaarx.certs.overlay import Overlay
from dwaarx.certs.pair import KeyPair, parse_pair
from dwaarx.words import reason_of

# Names have up to 253 characters, and file systems take 255 bytes, with all that is appended.
_LONGEST = 200


def file_name(name: str) -> str:
    """Return where the certificate of a name is kept."""
    return f"certificates/{_base(name)}.pem"


def pending_name(name: str) -> str:
    """Return where a certificate waits for its staple."""
    return f"pending/{_base(name)}.pem"


def information_name(name: str) -> str:
    """Return where it is kept what a CA says of a certificate."""
    return f"acme/renewal/{_base(name)}.json"


def pending_information_name(name: str) -> str:
    """Return the same for the certificate that waits for its staple."""
    return f"pending/{_base(name)}.json"


def read(overlay: Overlay, file: str, name: str) -> KeyPair | None:
    """Read a pair for a name; None if there is no such file. Raises CertificateErrors."""
    path = overlay.storage.path(file)
    try:
        pair = parse_pair(overlay.read(file), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"cannot be read: {reason_of(error)}"
        raise CertificateErrors([CertificateError(path, message)]) from error
    except CertificateError as error:
        raise CertificateErrors([error]) from error
    if name not in (each.lower() for each in pair.names):
        message = f"is not a certificate for {name}"
        raise CertificateErrors([CertificateError(path, message)])
    return pair


def set_aside(overlay: Overlay, name: str, serial: int, now: datetime) -> str:
    """Give the file of a revoked certificate a name that nothing looks for after a restart.

    Returns that name; "" if the file is not there, or holds another certificate by now.
    """
    file = file_name(name)
    if not overlay.exists(file):
        return ""
    try:
        pair = read(overlay, file, name)
    except CertificateErrors:
        pair = None  # nothing to be kept in use
    if pair is not None and pair.certificate.serial_number != serial:
        return ""
    stem = f"{file.removesuffix('.pem')}.revoked-{now:%Y%m%dT%H%M%SZ}"
    aside = f"{stem}.pem"
    count = 1
    while overlay.exists(aside):  # a certificate that lived for less than a second
        count += 1
        aside = f"{stem}-{count}.pem"
    overlay.move(file, aside)
    return aside


def is_newer(certificate: x509.Certificate, other: x509.Certificate) -> bool:
    """Whether a certificate was made after another, or in the same second; not the same one."""
    return certificate != other and certificate.not_valid_before_utc >= other.not_valid_before_utc


def _base(name: str) -> str:
    # An asterisk in a file's name is a danger to whoever types it into a shell.
    base = name.replace("*", "wildcard_", 1)
    if len(base) <= _LONGEST:
        return base
    return f"{base[:100]}-{hashlib.sha256(name.encode()).hexdigest()}"
