"""No tenant holds all the threads for files."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import pytest

from api.logging import request_context
from api.threads import file_work

pytestmark = pytest.mark.anyio


async def test_a_tenant_that_fills_the_threads_leaves_half_of_them_to_others() -> None:
    stop, started = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        started.release()
        stop.wait(60)

    async def flood() -> None:
        with request_context(tenant="a"):
            await file_work(hang)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(flood)
        try:
            await anyio.lowlevel.checkpoint()
            with request_context(tenant="b"), anyio.fail_after(60):
                assert await file_work(lambda: 42) == 42
            held = 0
            while started.acquire(blocking=False):
                held += 1
            assert held <= 4
        finally:
            stop.set()
