from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.tls.names import NameTable, normal_name

ENTRIES = [("a.example", 1), ("*.example", 2), ("*.a.example", 3), ("b.example", 4)]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("a.example", 1),
        ("b.example", 4),
        ("c.example", 2),
        ("x.a.example", 3),
        ("x.y.example", None),  # a wildcard stands for one label
        ("example", None),
        ("", None),
        (None, None),
        ("*.example", 2),
    ],
)
def test_exact_before_wildcard(name: str | None, entry: int | None) -> None:
    assert NameTable(ENTRIES).find(name) == entry


def test_default_is_the_first() -> None:
    assert NameTable(ENTRIES).default == 1


def test_default_is_the_catch_all_where_there_is_one() -> None:
    assert NameTable([*ENTRIES, ("", 9), ("", 10)]).default == 9


def test_the_first_entry_of_a_name_stands() -> None:
    assert NameTable([("a", 1), ("a", 2)]).find("a") == 1


def test_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an entry"):
        NameTable([])


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"Example.COM", "example.com"),
        (b"example.com.", "example.com"),
        (b"b\xc3\xbccher.example", None),
        (b"", None),
        (b".", None),
        (None, None),
    ],
)
def test_normal_name(raw: bytes | None, name: str | None) -> None:
    assert normal_name(raw) == name


@given(st.none() | st.binary(max_size=300))
def test_any_name_finds_something_and_raises_nothing(raw: bytes | None) -> None:
    table = NameTable(ENTRIES)
    found = table.find(normal_name(raw))
    assert (table.default if found is None else found) in (1, 2, 3, 4)
