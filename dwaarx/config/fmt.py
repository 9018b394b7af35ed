"""The canonical way of writing a Dwaarfile: what `dwaarx fmt` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from dwaarx.config.errors import Problems
from dwaarx.config.syntax import Line, read_lines

INDENT: Final = "    "
# Between a directive and the comment behind it, as in Python.
BEFORE_COMMENT: Final = "  "


def format_text(text: str, file: str) -> str:
    """Return the Dwaarfile `text` in its canonical form; raises ConfigError for bad syntax.

    One directive stands on a line, four spaces lead in for each block, and there is at most one
    empty line in a row. Words stay as they are written, quotes and all; so do comments.
    """
    problems = Problems()
    lines = read_lines(text, file, problems)
    problems.check()
    written = "\n".join(_written(lines, ""))
    return f"{written}\n" if written else ""


def _written(lines: Iterable[Line], indent: str) -> Iterator[str]:
    begun = gap = False
    for line in lines:
        if line.empty and line.comment is None:
            gap = begun
            continue
        if gap:
            yield ""
        begun, gap = True, False
        parts = [word.raw for word in line.words]
        if line.block is None:
            yield indent + _with_comment(" ".join(parts), line.comment)
            continue
        first, *rest = line.block
        behind = first.comment if first.empty else None
        yield indent + _with_comment(" ".join([*parts, "{"]), behind)
        yield from _written(line.block if behind is None else rest, indent + INDENT)
        yield indent + _with_comment("}", line.comment)


def _with_comment(text: str, comment: str | None) -> str:
    if comment is None:
        return text
    return f"{text}{BEFORE_COMMENT}{comment}" if text else comment
