"""What was answered survives `kill -9`, whenever it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.database import Database, sqlite_url
from engine.queue import SqlStorage
from policies import TenantId

pytestmark = pytest.mark.anyio

A = TenantId("a")
ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import asyncio, sys
from engine.database import Database
from engine.queue import SqlStorage
from engine.storage import NewPrompt

async def main() -> None:
    async with Database(sys.argv[1]) as database:
        storage = SqlStorage(database)
        for number in range(100_000):
            new = NewPrompt(tenant="a", prompt_id=f"p{number:06}", prompt={"1": {}}, extra_data={}, outputs=["1"],
                            secrets={"k": "v"})
            await storage.enqueue(new, limit=1_000_000)
            print(new.prompt_id, flush=True)
            if number % 3 == 2:
                claimed = await storage.claim_next("a")
                if number % 2:
                    await storage.finish("a", claimed.prompt_id, {"prompt": [], "outputs": {}})

asyncio.run(main())
"""


async def test_every_acknowledged_prompt_is_in_the_queue_or_the_history_after_a_kill(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", CHILD, url], cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(60)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.wait(timeout=60)
    child.stdout.close()

    async with Database(url) as database:
        storage = SqlStorage(database)
        running = {item.prompt_id for item in await storage.running(A)}
        pending = {item.prompt_id for item in await storage.pending(A)}
        ended = set(await storage.history(A))
        assert set(acknowledged) <= running | pending | ended
        assert not (running | pending) & ended
        assert not running & pending
        assert await storage.requeue_running() == len(running)
        first = await storage.claim_next(A)
        assert first is not None
        assert first.prompt_id == min(running | pending)
        assert first.secrets == {"k": "v"}
