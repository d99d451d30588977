"""Frames of one turn of the loop go to the kernel together, in order, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from api.gathered import MOST, GatheringTransport

pytestmark = pytest.mark.anyio


class Wire:
    """A transport that remembers what it was given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 7

    def get_extra_info(self, name: str) -> Any:
        return f"{name} of the wire"


def gathering(wire: Wire) -> GatheringTransport:
    return GatheringTransport(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def test_what_is_written_in_one_turn_is_sent_in_one_piece() -> None:
    wire = Wire()
    transport = gathering(wire)
    for data in (b"one ", b"", b"two ", b"three"):
        transport.write(data)
    assert wire.written == []
    assert transport.get_write_buffer_size() == 7 + len(b"one two three")
    await asyncio.sleep(0)
    assert wire.written == [b"one two three"]
    transport.write(b"four")
    await asyncio.sleep(0)
    assert wire.written == [b"one two three", b"four"]


async def test_what_is_large_does_not_wait() -> None:
    wire = Wire()
    transport = gathering(wire)
    transport.write(b"small")
    transport.write(b"x" * MOST)
    assert b"".join(wire.written) == b"small" + b"x" * MOST
    await asyncio.sleep(0)
    assert len(wire.written) == 1


async def test_closing_sends_what_is_left_first_and_nothing_afterwards() -> None:
    wire = Wire()
    transport = gathering(wire)
    transport.write(b"last")
    transport.close()
    assert (wire.written, wire.closed) == ([b"last"], True)
    transport.write(b"too late")
    await asyncio.sleep(0)
    assert wire.written == [b"last"]


async def test_everything_else_is_the_transports_own() -> None:
    assert gathering(Wire()).get_extra_info("peername") == "peername of the wire"
