"""Which words Tab may add to a line: names of the namespace, attributes, file paths."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from dwaarx.console.evaluate import Attempt

# The dotted name that the cursor stands at the end of: plain names only, so that completing
# runs no call that was typed.
_DOTTED = re.compile(r"(?:^|[^\w.])((?:[^\W\d]\w*\.)*)([^\W\d]\w*|)$")

# A string that is still open: then its content is taken for a path.
_OPEN_STRING = re.compile(r"""^(?:[^'"]|'[^']*'|"[^"]*")*["']([^'"]*)$""")

# More than these would scroll the line out of sight.
MOST_SHOWN = 100


@attrs.frozen
class Completion:
    """`insert` is what to add at the cursor, "" if that is not clear; then `choices` are given."""

    insert: str
    choices: tuple[str, ...] = ()


def complete(line: str, namespace: Mapping[str, object]) -> Completion:
    """Complete the text before the cursor. A callable gets its opening parenthesis."""
    in_string = _OPEN_STRING.match(line)
    if in_string:
        return _finish(in_string[1].rpartition("/")[2], _paths(in_string[1]))
    dotted = _DOTTED.search(line)
    if dotted is None:
        return Completion("")
    owner, start = dotted[1].rstrip("."), dotted[2]
    if not owner:
        if not start:
            return Completion("", tuple(sorted(filter(_public, namespace)))[:MOST_SHOWN])
        names = {**vars(builtins), **namespace}
        words = [_named(name, names[name]) for name in names if name.startswith(start)]
        words += [word for word in keyword.kwlist if word.startswith(start)]
        if not start.startswith("_"):
            words = list(filter(_public, words))
        return _finish(start, words)
    return _finish(start, _attributes(owner, start, namespace))


def _attributes(owner: str, start: str, namespace: Mapping[str, object]) -> list[str]:
    first, *rest = owner.split(".")
    words: list[str] = []
    # An attribute may be a property, and so raise anything.
    with Attempt():
        value = namespace[first] if first in namespace else vars(builtins)[first]
        for name in rest:
            value = getattr(value, name)
        # Whether it is callable is asked of the class, so as not to run properties.
        words += [
            _named(name, getattr(type(value), name, None))
            for name in dir(value)
            if name.startswith(start) and (start or _public(name))
        ]
    return words


def _paths(start: str) -> list[str]:
    folder, _, name = start.rpartition("/")
    words: list[str] = []
    with Attempt():
        words += [
            f"{path.name}/" if path.is_dir() else path.name
            for path in Path(f"{folder}/" if "/" in start else ".").iterdir()
            if path.name.startswith(name) and (name or _public(path.name, "."))
        ]
    return words


def _finish(start: str, words: Iterable[str]) -> Completion:
    choices = sorted(set(words))
    if not choices:
        return Completion("")
    common, last = choices[0], choices[-1]
    while not last.startswith(common):
        common = common[:-1]
    insert = common[len(start) :]
    return Completion(insert, () if insert or len(choices) == 1 else tuple(choices[:MOST_SHOWN]))


def _named(name: str, value: object) -> str:
    return f"{name}(" if callable(value) else name


def _public(name: str, hidden: str = "_") -> bool:
    return not name.startswith(hidden)
