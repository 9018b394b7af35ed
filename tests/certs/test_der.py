from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.certs.der import elements, singles_with_critical_extensions
from tests.certs.pki import tlv


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
