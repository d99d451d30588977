"""Reading a prompt from a file, and saying what is wrong with one before any server is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from api.cli.failure import Failure, Status

_LIMIT = 32 * 1024 * 1024


def read_prompt(name: str) -> dict[str, Any]:
    """The request body in a file: a graph in ComfyUI's API format, or a whole ``{"prompt": graph, ...}``. "-" is stdin.

    Raises:
        Failure: the file cannot be read, or is something else.
    """
    try:
        raw = sys.stdin.buffer.read(_LIMIT + 1) if name == "-" else _read(Path(name))
    except OSError as error:
        raise Failure(Status.USAGE, f"{name}: {error.strerror or error}") from None
    if len(raw) > _LIMIT:
        raise Failure(Status.USAGE, f"{name}: larger than {_LIMIT // 2**20} MiB")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Failure(Status.USAGE, f"{name}: not JSON: {error}") from None
    return _body(name, value)


def node_label(body: dict[str, Any], node_id: str) -> str:
    """A node for people: its id with its title or class."""
    node = body["prompt"].get(node_id)
    if not isinstance(node, dict):
        return node_id
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return f"{node_id} {title or node.get('class_type', '')}"


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_LIMIT + 1)


def _body(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and isinstance(value.get("nodes"), list) and "links" in value:
        raise Failure(
            Status.USAGE,
            f"{name}: this is a workflow in the editor's format",
            "export it for the API: in ComfyUI, Workflow > Export (API)",
        )
    if isinstance(value, dict) and isinstance(value.get("prompt"), dict):
        return value
    if not isinstance(value, dict) or not value:
        raise Failure(Status.USAGE, f"{name}: not a prompt", "a prompt is a JSON object of nodes by id")
    for node_id, node in value.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise Failure(
                Status.USAGE,
                f"{name}: node '{node_id}' has no class_type",
                "export the workflow for the API: in ComfyUI, Workflow > Export (API)",
            )
    return {"prompt": value}
