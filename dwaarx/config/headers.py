"""`header` and `request_header`: changes of header fields."""

from __future__ import annotations

from typing import Final

from dwaarx.config import addresses, statements, values
from dwaarx.config.errors import Problems, WrongError, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import ChangeHeaders, HeaderOp
from dwaarx.config.syntax import Word

_OPS: Final = {"+": "add", "-": "delete", "?": "default"}
# Inside a block these words are Caddy's, not names of fields.
_NOT_YET_IN_BLOCK: Final = frozenset({"defer", "match"})


def read_headers(statement: Statement, problems: Problems) -> ChangeHeaders:
    """Return the changes of one `header` or `request_header` directive."""
    of_request = statement.name == "request_header"
    form = f"{statement.name} [MATCHER] [+|-|?]NAME [VALUE]"
    arguments = statement.arguments
    if not arguments and statement.block is None:
        raise WrongError(statement.location, f"a word is missing: expected `{form}`")
    matcher = None
    if arguments and values.is_matcher(arguments[0]):
        matcher = values.matcher(arguments[0])
        arguments = arguments[1:]
    ops: list[HeaderOp] = []
    if statement.block is None:
        if not arguments:
            raise WrongError(statement.location, f"a word is missing: expected `{form}`")
        ops.append(_op(arguments, of_request=of_request))
    else:
        if arguments:
            message = f"{quoted(arguments[0].text)} is one word too many before a block"
            raise WrongError(arguments[0].location, message)
        for inner in statement.block:
            try:
                ops.append(_in_block(inner, of_request=of_request))
            except WrongError as error:
                problems.note(error.problem)
        if not statement.block:
            raise WrongError(statement.location, "the block is empty: expected names of fields")
    return ChangeHeaders(tuple(ops), of_request, matcher)


def _in_block(statement: Statement, *, of_request: bool) -> HeaderOp:
    if not statement.words:
        raise WrongError(statement.location, "a `{` must follow a directive on its line")
    if statement.name in _NOT_YET_IN_BLOCK:
        raise WrongError(statement.location, statements.not_yet(statement.name))
    statements.no_block(statement)
    return _op(statement.words, of_request=of_request)


def _op(words: tuple[Word, ...], *, of_request: bool) -> HeaderOp:
    first = words[0]
    if len(words) == 3:
        message = "replacing a part of a field (NAME FIND REPLACE) is not available yet"
        raise WrongError(words[1].location, message)
    if len(words) > 3:
        raise WrongError(words[2].location, f"{quoted(words[2].text)} is one word too many")
    sign, text = first.text[:1], first.text[1:]
    if sign == ">":
        raise WrongError(first.location, statements.not_yet(first.text))
    op = _OPS.get(sign)
    if op is None:
        op, text = "set", first.text
    if of_request and text.lower() == "host" and (op != "set" or len(words) != 2):
        raise WrongError(first.location, "the field `Host` can only be set: expected `Host VALUE`")
    if op == "delete":
        if len(words) == 2:
            message = f"{quoted(first.text)} deletes a field and takes no value"
            raise WrongError(words[1].location, message)
        return HeaderOp(op, _deleted(first, text))
    if text.endswith("*"):
        raise WrongError(first.location, "a `*` ends the name of a field only behind `-`")
    name = values.field_name(first, text)
    if len(words) == 1:
        raise WrongError(first.location, f"the value is missing: expected `{first.text} VALUE`")
    value = values.field_value(words[1])
    if of_request and name == "host" and "{" not in value:
        addresses.authority(words[1])
    return HeaderOp(op, name, value)


def _deleted(word: Word, text: str) -> str:
    if not text.endswith("*"):
        return values.field_name(word, text)
    # What frames the message is left standing (dwaarx.http.headers).
    return values.field_name(word, text[:-1]) + "*"
