"""The Comfy API v2's answers, as models: what they hold is what the OpenAPI document says."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

JobStatus = Literal["queued", "running", "canceling", "succeeded", "canceled", "failed", "expired"]
OutputType = Literal["image", "video", "audio", "text", "file", "latent"]

TERMINAL: frozenset[str] = frozenset({"succeeded", "canceled", "failed", "expired"})


class Error(BaseModel):
    """What went wrong: ``code`` for programs, ``message`` for people."""

    code: str
    message: str
    details: dict[str, Any] | None = None


class ErrorEnvelope(BaseModel):
    """Every answer that is not a success."""

    error: Error


class AssetView(BaseModel):
    """A file that was uploaded or made by a job."""

    id: str
    hash: str | None
    size_bytes: int
    content_type: str
    file_path: str | None = None
    created_new: bool | None = None
    created_at: datetime
    url: str
    url_expires_at: datetime
    expires_at: datetime | None = None
    job_id: str | None = None
    tags: list[str] = []


class OutputView(BaseModel):
    """One output of a job; its ``id`` is an asset's."""

    node_id: str
    name: str
    type: OutputType
    content_type: str
    size_bytes: int
    id: str
    hash: str | None = None
    url: str
    url_expires_at: datetime
    job_id: str


class ProgressView(BaseModel):
    """How far a job is. Each one is complete: a client that missed some misses nothing."""

    value: float
    nodes_done: int
    nodes_total: int
    current_node: str | None = None
    current_node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    message: str | None = None


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    node_id: str | None = None
    class_type: str | None = None
    traceback: str | None = None


class JobUrls(BaseModel):
    """Where to go on, relative to the host."""

    self: str
    events: str
    cancel: str


class JobView(BaseModel):
    """One run of a workflow."""

    id: str
    status: JobStatus
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime
    queue_position: int | None = None
    progress: ProgressView | None = None
    outputs: list[OutputView] = []
    error: JobError | None = None
    metrics: dict[str, int | None] | None = None
    metadata: dict[str, str] | str | None = None
    node_errors: dict[str, Any] | None = None
    urls: JobUrls


class JobItem(BaseModel):
    """A job in a list."""

    id: str
    status: JobStatus
    create_time: datetime
    update_time: datetime
    metadata: dict[str, str] | str | None = None


class JobPage(BaseModel):
    """Jobs, newest first; without ``next_cursor`` there are no more."""

    jobs: list[JobItem]
    next_cursor: str | None = None


class WorkflowView(BaseModel):
    """The graph that a job ran."""

    workflow: dict[str, Any]
    format: Literal["api", "save"] = "api"
