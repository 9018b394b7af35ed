"""Placeholders, and that no value of a client's breaks a field."""

from __future__ import annotations

import attrs
import pytest

from dwaarx.config.placeholders import PLACEHOLDERS
from dwaarx.http.placeholders import compile_template, host_of
from tests.http.fakes import INFO, make_exchange


def filled(text, target=b"/a/b?c=d&e", info=INFO, **changes):
    return compile_template(text)(make_exchange(target, info=info, **changes))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{host}", b"example.com"),
        ("{hostport}", b"example.com:8443"),
        ("{method}", b"GET"),
        ("{path}", b"/a/b"),
        ("{port}", b"8443"),
        ("{query}", b"c=d&e"),
        ("{remote_host}", b"192.0.2.7"),
        ("{scheme}", b"https"),
        ("{server_name}", b"example.com"),
        ("{uri}", b"/a/b?c=d&e"),
        ("plain é", "plain é".encode()),
        ('{"json": 1} {}', b'{"json": 1} {}'),
        ("https://{host}{uri}!", b"https://example.com/a/b?c=d&e!"),
        ("{host}{host}", b"example.comexample.com"),
    ],
)
def test_values(text, value):
    assert filled(text, authority=b"example.com:8443") == value


def test_every_placeholder_of_a_dwaarfile_stands_for_something():
    for name in PLACEHOLDERS:
        assert filled("{" + name + "}")


def test_an_unknown_one_is_refused():
    with pytest.raises(ValueError, match=r"hots. stands for nothing"):
        compile_template("x{hots}")


def test_what_is_not_there_is_empty():
    plain = attrs.evolve(INFO, secure=False, server_name=None)
    assert filled("{server_name}|{scheme}|{query}", b"/", plain) == b"|http|"
    assert filled("{host}|{hostport}", authority=b"") == b"|"
    assert filled("{port}") == b"443"


def test_a_server_name_that_would_break_a_field_is_left_out():
    info = attrs.evolve(INFO, server_name="a\r\nx: y")
    assert filled("{server_name}", info=info) == b""


def test_host_of():
    assert host_of(b"[::1]:8443") == b"[::1]"
    assert host_of(b"[::1]") == b"[::1]"
    assert host_of(b"a:1") == b"a"
    assert host_of(b"a") == b"a"
    assert filled("{port}", authority=b"[::1]:8443") == b"8443"
