from __future__ import annotations

import pytest

from dwaarx.http.frames import FrameType
from dwaarx.http.h2_streams import (
    END_RECEIVED,
    END_SENT,
    RECEIVED,
    REMEMBERED_CLOSED,
    ClosedStreams,
    State,
    Verdict,
)


@pytest.mark.parametrize("kind", RECEIVED)
def test_the_table_has_a_verdict_for_every_state(kind):
    assert len(RECEIVED[kind]) == len(State)


def test_the_table_says_what_section_5_1_says():
    # idle: "Receiving any frame other than HEADERS or PRIORITY ... PROTOCOL_ERROR".
    idle = {kind: verdicts[State.IDLE] for kind, verdicts in RECEIVED.items()}
    assert idle.pop(FrameType.HEADERS) is Verdict.TAKE
    assert set(idle.values()) == {Verdict.PROTOCOL_ERROR}
    # open, half-closed (local): "can receive any type of frame".
    for state in (State.OPEN, State.HALF_CLOSED_LOCAL):
        assert {verdicts[state] for verdicts in RECEIVED.values()} == {Verdict.TAKE}
    # half-closed (remote): "other than WINDOW_UPDATE, PRIORITY, or RST_STREAM ... STREAM_CLOSED".
    assert {kind: verdicts[State.HALF_CLOSED_REMOTE] for kind, verdicts in RECEIVED.items()} == {
        FrameType.HEADERS: Verdict.STREAM_CLOSED,
        FrameType.DATA: Verdict.STREAM_CLOSED,
        FrameType.RST_STREAM: Verdict.TAKE,
        FrameType.WINDOW_UPDATE: Verdict.TAKE,
    }
    # closed, after RST_STREAM of ours: "minimally process and then discard".
    assert {verdicts[State.RESET_BY_US] for verdicts in RECEIVED.values()} == {Verdict.IGNORE}


def test_ends():
    assert END_RECEIVED[State.OPEN] is State.HALF_CLOSED_REMOTE
    assert END_SENT[State.OPEN] is State.HALF_CLOSED_LOCAL
    assert END_RECEIVED[END_SENT[State.OPEN]] is State.ENDED
    assert END_SENT[END_RECEIVED[State.OPEN]] is State.ENDED


def test_closed_streams_are_remembered_and_forgotten():
    closed = ClosedStreams()
    assert closed.how(1) is State.FORGOTTEN
    for stream_id in range(REMEMBERED_CLOSED + 5):
        closed.add(stream_id, State.ENDED)
    assert len(closed) == REMEMBERED_CLOSED
    assert closed.how(4) is State.FORGOTTEN
    assert closed.how(5) is State.ENDED
    closed.add(5, State.RESET_BY_US)
    assert closed.how(5) is State.RESET_BY_US
