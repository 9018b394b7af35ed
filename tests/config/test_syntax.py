from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from lark import Lark, Token, Transformer

from dwaarx.config import syntax
from dwaarx.config.errors import ConfigError, Problems
from dwaarx.config.expand import Statement
from dwaarx.config.syntax import MAX_DEPTH, MAX_SIZE, Line, read_lines
from tests.config.reading import problem, problems, statements
from tests.config.strategies import dwaarfiles


def lines(text: str) -> tuple[Line, ...]:
    collected = Problems()
    found = read_lines(text, "f", collected)
    collected.check()
    return found


def test_words_lines_and_blocks() -> None:
    assert statements(
        """
        a.test, b.test {  # comment
            respond "two words" 200
            handle /x {
                redir /y
            }
        }
        """
    ) == [
        [
            "a.test,",
            "b.test",
            [["respond", "two words", "200"], ["handle", "/x", [["redir", "/y"]]]],
        ]
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a { b c }",
        "a {b\n}".replace("{b", "{ b"),
        "a {\n  b c }",
        "a { b c\n}",
        "a\t{\r\n\tb c\r\n}",
    ],
)
def test_one_line_blocks_and_their_relatives(text: str) -> None:
    (only,) = statements(text)
    assert isinstance(only, list)
    assert only[0] == "a"
    assert only[1][0][0] == "b"


def test_one_line_blocks_nest() -> None:
    assert statements("a { b { c d } }") == [["a", [["b", [["c", "d"]]]]]]


def test_empty_blocks() -> None:
    assert statements("a { }\nb {\n}\n") == [["a", []], ["b", []]]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r'"a \"b\" c"', 'a "b" c'),
        (r'"back\\slash"', "back\\slash"),
        (r'"kept \n"', r"kept \n"),
        ('"#no comment"', "#no comment"),
        ('"{"', "{"),
        ('""', ""),
        ('"two\nlines"', "two\nlines"),
        (r"`raw \" \\ {$X}`", r"raw \" \\ {$X}"),
        ("`two\nlines`", "two\nlines"),
        ("mid#dle", "mid#dle"),
        ('mid"quote"', 'mid"quote"'),
        ("{uri}", "{uri}"),
        ("/a/{path}?{query}", "/a/{path}?{query}"),
        ("ünïcode", "ünïcode"),
    ],
)
def test_words(written: str, text: str) -> None:
    assert statements(f"word {written}") == [["word", text]]


def test_places_count_from_one_and_in_characters() -> None:
    (line, inner) = lines('\ufeffü  "x\ny" z\n\tw')
    assert [(word.location.line, word.location.column) for word in line.words] == [
        (1, 1),
        (1, 4),
        (2, 4),
    ]
    assert (inner.location.line, inner.location.column) == (2 + 1, 2)


def test_comments_are_kept_for_fmt_and_mean_nothing() -> None:
    (first, second) = lines("a b # one \r\n# two")
    assert (first.comment, second.comment) == ("# one", "# two")
    assert second.empty
    assert statements("# only\n\n# comments") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a {\n  b", "1:3: this `{` is never closed: expected a `}`"),
        ("a {\n}\n}", "3:1: this `}` closes no block"),
        ("a {\n b {\n}\nc { }", "1:3: this `{` is never closed: expected a `}`"),
        ("a { b } c", "1:9: expected the end of the line after `}`"),
        ('a { b } "c" d', "1:9: expected the end of the line after `}`"),
        ("a { b } { c }", "1:9: expected the end of the line after `}`"),
        (
            'a "b"c',
            "1:6: expected a space or the end of the line after a quoted word",
        ),
        (
            'a `b`"c"',
            "1:6: expected a space or the end of the line after a quoted word",
        ),
        (
            'a "b\nc "d"',
            (
                "1:3: this quote goes on to line 2, where a word follows it without a space: "
                "is its end missing?"
            ),
        ),
        ('a\n b "c', '2:4: this quote is never closed: expected `"`'),
        ("a `b", "1:3: this quote is never closed: expected ```"),
        ("a \x00\x00 b", "1:3: the control character U+0000 is not allowed"),
        ("a b\x00", "1:4: the control character U+0000 is not allowed"),
        ('a "b\nc\x1bd"', "2:2: the control character U+001B is not allowed"),
        ("a # b\x07", "1:6: the control character U+0007 is not allowed"),
        ("a\rb", "1:2: the control character U+000D is not allowed"),
        ("a \ud800", "1:3: the control character U+D800 is not allowed"),
        ("a \ufeff", "1:3: the control character U+FEFF is not allowed"),
        (
            "a\u00a0b",
            "1:2: the space character U+00A0 does not part words: type a plain space",
        ),
    ],
)
def test_mistakes_and_their_places(text: str, expected: str) -> None:
    assert problem(text) == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a{\n}", "1:2"),
        ("a { b}", "1:6"),
        ("a {\n b {\n c}\n}", "3:3"),
        ("a { b }}", "1:8"),
        ("a b{x", "1:3"),
        ("a b}", "1:4"),
    ],
)
def test_a_brace_without_its_space_is_named_and_not_what_comes_of_it(text: str, place: str) -> None:
    found = problem(text)
    assert found.startswith(f"{place}: a brace in ")
    assert "put a space before a brace" in found


