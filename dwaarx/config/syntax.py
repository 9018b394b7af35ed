"""The words, lines and blocks of one Dwaarfile's text, each with its place."""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import Final

import attrs
from lark import Lark

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
_IGNORED: Final = "_SPACE"


@attrs.frozen
class Word:
    """A word: its text without quotes and escapes, `raw` as it is written, and where.

    A Dwaarfile of 100,000 sites has a million of them, so that the place is an object only when
    somebody asks for it.
    """

    text: str
    raw: str
    file: str
    line: int
    column: int

    @property
    def location(self) -> Location:
        """Where the word begins."""
        return Location(self.file, self.line, self.column)

    @property
    def quote(self) -> str:
        """A double quote, a backquote, or "" for a plain word."""
        first = self.raw[0]
        return first if first in '"`' else ""


@attrs.frozen
class Line:
    """A line: words, perhaps a block, perhaps a comment; an empty line has none of them.

    `brace` is where the block of a line without words begins.
    """

    words: tuple[Word, ...]
    block: tuple[Line, ...] | None
    comment: str | None = None
    brace: Location | None = None

    @property
    def empty(self) -> bool:
        """Whether it says nothing; it may still hold a comment."""
        return not self.words and self.block is None

    @property
    def location(self) -> Location:
        """The place of the first word, or else of the `{`; of a line that is not empty."""
        if self.words:
            return self.words[0].location
        assert self.brace is not None, "an empty line has no place"
        return self.brace


