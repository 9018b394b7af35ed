"""What is wrong with a Dwaarfile, and where; problems are collected, not thrown one by one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from dwaarx.config.model import Location

# Nobody reads more at once, and looking for likely words costs time that a hostile file would use.
MAX_PROBLEMS: Final = 50
# Longer words are not shown whole, and are not compared with the words that are known.
MAX_SHOWN: Final = 60
# A list of what is expected is shown in full up to this many words.
MAX_LISTED: Final = 8


@attrs.frozen
class Problem:
    """One thing that is wrong, with its place."""

    location: Location
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class ConfigError(Exception):
    """A Dwaarfile that cannot be used: `problems` holds at least one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class WrongError(Exception):
    """Raised where a word is read, caught where its directive was called: one Problem."""

    def __init__(self, location: Location, message: str) -> None:
        self.problem = Problem(location, message)
        super().__init__(message)


class Problems:
    """Collects problems, each once; gives up with ConfigError after MAX_PROBLEMS.

    And it collects warnings, which keep nothing from being used.
    """

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}
        self._warnings: list[Problem] = []
        self._unsaid = 0

    def add(self, location: Location, message: str) -> None:
        """Note a problem and go on; raises ConfigError when there are too many."""
        self.note(Problem(location, message))

    def note(self, problem: Problem) -> None:
        """Note a problem and go on; raises ConfigError when there are too many."""
        self._found[problem] = None
        if len(self._found) >= MAX_PROBLEMS:
            more = Problem(problem.location, "too many problems: what follows was not looked at")
            raise ConfigError([*self._sorted(), more])

    def warn(self, make: Callable[[], Problem]) -> None:
        """Note the warning that `make` returns; after MAX_PROBLEMS they are only counted."""
        if len(self._warnings) < MAX_PROBLEMS:
            self._warnings.append(make())
        else:
            self._unsaid += 1

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings, as they came, and the number of those that are not shown."""
        if not self._unsaid:
            return tuple(self._warnings)
        more = Problem(self._warnings[-1].location, f"and {self._unsaid:,} more like these")
        return (*self._warnings, more)

    def check(self) -> None:
        """Raise ConfigError if anything was noted."""
        if self._found:
            raise ConfigError(self._sorted())

    def _sorted(self) -> list[Problem]:
        files: dict[str, int] = {}
        for problem in self._found:
            files.setdefault(problem.location.file, len(files))

        def place(problem: Problem) -> tuple[int, int, int]:
            location = problem.location
            return files[location.file], location.line, location.column

        return sorted(self._found, key=place)


def quoted(word: str) -> str:
    """Return the word in backquotes, fit for a terminal: short and without control characters."""
    shown = word if len(word) <= MAX_SHOWN else word[: MAX_SHOWN - 1] + "…"
    return "`" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + "`"


def listed(words: Iterable[str]) -> str:
    """Return `a`, `b` or `c`."""
    names = [quoted(word) for word in words]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} or {names[-1]}"


def likely(word: str, valid: Iterable[str]) -> str:
    """Return the end of a sentence: the word that was probably meant, or those that fit."""
    words = list(valid)
    if len(word) <= MAX_SHOWN:
        by_lower = {known.lower(): known for known in words}
        for close in difflib.get_close_matches(word.lower(), by_lower, n=1):
            return f"; did you mean {quoted(by_lower[close])}?"
    if 0 < len(words) <= MAX_LISTED:
        return f"; expected {listed(words)}"
    return ""
