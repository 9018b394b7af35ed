from datetime import UTC, datetime, timedelta, timezone

import pytest

from dwaarx.console.table import Report, Table


def test_columns_are_as_wide_as_their_widest_cell():
    table = Table(("name", "port"), [("a", 53), ("longer name", 8853)])
    assert repr(table).splitlines() == [
        "name         port",
        "a              53",
        "longer name  8853",
    ]


def test_without_rows_it_says_so():
    assert repr(Table(("name",), [])) == "(none)"
    assert Table(("name",), []).fit(80) == "(none)"


def test_rows_are_dicts_of_the_values_themselves():
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    table = Table(("names", "until"), [(("a", "b"), moment)])
    assert list(table) == [{"names": ("a", "b"), "until": moment}]
    assert table[0]["until"] is moment
    assert len(table) == 1
    assert table.columns == ("names", "until")


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="zip"):
        Table(("one", "two"), [(1,)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ((), "-"),
        ({}, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (1.5, "1.5"),
        (0.0, "0"),
        (("a", "b"), "a, b"),
        (frozenset({"a"}), "a"),
        ({"a": 1}, "a=1"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05 UTC"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02 01:00:00 UTC"),
        ("two\nlines", "two lines"),
    ],
)
def test_each_value_is_shown_in_one_line(value, text):
    assert repr(Table(("v",), [(value,)])).splitlines()[1].strip() == text


def test_a_table_that_is_too_wide_for_the_terminal_becomes_blocks():
    table = Table(("name", "why not"), [("a", "x" * 30), ("b", None)])
    assert table.fit(80) == repr(table)
    assert table.fit(20).splitlines() == [
        "name     a",
        f"why not  {'x' * 30}",
        "",
        "name     b",
        "why not  -",
    ]


def test_a_report_is_shown_without_quotes():
    assert repr(Report("two\nlines")) == "two\nlines"
    assert Report("a") == "a"
