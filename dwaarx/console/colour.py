"""Python source in the colours of a terminal."""

from __future__ import annotations

import keyword
import tokenize

PLAIN = "\x1b[0m"
# The basic colours that can be read on a dark and on a light background.
KEYWORD = "\x1b[35m"
STRING = "\x1b[32m"
NUMBER = "\x1b[36m"
COMMENT = "\x1b[34m"

_BY_TYPE = {
    tokenize.STRING: STRING,
    tokenize.NUMBER: NUMBER,
    tokenize.COMMENT: COMMENT,
}


def colour(line: str) -> str:
    """Give the line with its colours; taking them away gives exactly the line again."""
    parts: list[str] = []
    at = 0

    def paint(start: int, end: int, style: str) -> None:
        nonlocal at
        parts.extend((line[at:start], style, line[start:end], PLAIN))
        at = end

    try:
        for token in tokenize.generate_tokens(iter((line,)).__next__):
            row, start = token.start
            if row != 1:
                break
            style = _BY_TYPE.get(token.type, "")
            if token.type == tokenize.NAME and keyword.iskeyword(token.string):
                style = KEYWORD
            if token.type == tokenize.ERRORTOKEN and token.string[0] in "\"'":
                # A string that is not closed yet goes to the end of the line.
                paint(start, len(line), STRING)
                break
            if style:
                paint(start, token.end[1], style)
    except (tokenize.TokenError, SyntaxError):
        # The line is not complete: what could not be read yet stays plain.
        pass
    return "".join((*parts, line[at:]))
