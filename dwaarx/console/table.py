"""How the console's answers look: rows as an aligned table, and text shown without quotes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from dwaarx.words import utc

GAP = "  "
NO_ROWS = "(none)"
ABSENT = "-"


class Report(str):
    """What a function did, in words: a str that the console shows as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Table:
    """Rows of equal columns: its repr is an aligned text table, iterating gives the rows.

    `columns` are the titles; each of `rows` holds one value per column. A row is given back as
    a dict from title to the value itself, so that scripts need not parse the text.
    """

    __slots__ = ("_rows", "columns")

    def __init__(self, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        self.columns = tuple(columns)
        self._rows = tuple(dict(zip(self.columns, row, strict=True)) for row in rows)

    def __iter__(self) -> Iterator[dict[str, object]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        return self._rows[index]

    def __repr__(self) -> str:
        """Give one line for the titles and one for each row, however wide."""
        if not self._rows:
            return NO_ROWS
        cells = [self.columns, *(tuple(map(_text, row.values())) for row in self._rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        right = [
            all(isinstance(row[title], int | float) for row in self._rows) for title in self.columns
        ]
        return "\n".join(
            GAP.join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in cells
        )

    def fit(self, width: int) -> str:
        """Give the table if its lines fit into `width` columns, else each row as a block.

        A block has a line per column: title and value. This is for terminals, where a wide
        table would be wrapped beyond recognition.
        """
        table = repr(self)
        if not self._rows or max(map(len, table.splitlines())) <= width:
            return table
        margin = max(map(len, self.columns))
        return "\n\n".join(
            "\n".join(f"{title.ljust(margin)}{GAP}{_text(row[title])}" for title in self.columns)
            for row in self._rows
        )


def _text(value: object) -> str:
    """Show one value in one line."""
    match value:
        case None | "":
            return ABSENT
        case datetime():
            # A naive time would be read as local time here, which is what it then is.
            return utc(value.astimezone(UTC))
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list() | tuple() | set() | frozenset():
            return ", ".join(map(_text, value)) or ABSENT
        case Mapping():
            return ", ".join(f"{key}={_text(item)}" for key, item in value.items()) or ABSENT
    return " ".join(str(value).split())
