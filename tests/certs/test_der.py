from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dwaarx.certs.der import (
    elements,
    has_unknown_critical_entry,
    singles_with_critical_extensions,
    why_not_one_sequence,
)
from tests.certs.pki import extension, tlv


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 70000])
def test_elements_of_every_length(length):
    body = b"x" * length
    assert list(elements(tlv(0x04, body) + tlv(0x30, b""))) == [(0x04, body), (0x30, b"")]


@pytest.mark.parametrize(
    "data",
    ["04", "0402ff", "0480", "048100ff0482", "0485000000000100", "1f0100"],
)
def test_what_is_no_element(data):
    with pytest.raises(ValueError, match=r"cut off|no valid length|several bytes"):
        list(elements(bytes.fromhex(data)))


@pytest.mark.parametrize("data", [b"", tlv(0x30), tlv(0x30, tlv(2, b"\0")), tlv(0x31, tlv(4) * 3)])
def test_what_is_no_response_data(data):
    with pytest.raises(ValueError, match=r"not built|not enough"):
        singles_with_critical_extensions(data)


@given(st.binary(max_size=60))
def test_only_value_errors_escape(data):
    with contextlib.suppress(ValueError):
        singles_with_critical_extensions(tlv(0x30, tlv(4), tlv(4), tlv(0x30, data)))
    with contextlib.suppress(ValueError):
        singles_with_critical_extensions(data)


# --- one SEQUENCE and nothing else ------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 70000])
def test_one_sequence_of_every_length(length):
    whole = tlv(0x30, b"x" * length)
    assert why_not_one_sequence(whole) is None
    assert why_not_one_sequence(whole + b"\0\0\0") == (
        "is followed by bytes that are no part of it (3 of them)"
    )
    for cut in {1, 2, 3, len(whole) - 1} - {len(whole)}:
        if cut < len(whole):
            assert why_not_one_sequence(whole[:cut]) == f"is cut off after {cut} bytes"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n <html>", "looks like a page of HTML or XML"),
        (b"\xef\xbb\xbf<?xml", "looks like a page of HTML or XML"),
        (b"-----BEGIN OCSP", "is PEM"),
        (b"Bad Gateway\r\n", "is text"),
        (b"\x00\x30", "begins with the byte 0x00"),
        (b"\x1f\x8b\x08", "begins with the byte 0x1f"),
        (b"\x30\x80\x00\x00", "has no definite length"),
        (b"\x30\xff", "is cut off after 2 bytes"),
    ],
)
def test_what_is_no_sequence(data, reason):
    assert why_not_one_sequence(data) == reason


@given(st.binary(max_size=40))
def test_any_bytes_are_told_what_they_are(data):
    reason = why_not_one_sequence(data)
    assert reason is None or reason.startswith(("is ", "looks ", "begins ", "has "))


# --- entries of CRLs --------------------------------------------------------

REASON = bytes.fromhex("551d15")
ODD = bytes.fromhex("2a0304")
HEAD = (tlv(0x30), tlv(0x30), tlv(0x17))
FULL = (tlv(2, b"\1"), *HEAD, tlv(0x17))


def of_entries(*entries: bytes, head=FULL) -> bytes:
    own = tlv(0xA0, tlv(0x30, extension(ODD, b"", critical=True)))
    return tlv(0x30, tlv(0x30, *head, tlv(0x30, *entries), own), tlv(0x30), tlv(0x03))


def entry(*extensions: bytes) -> bytes:
    return tlv(0x30, tlv(2, b"\5"), tlv(0x17), tlv(0x30, *extensions) if extensions else b"")


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([], False),
        ([entry()], False),
        ([entry(extension(ODD, b"", critical=False))], False),
        ([entry(extension(REASON, b"", critical=True))], False),
        ([entry(extension(ODD, b"", critical=True))], True),
        ([entry(extension(REASON, b"", critical=True), extension(ODD, b"", critical=True))], True),
        ([entry(extension(ODD, b"\1\1\xff\4", critical=False)), entry()], False),
    ],
)
@pytest.mark.parametrize("head", [FULL, (tlv(2, b"\1"), *HEAD), HEAD])
def test_critical_extensions_of_entries(entries, found, head):
    assert has_unknown_critical_entry(of_entries(*entries, head=head), {REASON}) is found


def test_a_list_without_entries():
    data = tlv(0x30, tlv(0x30, *FULL, tlv(0xA0, tlv(0x30))))
    assert not has_unknown_critical_entry(data, {REASON})


@example(b"\x00\x03")  # an extension of a single element
@given(st.binary(max_size=60))
def test_only_value_errors_escape_from_entries(data):
    for each in (data, of_entries(data), of_entries(entry(data + b"\1\1\xff\4"))):
        with contextlib.suppress(ValueError):
            has_unknown_critical_entry(each, {REASON})
