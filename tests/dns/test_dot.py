from dwaarx.dns.dot import MAX_OUTSTANDING, WRITE_SIZE, DotSession, Wait
from tests.dns.fakes import frame, unframe


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
