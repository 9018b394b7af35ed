"""The little DER that cryptography's OCSP parser keeps to itself.

It shows a SingleResponse's extensions only if the response holds no other, while a responder
may put several certificates into one response.
"""

from __future__ import annotations

from collections.abc import Iterator

_SEQUENCE = 0x30
_BOOLEAN = 0x01
_CONTEXT_0 = 0xA0
_CONTEXT_1 = 0xA1


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag byte and contents of each element; raises ValueError for what is no DER."""
    position = 0
    while position < len(data):
        if position + 2 > len(data):
            raise ValueError("an element is cut off")
        tag, length = data[position], data[position + 1]
        if tag & 0x1F == 0x1F:
            raise ValueError("tags of several bytes are not part of OCSP")
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
    tag, contents = list(elements(extension))[1]
    return tag == _BOOLEAN and contents != b"\x00"
