"""Heads of HTTP/1 as llhttp reads them (the parser of Node.js, by the package httptools).

It reads what our grammar has let through, so that whatever is passed on was understood by two
parsers. It is given heads alone: where a message ends it does not tell, and need not.
"""

from __future__ import annotations

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from dwaarx.http.events import Field
from dwaarx.http.fields import FieldError


class UnknownMethodError(FieldError):
    """A method that llhttp does not know (RFC 9110 9.1: 501)."""


class _Fields:
    """Takes what the parser calls back with."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[Field] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip(b"\t ")))


def request_fields(head: bytes | memoryview) -> list[Field]:
    """Return the fields of a whole request head, names in lower case.

    Raises FieldError if llhttp does not take the head, UnknownMethodError if for its method.
    """
    sink = _Fields()
    try:
        HttpRequestParser(sink).feed_data(head)
    except HttpParserUpgrade:
        pass  # it stops where the other protocol would begin: the fields are all there
    except HttpParserInvalidMethodError as error:
        raise UnknownMethodError("the method is not known here") from error
    except HttpParserError as error:
        raise FieldError(str(error)) from error
    return sink.fields


def response_fields(head: bytes | memoryview) -> list[Field]:
    """Return the fields of a whole response head, names in lower case.

    Raises FieldError if llhttp does not take the head.
    """
    sink = _Fields()
    try:
        HttpResponseParser(sink).feed_data(head)
    except HttpParserUpgrade:
        pass
    except HttpParserError as error:
        raise FieldError(str(error)) from error
    return sink.fields
