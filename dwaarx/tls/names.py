"""Which entry a server name stands for: exact, then wildcard, then the catch-all or the first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


def normal_name(server_name: bytes | None) -> str | None:
    """Return an SNI name in lower case without the last dot; None if it is none that we serve."""
    if server_name is None:
        return None
    try:
        name = server_name.decode("ascii").lower()
    except UnicodeDecodeError:
        return None
    return name.removesuffix(".") or None


class NameTable(Generic[T]):
    """An immutable table from names to entries.

    A name is "example.com", "*.example.com" (stands for exactly one label, RFC 9525 section 6.3)
    or "" (the catch-all). For a name given twice, the first entry stands.
    """

    __slots__ = ("_default", "_exact", "_wildcard")

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        """Make the table; raises ValueError when there is no entry at all."""
        self._exact: dict[str, T] = {}
        self._wildcard: dict[str, T] = {}
        defaults: list[T] = []
        catch_all = False
        for name, entry in entries:
            if not defaults:
                defaults.append(entry)
            if name == "":
                if not catch_all:
                    defaults = [entry]
                catch_all = True
            elif name.startswith("*."):
                self._wildcard.setdefault(name[2:], entry)
            else:
                self._exact.setdefault(name, entry)
        if not defaults:
            raise ValueError("a table of names needs an entry")
        (self._default,) = defaults

    def find(self, name: str | None) -> T | None:
        """Return the entry that a name stands for by itself, None if it stands for none."""
        if name is None:
            return None
        entry = self._exact.get(name)
        if entry is None and self._wildcard:
            entry = self._wildcard.get(name.partition(".")[2])
        return entry

    @property
    def default(self) -> T:
        """The entry for every other name, and for no name: the catch-all, else the first."""
        return self._default
