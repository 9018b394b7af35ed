from __future__ import annotations

import contextlib

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.http.frames import ErrorCode, H2ConnectionError, StreamError
from dwaarx.http.h2_headers import (
    MAX_FIELDS,
    NO_DYNAMIC_TABLE,
    REMEMBERED_BLOCKS,
    BlockDecoder,
    RefusedError,
    encode_fields,
    encode_response,
)
from tests.http.h2_wire import GET, POST, block

NAMES = st.sampled_from(
    [b"x-a", b"date", b"content-length", b"set-cookie", b"etag", b"server", b"x-very-own"]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=8), st.integers(100, 599))
def test_what_is_encoded_reads_the_same_elsewhere(fields, status):
    decoder = Decoder()
    decoder.header_table_size = 0
    for _ in range(2):  # made, then remembered
        got = decoder.decode(encode_response(status, fields), raw=True)
        assert list(got) == [(b":status", b"%d" % status), *fields]
    assert list(decoder.decode(encode_fields(fields), raw=True)) == fields


def test_no_dynamic_table_is_left_at_the_other_side():
    decoder = Decoder()
    decoder.decode(NO_DYNAMIC_TABLE + encode_response(200, [(b"x-one", b"two")]))
    assert not decoder.header_table.dynamic_entries
    assert decoder.header_table.maxsize == 0


def test_secrets_are_marked_as_never_to_be_indexed():
    (field,) = Decoder().decode(encode_fields([(b"set-cookie", b"id=1")]), raw=True)
    assert not field.indexable


def test_a_request():
    head = BlockDecoder().request(
        block(
            [
                (":method", "POST"),
                (":path", "/a?b"),
                (":scheme", "https"),
                (":authority", "Example.COM:8443"),
                ("content-length", "12"),
                ("te", "trailers"),
                ("host", "example.com:8443"),
                ("x-empty", ""),
            ]
        )
    )
    assert (head.method, head.scheme, head.authority) == (b"POST", b"https", b"example.com:8443")
    assert (head.target, head.version, head.content_length) == (b"/a?b", b"2", 12)
    assert head.fields == ((b"content-length", b"12"), (b"te", b"trailers"), (b"x-empty", b""))
    assert head.upgrade is None


def test_host_stands_in_for_authority():
    head = BlockDecoder().request(block([*GET[:2], GET[3], ("host", "Example.com")]))
    assert (head.authority, head.fields) == (b"example.com", ())


def test_cookie_crumbs_are_joined_where_the_first_was():
    head = BlockDecoder().request(
        block([*GET, ("a", "1"), ("cookie", "x=1"), ("b", "2"), ("cookie", "y=2; z=3")])
    )
    assert head.fields == ((b"a", b"1"), (b"cookie", b"x=1; y=2; z=3"), (b"b", b"2"))


def test_options_of_the_server_itself():
    fields = [(":method", "OPTIONS"), *GET[1:3], (":path", "*")]
    assert BlockDecoder().request(block(fields)).target == b"*"


def without(name: str) -> list[tuple[str, str]]:
    return [field for field in GET if field[0] != name]


