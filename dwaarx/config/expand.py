"""What a Dwaarfile says once `import`, snippets and `{$NAME}` have been put in."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from dwaarx.config.errors import Problems, WrongError, likely, quoted
from dwaarx.config.model import Location
from dwaarx.config.syntax import MAX_DEPTH, MAX_SIZE, MAX_WORDS, Line, Word, read_lines

_VARIABLE: Final = re.compile(r"\{\$([^{}:]*)(?::([^{}]*))?\}")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_TEXT: Final = re.compile(r"[\x00\ud800-\udfff]")
_WILD: Final = re.compile(r"[*?[]")


@attrs.frozen
class Statement:
    """A directive with its arguments and block, or a site with its addresses and block.

    `brace` is where the block of a statement without words begins.
    """

    words: tuple[Word, ...]
    block: tuple[Statement, ...] | None
    brace: Location | None = None

    @property
    def location(self) -> Location:
        """The place of the first word; without words, of the `{`."""
        if self.words:
            return self.words[0].location
        assert self.brace is not None, "a statement has words or a block"
        return self.brace

    @property
    def name(self) -> str:
        """The directive's name, or "" for a block without one."""
        return self.words[0].text if self.words else ""

    @property
    def arguments(self) -> tuple[Word, ...]:
        """The words after the name."""
        return self.words[1:]


def read_text(path: Path) -> str:
    """Return the text of a Dwaarfile; raises OSError, or ValueError with the reason."""
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ValueError(f"the file is larger than {MAX_SIZE // 1_000_000} MB")
    return decode(data)


def decode(data: bytes) -> str:
    """Return a Dwaarfile's bytes as text; raises BadTextError where they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        raise BadTextError(line, column, message) from error


class BadTextError(ValueError):
    """A file's bytes are not text; line and column count from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def expand(
    text: str, file: str, environ: Mapping[str, str], problems: Problems
) -> tuple[Statement, ...]:
    """Return the statements of the Dwaarfile `text`, read from the path `file`.

    Imports are looked for beside the file that holds them. Raises ConfigError.
    """
    expander = _Expander(environ, problems)
    lines = read_lines(text, file, problems)
    problems.check()
    statements = tuple(expander.file(lines))
    problems.check()
    return statements


