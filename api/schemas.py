"""The bodies of ComfyUI's routes as models, for the OpenAPI document. Requests are parsed by hand in the routes:
clients send more than any schema says and get ComfyUI's own errors for what is wrong; these say what is understood.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

JSON = Any


class _Said(BaseModel):
    """Further keys are allowed, and ignored."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class ErrorInfo(_Said):
    """What went wrong."""

    type: str
    """For programs."""
    message: str
    """For people."""
    details: str = ""
    extra_info: dict[str, JSON] = {}


class ComfyError(_Said):
    """ComfyUI's form of an error."""

    error: ErrorInfo
    node_errors: dict[str, JSON] = {}
    """By node id: what is wrong with each node."""


class RefusalInfo(_Said):
    """What was refused, and what to do."""

    code: str
    """For programs."""
    message: str
    """For people."""
    hint: str
    """What to do next; may be empty."""


class Refusal(_Said):
    """Ringfence's own form of an error."""

    error: RefusalInfo


class TextError(_Said):
    """An error of the jobs routes."""

    error: str


class ExtraData(_Said):
    """Stored with the prompt."""

    extra_pnginfo: dict[str, JSON] | None = None
    """Written into pictures; the frontend puts its workflow here."""
    api_key_comfy_org: str | None = None
    """Given to the nodes that ask for it, never shown again."""
    auth_token_comfy_org: str | None = None
    """Likewise."""


class PromptBody(_Said):
    """A prompt to run."""

    prompt: dict[str, dict[str, JSON]]
    """The graph in API format: nodes by id."""
    prompt_id: str | None = Field(default=None, pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    """An id of the client's own."""
    client_id: str | None = Field(default=None, max_length=256)
    """Whose WebSocket hears of it."""
    extra_data: ExtraData | None = None
    number: float | None = None
    """Priority: lower runs first."""
    front: bool = False
    """Before everything that waits."""
    partial_execution_targets: list[str] | None = None
    """Run only these output nodes."""


class PromptAnswer(_Said):
    """A prompt was queued."""

    prompt_id: str
    number: float
    node_errors: dict[str, JSON]
    """Outputs that were dropped, and why."""


class ExecInfo(_Said):
    """Figures of the queue."""

    queue_remaining: int


class QueueInfo(_Said):
    """How much is left."""

    exec_info: ExecInfo


class QueueAnswer(_Said):
    """The queue; each item is number, prompt id, prompt, extra data, outputs to execute."""

    queue_running: list[list[JSON]]
    queue_pending: list[list[JSON]]


class ClearOrDelete(_Said):
    """What to remove."""

    clear: bool = False
    """Everything."""
    delete: list[str] = []
    """These prompt ids."""


class Interrupt(_Said):
    """What to interrupt."""

    prompt_id: str | None = None
    """Only this prompt; else everything of the tenant's that runs."""


class Free(_Said):
    """What to let go of."""

    unload_models: bool = False
    free_memory: bool = False


class FileRef(_Said):
    """A file as nodes and routes name it."""

    name: str
    subfolder: str
    type: str


class JobIds(_Said):
    """Which jobs."""

    job_ids: list[str]


class Cancelled(_Said):
    """Whether anything was cancelled."""

    cancelled: bool


class Job(_Said):
    """A job of ComfyUI's."""

    id: str
    status: str
    priority: float | None = None
    create_time: float
    """Milliseconds since the epoch."""
    outputs_count: int = 0


class Pagination(_Said):
    """Where in the list this is."""

    offset: int
    limit: int | None
    total: int
    has_more: bool


class JobsAnswer(_Said):
    """A page of jobs."""

    jobs: list[Job]
    pagination: Pagination


class LogSubscription(_Said):
    """Who wants to hear of logs."""

    clientId: str  # noqa: N815 - ComfyUI's name
    enabled: bool


class LogsAnswer(_Said):
    """Lines of logs."""

    entries: list[dict[str, str]]
    size: dict[str, int]


class UsersAnswer(_Said):
    """Where settings are kept; there is one user."""

    storage: str
    migrated: bool


class Features(_Said):
    """What this server offers."""

    supports_preview_metadata: bool
    max_upload_size: int


class SystemStats(_Said):
    """The machine."""

    system: dict[str, JSON]
    devices: list[dict[str, JSON]]


class AnyObject(RootModel[dict[str, JSON]]):
    """An object."""


class Strings(RootModel[list[str]]):
    """Texts."""


class Anything(RootModel[JSON]):
    """Any JSON."""
