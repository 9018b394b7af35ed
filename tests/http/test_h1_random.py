"""The HTTP/1.1 session against random input, and against llhttp."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.http.h1_driver import GET, Driver, both
from tests.http.test_h1_request import BAD_FIELDS, BAD_LINES

pytestmark = pytest.mark.usefixtures("fixed_date")


TOKENS = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}", fullmatch=True)
VALUES = st.from_regex(
    rb"([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]{0,20}[\x21-\x7e])?)?", fullmatch=True
)
METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"REPORT"])
TARGETS = st.from_regex(rb"/[!\"$-~]{0,20}", fullmatch=True)
SPECIAL = {b"connection", b"content-length", b"host", b"keep-alive", b"proxy-connection", b"te"}
SPECIAL |= {b"transfer-encoding", b"upgrade"}
FIELDS = st.lists(
    st.tuples(TOKENS.filter(lambda name: name.lower() not in SPECIAL), VALUES), max_size=5
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """A request: its bytes; its method, target, fields and body."""
    method = draw(METHODS)
    target = draw(TARGETS)
    fields = draw(FIELDS)
    body = draw(st.binary(max_size=60))
    coding = draw(st.sampled_from(["none", "length", "chunked"]))
    data = b"%b %b HTTP/1.1\r\nHost: a\r\n" % (method, target)
    data += b"".join(b"%b: %b\r\n" % field for field in fields)
    if coding == "none":
        return data + b"\r\n", method, target, fields, b""
    if coding == "length":
        data += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        fields = [*fields, (b"content-length", b"%d" % len(body))]
        return data, method, target, fields, body
    size = draw(st.integers(1, 30))
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data += b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
    return data, method, target, fields, body


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_random_requests_split_anywhere(
    sent: list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes]], data: st.DataObject
) -> None:
    stream = b"".join(one[0] for one in sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    driver = Driver().feed(*parts)
    assert not driver.over
    assert driver.bodies == [body for *_, body in sent]
    for head, (_, method, target, fields, _) in zip(driver.heads, sent, strict=True):
        assert (head.method, head.target, head.authority) == (method, target, b"a")
        assert list(head.fields) == [(name.lower(), value) for name, value in fields]


SNIPPETS = [
    *(line + b"\r\n" for line in BAD_LINES if line),
    *(field + b"\r\n" for field in BAD_FIELDS),
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"0\r\n\r\n", b"5\r\nhello\r\n", b"Host: a\r\n"),
    *(b"GET / HTTP/1.1\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", GET),
]
MUTATED = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.binary(max_size=8)), max_size=12)


@given(MUTATED.map(b"".join))
def test_any_bytes_have_one_verdict(data: bytes) -> None:
    both(data)


class Peer:
    """What llhttp makes of a stream of requests."""

    def __init__(self, data: bytes) -> None:
        self.told: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] = []
        self.error: httptools.HttpParserError | None = None
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self.error = error

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.told.append((self._parser.get_method(), self._url, self._fields, self._body))


@given(st.lists(requests(), min_size=1, max_size=3), st.data())
def test_llhttp_reads_whole_streams_as_we_do(
    sent: list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes]],
    data: st.DataObject,
) -> None:
    """Heads are read by it; where messages end, and what chunks hold, it sees as we do."""
    stream = b"".join(one[0] for one in sent)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(stream)))
        stream = stream[:at] + data.draw(st.sampled_from(SNIPPETS)) + stream[at:]
    ours = Driver().feed(stream)
    if ours.over or ours.session.head_begun or ours.session.in_body:
        return
    peer = Peer(stream)
    assert peer.error is None
    assert [body for *_, body in peer.told] == ours.bodies
    assert [line[0] for line in peer.told] == [head.method for head in ours.heads]
    for (_, _, fields, _), head in zip(peer.told, ours.heads, strict=True):
        kept = [field for field in fields if field[0] not in SPECIAL - {b"content-length"}]
        assert kept == list(head.fields)
