"""The little DER that cryptography's parsers of OCSP responses and CRLs keep to themselves.

It shows a SingleResponse's extensions only if the response holds no other, while a responder
may put several certificates into one response; a CRL's entries it shows only as objects, of which
a large CRL would make hundreds of thousands; and of bytes that are neither it does not say what
they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

_SEQUENCE = 0x30
_BOOLEAN = 0x01
_INTEGER = 0x02
_OID = 0x06
_CONTEXT_0 = 0xA0
_CONTEXT_1 = 0xA1

# How every critical extension goes on after its OID: BOOLEAN TRUE, and the OCTET STRING's tag.
_CRITICAL = b"\x01\x01\xff\x04"


def why_not_one_sequence(data: bytes) -> str | None:
    """Say why the bytes are not one SEQUENCE and nothing else; None if they are.

    The answer goes on after "it …". What the SEQUENCE holds is not
    looked at.
    """
    if not data:
        return "is empty"
    if data[0] != _SEQUENCE:
        return _looks_like(data)
    header = 2
    length = data[1] if len(data) > 1 else 0
    if length == 0x80:
        return "has no definite length"
    if length & 0x80:
        header += length & 0x7F
        length = int.from_bytes(data[2:header], "big")
    missing = header + length - len(data)
    if missing > 0 or len(data) < header:
        return f"is cut off after {len(data)} bytes"
    if missing < 0:
        return f"is followed by bytes that are no part of it ({-missing} of them)"
    return None


def _looks_like(data: bytes) -> str:
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "looks like a page of HTML or XML"
    if start.startswith(b"-----BEGIN "):
        return "is PEM"
    if all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in start):
        return "is text"
    return f"begins with the byte {data[0]:#04x}"


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag byte and contents of each element; raises ValueError for what is no DER."""
    position = 0
    while position < len(data):
        if position + 2 > len(data):
            raise ValueError("an element is cut off")
        tag, length = data[position], data[position + 1]
        if tag & 0x1F == 0x1F:
            raise ValueError("tags of several bytes are no part of OCSP or CRLs")
        position += 2
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or position + count > len(data):
                raise ValueError("an element has no valid length")
            length = int.from_bytes(data[position : position + count], "big")
            position += count
        if position + length > len(data):
            raise ValueError("an element is cut off")
        yield tag, data[position : position + length]
        position += length


def singles_with_critical_extensions(response_data: bytes) -> list[bool]:
    """Tell for each SingleResponse, in order, whether one of its extensions is critical.

    `response_data` is the signed ResponseData (RFC 6960 section 4.2.1):
    [0] version, responderID, producedAt, SEQUENCE OF SingleResponse, [1] extensions.
    Raises ValueError if it is not built like that.
    """
    [(tag, contents)] = elements(response_data)
    parts = list(elements(contents))
    if parts and parts[0][0] == _CONTEXT_0:
        del parts[0]
    if tag != _SEQUENCE or len(parts) < 3 or parts[2][0] != _SEQUENCE:
        raise ValueError("the response data is not built as RFC 6960 says")
    return [_has_critical_extension(single) for _, single in elements(parts[2][1])]


def _has_critical_extension(single: bytes) -> bool:
    """SingleResponse: certID, certStatus, thisUpdate, [0] nextUpdate, [1] singleExtensions."""
    for tag, contents in list(elements(single))[3:]:
        if tag == _CONTEXT_1:
            [(_, extensions)] = elements(contents)
            return any(_is_critical(extension) for _, extension in elements(extensions))
    return False


def _is_critical(extension: bytes) -> bool:
    """Extension: OID, BOOLEAN critical DEFAULT FALSE, OCTET STRING."""
    parts = list(elements(extension))
    if len(parts) < 2:
        raise ValueError("an extension has no value")
    tag, contents = parts[1]
    return tag == _BOOLEAN and contents != b"\x00"


def has_unknown_critical_entry(crl: bytes, known: Collection[bytes]) -> bool:
    """Whether an entry of a CRL has a critical extension whose OID is not among the known.

    `crl` is a CertificateList (RFC 5280 section 5.1), whose first part is the TBSCertList:
    version, algorithm, issuer, thisUpdate, nextUpdate, SEQUENCE OF entries, [0] extensions;
    `known` are contents of OIDs. Only where a mere search of the bytes finds critical extensions
    are entries taken apart. Raises ValueError if it is not built like that.
    """
    [(_, contents)] = elements(crl)
    _, listed = next(elements(contents), (_SEQUENCE, b""))
    parts = list(elements(listed))
    if parts and parts[0][0] == _INTEGER:
        del parts[0]
    entries = next((each for tag, each in parts[3:] if tag == _SEQUENCE), b"")
    harmless = sum(entries.count(bytes((_OID, len(oid))) + oid + _CRITICAL) for oid in known)
    if entries.count(_CRITICAL) == harmless:
        return False
    return any(
        oid not in known and _is_critical(extension)
        for _, entry in elements(entries)
        if _CRITICAL in entry
        for extension, oid in _entry_extensions(entry)
    )


def _entry_extensions(entry: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Entry: serial number, revocationDate, SEQUENCE OF Extension; with the OID of each."""
    for _, extensions in list(elements(entry))[2:]:
        for _, extension in elements(extensions):
            (_, oid), *_ = elements(extension)
            yield extension, oid
