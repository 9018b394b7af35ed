from __future__ import annotations

import pytest

from dwaarx.certs.status import _serial


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "00"),
        (1, "01"),
        (0x7F, "7f"),
        (0x80, "80"),
        (0x123, "0123"),
        (1 << 152, "01" + "00" * 19),
    ],
)
def test_serials_are_written_in_whole_bytes(number: int, text: str) -> None:
    assert _serial(number) == text
