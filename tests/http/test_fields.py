import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.http.fields import (
    CodingError,
    FieldError,
    connection_options,
    is_target,
    is_token,
    is_value,
    parse_authority,
    parse_content_length,
    parse_fields,
    parse_transfer_encoding,
    strip_hop_by_hop,
)


@pytest.mark.parametrize("name", [b"a", b"Host", b"x-1", b"!#$%&'*+-.^_`|~"])
def test_a_token_is_made_of_tchars(name: bytes) -> None:
    assert is_token(name)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\n", b"\na", b"a\x00", b"\xe9", b"a/b"])
def test_anything_else_is_no_token(name: bytes) -> None:
    assert not is_token(name)


@pytest.mark.parametrize("value", [b"", b"a", b"a b", b"a\tb", b"\xe9t\xe9", b"~"])
def test_a_value_is_visible_with_white_space_inside(value: bytes) -> None:
    assert is_value(value)


@pytest.mark.parametrize(
    "value", [b" a", b"a ", b"\ta", b"a\t", b"a\r\nb: c", b"a\n", b"\r", b"\x00", b"\x7f", b" "]
)
def test_a_value_has_no_control_and_no_white_space_around(value: bytes) -> None:
    assert not is_value(value)


@given(st.binary(max_size=12))
def test_values_against_the_definition(value: bytes) -> None:
    good = all(byte == 9 or (byte >= 32 and byte != 127) for byte in value)
    assert is_value(value) == (good and value == value.strip(b" \t"))


@pytest.mark.parametrize("target", [b"/", b"*", b'/a?b=|[]{}^"', b"/%00", b"//x"])
def test_targets(target: bytes) -> None:
    assert is_target(target)


@pytest.mark.parametrize(
    "target", [b"", b"a", b"/ ", b"/#a", b"/\xe9", b"/\x00", b"/\n", b"**", b"/a\x7f", b"http://a/"]
)
def test_no_targets(target: bytes) -> None:
    assert not is_target(target)


@pytest.mark.parametrize(
    ("values", "length"),
    [([], None), ([b"0"], 0), ([b"007"], 7), ([b"9" * 18], 10**18 - 1), ([b"5", b"5"], 5)],
)
def test_content_length(values: list[bytes], length: int | None) -> None:
    assert parse_content_length(values) == length


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b"+5"],
        [b"-5"],
        [b"5, 5"],
        [b"0x5"],
        [b"5 "],
        [b"5\n"],
        [b"1" * 19],
        [b"5", b"6"],
        [b"5", b"05"],
        ["٥".encode()],
        [b"1_0"],
        [b"5.0"],
    ],
)
def test_no_content_length(values: list[bytes]) -> None:
    with pytest.raises(FieldError):
        parse_content_length(values)


def test_transfer_encoding_is_a_single_chunked() -> None:
    assert parse_transfer_encoding([]) is False
    assert parse_transfer_encoding([b"chunked"]) is True
    assert parse_transfer_encoding([b"Chunked"]) is True


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b"identity"],
        [b"chunked, chunked"],
        [b"chunked", b"chunked"],
        [b"chunked, gzip"],
        [b"xchunked"],
        [b"chunked;q=1"],
        [b"\x0bchunked"],
        [b"chunked,"],
        [b"g z, chunked"],
    ],
)
def test_any_other_transfer_encoding_is_refused(values: list[bytes]) -> None:
    with pytest.raises(FieldError) as caught:
        parse_transfer_encoding(values)
    assert not isinstance(caught.value, CodingError)


def test_a_coding_before_chunked_is_told_apart() -> None:
    with pytest.raises(CodingError):
        parse_transfer_encoding([b"gzip, chunked"])
    with pytest.raises(CodingError):
        parse_transfer_encoding([b"gzip", b"chunked"])


@pytest.mark.parametrize(
    ("value", "authority"),
    [
        (b"Example.COM", b"example.com"),
        (b"example.com:8443", b"example.com:8443"),
        (b"example.com:", b"example.com"),
        (b"127.0.0.1:0", b"127.0.0.1:0"),
        (b"[::1]", b"[::1]"),
        (b"[FE80::1]:65535", b"[fe80::1]:65535"),
        (b"[::ffff:192.0.2.1]", b"[::ffff:192.0.2.1]"),
        (b"a%C3%A9", b"a%c3%a9"),
        (b"a_b.test.", b"a_b.test."),
    ],
)
def test_authority(value: bytes, authority: bytes) -> None:
    assert parse_authority(value) == authority


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":80",
        b"a:65536",
        b"a:123456",
        b"a:+1",
        b"a:8a",
        b"user@a",
        b"a/b",
        b"a b",
        b"a\n",
        b"a\x00",
        b"%4",
        b"%zz",
        b"\xe9",
        b"[::1",
        b"::1",
        b"[1::2::3]",
        b"[v1.a]",
        b"[]",
        b"[::1]a",
        b"[fe80::1%eth0]",
        b"a" * 1025,
        b"a#b",
        b"a?b",
        b"a\\b",
    ],
)
def test_no_authority(value: bytes) -> None:
    with pytest.raises(FieldError):
        parse_authority(value)


def test_connection_options_are_lower_case_tokens() -> None:
    assert connection_options([b"Keep-Alive, , X", b"close"]) == {b"keep-alive", b"x", b"close"}
    assert connection_options([]) == frozenset()
    with pytest.raises(FieldError):
        connection_options([b"a b"])


def test_hop_by_hop_fields_go_and_what_connection_names() -> None:
    fields = [
        (b"connection", b"close, X-Hop, content-length"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"te", b"deflate"),
        (b"x-hop", b"1"),
        (b"content-length", b"5"),
        (b"x-end", b"1"),
    ]
    assert strip_hop_by_hop(fields) == [(b"content-length", b"5"), (b"x-end", b"1")]


def test_te_is_reduced_to_trailers() -> None:
    fields = [(b"connection", b"TE"), (b"te", b"deflate;q=0.5, Trailers")]
    assert strip_hop_by_hop(fields) == [(b"te", b"trailers")]


def test_fields_are_split_and_trimmed() -> None:
    data = b"xxA:1\r\nB-c: \t2 3\t \r\nD:\r\nyy"
    assert parse_fields(data, 2, len(data) - 2) == [(b"a", b"1"), (b"b-c", b"2 3"), (b"d", b"")]
    assert parse_fields(b"", 0, 0) == []


@pytest.mark.parametrize(
    "lines",
    [
        b"a : 1\r\n",
        b": 1\r\n",
        b"a\r\n",
        b"a: 1\r\n b\r\n",
        b"a: 1\n",
        b"a: 1\r\r\n",
        b"a: \x00\r\n",
        b" a: 1\r\n",
        b"a: 1",
        b"a: 1\r\n\r\n",
        b"\xe9: 1\r\n",
        b"a: 1\rb: 2\r\n",
    ],
)
def test_malformed_lines_are_refused(lines: bytes) -> None:
    with pytest.raises(FieldError):
        parse_fields(lines, 0, len(lines))


NAMES = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True)
VALUES = st.binary(max_size=12).filter(is_value)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4), st.sampled_from([b"", b" ", b" \t "]))
def test_right_fields_come_back(fields: list[tuple[bytes, bytes]], space: bytes) -> None:
    lines = b"".join(b"%b:%b%b%b\r\n" % (name, space, value, space) for name, value in fields)
    assert parse_fields(lines, 0, len(lines)) == [(n.lower(), v) for n, v in fields]
