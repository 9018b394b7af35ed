from __future__ import annotations

import hyperframe.frame as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.http import frames
from dwaarx.http.frames import ErrorCode, FrameType, H2ConnectionError, StreamError

STREAM = 0x7FFF_FFFF


def one(raw: bytes) -> reference.Frame:
    """Read a frame with the library that the h2 package uses."""
    frame, length = reference.Frame.parse_frame_header(memoryview(raw[:9]))
    assert length == len(raw) - 9
    frame.parse_body(memoryview(raw[9:]))
    return frame


FRAMES = st.lists(
    st.tuples(
        st.integers(0, 255), st.integers(0, 255), st.integers(0, STREAM), st.binary(max_size=40)
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(FRAMES, st.data())
def test_frames_come_out_as_they_went_in_however_split(wanted, draw):
    raw = b"".join(frames.encode(*frame) for frame in wanted)
    buffer = frames.FrameBuffer()
    got = []
    while raw:
        size = draw.draw(st.integers(1, len(raw)))
        got += buffer.feed(raw[:size])
        raw = raw[size:]
    assert got == wanted
    assert buffer.partial is None


def test_frames_byte_by_byte():
    wanted = [(0, 0, 1, b"x" * 300), (8, 0, 0, b"\0\0\0\1"), (4, 1, 0, b"")]
    buffer = frames.FrameBuffer()
    got = []
    for byte in b"".join(frames.encode(*frame) for frame in wanted):
        got += buffer.feed(bytes((byte,)))
    assert got == wanted


def test_the_reserved_bit_is_ignored():
    raw = frames.header(0, 6, 0, 0)[:5] + (0x8000_0001).to_bytes(4)
    assert list(frames.FrameBuffer().feed(raw)) == [(6, 0, 1, b"")]


def test_a_partial_frame_tells_its_type_as_soon_as_it_can():
    buffer = frames.FrameBuffer()
    raw = frames.encode(FrameType.HEADERS, 0, 1, b"abc")
    seen = []
    for byte in raw:
        list(buffer.feed(bytes((byte,))))
        seen.append(buffer.partial)
    assert seen == [-1, -1, -1] + [FrameType.HEADERS] * 8 + [None]


@pytest.mark.parametrize("kind", [0, 1, 4, 99])
def test_a_frame_over_the_limit_is_refused_before_it_is_read(kind):
    whole = frames.encode(kind, 0, 1, bytes(frames.MAX_FRAME_SIZE))
    assert len(list(frames.FrameBuffer().feed(whole))) == 1
    for length in (frames.MAX_FRAME_SIZE + 1, 0x10000, 0xFFFFFF):
        with pytest.raises(H2ConnectionError) as caught:
            list(frames.FrameBuffer().feed(frames.header(length, kind, 0, 1)))
        assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_what_is_sent_reads_the_same_elsewhere():
    settings_frame = one(frames.encode_settings([(4, 70_000), (3, 5)]))
    assert isinstance(settings_frame, reference.SettingsFrame)
    assert settings_frame.settings == {4: 70_000, 3: 5}
    assert one(frames.SETTINGS_ACK).flags == {"ACK"}
    ping = one(frames.encode_ping(b"12345678", ack=True))
    assert (ping.opaque_data, ping.flags) == (b"12345678", {"ACK"})
    assert one(frames.encode_ping(b"12345678", ack=False)).flags == set()
    reset = one(frames.encode_rst_stream(STREAM, 8))
    assert (reset.stream_id, reset.error_code) == (STREAM, 8)
    update = one(frames.encode_window_update(3, STREAM))
    assert (update.stream_id, update.window_increment) == (3, STREAM)
    goaway = one(frames.encode_goaway(7, 11, b"why"))
    assert (goaway.last_stream_id, goaway.error_code, goaway.additional_data) == (7, 11, b"why")
    priority = one(frames.encode_priority(5, 3, 200))
    assert (priority.depends_on, priority.stream_weight) == (3, 200)


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 40_000, 32_768])
def test_long_blocks_continue(size):
    payload = bytes(range(256)) * 157
    got = list(frames.FrameBuffer().feed(frames.encode_headers(9, payload[:size], end=True)))
    assert b"".join(payload for _, _, _, payload in got) == payload[:size]
    assert [kind for kind, _, _, _ in got] == [1] + [9] * (len(got) - 1)
    assert len(got) == max(1, -(-size // 16_384))
    assert got[0][1] & frames.END_STREAM
    assert [bool(flags & frames.END_HEADERS) for _, flags, _, _ in got] == [False] * (
        len(got) - 1
    ) + [True]


@given(st.binary(max_size=50), st.integers(0, 255))
def test_padding_is_cut_off(payload, padding):
    padded = reference.DataFrame(1, payload, pad_length=padding, flags=("PADDED",))
    raw = padded.serialize()
    assert frames.decode_data(raw[4], 1, raw[9:]) == payload
    header = reference.HeadersFrame(
        3,
        payload,
        pad_length=padding,
        depends_on=1,
        stream_weight=7,
        exclusive=True,
        flags=("PADDED", "PRIORITY"),
    )
    raw = header.serialize()
    assert frames.decode_headers(raw[4], 3, raw[9:]) == (payload, 1)


def code_of(function, *arguments) -> ErrorCode:
    with pytest.raises(H2ConnectionError) as caught:
        function(*arguments)
    return caught.value.code


PADDED_PRIORITY = frames.PADDED | frames.PRIORITY


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        (frames.decode_data, (0, 0, b""), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_data, (frames.PADDED, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
        (frames.decode_data, (frames.PADDED, 1, b"\1"), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_data, (frames.PADDED, 1, b"\4abc"), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_headers, (0, 0, b""), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_headers, (frames.PRIORITY, 1, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.decode_headers, (PADDED_PRIORITY, 1, b"\0" * 5), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_headers, (PADDED_PRIORITY, 1, b"\1" * 6), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_priority, (0, b"12345"), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_rst_stream, (0, b"1234"), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_rst_stream, (1, b"123"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.decode_settings, (0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_settings, (0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.decode_settings, (frames.ACK, 0, b"123456"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.decode_ping, (1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_ping, (0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.decode_goaway, (1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (frames.decode_goaway, (0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.decode_window_update, (b"123",), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_malformed_frames(function, arguments, code):
    assert code_of(function, *arguments) is code


def test_priority_of_a_wrong_length_is_the_streams_error():
    with pytest.raises(StreamError) as caught:
        frames.decode_priority(1, b"1234")
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


def test_values_of_frames():
    assert frames.decode_headers(frames.PADDED, 1, b"\0") == (b"", None)
    assert frames.decode_data(frames.PADDED, 1, b"\3abc") == b""
    assert frames.decode_priority(1, b"\x80\0\0\5\0") == 5
    assert frames.decode_rst_stream(1, b"\0\0\0\x99") == 0x99
    assert frames.decode_settings(0, 0, b"\0\1\0\0\0\2" * 2) == [(1, 2), (1, 2)]
    assert frames.decode_settings(frames.ACK, 0, b"") is None
    assert frames.decode_goaway(0, b"\x80\0\0\1\0\0\0\2debug") == (1, 2)
    assert frames.decode_window_update(b"\x80\0\0\1") == 1
    assert frames.error_name(1) == "PROTOCOL_ERROR"
    assert frames.error_name(0x99) == "error 0x99"
