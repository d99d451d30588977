"""Answering long work line by line: newline-delimited JSON, progress first, the result or the error last.

The status is 200 before the end is known, so a client looks at the last line: ``{"result": ...}`` or
``{"error": ...}``. A client that goes away cancels the work.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import dump_json, error_body
from api.remarks import Remarks, remarks_of
from policies import RingfenceError, safe_text

log = logging.getLogger(__name__)

Report = Callable[[str], None]
Work = Callable[[Report], Awaitable[Any]]

_LINES = 10_000
_LINE_LIMIT = 500


class ProgressResponse(Response):
    """Runs ``work`` while it answers; ``work`` is given a function that reports a line of progress."""

    media_type = "application/x-ndjson"

    def __init__(self, work: Work) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._work = work
        self._remarks = Remarks()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        self._remarks = remarks_of(scope)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        put, take = anyio.create_memory_object_stream[dict[str, Any]](math.inf)
        reported = 0

        def report(line: str) -> None:
            nonlocal reported
            reported += 1
            if reported <= _LINES:
                put.send_nowait({"progress": safe_text(line, _LINE_LIMIT)})

        async def run() -> None:
            with put:
                put.send_nowait(await self._outcome(report))

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            tasks.start_soon(run)
            with take:
                async for line in take:
                    await send(
                        {"type": "http.response.body", "body": dump_json(line) + b"\n", "more_body": True}
                    )
            await send({"type": "http.response.body", "body": b""})
            tasks.cancel_scope.cancel()

    async def _outcome(self, report: Report) -> dict[str, Any]:
        try:
            return {"result": await self._work(report)}
        except RingfenceError as error:
            self._remarks.error = error
            return error_body(error)
        except Exception:
            log.exception("work behind a progress answer failed")
            return {
                "error": {
                    "code": "internal-error",
                    "message": "something went wrong on the server",
                    "hint": "see its log",
                }
            }
