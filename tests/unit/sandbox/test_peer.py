"""The host's end of one conversation: what an end does to the calls that wait."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from sandbox.peer import ConversationEndedError, Peer
from sandbox.streams import EndOfStreamError

pytestmark = pytest.mark.anyio


class Line:
    """Says ``frames`` in one piece, without a pause, and is closed then."""

    def __init__(self) -> None:
        self.data = b""

    def take(self, count: int) -> bytes | None:
        if len(self.data) < count:
            return None
        piece, self.data = self.data[:count], self.data[count:]
        return piece

    async def read_exactly(self, count: int) -> bytes:
        raise EndOfStreamError

    async def write(self, _: bytes) -> None:
        """Read by nobody."""

    def write_at_once(self, _: bytes) -> bool:
        return True

    def close(self) -> None:
        """Nothing was open."""


async def test_an_answer_that_came_before_the_end_is_an_answer() -> None:
    async def nobody(*_: Any) -> None:
        return None

    line = Line()
    peer = Peer(line, on_request=nobody, on_notification=nobody)
    call, lost = await peer.start("node/execute", {}), await peer.start("node/execute", {})
    body = json.dumps({"jsonrpc": "2.0", "id": call.id, "result": "the last words"}).encode()
    line.data = len(body).to_bytes(4, "big") + body
    found: list[Any] = []

    async def wait() -> None:
        found.append(await call.wait())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        # Answer and end are read in one go, before whoever waits has had a turn.
        with pytest.raises(EndOfStreamError):
            await peer.run()
    assert found == ["the last words"]
    assert await call.wait() == "the last words"
    with pytest.raises(ConversationEndedError):
        await lost.wait()