def read_lines(text: str, file: str, problems: Problems) -> tuple[Line, ...]:
    """Return the lines of `text`; every mistake goes to `problems` with its place in `file`.

    Raises ConfigError when there is no sense in going on. When problems were noted, the lines are
    a guess: call `problems.check()` before their meaning is looked at.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_SIZE:
        problems.add(Location(file, 1, 1), f"the file is larger than {MAX_SIZE // 1_000_000} MB")
        problems.check()
    return _Reader(file, problems).lines(text)


@cache
def _terminals() -> re.Pattern[str]:
    """Return the terminals of the grammar as one pattern, each a group of its name.

    Its rules are so simple that the reader below follows them by itself: a parser's tables would
    take most of the time of a large file. A test compares the two.
    """
    grammar = Lark.open("dwaarfile.lark", rel_to=__file__, parser="lalr", lexer="basic")
    terminals = sorted(grammar.terminals, key=lambda terminal: -terminal.priority)
    return re.compile(
        "|".join(f"(?P<{each.name}>{each.pattern.to_regexp()})" for each in terminals)
    )


@attrs.define
class _Draft:
    """A line while it is read."""

    words: list[Word] = attrs.Factory(list)
    block: tuple[Line, ...] | None = None
    comment: str | None = None
    brace: Location | None = None
    # What follows its block has been refused.
    refused: bool = False


@attrs.frozen
class _Open:
    """A block that is not closed yet: where it begins, and what it stands in."""

    location: Location
    line: _Draft
    lines: list[Line]


class _Reader:
    """Reads one file."""

    def __init__(self, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems
        self._line = 1  # the number of the line, and where in the text it begins
        self._begin = 0
        self._lines: list[Line] = []
        self._draft = _Draft()
        self._unclosed: list[_Open] = []
        # A word with a brace too many: blocks that do not end are its doing, and not said.
        self._stray = False
        self._mistake_end = -1
        # The token before, if it is a word in quotes.
        self._quoted: Word | None = None
        self._quoted_end = 0

    def lines(self, text: str) -> tuple[Line, ...]:
        """Return the lines of the file."""
        read = {
            "WORD": self._word,
            "QUOTED": self._quoted_word,
            "RAW": self._quoted_word,
            "_NEWLINE": self._newline,
            "LBRACE": self._open,
            "_RBRACE": self._close,
            "COMMENT": self._comment,
            "MISTAKE": self._mistake,
        }
        count = -1
        for match in _terminals().finditer(text):
            kind = match.lastgroup
            if kind is None or kind == _IGNORED:
                continue
            count += 1
            start = match.start()
            if count > MAX_WORDS:
                self._wrong(start, f"the file has more than {MAX_WORDS:,} words and lines")
                self._problems.check()
            if self._quoted is not None:
                if self._quoted_end == start:
                    self._after_quote(self._quoted, kind, start)
                self._quoted = None
            read[kind](match[0], start)
        while self._unclosed:
            if not self._stray:
                place = self._unclosed[-1].location
                self._problems.add(place, "this `{` is never closed: expected a `}`")
            self._end_of_block()
        self._end_of_line()
        return tuple(self._lines)

    def _word(self, raw: str, start: int) -> None:
        if "{" in raw or "}" in raw or raw.startswith("<<"):
            self._stray = self._is_stray(raw, start) or self._stray
        # Directives are found on thousands of lines.
        text = sys.intern(raw) if raw.isidentifier() else raw
        if self._draft.block is not None:
            self._after_block(start)
        self._draft.words.append(Word(text, text, self._file, self._line, start - self._begin + 1))

    def _quoted_word(self, raw: str, start: int) -> None:
        if self._draft.block is not None:
            self._after_block(start)
        self._characters(raw, start)
        text = raw[1:-1] if raw[0] == "`" else _ESCAPE.sub(r"\1", raw[1:-1])
        word = Word(text, raw, self._file, self._line, start - self._begin + 1)
        self._draft.words.append(word)
        self._quoted, self._quoted_end = word, start + len(raw)
        newlines = raw.count("\n")
        if newlines:
            self._line += newlines
            self._begin = start + raw.rindex("\n") + 1

    def _newline(self, raw: str, start: int) -> None:
        self._end_of_line()
        self._line += 1
        self._begin = start + len(raw)

    def _open(self, raw: str, start: int) -> None:
        if len(self._unclosed) == MAX_DEPTH:
            self._wrong(start, f"blocks are nested more than {MAX_DEPTH} deep")
            self._problems.check()
        draft, place = self._draft, self._place(start)
        if draft.block is not None:
            self._after_block(start)
        elif not draft.words:
            draft.brace = place
        self._unclosed.append(_Open(place, draft, self._lines))
        self._draft, self._lines = _Draft(), []

    def _close(self, raw: str, start: int) -> None:
        if self._unclosed:
            self._end_of_block()
        elif not self._stray:
            self._wrong(start, "this `}` closes no block")

    def _comment(self, raw: str, start: int) -> None:
        self._draft.comment = raw.rstrip()
        self._characters(self._draft.comment, start)

    def _mistake(self, raw: str, start: int) -> None:
        glued, self._mistake_end = self._mistake_end == start, start + len(raw)
        if glued:
            return
        if raw in ('"', "`"):
            self._wrong(start, "this quote is never closed: expected " + quoted(raw))
            self._problems.check()
        self._wrong(start, _refusal(raw))

    def _end_of_line(self) -> None:
        draft, self._draft = self._draft, _Draft()
        words = draft.words
        if words and words[-1].raw == "\\" and draft.block is None:
            self._problems.add(
                words[-1].location, "a `\\` does not lead on to the next line: join the two"
            )
        self._lines.append(Line(tuple(words), draft.block, draft.comment, draft.brace))

    def _end_of_block(self) -> None:
        self._end_of_line()
        opened = self._unclosed.pop()
        inner, self._lines, self._draft = tuple(self._lines), opened.lines, opened.line
        if self._draft.block is None:
            self._draft.block = inner

    def _after_block(self, start: int) -> None:
        if not self._draft.refused:
            self._wrong(start, "expected the end of the line after `}`")
        self._draft.refused = True

    def _is_stray(self, word: str, start: int) -> bool:
        """Refuse a plain word that is not one; return whether it holds a brace of a block."""
        if word.startswith("<<") and len(word) > 2:
            self._wrong(
                start, f"there are no heredocs such as {quoted(word)}: put the text in backquotes"
            )
            # What follows is text.
            self._problems.check()
        if word == "{}":
            self._wrong(start, "`{}` is no block: expected `{ }`, or quotes around the word")
        if word.count("{") == word.count("}"):
            return False
        self._wrong(
            start + (len(word) - 1 if word[-1] in "{}" else 0),
            f"a brace in {quoted(word)} has no partner: put a space before a brace that "
            "opens or closes a block, and quotes around a word that holds one",
        )
        return True

    def _characters(self, raw: str, start: int) -> None:
        found = _CONTROL.search(raw)
        if found is not None:
            place = self._place(start)
            before = raw[: found.start()]
            lines = before.count("\n")
            column = len(before) - before.rfind("\n") if lines else place.column + len(before)
            place = Location(self._file, place.line + lines, column)
            self._problems.add(place, _refusal(found[0]))

    def _after_quote(self, word: Word, kind: str, start: int) -> None:
        if kind == "_RBRACE" and not self._unclosed:
            return
        if kind not in _TEXT and kind not in ("LBRACE", "_RBRACE", "COMMENT"):
            return
        if word.line != self._line:
            message = (
                f"this quote goes on to line {self._line}, where a word follows it without "
                "a space: is its end missing?"
            )
            self._problems.add(word.location, message)
        else:
            self._wrong(start, "expected a space or the end of the line after a quoted word")

    def _wrong(self, start: int, message: str) -> None:
        self._problems.add(self._place(start), message)

    def _place(self, start: int) -> Location:
        return Location(self._file, self._line, start - self._begin + 1)


def _refusal(character: str) -> str:
    number = f"U+{ord(character):04X}"
    if character.isspace() and character not in "\r\x0b\x0c\x1c\x1d\x1e\x1f\x85":
        return f"the space character {number} does not part words: type a plain space"
    return f"the control character {number} is not allowed"
