from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.config import ConfigError
from dwaarx.config.errors import Problems
from dwaarx.config.fmt import format_text
from dwaarx.config.syntax import Line, read_lines
from tests.config.strategies import dwaarfiles

EXAMPLES = sorted((Path(__file__).parents[2] / "config").glob("*.Dwaarfile"))


def tree(text: str) -> list[object]:
    """Return what is written, without places and empty lines; comments by their order."""

    def plain(lines: tuple[Line, ...]) -> list[object]:
        found: list[object] = []
        for line in lines:
            if line.empty and line.comment is None:
                continue
            block = None if line.block is None else plain(line.block)
            found.append(([word.raw for word in line.words], block, line.comment))
        return found

    problems = Problems()
    lines = read_lines(text, "f", problems)
    problems.check()
    return plain(lines)


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("", ""),
        ("\n\n", ""),
        ("# only", "# only\n"),
        ("a   b\t c", "a b c\n"),
        ("a { b c }", "a {\n    b c\n}\n"),
        ("a { }", "a {\n}\n"),
        ("a { b { c } }", "a {\n    b {\n        c\n    }\n}\n"),
        ("a {\n\tb\n\n\n\n\tc\n\n}\n\n\nd { }\n\n", "a {\n    b\n\n    c\n}\n\nd {\n}\n"),
        ("a {\n\n\n b\n}", "a {\n    b\n}\n"),
        ("\r\na b\r\n", "a b\n"),
        ("a {   # one\n b# c  # two\n} # three\n", "a {  # one\n    b# c  # two\n}  # three\n"),
        ("a { b # one\n}", "a {\n    b  # one\n}\n"),
        ("a {\n  # one \t\n\n # two\n b\n}", "a {\n    # one\n\n    # two\n    b\n}\n"),
        ("a,\n  b, {\n}", "a,\nb, {\n}\n"),
        ('a "b" `c` "d \\" e"', 'a "b" `c` "d \\" e"\n'),
        ("a `b\n   c` d", "a `b\n   c` d\n"),
        ("{\n http_port 1\n}", "{\n    http_port 1\n}\n"),
        ("\ufeffa", "a\n"),
        ("a {$B:c} {d}", "a {$B:c} {d}\n"),
    ],
)
def test_forms(text: str, formatted: str) -> None:
    assert format_text(text, "f") == formatted
    assert format_text(formatted, "f") == formatted


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_formatted(path: Path) -> None:
    assert format_text(path.read_text(), path.name) == path.read_text()


def test_bad_syntax_is_not_formatted() -> None:
    with pytest.raises(ConfigError, match=r"f:1:3: this `\{` is never closed"):
        format_text("a {", "f")


@given(dwaarfiles() | st.text('ab{}"`# \n\t,\\\r'))
def test_formatting_is_idempotent_and_keeps_the_meaning(text: str) -> None:
    with contextlib.suppress(ConfigError):
        formatted = format_text(text, "f")
        assert format_text(formatted, "f") == formatted
        assert tree(formatted) == tree(text)
