"""A worker whose message is larger than its policy allows is ended; one that is just small enough is heard."""

from __future__ import annotations

import struct
from pathlib import Path

import anyio
import pytest

from sandbox import ProtocolViolationError
from sandbox.testing import HELLO, LOADED, FakeLauncher, FakeWorker
from tests.contract.kit import call, ignore, world

pytestmark = pytest.mark.anyio


async def test_a_message_over_the_policys_bytes_is_refused_at_its_header(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.answer(await worker.receive(), HELLO)
        await worker.answer(await worker.receive(), LOADED)
        await worker.receive()
        await worker.send_raw(struct.pack(">I", 32 * 1024 + 1))  # the rest never comes
        await anyio.sleep_forever()

    policy = {"pack": "limits: {message_bytes: 32KiB}\n"}
    async with world(tmp_path, lambda places, _: FakeLauncher(places, script), policies=policy) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with anyio.fail_after(60), pytest.raises(ProtocolViolationError, match="framing"):
            await session.execute(call("X"), ignore)
