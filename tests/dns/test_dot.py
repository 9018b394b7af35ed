from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dwaarx.dns.dot import MAX_OUTSTANDING, WRITE_SIZE, DotSession, MessageStream, Wait, framed
from tests.dns.fakes import frame, unframe


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


def test_a_session_answers_in_any_order():
    session = DotSession()
    assert session.waits_for is Wait.QUERY
    session.receive(frame(b"one", b"two")[:-1])
    assert session.next_message() == b"one"
    assert session.next_message() is None
    assert session.waits_for is Wait.REST
    session.receive(b"o")
    assert session.next_message() == b"two"
    assert session.waits_for is Wait.ANSWER
    session.answer(b"to two")
    session.answer(b"to one")
    assert session.waits_for is Wait.QUERY
    assert unframe(session.data_to_send()) == [b"to two", b"to one"]
    assert session.data_to_send() == b""


def test_a_session_takes_so_many_at_once():
    session = DotSession()
    session.receive(frame(*[b"x"] * (MAX_OUTSTANDING + 5)))
    for _ in range(MAX_OUTSTANDING):
        assert session.next_message() == b"x"
    assert session.next_message() is None
    assert session.must_pause
    assert session.waits_for is Wait.ANSWER
    session.answer(b"")
    assert not session.must_pause
    assert session.next_message() == b"x"


def test_a_session_waits_for_a_peer_that_does_not_read():
    session = DotSession()
    session.choked = True
    session.receive(frame(b"x"))
    assert session.next_message() is None
    assert session.must_pause
    assert session.waits_for is Wait.PEER


def test_a_session_says_when_to_write():
    session = DotSession()
    count = 0
    while not session.full:
        session.answer(bytes(60_000))
        count += 1
    assert count == WRITE_SIZE // 60_000 + 1
    session.data_to_send()
    assert not session.full
