"""ComfyUI's jobs, computed from queue items and history entries; pure functions over plain JSON.

Queue and history are the truth; a job is a way of showing them. Routes are in routes/jobs.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine import QueueItem

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")

_MEDIA_KEYS = frozenset({"images", "video", "audio", "3d", "text"})
_MODEL_SUFFIXES = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})
_TEXT_LIMIT = 1024

Job = dict[str, Any]


def queued_job(item: QueueItem, status: str) -> Job:
    """The job of a pending or running prompt."""
    return _without_nulls(
        {
            "id": item.prompt_id,
            "status": status,
            "priority": item.number,
            "create_time": item.extra_data.get("create_time", 0),
            "outputs_count": 0,
            "workflow_id": _workflow_id(item.extra_data),
        }
    )


def finished_job(prompt_id: str, entry: Mapping[str, Any]) -> Job:
    """The job of a history entry."""
    number, _, _, extra_data, *_ = entry["prompt"]
    messages = dict(entry.get("status", {}).get("messages", []))
    start = messages.get("execution_start", {}).get("timestamp")
    end = next((data.get("timestamp") for kind, data in messages.items() if kind in _ENDS), None)
    outputs = entry.get("outputs", {})
    return _without_nulls(
        {
            "id": prompt_id,
            "status": _status(entry, messages),
            "priority": number,
            "create_time": extra_data.get("create_time", start or 0),
            "execution_start_time": start,
            "execution_end_time": end,
            "execution_error": messages.get("execution_error"),
            "outputs_count": sum(1 for _ in _countable(outputs)),
            "preview_output": _preview(outputs),
            "workflow_id": _workflow_id(extra_data),
        }
    )


def with_details(job: Job, entry: Mapping[str, Any]) -> Job:
    """A finished job with its outputs and its workflow."""
    _, _, prompt, extra_data, *_ = entry["prompt"]
    return {
        **job,
        "outputs": _normalised(entry.get("outputs", {})),
        "execution_status": entry.get("status"),
        "workflow": {"prompt": prompt, "extra_data": extra_data},
    }


def with_workflow(job: Job, item: QueueItem) -> Job:
    """A waiting or running job with its workflow."""
    return {**job, "workflow": {"prompt": item.prompt, "extra_data": item.extra_data}}


def duration(job: Job) -> float:
    """For sorting: how long a job ran; 0 while it has not."""
    return float(job.get("execution_end_time", 0) or 0) - float(job.get("execution_start_time", 0) or 0)


def _status(entry: Mapping[str, Any], messages: Mapping[str, Any]) -> str:
    if entry.get("status", {}).get("status_str", "success") == "success":
        return "completed"
    return "cancelled" if "execution_interrupted" in messages else "failed"


def _workflow_id(extra_data: Mapping[str, Any]) -> Any:
    info = extra_data.get("extra_pnginfo")
    workflow = info.get("workflow") if isinstance(info, dict) else None
    return workflow.get("id") if isinstance(workflow, dict) else None


def _items(outputs: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
    for node_id, ui in outputs.items():
        for key, values in ui.items() if isinstance(ui, dict) else ():
            for value in values if isinstance(values, list) and key != "animated" else ():
                yield node_id, key, value


def _countable(outputs: Mapping[str, Any]) -> Iterable[Any]:
    for _, key, value in _items(outputs):
        if isinstance(value, dict) or (isinstance(value, str) and (key == "text" or _is_model(value))):
            yield value


def _preview(outputs: Mapping[str, Any]) -> dict[str, Any] | None:
    first: dict[str, Any] | None = None
    for node_id, key, value in _items(outputs):
        item = _previewable(node_id, key, value)
        if item is not None and item.get("type") == "output":
            return item
        first = first or item
    return first


def _previewable(node_id: str, key: str, value: Any) -> dict[str, Any] | None:
    place = {"nodeId": node_id, "mediaType": key}
    if isinstance(value, dict):
        form = str(value.get("format", ""))
        named = key in _MEDIA_KEYS or form.startswith(("video/", "audio/"))
        return {**value, **place} if named or _is_model(str(value.get("filename", ""))) else None
    if isinstance(value, str) and _is_model(value):
        return {**_model_file(value), "nodeId": node_id}
    if isinstance(value, str) and key == "text":
        cut = {"truncated": True} if len(value) > _TEXT_LIMIT else {}
        return {"content": value[:_TEXT_LIMIT], **cut, **place}
    return None


def _normalised(outputs: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for node_id, ui in outputs.items():
        if isinstance(ui, dict):
            shown[node_id] = {
                key: _normalised_values(values) for key, values in ui.items() if values is not None
            }
    return shown


def _normalised_values(values: Any) -> Any:
    if not isinstance(values, list):
        return values
    return [
        _model_file(value) if isinstance(value, str) and _is_model(value) else value
        for value in values
        if value is not None
    ]


def _model_file(name: str) -> dict[str, Any]:
    return {"filename": name, "type": "output", "subfolder": "", "mediaType": "3d"}


def _is_model(name: str) -> bool:
    return name.lower().endswith(_MODEL_SUFFIXES)


def _without_nulls(job: Job) -> Job:
    return {key: value for key, value in job.items() if value is not None}
