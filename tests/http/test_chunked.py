import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.http import chunked
from dwaarx.http.chunked import ChunkedDecoder
from dwaarx.http.fields import FieldError


def decode(parts: list[bytes]) -> tuple[bytes, bytes | None, list[tuple[bytes, bytes]]]:
    """Decode; the body so far, what follows it (None: not at its end), the trailers."""
    decoder = ChunkedDecoder()
    pieces: list[bytes] = []
    rest: bytes | None = None
    for part in parts:
        if rest is None:
            rest = decoder.decode(part, pieces)
        else:
            rest += part
    return b"".join(pieces), rest, decoder.trailers


def single(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


GOOD = [
    (b"0\r\n\r\n", b"", []),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"00A\r\n0123456789\r\n000\r\n\r\n", b"0123456789", []),
    (b"1\r\na\r\n1\r\nb\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"ab", [(b"x-sum", b"1"), (b"y", b"")]),
    (b'1;a;b=c;d="e;\\" f"\r\na\r\n0;x\r\n\r\n', b"a", []),
]


@pytest.mark.parametrize(("data", "body", "trailers"), GOOD)
def test_bodies(data: bytes, body: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
    assert decode([data + b"GET"]) == (body, b"GET", trailers)
    assert decode(single(data + b"GET")) == (body, b"GET", trailers)
    for cut in range(1, len(data)):
        assert decode([data[:cut]])[1] is None
        assert decode([data[:cut], data[cut:]]) == (body, b"", trailers)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 ;a\r\nhello\r\n",
        b"5; a\r\nhello\r\n",
        b"5;\r\nhello\r\n",
        b"5;a=\r\nhello\r\n",
        b'5;a="\x00"\r\nhello\r\n',
        b"5;a\rb\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\r\nhello\r\n",
        b"g\r\n",
        b"1_0\r\n",
        b"1" * 16 + b"\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloxx",
        b"0\r\nx\r\n\r\n",
        b"0\r\nx : 1\r\n\r\n",
        b"0\r\nx: 1\n\r\n",
        b"0\r\nx: 1\r\n y\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\nHost: a\r\n\r\n",
        b"0\r\n\n",
        b"1;" + b"a" * chunked.MAX_CHUNK_LINE,
        b"0\r\nx: " + b"a" * chunked.MAX_TRAILERS,
        b"0\r\n" + b"x: 1\r\n" * (chunked.MAX_TRAILER_FIELDS + 1),
        b"0\r\n" + (b"x: " + b"a" * 3000 + b"\r\n") * 3,
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(FieldError) as whole:
        decode([data])
    with pytest.raises(FieldError) as byte_by_byte:
        decode(single(data))
    assert str(whole.value) == str(byte_by_byte.value)


def test_extensions_are_limited_in_total() -> None:
    chunk = b"1;" + b"a" * 200 + b"\r\nx\r\n"
    assert decode([chunk * 40])[0] == b"x" * 40
    with pytest.raises(FieldError):
        decode([chunk * 41])


def test_a_chunk_that_comes_whole_is_not_copied() -> None:
    decoder = ChunkedDecoder()
    pieces: list[bytes] = []
    decoder.decode(b"1000\r\n", pieces)
    data = b"x" * 100
    decoder.decode(data, pieces)
    assert pieces[0] is data


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_any_split_gives_the_body(chunks: list[bytes], data: st.DataObject) -> None:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(coded)), max_size=8)))
    parts = [coded[a:b] for a, b in zip([0, *cuts], [*cuts, len(coded)], strict=True)]
    assert decode(parts) == (b"".join(chunks), b"", [])


@given(st.binary(max_size=40).map(lambda data: data.replace(b"a", b"\r\n")))
def test_any_bytes_have_one_verdict(data: bytes) -> None:
    verdicts = []
    for parts in ([data], single(data)):
        try:
            verdicts.append(str(decode(parts)))
        except FieldError as error:
            verdicts.append(repr(error))
    assert verdicts[0] == verdicts[1]
