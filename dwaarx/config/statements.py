"""Reading a block of directives: which may stand there, how often, and with how many words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import attrs

from dwaarx.config.errors import Problems, WrongError, likely, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import Location
from dwaarx.config.syntax import Word

# Reads one statement; raises WrongError.
Directive = Callable[[Statement], None]

# Every directive and where it stands, for the sentence about one that stands elsewhere.
PLACES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        [
            "acme_ca",
            "auto_https",
            "certificate_cache",
            "console",
            "email",
            "http_port",
            "https_port",
            "storage",
            "timeouts",
            "workers",
        ],
        "in the block of global options at the top of the file",
    ),
    **dict.fromkeys(["tls", "dns_over_tls", "bind"], "directly in a site's block"),
    **dict.fromkeys(
        [
            "reverse_proxy",
            "respond",
            "redir",
            "header",
            "request_header",
            "handle",
            "handle_path",
            "dns_over_https",
        ],
        "in a site's block",
    ),
    **dict.fromkeys(["record", "allow", "policy"], "in a `resolvers` block"),
    "to": "in the block of `resolvers` or `reverse_proxy`",
    "ocsp": "in the block of global options, or of `tls CERT KEY`",
    "eab": "in the block of `acme_ca`",
    "must_staple": "in a site's `tls { … }`",
}


@attrs.frozen
class Grammar:
    """What may stand in one kind of block.

    `where` ends the sentence "… is not a directive of", such as "a site". `not_yet` names what
    will be there in a later version. Those of `repeatable` may be given more than once. `instead`
    is what to write for words that are known from other programs.
    """

    where: str
    not_yet: frozenset[str] = frozenset()
    repeatable: frozenset[str] = frozenset()
    instead: Mapping[str, str] = attrs.field(factory=dict)


def not_yet(what: str) -> str:
    """Return the sentence that refuses a part of the language which is still to come."""
    return f"{quoted(what)} is not available yet"


def read_block(
    statements: Iterable[Statement],
    grammar: Grammar,
    directives: Mapping[str, Directive],
    problems: Problems,
) -> None:
    """Call the directive of each statement; what is wrong with one goes to `problems`."""
    first: dict[str, Location] = {}
    for statement in statements:
        name, place = statement.name, statement.location
        read = directives.get(name)
        if read is None:
            problems.add(place, _unknown(statement, grammar, directives))
        elif name in first and name not in grammar.repeatable:
            problems.add(place, f"{quoted(name)} is given twice; the first is at {first[name]}")
        else:
            first[name] = place
            try:
                read(statement)
            except WrongError as error:
                problems.note(error.problem)


def _unknown(statement: Statement, grammar: Grammar, valid: Collection[str]) -> str:
    name = statement.name
    if not statement.words:
        return "a `{` must follow a directive on its line"
    if name in grammar.not_yet:
        return not_yet(name)
    if name.startswith("@"):
        return f"named matchers such as {quoted(name)} are not available yet"
    message = f"{quoted(name)} is not a directive of {grammar.where}"
    if name in grammar.instead:
        return f"{message}: {grammar.instead[name]}"
    if name in PLACES:
        return f"{message}: it stands {PLACES[name]}"
    return message + likely(name, valid)


def words(statement: Statement, form: str, least: int, most: int | None = None) -> tuple[Word, ...]:
    """Return the arguments, of which there are `least` to `most` (None: any number).

    `form` shows how the directive is written, as in "bind ADDRESS…".
    """
    found = statement.arguments
    if len(found) < least:
        raise WrongError(statement.location, f"a word is missing: expected `{form}`")
    if most is not None and len(found) > most:
        extra = found[most]
        message = f"{quoted(extra.text)} is one word too many: expected `{form}`"
        if extra.text in PLACES:
            message = f"{quoted(extra.text)} begins a directive: expected it on a line of its own"
        raise WrongError(extra.location, message)
    return found


def no_block(statement: Statement) -> None:
    """Raise WrongError if the statement has a block."""
    if statement.block is not None:
        raise WrongError(statement.location, f"{quoted(statement.name)} takes no block")


def block(statement: Statement, form: str) -> tuple[Statement, ...]:
    """Return the statement's block, which must be there."""
    if statement.block is None:
        raise WrongError(statement.location, f"a block is missing: expected `{form} {{ … }}`")
    return statement.block


def one_word(statement: Statement, form: str) -> Word:
    """Return the only argument of a directive without a block."""
    no_block(statement)
    return words(statement, form, 1, 1)[0]
