"""Engine events as ComfyUI's WebSocket messages: pure functions, and the only place that knows their names.

Which sockets get a message is decided here too (``is_for_all``); sending is websocket.py's.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from api.errors import dump_json, harmless, plain_json
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

_TO_ALL_WITHOUT_ADDRESSEE = frozenset(
    {QueueChanged, PromptInterrupted, ProgressChanged, NodeBlocked, PackMessage}
)

Message = bytes
"""What one frame holds: UTF-8 of a text frame, or ``Binary``."""


class Binary(bytes):
    """What a binary frame holds."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a client said it can do."""

    preview_metadata: bool = False


def is_for_all(event: Event) -> bool:
    """Whether others than its addressee hear an event. What has none is heard by all or (most of a prompt's life) by
    nobody."""
    kind = type(event)
    return kind is QueueChanged or (event.client_id is None and kind in _TO_ALL_WITHOUT_ADDRESSEE)


def messages_for(event: Event, abilities: Abilities) -> list[Message]:
    """The frames that say this event, in order."""
    kind = type(event)
    if kind in _WRITERS:
        return [_WRITERS[kind](event)]
    if isinstance(event, ProgressChanged):
        return _progress(event, abilities)
    return _pack_message(event) if isinstance(event, PackMessage) else []


def messages_of(events: Sequence[Event], abilities: Abilities) -> list[Message]:
    """The frames that say these events, in order."""
    said: list[Message] = []
    for event in events:
        kind = type(event)
        if kind in _WRITERS:
            said.append(_WRITERS[kind](event))
        elif isinstance(event, ProgressChanged) and not event.legacy and event.preview is None:
            said.append(_progress_state(event))
        else:
            said += messages_for(event, abilities)
    return said


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


def status(remaining: int, sid: str | None = None) -> bytes:
    """The ``status`` message; with ``sid`` it is the first one of a connection."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    if sid is not None:
        data["sid"] = sid
    return _text("status", data)


def running_node(display_id: str) -> bytes:
    """Tells a client that reconnected which node of its prompt runs."""
    return _text("executing", {"node": display_id})


def feature_flags(flags: dict[str, Any]) -> bytes:
    """The server's answer to a client's flags."""
    return _text("feature_flags", flags)


def logs(data: dict[str, Any]) -> bytes:
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
    frames: list[Message] = [_progress_state(event)]
    if not event.legacy and event.preview is None:
        return frames
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
        start = struct.pack(">II", PREVIEW_WITH_METADATA, len(header))
        frames.append(Binary(start + header + event.preview[1]))
    if event.legacy:
        data = {
            "value": _number(changed.value),
            "max": _number(changed.max),
            "prompt_id": event.prompt_id,
            "node": changed.node_id,
        }
        frames.append(_text("progress", data))
    if event.preview and image and not abilities.preview_metadata:
        frames.append(Binary(struct.pack(">II", PREVIEW_IMAGE, image[0]) + event.preview[1]))
    return frames


def _progress_state(event: ProgressChanged) -> bytes:
    nodes, prompt_id = event.nodes, event.prompt_id
    # Asked of what it can do: whether it is one of an abstract class takes as long as to say a state.
    say: Callable[[Callable[[NodeProgress, str], bytes], str], bytes] | None = getattr(nodes, "said", None)
    if say is not None:
        said = say(_node_state, prompt_id)
    else:
        said = b",".join([_node_state(node, prompt_id) for node in nodes.values()])
    start = b'{"type":"progress_state","data":{"prompt_id":' + plain_json(prompt_id)
    raw = b"".join((start, b',"nodes":{', said, b"}}}"))
    return harmless(raw) if b"proto" in raw else raw


def _node_state(node: NodeProgress, prompt_id: str) -> bytes:
    """One node's member of the map."""
    value, most = node.value, node.max
    state = {
        # A count of steps is written as one (4, not 4.0): typed clients read an integer there.
        "value": int(value) if value.is_integer() else value,
        "max": int(most) if most.is_integer() else most,
        "state": node.state,
        "node_id": node.node_id,
        "prompt_id": prompt_id,
        "display_node_id": node.display_id,
        "parent_node_id": node.parent_id,
        "real_node_id": node.real_id,
    }
    return plain_json({node.node_id: state})[1:-1]


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _blocked(event: NodeBlocked) -> bytes:
    return _text(
        "execution_error",
        {
            "prompt_id": event.prompt_id,
            "node_id": event.node_id,
            "node_type": event.class_type,
            "executed": list(event.executed),
            "exception_message": f"Execution Blocked: {event.message}",
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": [],
            "current_outputs": [],
        },
    )


def _pack_message(event: PackMessage) -> list[Message]:
    if event.event == "progress_text":
        node = (event.node_id or "").encode()
        text = event.data if isinstance(event.data, str) else ""
        return [Binary(struct.pack(">II", TEXT, len(node)) + node + text.encode("utf-8", "replace"))]
    if event.event in _RESERVED:
        return []
    return [_text(event.event, event.data)]


def _text(kind: str, data: Any) -> bytes:
    return dump_json({"type": kind, "data": data})


def _started(event: PromptStarted) -> bytes:
    data = {"prompt_id": event.prompt_id, "timestamp": event.timestamp}
    return plain_json({"type": "execution_start", "data": data})


def _cached(event: NodesCached) -> bytes:
    data = {"nodes": list(event.nodes), "prompt_id": event.prompt_id, "timestamp": event.timestamp}
    return plain_json({"type": "execution_cached", "data": data})


def _node_started(event: NodeStarted) -> bytes:
    data = {"node": event.node_id, "display_node": event.display_id, "prompt_id": event.prompt_id}
    return plain_json({"type": "executing", "data": data})


def _executed(event: NodeExecuted) -> bytes:
    data = {
        "node": event.node_id,
        "display_node": event.display_id,
        "output": event.output,
        "prompt_id": event.prompt_id,
    }
    return dump_json({"type": "executed", "data": data})


def _succeeded(event: PromptSucceeded) -> bytes:
    data = {"prompt_id": event.prompt_id, "timestamp": event.timestamp}
    return plain_json({"type": "execution_success", "data": data})


def _failed(event: PromptFailed) -> bytes:
    data = {**event.details, "prompt_id": event.prompt_id, "timestamp": event.timestamp}
    return _text("execution_error", data)


def _interrupted(event: PromptInterrupted) -> bytes:
    data = {
        "node_id": event.node_id,
        "node_type": event.class_type,
        "executed": list(event.executed),
        "prompt_id": event.prompt_id,
        "timestamp": event.timestamp,
    }
    return plain_json({"type": "execution_interrupted", "data": data})


def _ended(event: PromptEnded) -> bytes:
    return plain_json({"type": "executing", "data": {"node": None, "prompt_id": event.prompt_id}})


def _queue(event: QueueChanged) -> bytes:
    data = {"status": {"exec_info": {"queue_remaining": event.remaining}}}
    return plain_json({"type": "status", "data": data})


#: Events that are one text frame to every client.
_WRITERS: Final[dict[type[Event], Callable[[Any], bytes]]] = {
    QueueChanged: _queue,
    PromptStarted: _started,
    NodesCached: _cached,
    NodeStarted: _node_started,
    NodeExecuted: _executed,
    NodeBlocked: _blocked,
    PromptSucceeded: _succeeded,
    PromptFailed: _failed,
    PromptInterrupted: _interrupted,
    PromptEnded: _ended,
}
