"""Jobs of the Comfy API v2: a prompt looked up in the queue, the history and what was cancelled, and shown as one.

Queue and history are the truth, as for ComfyUI's own routes: a job that one API queued, the other shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from api.assets import AssetStore
from api.settings import Settings
from api.v2.board import Board
from api.v2.models import JobError, JobUrls, JobView, OutputView, ProgressView
from api.v2.outputs import output_assets, output_view, with_sizes
from api.v2.progress import needed_nodes, progress_of
from engine import Engine, EventStream, JobList, Submission, Submissions
from policies import RingfenceError, TenantId

LABELS = "ringfence_metadata"
"""Where a job's labels stand in its ``extra_data``."""

_RETENTION = timedelta(days=365)
_REMEMBERED = 100_000  # outputs that are known to be in the database


class TooManyStreamsError(RingfenceError):
    """A tenant has as many open event streams as it may have."""

    code = "too-many-streams"


@dataclass(frozen=True, slots=True)
class Found:
    """One job, wherever it is. ``status`` without what only a running one has."""

    id: str
    status: str
    prompt: Mapping[str, Any]
    extra_data: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    position: int | None = None
    entry: Mapping[str, Any] | None = None
    ended_ms: int | None = None
    created_ms: int | None = None

    @property
    def created(self) -> int:
        """In ms since the epoch."""
        return int(self.created_ms or self.extra_data.get("create_time") or 0)

    @property
    def labels(self) -> dict[str, str] | str | None:
        """Its metadata; what ComfyUI's route or a prompt handler left there instead is none."""
        found = self.extra_data.get(LABELS)
        is_right = isinstance(found, str) or (
            isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
        )
        return found if is_right else None


class Jobs:
    """Looks jobs up and shows them."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        submissions: Submissions,
        listed: JobList,
        assets: AssetStore,
        board: Board,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.submissions = submissions
        self.listed = listed
        self.assets = assets
        self.board = board
        self.submitting: set[tuple[TenantId, str]] = set()
        self._streams: dict[TenantId, int] = {}
        self._listening: set[EventStream] = set()
        self._registered: dict[tuple[TenantId, str, str], None] = {}

    @asynccontextmanager
    async def events(self, tenant: TenantId) -> AsyncIterator[EventStream]:
        """The tenant's events, until the server leaves."""
        async with self.engine.subscribe(tenant) as events:
            self._listening.add(events)
            try:
                yield events
            finally:
                self._listening.discard(events)

    @contextmanager
    def stream(self, tenant: TenantId) -> Iterator[None]:
        """An open event stream.

        Raises:
            TooManyStreamsError
        """
        most = self.settings.max_event_streams
        if self._streams.get(tenant, 0) >= most:
            raise TooManyStreamsError(
                f"{most} event streams are open, the limit", hint="close some, or poll GET /api/v2/jobs/{id}"
            )
        self._streams[tenant] = self._streams.get(tenant, 0) + 1
        try:
            yield
        finally:
            self._streams[tenant] -= 1

    def leave(self) -> None:
        """The server stops: who listens to events is told that there are no more."""
        for events in self._listening:
            events.close()

    async def find(self, tenant: TenantId, job_id: str) -> Found | None:
        """One job, or None."""
        return await self.among(await self.queued(tenant), tenant, job_id)

    async def among(self, queued: Mapping[str, Found], tenant: TenantId, job_id: str) -> Found | None:
        """One job; ``queued`` are those of a moment ago. Lists ask so: jobs may be large, so one by one."""
        # Queue before history: a job only ever moves that way, so it cannot slip between the two looks.
        if job_id in queued:
            return queued[job_id]
        entry = await self.engine.history_entry(tenant, job_id)
        if entry is not None:
            return ended(job_id, entry)
        submission = await self.submissions.get(tenant, job_id)
        return None if submission is None else self._remembered(tenant, submission)

    async def view(self, tenant: TenantId, job: Found, base: str) -> JobView:
        """A job as the API shows it."""
        live = self.board.of(tenant, job.id) if job.status in ("running", "canceling") else None
        outputs: list[OutputView] = []
        progress: ProgressView | None = None
        started: int | None = None
        if live is not None:
            started = live.started_ms
            progress = progress_of(live, job.prompt, needed_nodes(job.prompt, job.targets))
            outputs = await self.outputs(tenant, job.id, live.outputs, base)
        elif job.entry is not None:
            started = _time_of(job.entry, "execution_start")
            outputs = await self.outputs(tenant, job.id, job.entry.get("outputs", {}), base)
            if job.status == "succeeded":
                total = len(needed_nodes(job.prompt, job.targets))
                progress = ProgressView(value=1.0, nodes_done=total, nodes_total=total)
        return JobView(
            id=job.id,
            status=job.status,  # type: ignore[arg-type]
            created_at=_time(job.created),
            started_at=None if started is None else _time(started),
            completed_at=None if job.ended_ms is None else _time(job.ended_ms),
            expires_at=_time(job.created) + _RETENTION,
            queue_position=job.position,
            progress=progress,
            outputs=outputs,
            error=None if job.entry is None else _error(job.entry),
            metrics={
                "queue_ms": None if started is None else max(started - job.created, 0),
                "execution_ms": None if started is None or job.ended_ms is None else job.ended_ms - started,
            },
            metadata=job.labels,
            urls=urls_of(job.id),
        )

    async def outputs(
        self, tenant: TenantId, job_id: str, outputs: Mapping[str, Any], base: str
    ) -> list[OutputView]:
        """Outputs, each known as an asset from now on."""
        assets = await with_sizes(self.settings, tenant, output_assets(tenant, job_id, outputs))
        new = [asset for asset, _ in assets if (tenant, job_id, asset.id) not in self._registered]
        if new:
            await self.assets.rows.register_outputs(tenant, new)
            self._registered.update(dict.fromkeys((tenant, job_id, asset.id) for asset in new))
        while len(self._registered) > _REMEMBERED:
            self._registered.pop(next(iter(self._registered)))
        return [output_view(asset, kind, base) for asset, kind in assets]

    async def queued(self, tenant: TenantId) -> dict[str, Found]:
        """Jobs that wait or run, by id."""
        # Before the snapshot: of one that ends while it is made, the end may be told before this goes on.
        known = self.board.all_of(tenant)
        snapshot = await self.engine.queue(tenant)
        found = {}
        for position, item in enumerate(snapshot.pending, 1):
            found[item.prompt_id] = Found(
                item.prompt_id, "queued", item.prompt, item.extra_data, item.outputs, position
            )
        for item in snapshot.running:
            live = known.get(item.prompt_id)
            status = "canceling" if live is not None and live.canceling else "running"
            found[item.prompt_id] = Found(item.prompt_id, status, item.prompt, item.extra_data, item.outputs)
        return found

    def _remembered(self, tenant: TenantId, submission: Submission) -> Found:
        status = "expired"
        if submission.canceled_ms is not None:
            status = "canceled"
        elif (tenant, submission.job_id) in self.submitting:
            status = "queued"
        document = submission.document or {}
        return Found(
            submission.job_id,
            status,
            document.get("prompt", {}),
            document.get("extra_data", {}),
            created_ms=submission.created_ms,
            ended_ms=submission.canceled_ms,
        )


