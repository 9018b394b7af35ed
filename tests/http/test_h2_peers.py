"""The session against the h2 library as its client, and against anything at all."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.http import frames
from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    RequestReceived,
    StreamReset,
    StreamWritable,
)
from dwaarx.http.frames import PREFACE
from dwaarx.http.h2 import H2Session
from dwaarx.http.h2_settings import CONNECTION_WINDOW
from tests.http.h2_wire import POST, SETTINGS, block, headers

FIELD_NAMES = st.sampled_from(["accept", "x-a", "x-b", "user-agent", "cookie"])
FIELD_VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)


@st.composite
def exchanges(draw):
    """A request and its response: fields, bodies in pieces, whether trailers follow."""
    return {
        "path": "/" + draw(st.text("abc?=&", max_size=10)),
        "fields": draw(st.lists(st.tuples(FIELD_NAMES, FIELD_VALUES), max_size=5)),
        "upload": draw(st.lists(st.integers(0, 40_000), max_size=4)),
        "status": draw(st.sampled_from([200, 204, 404, 500])),
        "answer": draw(st.lists(FIELD_VALUES, max_size=3)),
        "download": draw(st.lists(st.integers(1, 120_000), max_size=4)),
        "trailers": draw(st.booleans()),
        "whole": draw(st.booleans()),
    }


class Client:
    """The h2 library's client, which acknowledges all it gets."""

    def __init__(self, window: int) -> None:
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.connection.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.connection.initiate_connection()
        self.got: dict[int, dict] = {}

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.got[event.stream_id] = {
                    "head": [tuple(field) for field in event.headers],
                    "body": b"",
                    "trailers": None,
                    "ended": False,
                }
            elif isinstance(event, h2.events.DataReceived):
                self.got[event.stream_id]["body"] += event.data
                length = event.flow_controlled_length
                if length:
                    self.connection.acknowledge_received_data(length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                self.got[event.stream_id]["trailers"] = [tuple(field) for field in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                self.got[event.stream_id]["ended"] = True
            else:
                assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated)


class Upload:
    """A request's body on its way: sent as the windows allow."""

    def __init__(self, stream_id: int, sizes: list[int], trailers: bool) -> None:
        self.stream_id = stream_id
        self.body = b"".join(bytes((number + 1,)) * size for number, size in enumerate(sizes))
        self.left = self.body
        self.trailers = trailers
        self.done = False

    def go_on(self, connection: h2.connection.H2Connection) -> None:
        while self.left:
            size = min(
                connection.local_flow_control_window(self.stream_id),
                connection.max_outbound_frame_size,
            )
            if not size:
                return
            connection.send_data(self.stream_id, self.left[:size])
            self.left = self.left[size:]
        if self.trailers:
            connection.send_headers(self.stream_id, [("x-t", "1")], end_stream=True)
        else:
            connection.end_stream(self.stream_id)
        self.done = True


class Server:
    """Answers each request when it is whole, heeding the marks."""

    def __init__(self, plans: dict[int, dict]) -> None:
        self.session = H2Session(lambda: 0.0)
        self.plans = plans
        self.got: dict[int, dict] = {}
        self.pieces: dict[int, list[bytes]] = {}

    def receive(self, data: bytes) -> None:
        self.handle(self.session.receive_data(data))

    def handle(self, events: list[Event]) -> None:
        for event in events:
            assert not isinstance(event, StreamReset | ConnectionEnded), event
            if isinstance(event, RequestReceived):
                self.got[event.stream_id] = {"head": event.head, "body": b"", "trailers": ()}
                if event.ended:
                    self.answer(event.stream_id)
            elif isinstance(event, BodyReceived):
                self.got[event.stream_id]["body"] += event.data
                self.session.acknowledge(event.stream_id, len(event.data))
            elif isinstance(event, BodyEnded):
                self.got[event.stream_id]["trailers"] = event.trailers
                self.answer(event.stream_id)
            elif isinstance(event, StreamWritable):
                self.go_on(event.stream_id)

    def answer(self, stream_id: int) -> None:
        plan = self.plans[stream_id]
        fields = [(b"x-v", value.encode()) for value in plan["answer"]]
        self.pieces[stream_id] = pieces = [bytes((size % 251,)) * size for size in plan["download"]]
        if plan["whole"]:
            self.session.send_response(stream_id, plan["status"], fields, b"".join(pieces))
        else:
            self.session.send_head(stream_id, plan["status"], fields, not pieces)
            if pieces:
                self.pieces[stream_id] = list(pieces)
                self.go_on(stream_id)

    def go_on(self, stream_id: int) -> None:
        pieces = self.pieces[stream_id]
        while pieces:
            if not self.session.send_body(stream_id, pieces.pop(0)):
                if pieces:
                    return
                break
        self.session.end_stream(
            stream_id, [(b"x-t", b"2")] if self.plans[stream_id]["trailers"] else ()
        )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(exchanges(), min_size=1, max_size=6),
    st.integers(1000, 200_000),
    st.lists(st.integers(1, 30_000), min_size=1, max_size=6),
)
def test_everything_arrives_as_it_was_sent(plans, window, splits):
    client = Client(window)
    by_stream = {2 * number + 1: plan for number, plan in enumerate(plans)}
    server = Server(by_stream)
    connection = client.connection
    uploads = []
    for stream_id, plan in by_stream.items():
        connection.send_headers(
            stream_id,
            [
                (":method", "POST"),
                (":path", plan["path"]),
                (":scheme", "https"),
                (":authority", "example.com"),
                *plan["fields"],
            ],
            end_stream=not plan["upload"],
        )
        if plan["upload"]:
            uploads.append(Upload(stream_id, plan["upload"], plan["trailers"]))
    turns = 0
    while True:
        turns += 1
        for upload in uploads:
            if not upload.done:
                upload.go_on(connection)
        sent = connection.data_to_send()
        at = 0
        while at < len(sent):
            size = splits[turns % len(splits)]
            server.receive(sent[at : at + size])
            at += size
        back = b""
        while more := server.session.data_to_send():
            back += more
            server.handle(server.session.take_events())
        if not sent and not back:
            break
        for at in range(0, len(back), splits[0]):
            client.receive(back[at : at + splits[0]])
    for upload in uploads:
        got = server.got[upload.stream_id]
        assert got["body"] == upload.body
        assert got["trailers"] == (((b"x-t", b"1"),) if upload.trailers else ())
    for stream_id, plan in by_stream.items():
        head = server.got[stream_id]["head"]
        assert head.target == plan["path"].encode()
        crumbs = [value for name, value in plan["fields"] if name == "cookie"]
        wanted = [(n.encode(), v.encode()) for n, v in plan["fields"] if n != "cookie"]
        assert [field for field in head.fields if field[0] != b"cookie"] == wanted
        assert [value for name, value in head.fields if name == b"cookie"] == (
            ["; ".join(crumbs).encode()] if crumbs else []
        )
        got = client.got[stream_id]
        assert got["ended"]
        assert got["head"] == [
            (":status", str(plan["status"])),
            *(("x-v", value) for value in plan["answer"]),
        ]
        assert got["body"] == b"".join(bytes((size % 251,)) * size for size in plan["download"])
        trailers = plan["trailers"] and plan["download"] and not plan["whole"]
        assert got["trailers"] == ([("x-t", "2")] if trailers else None)
    assert server.session.streams == {}
    assert server.session.queued == 0
    assert server.session._allowed + server.session._consumed == CONNECTION_WINDOW