class _Expander:
    def __init__(self, environ: Mapping[str, str], problems: Problems) -> None:
        self._environ = environ
        self._problems = problems
        self._snippets: dict[str, Line] = {}
        self._importing: list[str] = []
        self._count = 0
        self._size = 0

    def file(self, lines: Iterable[Line], depth: int = 0) -> Iterator[Statement]:
        """Yield the statements of a file's lines, which may define snippets."""
        rest = []
        for line in lines:
            if _is_definition(line):
                self._define(line)
            else:
                rest.append(line)
        yield from self._statements(rest, depth, top=True)

    def _statements(self, lines: Iterable[Line], depth: int, *, top: bool) -> Iterator[Statement]:
        for line in lines:
            if not line.words and line.block is None:
                continue
            try:
                words = self._words_of(line, depth)
                if words and words[0].text == "import" and not words[0].quote:
                    yield from self._import(words, line, depth, top=top)
                    continue
                block = line.block
                if block is not None:
                    inner = tuple(self._statements(block, depth + 1, top=False))
                    yield Statement(words, inner, line.brace)
                else:
                    yield Statement(words, None)
            except WrongError as error:
                self._problems.note(error.problem)

    def _words_of(self, line: Line, depth: int) -> tuple[Word, ...]:
        if depth > MAX_DEPTH:
            raise WrongError(
                line.location, f"blocks and imports are nested more than {MAX_DEPTH} deep"
            )
        if _is_definition(line):
            raise WrongError(
                line.location, "a snippet is defined at the top of a file, in no block"
            )
        self._count += len(line.words) + 1
        if self._count > MAX_WORDS:
            self._problems.add(
                line.location, f"the imports make this Dwaarfile longer than {MAX_WORDS:,} words"
            )
            self._problems.check()
        for word in line.words:
            if "{$" in word.text:
                return tuple(map(self._substituted, line.words))
        return line.words

    def _define(self, line: Line) -> None:
        name = line.words[0].text[1:-1]
        known = self._snippets.get(name)
        if line.block is None:
            self._problems.add(line.location, f"expected `{{` after the snippet's name ({name})")
        elif not name:
            self._problems.add(line.location, "expected the snippet's name between `(` and `)`")
        elif known is not None:
            where = f"it is defined at {known.location} too"
            self._problems.add(line.location, f"there are two snippets {quoted(name)}: {where}")
        else:
            self._snippets[name] = line

    def _import(
        self, words: tuple[Word, ...], line: Line, depth: int, *, top: bool
    ) -> Iterator[Statement]:
        if len(words) == 1:
            raise WrongError(
                line.location, "a word is missing: expected `import FILE|GLOB|SNIPPET`"
            )
        if len(words) > 2:
            message = f"arguments of `import`, such as {quoted(words[2].text)}, are not available"
            raise WrongError(words[2].location, message)
        if line.block is not None:
            raise WrongError(line.location, "`import` takes no block")
        word = words[1]
        name = word.text
        if not name:
            raise WrongError(word.location, "expected a file or a snippet")
        bracketed = name.startswith("(") and name.endswith(")")
        snippet = self._snippets.get(name[1:-1] if bracketed else name)
        if snippet is not None:
            key = f"the snippet {quoted(snippet.words[0].text[1:-1])}"
            lines = snippet.block or ()
            yield from self._imported(key, word, self._statements(lines, depth + 1, top=False))
        elif bracketed:
            hint = likely(name[1:-1], self._snippets)
            raise WrongError(word.location, f"there is no snippet {quoted(name[1:-1])}{hint}")
        else:
            for path in self._paths(word):
                yield from self._imported(
                    os.path.realpath(path), word, self._file_statements(path, word, depth, top=top)
                )

    def _imported(
        self, key: str, word: Word, statements: Iterator[Statement]
    ) -> Iterator[Statement]:
        if key in self._importing:
            chain = " → ".join([*self._importing[self._importing.index(key) :], key])
            raise WrongError(word.location, f"this import goes round in a circle: {chain}")
        self._importing.append(key)
        try:
            yield from statements
        finally:
            self._importing.pop()

    def _paths(self, word: Word) -> list[Path]:
        path = Path(word.location.file).parent / word.text
        wild = [bool(_WILD.search(part)) for part in Path(word.text).parts]
        if not any(wild):
            return [path]
        if "**" in word.text:
            raise WrongError(word.location, "`**` is not available: name the folders one by one")
        first = len(path.parts) - len(wild) + wild.index(True)
        base, pattern = Path(*path.parts[:first]), str(Path(*path.parts[first:]))
        try:
            found = sorted(base.glob(pattern))
        except (OSError, ValueError, re.error) as error:
            message = f"cannot look for {quoted(word.text)}: {error}"
            raise WrongError(word.location, message) from error
        # As in a shell; so that what an editor leaves behind is not read.
        hidden = path.name.startswith(".")
        return [path for path in found if path.is_file() and path.name.startswith(".") is hidden]

    def _file_statements(
        self, path: Path, word: Word, depth: int, *, top: bool
    ) -> Iterator[Statement]:
        file = str(path)
        try:
            text = read_text(path)
        except BadTextError as error:
            self._problems.add(Location(file, error.line, error.column), str(error))
            return
        except (OSError, ValueError) as error:
            reason, hint = str(error), ""
            if isinstance(error, OSError):
                reason = error.strerror or reason
                if error.errno == errno.ENOENT:
                    hint = likely(word.text, self._snippets)
            message = f"cannot import {quoted(word.text)}: {reason}{hint}"
            raise WrongError(word.location, message) from error
        self._size += len(text)
        if self._size > MAX_SIZE:
            limit = f"{MAX_SIZE // 1_000_000} MB"
            raise WrongError(word.location, f"the imported files together are larger than {limit}")
        lines = read_lines(text, file, self._problems)
        if top:
            yield from self.file(lines, depth + 1)
        else:
            yield from self._statements(lines, depth + 1, top=False)

    def _substituted(self, word: Word) -> Word:
        if word.quote == "`" or "{$" not in word.text:
            return word

        def value(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if not _VARIABLE_NAME.fullmatch(name):
                raise WrongError(word.location, f"{quoted(match[0])} names no environment variable")
            found = self._environ.get(name, default)
            if found is None:
                message = (
                    f"the environment variable {name} is not set, and `{{${name}}}` "
                    f"gives no default as in `{{${name}:default}}`"
                )
                raise WrongError(word.location, message)
            if _NOT_TEXT.search(found):
                message = f"the value of the environment variable {name} is not UTF-8 text"
                raise WrongError(word.location, message)
            return found

        return attrs.evolve(word, text=_VARIABLE.sub(value, word.text))


def _is_definition(line: Line) -> bool:
    if len(line.words) != 1:
        return False
    raw = line.words[0].raw
    return raw[0] == "(" and raw[-1] == ")"
