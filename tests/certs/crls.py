"""CRLs for tests, good and bad.

Made by hand: cryptography's builder is slow for many entries, and makes no bad ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509

from tests.certs import pki
from tests.certs.pki import BITS, DAY, ENUM, SEQUENCE, extension, time_of, tlv, utc_now


def entry(serial: int, *extensions: bytes, at: datetime | None = None) -> bytes:
    """An entry, a day old unless told otherwise."""
    since = time_of(at if at is not None else utc_now() - DAY)
    own = tlv(SEQUENCE, *extensions) if extensions else b""
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    return tlv(SEQUENCE, tlv(0x02, number), since, own)


def reason(number: int, *, critical: bool = False) -> bytes:
    """The entry extension reasonCode, with any number."""
    return extension(bytes.fromhex("551d15"), tlv(ENUM, bytes([number])), critical=critical)


def of_list(value: x509.ExtensionType, *, critical: bool) -> bytes:
    """An extension of a CRL, from one that cryptography can encode."""
    oid = bytes.fromhex(_EXTENSION_OIDS[value.oid.dotted_string])
    return extension(oid, value.public_bytes(), critical=critical)


_EXTENSION_OIDS = {
    "2.5.29.20": "551d14",  # CRLNumber
    "2.5.29.27": "551d1b",  # DeltaCRLIndicator
    "2.5.29.28": "551d1c",  # IssuingDistributionPoint
}


def make_crl(
    issuer: pki.Entity,
    entries: Sequence[bytes] = (),
    *,
    extensions: Sequence[bytes] = (),
    this_update: datetime | None = None,
    validity: timedelta | None = 3 * DAY,
    key: pki.PrivateKey | None = None,
    sha1: bool = False,
) -> bytes:
    """A CRL in DER. `key` signs in the issuer's place; sha1 is for RSA keys."""
    begin = this_update if this_update is not None else utc_now() - timedelta(hours=1)
    signer = key if key is not None else issuer.key
    algorithm, _ = pki.sign(b"", signer, sha1=sha1)
    signed = tlv(
        SEQUENCE,
        tlv(0x02, b"\x01"),
        algorithm,
        issuer.certificate.subject.public_bytes(),
        time_of(begin),
        time_of(begin + validity) if validity is not None else b"",
        tlv(SEQUENCE, *entries) if entries else b"",
        tlv(0xA0, tlv(SEQUENCE, *extensions)) if extensions else b"",
    )
    _, signature = pki.sign(signed, signer, sha1=sha1)
    return tlv(SEQUENCE, signed, algorithm, tlv(BITS, b"\x00", signature))
