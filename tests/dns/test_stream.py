from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dwaarx.dns.stream import MessageStream, framed
from tests.dns.fakes import frame


def all_of(stream: MessageStream) -> list[bytes]:
    found = []
    while (message := stream.next()) is not None:
        found.append(message)
    return found


@given(
    st.lists(st.binary(max_size=40) | st.just(bytes(65_535)), max_size=6),
    st.lists(st.integers(0, 140_000), max_size=10),
)
def test_any_messages_cut_anywhere(messages, cuts):
    data = frame(*messages)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    stream = MessageStream()
    found = []
    for start, end in pairwise(places):
        stream.receive(data[start:end])
        found += all_of(stream)
    assert found == messages
    assert not stream.unfinished


def test_octet_by_octet():
    stream = MessageStream()
    messages = [b"", b"a", b"bc" * 200]
    found = []
    for octet in frame(*messages):
        stream.receive(bytes([octet]))
        found += all_of(stream)
    assert found == messages


def test_what_is_left_is_kept_until_it_is_taken():
    stream = MessageStream()
    stream.receive(frame(b"one", b"two") + b"\0")
    assert stream.next() == b"one"
    stream.receive(b"\5thr")
    assert stream.next() == b"two"
    assert stream.next() is None
    assert stream.unfinished
    stream.receive(b"ee")
    assert stream.next() == b"three"
    assert not stream.unfinished


def test_framed():
    assert framed(b"abc") == b"\0\3abc"
