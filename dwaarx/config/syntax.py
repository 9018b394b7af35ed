"""The words, lines and blocks of one Dwaarfile's text, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

import attrs
from lark import Lark, Token, Transformer

from dwaarx.config.errors import Problems, quoted
from dwaarx.config.model import Location

# The largest real Dwaarfiles (tens of thousands of sites) have a few MB.
MAX_SIZE: Final = 10_000_000
# Words, line ends and braces of one file, and words after its imports: what a snippet of snippets
# of snippets makes grows fast. A Dwaarfile of 10,000 sites has about 100,000; a million take
# seconds to read, and some hundred MB.
MAX_WORDS: Final = 1_000_000
# Blocks within blocks, and imports within imports. Real ones have four or five; what reads them
# calls itself for each level.
MAX_DEPTH: Final = 32

_ESCAPE: Final = re.compile(r'\\(["\\])')
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]|\r(?!\n)")
_TEXT: Final = frozenset({"WORD", "QUOTED", "RAW"})


@attrs.frozen
class Word:
    """A word: its text without quotes and escapes, and `raw` as it is written.

    `quote` is a double quote, a backquote, or "" for a plain word.
    """

    text: str
    location: Location
    quote: str
    raw: str


@attrs.frozen
class Line:
    """A line: words, perhaps a block, perhaps a comment; an empty line has none of them.

    The location is that of the first word, or else of the `{`, or else of no use.
    """

    words: tuple[Word, ...]
    block: tuple[Line, ...] | None
    comment: str | None
    location: Location

    @property
    def empty(self) -> bool:
        """Whether it says nothing; it may still hold a comment."""
        return not self.words and self.block is None


def read_lines(text: str, file: str, problems: Problems) -> tuple[Line, ...]:
    """Return the lines of `text`; every mistake goes to `problems` with its place in `file`.

    Raises ConfigError when there is no sense in going on. When problems were noted, the lines are
    a guess: call `problems.check()` before their meaning is looked at.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_SIZE:
        problems.add(Location(file, 1, 1), f"the file is larger than {MAX_SIZE // 1_000_000} MB")
        problems.check()
    reader = _Reader(file, problems)
    parser = _grammar().parse_interactive(start="start")
    for token in reader.tokens(text):
        parser.feed_token(token)
    return reader.lines(parser.feed_token(Token("$END", "")))


class _Shape(Transformer[Token, list[object]]):
    """Lines as plain lists: of tokens, and of blocks, which are lists of `{` and the lines."""

    def start(self, children: list[list[object]]) -> list[object]:
        return children[0]

    def body(self, children: list[object]) -> list[object]:
        return children

    line = body
    block = body


@cache
def _grammar() -> Lark:
    return Lark.open(
        "dwaarfile.lark",
        rel_to=__file__,
        parser="lalr",
        lexer="basic",
        transformer=_Shape(),
    )