KNOWN = st.sampled_from(
    [
        headers(1),
        headers(1, POST, end=False),
        headers(3, POST, end=False),
        frames.encode(0, 0, 1, b"abc"),
        frames.encode(0, 1, 3, b""),
        frames.encode(1, 1, 5, block()[:9]),
        frames.encode(9, 4, 5, block()[9:]),
        frames.encode_rst_stream(1, 8),
        frames.encode_window_update(3, 1000),
        frames.encode_settings([(4, 0)]),
        frames.encode_settings([(4, 2**31 - 1)]),
        frames.encode_goaway(0, 0),
        frames.SETTINGS_ACK,
    ]
)
RANDOM = st.builds(
    frames.encode,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 9),
    st.binary(max_size=40),
)


class Anyone:
    """Uses every call of a session, in an order that the events decide; nothing may raise."""

    def __init__(self) -> None:
        self.session = H2Session(lambda: 0.0)
        self.ended = 0

    def receive(self, raw: bytes) -> None:
        session = self.session
        for event in session.receive_data(raw):
            assert self.ended == 0
            if isinstance(event, ConnectionEnded):
                self.ended += 1
                continue
            stream_id = event.stream_id
            if isinstance(event, RequestReceived):
                if stream_id % 4 == 1:
                    session.send_informational(stream_id, 100, ())
                    session.send_head(stream_id, 200, [(b"a", b"b")], False)
                    session.send_body(stream_id, bytes(70_000))
                else:
                    session.send_response(stream_id, 200, (), b"x" * 20_000)
            elif isinstance(event, BodyReceived):
                session.acknowledge(stream_id, len(event.data))
            elif isinstance(event, BodyEnded):
                session.end_stream(stream_id, [(b"t", b"u")])
        assert (session.closed, self.ended) in ((True, 1), (False, 0))
        if len(raw) % 3:
            out = session.data_to_send()
            list(frames.FrameBuffer().feed(out))
            for event in session.take_events():
                self.ended += isinstance(event, ConnectionEnded)


@settings(max_examples=150, deadline=None)
@given(st.lists(KNOWN | RANDOM, max_size=14), st.integers(1, 60))
def test_frames_in_any_order_raise_nothing(parts, size):
    anyone = Anyone()
    anyone.receive(PREFACE + SETTINGS)
    raw = b"".join(parts)
    for at in range(0, len(raw), size):
        anyone.receive(raw[at : at + size])
    anyone.session.shutdown()
    anyone.session.goaway(frames.ErrorCode.NO_ERROR)
    anyone.session.data_to_send()


@settings(max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_raise_nothing(raw, greeted):
    anyone = Anyone()
    if greeted:
        anyone.receive(PREFACE + SETTINGS)
    anyone.receive(raw)
    anyone.receive(raw)
