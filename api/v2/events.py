"""A job's events as Server-Sent Events: where it stands, then what happens, until it has ended.

There is nothing to resume: every progress is complete, outputs are told again on every connection, and ``GET`` of the
job is the truth. What a client cannot take in time is left out (progress, previews), never queued without end.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.errors import dump_json
from api.v2.board import Live
from api.v2.jobs import Found, Jobs
from api.v2.models import TERMINAL, OutputView
from api.v2.progress import needed_nodes, progress_of
from engine import EventStream
from engine.events import (
    Event,
    NodeBlocked,
    NodeExecuted,
    NodesCached,
    ProgressChanged,
    PromptEnded,
    PromptEvent,
    PromptFailed,
    PromptStarted,
    QueueChanged,
)
from policies import TenantId, safe_text

KEEP_ALIVE_S = 15.0
PROGRESS_S = 0.1  # least time between two of a kind
PREVIEW_S = 0.25
QUEUE_S = 0.25
MANY_NODES = 1_000
_MIME = {"JPEG": "image/jpeg", "JPG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


class JobEvents:
    """One client's look at one job."""

    def __init__(self, jobs: Jobs, tenant: TenantId, job: Found, base: str) -> None:
        self.slot = partial(jobs.stream, tenant)
        self._jobs = jobs
        self._tenant = tenant
        self._job = job
        self._base = base
        self._live = Live()
        self._needed: frozenset[str] = frozenset()  # known from the first look on
        self._told: set[str] = set()
        self._status: tuple[str, int | None] | None = None
        self._progress_at = self._preview_at = -1e9
        self._is_stale = False  # progress was left out
        self._looked_at = -1e9
        self._has_moved = False  # the queue did, and nobody has looked

    async def stream(self) -> AsyncIterator[bytes]:
        """Frames until the job has ended or the server goes."""
        async with self._jobs.events(self._tenant) as events:
            for frame in await self._look():
                yield frame
            while self._status is None or self._status[0] not in TERMINAL:
                event = await self._next(events)
                if event is None:
                    if events.is_over:
                        return
                    for frame in await self._late():
                        yield frame
                    continue
                for frame in await self._tell(event):
                    yield frame

    async def _next(self, events: EventStream) -> Event | None:
        wait = self._pace if self._is_stale else QUEUE_S if self._has_moved else KEEP_ALIVE_S
        with anyio.move_on_after(wait):
            async for event in events:
                return event
        return None

    async def _late(self) -> list[bytes]:
        if self._is_stale:
            return [self._progress(anyio.current_time())]
        return await self._look() if self._has_moved else [b": keep-alive\n\n"]

    async def _look(self) -> list[bytes]:
        """Where the job stands; the last frame is its status when that is an end."""
        self._looked_at, self._has_moved = anyio.current_time(), False
        job = await self._jobs.find(self._tenant, self._job.id)
        if job is None:
            return self._say_status("expired", None)
        if job.prompt:
            self._job, self._needed = job, needed_nodes(job.prompt, job.targets)
        live = self._jobs.board.of(self._tenant, job.id)
        if job.entry is None and live is not None:
            self._live = Live(live.started_ms, live.cached, live.nodes, live.changed, live.preview)
        view = await self._jobs.view(self._tenant, job, self._base)
        frames = [] if job.status in TERMINAL else self._say_status(job.status, job.position)
        if view.progress is not None and (job.status in TERMINAL or live is not None):
            frames.append(_frame("progress", view.progress))
        if live is not None and live.preview is not None and job.status not in TERMINAL:
            frames.append(self._preview(live.preview, anyio.current_time()))
        frames += self._outputs(view.outputs)
        if job.status in TERMINAL:
            if view.error is not None and self._status is None:
                frames.append(_log("error", view.error.message))
            frames += self._say_status(job.status, None)
        return frames

    async def _tell(self, event: Event) -> list[bytes]:
        if isinstance(event, QueueChanged):
            # A look reads the whole queue, and each of many prompts that come and go moves it.
            self._has_moved = self._status is not None and self._status[0] == "queued"
            is_time = anyio.current_time() - self._looked_at >= QUEUE_S
            return await self._look() if self._has_moved and is_time else []
        if not isinstance(event, PromptEvent) or event.prompt_id != self._job.id:
            return []
        self._live.hear(event)
        match event:
            case PromptStarted():
                return self._say_status("running", None)
            case NodesCached():
                return [self._progress(anyio.current_time())]
            case ProgressChanged():
                return self._moved(event)
            case NodeExecuted(output=output) if output is not None:
                found = await self._jobs.outputs(
                    self._tenant, self._job.id, {event.node_id: output}, self._base
                )
                return self._outputs(found)
            case NodeBlocked():
                return [_log("warning", f"node {event.node_id}: execution blocked: {event.message}")]
            case PromptFailed():
                text = (
                    f"{event.details.get('exception_type', '')}: {event.details.get('exception_message', '')}"
                )
                return [_log("error", text)]
            case PromptEnded():
                return await self._look()
            case _:
                return []

    def _moved(self, event: ProgressChanged) -> list[bytes]:
        now = anyio.current_time()
        frames = []
        if now - self._progress_at >= self._pace:
            frames.append(self._progress(now))
        else:
            self._is_stale = True
        if (
            self._live.preview is not None
            and event.preview is not None
            and now - self._preview_at >= PREVIEW_S
        ):
            frames.append(self._preview(self._live.preview, now))
        return frames

    @property
    def _pace(self) -> float:
        """Seconds between two progress frames: each counts all nodes, so it is seldom where there are very many."""
        return PROGRESS_S * max(1.0, len(self._live.nodes) / MANY_NODES)

    def _progress(self, now: float) -> bytes:
        self._progress_at, self._is_stale = now, False
        return _frame("progress", progress_of(self._live, self._job.prompt, self._needed))

    def _preview(self, preview: tuple[str, str, bytes], now: float) -> bytes:
        self._preview_at = now
        node_id, form, image = preview
        data = {
            "node_id": node_id,
            "content_type": _MIME.get(form.upper(), "application/octet-stream"),
            "data_base64": base64.b64encode(image).decode(),
        }
        return _frame("preview", data)

    def _outputs(self, outputs: list[OutputView]) -> list[bytes]:
        new = [output for output in outputs if output.id not in self._told]
        self._told.update(output.id for output in new)
        return [_frame("output", output) for output in new]

    def _say_status(self, status: str, position: int | None) -> list[bytes]:
        if self._status == (status, position):
            return []
        self._status = (status, position)
        place = {} if position is None else {"queue_position": position}
        return [_frame("status", {"status": status, **place})]


class EventSource(StreamingResponse):
    """An answer that stays open, as long as it has a slot."""

    media_type = "text/event-stream"

    def __init__(self, events: JobEvents) -> None:
        super().__init__(events.stream(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._slot = events.slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooManyStreamsError before anything is sent."""
        with self._slot():
            await super().__call__(scope, receive, send)


def _log(level: str, text: str) -> bytes:
    return _frame("log", {"level": level, "message": safe_text(text.strip(), 2000, newlines=True)})


def _frame(kind: str, data: BaseModel | dict[str, Any]) -> bytes:
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    return b"event: " + kind.encode() + b"\ndata: " + dump_json(plain) + b"\n\n"