class _Reader:
    """Reads one file."""

    def __init__(self, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems

    def tokens(self, text: str) -> Iterator[Token]:
        """Yield what the grammar takes: balanced, and without what had to be refused."""
        unclosed: list[Token] = []
        # A word with a brace too many: blocks that do not end are its doing, and not said.
        stray = False
        previous: Token | None = None
        for count, token in enumerate(_grammar().lex(text)):
            if count > MAX_WORDS:
                self._wrong(token, f"the file has more than {MAX_WORDS:,} words and lines")
                self._problems.check()
            before, previous = previous, token
            glued = before is not None and before.end_pos == token.start_pos
            match token.type:
                case "MISTAKE":
                    if not (glued and before is not None and before.type == "MISTAKE"):
                        self._mistake(token)
                    continue
                case "LBRACE":
                    if len(unclosed) == MAX_DEPTH:
                        self._wrong(token, f"blocks are nested more than {MAX_DEPTH} deep")
                        self._problems.check()
                    unclosed.append(token)
                case "_RBRACE":
                    if not unclosed:
                        if not stray:
                            self._wrong(token, "this `}` closes no block")
                        continue
                    unclosed.pop()
                case "WORD":
                    stray = self._is_stray(token) or stray
            if glued and before is not None and before.type in ("QUOTED", "RAW"):
                self._after_quote(before, token)
            yield token
        for token in reversed(unclosed):
            if not stray:
                self._wrong(token, "this `{` is never closed: expected a `}`")
            yield Token("_RBRACE", "}")

    def lines(self, body: Iterable[object]) -> tuple[Line, ...]:
        """Return the lines of a body as `_Shape` leaves it."""
        return tuple(self._line(line) for line in body if isinstance(line, list))

    def _line(self, children: list[object]) -> Line:
        words: list[Word] = []
        block: tuple[Line, ...] | None = None
        comment: str | None = None
        location: Location | None = None
        complete = False
        for child in children:
            token = child[0] if isinstance(child, list) else child
            assert isinstance(token, Token)
            if token.type == "COMMENT":
                comment = token.rstrip()
                self._characters(Token.new_borrow_pos(token.type, comment, token))
                continue
            if block is not None:
                if not complete:
                    self._wrong(token, "expected the end of the line after `}`")
                complete = True
            if isinstance(child, list):
                inner = self.lines(child[1])
                block = inner if block is None else block
            else:
                words.append(self._word(token))
            location = location or self._place(token)
        if words and words[-1].raw == "\\" and block is None:
            self._problems.add(
                words[-1].location, "a `\\` does not lead on to the next line: join the two"
            )
        return Line(tuple(words), block, comment, location or Location(self._file, 1, 1))

    def _word(self, token: Token) -> Word:
        raw = str(token)
        location = self._place(token)
        if token.type == "WORD":
            return Word(raw, location, "", raw)
        self._characters(token)
        if token.type == "RAW":
            return Word(raw[1:-1], location, "`", raw)
        return Word(_ESCAPE.sub(r"\1", raw[1:-1]), location, '"', raw)

    def _is_stray(self, word: Token) -> bool:
        """Refuse a plain word that is not one; return whether it holds a brace of a block."""
        if word.startswith("<<") and len(word) > 2:
            self._wrong(
                word, f"there are no heredocs such as {quoted(word)}: put the text in backquotes"
            )
            # What follows is text.
            self._problems.check()
        if word == "{}":
            self._wrong(word, "`{}` is no block: expected `{ }`, or quotes around the word")
        if word.count("{") == word.count("}"):
            return False
        offset = len(word) - 1 if word[-1] in "{}" else 0
        self._problems.add(
            attrs.evolve(self._place(word), column=self._place(word).column + offset),
            f"a brace in {quoted(word)} has no partner: put a space before a brace that "
            "opens or closes a block, and quotes around a word that holds one",
        )
        return True

    def _characters(self, token: Token) -> None:
        found = _CONTROL.search(token)
        if found is not None:
            place = self._place(token)
            before = token[: found.start()]
            lines = before.count("\n")
            column = len(before) - before.rfind("\n") if lines else place.column + len(before)
            place = Location(self._file, place.line + lines, column)
            self._problems.add(place, _refusal(found[0]))

    def _mistake(self, token: Token) -> None:
        if token in ('"', "`"):
            self._wrong(token, "this quote is never closed: expected " + quoted(token))
            self._problems.check()
        self._wrong(token, _refusal(token))

    def _after_quote(self, quote: Token, token: Token) -> None:
        if token.type not in _TEXT and token.type not in ("LBRACE", "_RBRACE", "COMMENT"):
            return
        if quote.line != quote.end_line:
            message = (
                f"this quote goes on to line {quote.end_line}, where a word follows it without "
                "a space: is its end missing?"
            )
            self._wrong(quote, message)
        else:
            self._wrong(token, "expected a space or the end of the line after a quoted word")

    def _wrong(self, token: Token, message: str) -> None:
        self._problems.add(self._place(token), message)

    def _place(self, token: Token) -> Location:
        return Location(self._file, token.line or 1, token.column or 1)


def _refusal(character: str) -> str:
    number = f"U+{ord(character):04X}"
    if character.isspace() and character not in "\r\x0b\x0c\x1c\x1d\x1e\x1f\x85":
        return f"the space character {number} does not part words: type a plain space"
    return f"the control character {number} is not allowed"
