"""Whatever client, handler and clock do, in any order: no byte of a receive window is lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dwaarx.http import frames
from dwaarx.http.exchange import Exchange
from dwaarx.http.frames import DEFAULT_WINDOW, END_STREAM, PADDED, ErrorCode, FrameType
from dwaarx.http.h2_connection import LINGER
from dwaarx.http.h2_settings import CONNECTION_WINDOW, STREAM_WINDOW
from dwaarx.http.h2_streams import END_RECEIVED
from tests.http.h2_bed import TIMEOUTS, Bed
from tests.http.h2_wire import POST, frame, headers

SIZES = st.sampled_from([0, 1, 1000, 16_000])
PICK = st.integers(0, 1000)
PLANS = st.sampled_from(["consume", "ignore", "pause", "answer", "answer on body", "pause on body"])


class Windows(RuleBasedStateMachine):
    """A client that keeps to its windows, on one connection, and a handler of many moods."""

    def __init__(self) -> None:
        super().__init__()
        self.bed = Bed(frames.encode_settings([(4, 1000)]))
        self.bed.act = self.handle
        self.plan = "consume"
        self.next_id = 1
        self.window = CONNECTION_WINDOW  # the first update has been read by the bed
        self.windows: dict[int, int] = {}  # of the streams on which the client sends
        self.exchanges: list[Exchange] = []

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        plan = self.plan
        if plan != "ignore":
            self.bed.consume(exchange)
        if plan == "pause":
            exchange.pause_request()
        elif plan == "answer":
            exchange.answer(200, [], b"x" * 2000)
        elif plan == "answer on body":
            exchange.consumer.on_body = lambda _: exchange.answer(413, [], b"x" * 2000)
        elif plan == "pause on body":
            exchange.consumer.on_body = lambda _: exchange.pause_request()

    def read(self) -> None:
        for kind, _, stream_id, payload in self.bed.frames():
            if kind == FrameType.WINDOW_UPDATE:
                size = int.from_bytes(payload)
                if not stream_id:
                    self.window += size
                elif stream_id in self.windows:
                    self.windows[stream_id] += size
            elif kind == FrameType.RST_STREAM:
                self.windows.pop(stream_id, None)
            assert kind != FrameType.GOAWAY

    # --- the client

    @rule(plan=PLANS, length=st.sampled_from([None, 0, 1000, 40_000]))
    def begin(self, plan: str, length: int | None) -> None:
        self.plan = plan
        more = [] if length is None else [("content-length", str(length))]
        self.windows[self.next_id] = STREAM_WINDOW
        self.bed.send(headers(self.next_id, [*POST, *more], end=False))
        self.next_id += 2
        self.read()

    @precondition(lambda self: self.windows)
    @rule(pick=PICK, size=SIZES, padding=st.sampled_from([None, 0, 255]), times=st.integers(1, 30))
    def upload(self, pick: int, size: int, padding: int | None, times: int) -> None:
        stream_id = self.pick_stream(pick)
        flags, payload = 0, bytes(size)
        if padding is not None:
            flags, payload = PADDED, bytes((padding,)) + payload + bytes(padding)
        for _ in range(times if size else 1):
            self.data(stream_id, flags, payload)

    @precondition(lambda self: self.windows)
    @rule(pick=PICK, size=SIZES, trailers=st.booleans(), valid=st.booleans())
    def finish(self, pick: int, size: int, *, trailers: bool, valid: bool) -> None:
        stream_id = self.pick_stream(pick)
        if trailers:
            self.bed.send(headers(stream_id, [("x" if valid else "X", "y")]))
        elif not self.data(stream_id, END_STREAM, bytes(size)):
            return
        self.windows.pop(stream_id, None)
        self.read()

    @precondition(lambda self: self.windows)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        stream_id = self.pick_stream(pick)
        del self.windows[stream_id]
        self.bed.send(frames.encode_rst_stream(stream_id, ErrorCode.CANCEL))

    @precondition(lambda self: self.windows)
    @rule(pick=PICK)
    def provoke(self, pick: int) -> None:
        self.bed.send(frames.encode_window_update(self.pick_stream(pick), 0))
        self.read()

    @rule(size=st.integers(1, 10_000))
    def receive(self, size: int) -> None:
        self.bed.send(frames.encode_window_update(0, size))
        for stream_id in list(self.bed.connection.session.streams):
            self.bed.send(frames.encode_window_update(stream_id, size))
        self.read()

    def pick_stream(self, pick: int) -> int:
        return sorted(self.windows)[pick % len(self.windows)]

    def data(self, stream_id: int, flags: int, payload: bytes) -> bool:
        """Send a frame if the windows and a body's end allow it; what was on its way counts too."""
        size = len(payload)
        if size > min(self.window, self.windows.get(stream_id, 0)):
            return False
        self.window -= size
        self.windows[stream_id] -= size
        self.bed.send(frame(FrameType.DATA, flags, stream_id, payload))
        self.read()
        return True

    @rule(stale=PICK, size=SIZES)
    def late(self, stale: int, size: int) -> None:
        """Data that was on its way when the stream was reset by us."""
        session = self.bed.connection.session
        stream_id = 2 * (stale % (self.next_id // 2 + 1)) + 1
        how = session._closed_streams.how(stream_id).name
        if stream_id < self.next_id and how == "RESET_BY_US" and size <= self.window:
            self.window -= size
            self.bed.send(frame(FrameType.DATA, 0, stream_id, bytes(size)))
            self.read()

    # --- the handler

    @precondition(lambda self: self.exchanges)
    @rule(
        pick=PICK,
        what=st.sampled_from(["answer", "head", "body", "end", "reset", "pause", "resume", "calm"]),
    )
    def respond(self, pick: int, what: str) -> None:
        exchange = self.exchanges[pick % len(self.exchanges)]
        if what == "answer":
            exchange.answer(200, [], b"x" * 3000)
        elif what == "head":
            exchange.send_head(200, [])
        elif what == "body":
            exchange.send_body(b"x" * 3000)
        elif what == "end":
            exchange.end()
        elif what == "reset":
            exchange.reset("why not")
        elif what == "pause":
            exchange.pause_request()
        elif what == "resume":
            exchange.resume_request()
        elif exchange.consumer is not None:
            exchange.consumer.on_body = lambda _: None

    @rule(seconds=st.sampled_from([0, 1, LINGER, TIMEOUTS.read_body]))
    def wait(self, seconds: float) -> None:
        session = self.bed.connection.session
        if session.streams and not session.queued:
            self.bed.turn(seconds)
        else:
            self.bed.turn()
        self.read()

    # --- what holds all the time

    @invariant()
    def nothing_is_lost(self) -> None:
        session = self.bed.connection.session
        assert not session.closed
        streams = session.streams
        held = sum(stream.held for stream in streams.values())
        assert session._allowed + session._consumed + held == CONNECTION_WINDOW
        over = {exchange.stream_id for exchange in self.exchanges if exchange.ended}
        for stream_id, stream in streams.items():
            assert stream.held >= 0
            if stream_id in over:
                assert stream.held == 0
            if stream.state in END_RECEIVED:
                assert stream.allowed + stream.held + stream.consumed == STREAM_WINDOW
        if self.bed.transport.writes == 0 and not session.waiting:
            # What the client may still send is what we still take.
            assert self.window == session._allowed

    def teardown(self) -> None:
        for exchange in self.exchanges:
            exchange.reset("the end")
        self.bed.turn()
        for stream_id in list(self.bed.connection.session.streams):
            self.bed.send(frames.encode_rst_stream(stream_id, ErrorCode.CANCEL))
        session = self.bed.connection.session
        assert not session.streams
        assert session._allowed + session._consumed == CONNECTION_WINDOW > DEFAULT_WINDOW


TestWindows = Windows.TestCase
TestWindows.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