def test_what_is_wrong_before_a_stray_brace_is_said() -> None:
    first, second = problems("a }\nb{\n}")
    assert first == "1:3: this `}` closes no block"
    assert second.startswith("2:2: a brace in ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'a {\n respond <<EOF\n  <p class="x>{\n  EOF 200\n}',
            "2:10: there are no heredocs such as `<<EOF`: put the text in backquotes",
        ),
        ("a b \\\n c", "1:5: a `\\` does not lead on to the next line: join the two"),
        ("a b \\ # c", "1:5: a `\\` does not lead on to the next line: join the two"),
        ("a {}", "1:3: `{}` is no block: expected `{ }`, or quotes around the word"),
        ("a {\n b {} c\n}", "2:4: `{}` is no block: expected `{ }`, or quotes around the word"),
    ],
)
def test_what_other_languages_have_is_refused_by_name(text: str, expected: str) -> None:
    assert problem(text) == expected


def test_what_looks_like_it_may_stand_in_quotes() -> None:
    assert statements('a "<<EOF" `{}` "\\\\"') == [["a", "<<EOF", "{}", "\\"]]
    assert statements("a << 1<<2 \\ b") == [["a", "<<", "1<<2", "\\", "b"]]


def test_several_mistakes_are_found_in_one_run() -> None:
    assert [found.partition(": ")[0] for found in problems('a }\n"b"c\nd\x01\ne {')] == [
        "1:3",
        "2:4",
        "3:2",
        "4:3",
    ]


def test_deep_nesting_is_a_problem_and_no_recursion_error() -> None:
    assert statements("a {\n" * MAX_DEPTH + "}\n" * MAX_DEPTH)
    text = "a {\n" * 100_000
    assert problem(text) == f"{MAX_DEPTH + 1}:3: blocks are nested more than {MAX_DEPTH} deep"


def test_too_many_words_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syntax, "MAX_WORDS", 10)
    assert problem("a b\n" * 5) == "4:4: the file has more than 10 words and lines"
    assert len(lines("a\n" * 5)) == 6


def test_a_huge_file_is_a_problem() -> None:
    assert problem("#" * (MAX_SIZE + 1)) == "1:1: the file is larger than 10 MB"


@pytest.mark.parametrize(
    "piece",
    ["a ", "a\n", '"', '"\\', '\\"', '"\\" ', "`", "{ ", "x\n}", "\x00", "#", '"a\n', "{$A}", "a,"],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    def seconds(size: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        best = float("inf")
        for _ in range(2):
            begin = time.process_time()
            with contextlib.suppress(ConfigError):
                read_lines(text, "f", Problems())
            best = min(best, time.process_time() - begin)
        return best

    seconds(1000)
    # Twenty times the text may take twenty times as long, and the machine's mood as much again;
    # quadratic would be four hundred times.
    assert seconds(80_000) < max(60 * seconds(4_000), 2)


def test_a_block_without_a_word_has_its_place() -> None:
    (line,) = lines(" { a }")
    assert (line.location.line, line.location.column) == (1, 2)


def test_statements_know_their_parts() -> None:
    statement = Statement((), None, lines("a")[0].location)
    assert (statement.name, statement.arguments) == ("", ())


class _Rules(Transformer[Token, list[object]]):
    """Lines as the rules of the grammar have them: words, a list for a block, a comment."""

    def start(self, children: list[list[object]]) -> list[object]:
        return children[0]

    def body(self, children: list[object]) -> list[object]:
        return children

    def line(self, children: list[object]) -> list[object]:
        return [str(child).rstrip() if isinstance(child, Token) else child for child in children]

    def block(self, children: list[object]) -> object:
        return children[1]


def _shape(found: tuple[Line, ...]) -> list[object]:
    shaped: list[object] = []
    for line in found:
        parts: list[object] = [word.raw.rstrip() for word in line.words]
        parts += [] if line.block is None else [_shape(line.block)]
        parts += [] if line.comment is None else [line.comment]
        shaped.append(parts)
    return shaped


@given(dwaarfiles())
def test_lines_are_what_the_rules_of_the_grammar_say(text: str) -> None:
    try:
        found = lines(text)
    except ConfigError:
        return
    grammar = Lark(
        Path(syntax.__file__).with_name("dwaarfile.lark").read_text(),
        parser="lalr",
        lexer="basic",
        transformer=_Rules(),
    )
    assert grammar.parse(text.removeprefix("\ufeff")) == _shape(found)
