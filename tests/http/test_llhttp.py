from __future__ import annotations

import pytest

from dwaarx.http.fields import FieldError
from dwaarx.http.llhttp import UnknownMethodError, request_fields, response_fields

LINES = b"Host: a\r\nX-Empty:\r\nx-space: \t b c \t\r\nx: \xe9\r\n\r\n"
FIELDS = [(b"host", b"a"), (b"x-empty", b""), (b"x-space", b"b c"), (b"x", b"\xe9")]


def test_fields_of_heads() -> None:
    assert request_fields(b"GET / HTTP/1.1\r\n" + LINES) == FIELDS
    assert response_fields(b"HTTP/1.1 200 OK\r\n" + LINES) == FIELDS


def test_a_change_of_protocol_is_no_error() -> None:
    lines = b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    fields = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    assert request_fields(b"GET / HTTP/1.1\r\n" + lines) == fields
    assert response_fields(b"HTTP/1.1 101 Switching Protocols\r\n" + lines) == fields


def test_heads_before_bodies() -> None:
    assert request_fields(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n") == [
        (b"content-length", b"9")
    ]
    assert response_fields(b"HTTP/1.0 200\r\n\r\n") == []


def test_what_llhttp_does_not_take() -> None:
    with pytest.raises(UnknownMethodError, match="method"):
        request_fields(b"FOO / HTTP/1.1\r\n\r\n")
    with pytest.raises(FieldError):
        request_fields(b"GET / HTTP/1.1\r\na b: c\r\n\r\n")
    with pytest.raises(FieldError):
        response_fields(b"HTTP/1.1 abc\r\n\r\n")