def ended(job_id: str, entry: Mapping[str, Any]) -> Found:
    """The job of a history entry."""
    _, _, prompt, extra_data, targets, *_ = entry["prompt"]
    kinds = [kind for kind, _ in entry.get("status", {}).get("messages", [])]
    status = "succeeded"
    if "execution_interrupted" in kinds:
        status = "canceled"
    elif entry.get("status", {}).get("status_str", "success") != "success":
        status = "failed"
    end = next(
        (
            _time_of(entry, kind)
            for kind in ("execution_success", "execution_interrupted", "execution_error")
            if kind in kinds
        ),
        None,
    )
    return Found(job_id, status, prompt, extra_data, tuple(targets), entry=entry, ended_ms=end)


def urls_of(job_id: str) -> JobUrls:
    """A job's links, relative to the host."""
    path = f"/api/v2/jobs/{job_id}"
    return JobUrls(self=path, events=f"{path}/events", cancel=f"{path}/cancel")


def update_ms(job: Found) -> int:
    """When a job last changed, as far as it is written down."""
    return job.ended_ms or job.created


def _error(entry: Mapping[str, Any]) -> JobError | None:
    if entry.get("status", {}).get("status_str", "success") == "success":
        return None
    messages = dict(entry.get("status", {}).get("messages", []))
    if "execution_interrupted" in messages:
        return None
    data = messages.get("execution_error", {})
    lines = data.get("traceback", [])
    return JobError(
        code="node_execution_error",
        message=str(data.get("exception_message", "the execution failed")).rstrip("\n"),
        node_id=data.get("node_id"),
        class_type=data.get("node_type"),
        traceback="".join(map(str, lines)) if isinstance(lines, list) and lines else None,
    )


def _time_of(entry: Mapping[str, Any], kind: str) -> int | None:
    for found, data in entry.get("status", {}).get("messages", []):
        if found == kind and isinstance(data, dict) and data.get("timestamp") is not None:
            return int(data["timestamp"])
    return None


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
