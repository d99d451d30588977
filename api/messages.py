"""Engine events as ComfyUI's WebSocket messages: pure functions, and the only place that knows their names.

Which sockets get a message is decided here too (``receivers_of``); sending is websocket.py's.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from api.errors import dump_json
from engine.events import (
    Event,
    NodeBlocked,
    NodeExecuted,
    NodeProgress,
    NodesCached,
    NodeStarted,
    PackMessage,
    ProgressChanged,
    PromptEnded,
    PromptFailed,
    PromptInterrupted,
    PromptStarted,
    PromptSucceeded,
    QueueChanged,
)

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_WITH_METADATA = 4

_IMAGE_TYPES = {"JPEG": (1, "image/jpeg"), "JPG": (1, "image/jpeg"), "PNG": (2, "image/png")}

# What tells a client how its prompt fares; a pack that sent these could make a client believe anything.
_RESERVED = frozenset(
    {
        "status", "feature_flags", "logs", "executing", "execution_start", "execution_cached", "execution_success",
        "execution_error", "execution_interrupted",
    }
)  # fmt: skip

_FRAMES_KEPT = 16  # an event can be as large as a picture

Message = str | bytes
"""A text frame or a binary frame."""


class To(Enum):
    """Which of a tenant's sockets hear an event."""

    EVERYBODY = "everybody"
    ADDRESSEE = "addressee"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a client said it can do."""

    preview_metadata: bool = False


def receivers_of(event: Event) -> To:
    """Who hears an event; what has no addressee is heard by all, or (most of a prompt's life) by nobody."""
    if isinstance(event, QueueChanged):
        return To.EVERYBODY
    if event.client_id is not None:
        return To.ADDRESSEE
    if isinstance(event, (PromptInterrupted, ProgressChanged, NodeBlocked, PackMessage)):
        return To.EVERYBODY
    return To.NOBODY


def messages_for(event: Event, abilities: Abilities) -> list[Message]:
    """The frames that say this event, in order."""
    match event:
        case QueueChanged():
            return [status(event.remaining)]
        case PromptStarted():
            return [_timed("execution_start", event)]
        case NodesCached():
            return [_timed("execution_cached", event, nodes=list(event.nodes))]
        case NodeStarted():
            data = {"node": event.node_id, "display_node": event.display_id, "prompt_id": event.prompt_id}
            return [_text("executing", data)]
        case ProgressChanged():
            return _progress(event, abilities)
        case NodeExecuted():
            return [
                _text(
                    "executed",
                    {
                        "node": event.node_id,
                        "display_node": event.display_id,
                        "output": event.output,
                        "prompt_id": event.prompt_id,
                    },
                )
            ]
        case NodeBlocked():
            return [_text("execution_error", _blocked(event))]
        case PromptSucceeded():
            return [_timed("execution_success", event)]
        case PromptFailed():
            return [_timed("execution_error", event, **event.details)]
        case PromptInterrupted():
            return [
                _timed(
                    "execution_interrupted",
                    event,
                    node_id=event.node_id,
                    node_type=event.class_type,
                    executed=list(event.executed),
                )
            ]
        case PromptEnded():
            return [_text("executing", {"node": None, "prompt_id": event.prompt_id})]
        case PackMessage():
            return _pack_message(event)
        case _:
            return []


class Frames:
    """``messages_for``, worked out once for all the sockets that hear an event at about the same time."""

    def __init__(self) -> None:
        # The event is kept beside its frames: while it is here no other can have its identity.
        self._known: OrderedDict[tuple[int, bool], tuple[Event, list[Message]]] = OrderedDict()

    def of(self, event: Event, abilities: Abilities) -> list[Message]:
        """The frames that say this event, in order."""
        key = (id(event), abilities.preview_metadata)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = (event, messages_for(event, abilities))
            if len(self._known) > _FRAMES_KEPT:
                self._known.popitem(last=False)
        return known[1]


def status(remaining: int, sid: str | None = None) -> str:
    """The ``status`` message; with ``sid`` it is the first one of a connection."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    if sid is not None:
        data["sid"] = sid
    return _text("status", data)


def running_node(display_id: str) -> str:
    """Tells a client that reconnected which node of its prompt runs."""
    return _text("executing", {"node": display_id})


def feature_flags(flags: dict[str, Any]) -> str:
    """The server's answer to a client's flags."""
    return _text("feature_flags", flags)


def logs(data: dict[str, Any]) -> str:
    """What packs printed, for a client that asked."""
    return _text("logs", data)


def server_flags(max_upload_bytes: int) -> dict[str, Any]:
    """What this server offers; also the answer of ``GET /features``."""
    return {
        "supports_preview_metadata": True,
        "max_upload_size": max_upload_bytes,
        "extension": {"manager": {"supports_v4": False}},
        "node_replacements": True,
        "assets": False,
    }


def client_abilities(frame: str) -> Abilities | None:
    """What a client's first text frame announces; None when it says nothing of the kind.

    Raises:
        ValueError: no JSON object, so the client may try again.
    """
    message = json.loads(frame)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")  # noqa: TRY004 - as for what is no JSON
    if message.get("type") != "feature_flags":
        return None
    data = message.get("data")
    return Abilities(
        preview_metadata=isinstance(data, dict) and data.get("supports_preview_metadata") is True
    )


def _progress(event: ProgressChanged, abilities: Abilities) -> list[Message]:
    nodes = {node.node_id: _node_state(node, event.prompt_id) for node in event.nodes.values()}
    frames: list[Message] = [_text("progress_state", {"prompt_id": event.prompt_id, "nodes": nodes})]
    changed = event.nodes[event.changed]
    image = _IMAGE_TYPES.get(event.preview[0].upper()) if event.preview else None
    if event.preview and image and abilities.preview_metadata:
        metadata = {
            "node_id": changed.node_id,
            "prompt_id": event.prompt_id,
            "display_node_id": changed.display_id,
            "parent_node_id": changed.parent_id,
            "real_node_id": changed.real_id,
            "image_type": image[1],
        }
        header = dump_json(metadata)
        frames.append(struct.pack(">II", PREVIEW_WITH_METADATA, len(header)) + header + event.preview[1])
    if event.legacy:
        data = {
            "value": _number(changed.value),
            "max": _number(changed.max),
            "prompt_id": event.prompt_id,
            "node": changed.node_id,
        }
        frames.append(_text("progress", data))
    if event.preview and image and not abilities.preview_metadata:
        frames.append(struct.pack(">II", PREVIEW_IMAGE, image[0]) + event.preview[1])
    return frames


def _node_state(node: NodeProgress, prompt_id: str) -> orjson.Fragment:
    """One node's part of the map; written once and kept with it, since each map holds all nodes that ever moved."""
    known: orjson.Fragment | None = node.memo.get("progress_state")
    if known is None:
        known = node.memo["progress_state"] = orjson.Fragment(
            dump_json(
                {
                    "value": _number(node.value),
                    "max": _number(node.max),
                    "state": node.state,
                    "node_id": node.node_id,
                    "prompt_id": prompt_id,
                    "display_node_id": node.display_id,
                    "parent_node_id": node.parent_id,
                    "real_node_id": node.real_id,
                }
            )
        )
    return known


def _number(value: float) -> float | int:
    """A count of steps is written as one (4, not 4.0): typed clients read an integer there."""
    return int(value) if value.is_integer() else value


def _blocked(event: NodeBlocked) -> dict[str, Any]:
    return {
        "prompt_id": event.prompt_id,
        "node_id": event.node_id,
        "node_type": event.class_type,
        "executed": list(event.executed),
        "exception_message": f"Execution Blocked: {event.message}",
        "exception_type": "ExecutionBlocked",
        "traceback": [],
        "current_inputs": [],
        "current_outputs": [],
    }


def _pack_message(event: PackMessage) -> list[Message]:
    if event.event == "progress_text":
        node = (event.node_id or "").encode()
        text = event.data if isinstance(event.data, str) else ""
        return [struct.pack(">II", TEXT, len(node)) + node + text.encode("utf-8", "replace")]
    if event.event in _RESERVED:
        return []
    return [_text(event.event, event.data)]


def _timed(kind: str, event: Any, **data: Any) -> str:
    return _text(kind, {**data, "prompt_id": event.prompt_id, "timestamp": event.timestamp})


def _text(kind: str, data: Any) -> str:
    return dump_json({"type": kind, "data": data}).decode()