MALFORMED = {
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no path": without(":path"),
    "no authority": without(":authority"),
    "nothing": [],
    "method twice": [*GET, (":method", "GET")],
    "path twice": [*GET, (":path", "/")],
    "empty method": [(":method", ""), *GET[1:]],
    "method no token": [(":method", "G T"), *GET[1:]],
    "empty path": [*without(":path"), (":path", "")],
    "path without slash": [*without(":path"), (":path", "a")],
    "path with space": [*without(":path"), (":path", "/ HTTP/1.1\r\nx: y")],
    "path with fragment": [*without(":path"), (":path", "/#a")],
    "asterisk for GET": [*without(":path"), (":path", "*")],
    "absolute path": [*without(":path"), (":path", "http://example.com/")],
    "other scheme": [*without(":scheme"), (":scheme", "ftp")],
    "user info": [*without(":authority"), (":authority", "me@example.com")],
    "empty authority": [*without(":authority"), (":authority", "")],
    "authority with path": [*without(":authority"), (":authority", "a/b")],
    "unknown pseudo": [*GET, (":protocol", "websocket")],
    "pseudo of a response": [*GET, (":status", "200")],
    "pseudo after regular": [*GET[:3], ("a", "b"), GET[3]],
    "pseudo after host": [*GET[:3], ("host", "example.com"), GET[3]],
    "pseudo after cookie": [*GET[:3], ("cookie", "a"), GET[3]],
    "upper case": [*GET, ("X-A", "b")],
    "empty name": [*GET, ("", "b")],
    "name with space": [*GET, ("a b", "c")],
    "name with colon": [*GET, ("a:", "c")],
    "long name, upper case": [*GET, ("a" * 70 + "A", "c")],
    "name not ASCII": [*GET, ("é", "c")],
    "value with LF": [*GET, ("a", "b\nc: d")],
    "value with CR": [*GET, ("a", "b\rc")],
    "value with NUL": [*GET, ("a", "b\0")],
    "value with outer space": [*GET, ("a", " b")],
    "value with trailing tab": [*GET, ("a", "b\t")],
    "connection": [*GET, ("connection", "close")],
    "keep-alive": [*GET, ("keep-alive", "1")],
    "proxy-connection": [*GET, ("proxy-connection", "x")],
    "transfer-encoding": [*GET, ("transfer-encoding", "chunked")],
    "upgrade": [*GET, ("upgrade", "h2c")],
    "te gzip": [*GET, ("te", "gzip")],
    "te of several": [*GET, ("te", "trailers, gzip")],
    "two hosts": [*GET, ("host", "example.com"), ("host", "example.com")],
    "host differs": [*GET, ("host", "example.org")],
    "host differs in port": [*GET, ("host", "example.com:1")],
    "host malformed": [*without(":authority"), ("host", "a b")],
    "content-length signed": [*POST, ("content-length", "+1")],
    "content-lengths differ": [*POST, ("content-length", "1"), ("content-length", "2")],
    "content-length list": [*POST, ("content-length", "1, 1")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests(name):
    with pytest.raises(StreamError) as caught:
        BlockDecoder().request(block(MALFORMED[name]))
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


def test_connect_is_not_for_here():
    with pytest.raises(RefusedError) as caught:
        BlockDecoder().request(block([(":method", "CONNECT"), (":authority", "example.com:443")]))
    assert caught.value.status == 501


def test_trailers():
    decoder = BlockDecoder()
    assert decoder.trailers(block([("a", "1"), ("b", "2")])) == ((b"a", b"1"), (b"b", b"2"))
    for fields in ([(":path", "/")], [("A", "b")], [("connection", "x")], [("a", "\0")]):
        with pytest.raises(StreamError):
            decoder.trailers(block(fields))
    with pytest.raises(StreamError) as caught:
        decoder.trailers(block([("a", "b")] * (MAX_FIELDS + 1)))
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_too_many_and_too_large_fields_are_refused_with_431():
    decoder = BlockDecoder()
    assert len(decoder.request(block([*GET, *[("a", "b")] * (MAX_FIELDS - 4)])).fields) == 196
    for more in ([("a", "b")] * (MAX_FIELDS - 3), [("a", "b" * 30_000)] * 3):
        with pytest.raises(RefusedError) as caught:
            decoder.request(block([*GET, *more]))
        assert caught.value.status == 431
    assert decoder.request(block()).target == b"/"  # the decoder is none the worse


def test_a_bomb_ends_the_connection():
    encoder = Encoder()
    bomb = encoder.encode([(b"a", b"x" * 3000)], huffman=False) + b"\xbe" * 60
    assert len(bomb) < 3100
    with pytest.raises(H2ConnectionError) as caught:
        BlockDecoder().request(bomb)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "broken",
    [
        b"\x80",  # index 0
        b"\xbe",  # an index that the table does not have
        b"\xff\xff\xff\xff\xff\xff\xff",  # an endless integer
        b"\x40",  # cut off
        b"\x40\x05abc",
        b"\x00\x83\xff\xff\xff\x00",  # Huffman: padding that is too long
        b"\x3f\xe2\x1f",  # a table of 4,097 bytes
        b"\x82\x20",  # a change of the table's size after a field
    ],
)
def test_blocks_that_cannot_be_decoded(broken):
    with pytest.raises(H2ConnectionError) as caught:
        BlockDecoder().skip(broken)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


@given(st.binary(max_size=80))
def test_any_block_is_decoded_or_refused(raw):
    decoder = BlockDecoder()
    for function in (decoder.request, decoder.trailers, decoder.skip):
        with contextlib.suppress(H2ConnectionError, StreamError, RefusedError):
            function(raw)


def test_repeated_blocks_are_remembered():
    encoder = Encoder()
    decoder = BlockDecoder()
    blocks = [encoder.encode(GET) for _ in range(3)]
    assert blocks[0] != blocks[1] == blocks[2]
    first, second, third = map(decoder.request, blocks)
    assert first == second == third
    assert second is third is not first


def test_what_is_remembered_heeds_the_dynamic_table():
    # The same block means another thing after each change of the table.
    same = block() + b"\xbe"
    decoder = BlockDecoder()
    for value in (b"one", b"two", b"three" * 1000):
        decoder.skip(Encoder().encode([(b"x", value)], huffman=False))
        if len(value) > 4000:  # larger than the table: it is empty now
            with pytest.raises(H2ConnectionError):
                decoder.request(same)
        else:
            assert decoder.request(same).fields == ((b"x", value),)
            assert decoder.request(same).fields == ((b"x", value),)


def test_what_is_remembered_heeds_a_smaller_table():
    decoder = BlockDecoder()
    decoder.skip(Encoder().encode([(b"x", b"one")]))
    same = block() + b"\xbe"
    assert decoder.request(same).fields == ((b"x", b"one"),)
    decoder.skip(b"\x20\x3f\xe1\x1f")
    with pytest.raises(H2ConnectionError):
        decoder.request(same)


def test_what_is_remembered_heeds_the_size_of_an_empty_table():
    decoder = BlockDecoder()
    open_table, shut_table = b"\x3f\xe1\x1f" + block(), b"\x20" + block()
    for size in (open_table, shut_table, open_table):
        decoder.request(size)
    added = block() + b"\x40\x01x\x01y"
    assert decoder.request(added).fields == ((b"x", b"y"),)
    assert decoder.request(block() + b"\xbe").fields == ((b"x", b"y"),)
    for size in (shut_table, open_table, shut_table):
        decoder.request(size)
    decoder.request(added)
    with pytest.raises(H2ConnectionError):
        decoder.request(block() + b"\xbe")


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["1", "2", "x" * 1500]))),
        max_size=12,
    ),
)
def test_memory_makes_no_difference(requests):
    encoder = Encoder()
    decoder = BlockDecoder()
    for fields in requests:
        wanted = tuple((name.encode(), value.encode()) for name, value in fields)
        assert decoder.request(encoder.encode([*GET, *fields])).fields == wanted


def test_memory_is_bounded():
    decoder = BlockDecoder()
    for number in range(3 * REMEMBERED_BLOCKS):
        decoder.request(block([*GET[:3], (":path", f"/{number}")]))
    assert len(decoder._heads) <= REMEMBERED_BLOCKS
    decoder = BlockDecoder()
    decoder.request(block([*GET, ("a", "b" * 600)]))
    assert not decoder._heads
