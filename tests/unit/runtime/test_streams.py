from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import wire
from runtime.streams import FrameStream
from tests.properties import tried


@contextmanager
def reading(data: bytes) -> Iterator[FrameStream]:
    """A stream that holds ``data`` and then ends."""
    read_end, write_end = os.pipe()

    def feed() -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(write_end, view) :]
        except BrokenPipeError:
            pass
        os.close(write_end)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield FrameStream(read_end, 1)
    finally:
        os.close(read_end)
        feeder.join()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=tried(25, 1000))
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4))
def test_what_is_written_is_read(messages: list[dict[str, Any]]) -> None:
    with reading(b"".join(wire.encode_frame(message) for message in messages)) as stream:
        for message in messages:
            assert stream.read() == message
        assert stream.read() is None


@given(st.binary(max_size=64))
def test_any_bytes_end_in_one_of_the_named_ways(data: bytes) -> None:
    with reading(data) as stream:
        try:
            while stream.read() is not None:
                pass
        except wire.FrameError:
            pass


@given(st.data())
def test_a_frame_cut_anywhere_is_told_from_a_clean_end(data: st.DataObject) -> None:
    frame = wire.encode_frame({"method": "x"})
    cut = data.draw(st.integers(1, len(frame) - 1))
    with reading(frame[:cut]) as stream, pytest.raises(wire.TruncatedFrameError):
        stream.read()


@pytest.mark.parametrize("length", [0, wire.MAX_FRAME + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_before_anything_is_read(length: int) -> None:
    with reading(wire.HEADER.pack(length) + b"x" * 10) as stream, pytest.raises(wire.FrameTooLargeError):
        stream.read()


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b"\xff\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with reading(wire.HEADER.pack(len(body)) + body) as stream, pytest.raises(wire.FrameError):
        stream.read()


def test_a_lone_surrogate_still_makes_a_frame_of_utf8() -> None:
    body = wire.encode_frame({"text": "\ud800"})[wire.HEADER.size :]
    assert json.loads(body.decode("utf-8")) == {"text": "\ud800"}


def test_a_frame_larger_than_a_pipe_arrives_whole() -> None:
    read_end, write_end = os.pipe()
    message = {"text": "x" * 1_000_000}
    writer = threading.Thread(target=FrameStream(read_end, write_end).write, args=(message,))
    writer.start()
    try:
        assert FrameStream(read_end, write_end).read() == message
    finally:
        writer.join()
        os.close(read_end)
        os.close(write_end)


def test_it_knows_whether_something_came_along_with_the_last_message() -> None:
    read_end, write_end = os.pipe()
    stream = FrameStream(read_end, write_end)
    first, second = (wire.encode_frame({"number": number}) for number in (1, 2))
    os.write(write_end, first + second[:-1])
    assert not stream.has_more
    assert stream.read() == {"number": 1}
    assert stream.has_more
    os.write(write_end, second[-1:])
    assert stream.read() == {"number": 2}
    assert not stream.has_more
    os.close(read_end)
    os.close(write_end)


def test_a_frame_over_the_limit_is_not_sent_at_all() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(wire.FrameTooLargeError):
        FrameStream(read_end, write_end).write({"text": "x" * wire.MAX_FRAME})
    os.close(write_end)
    assert os.read(read_end, 1) == b""
    os.close(read_end)
