"""Messages from a pack to the clients of its prompt."""

from __future__ import annotations

from typing import Any

from .. import plain, wire
from . import host


def send(event: str, data: Any, sid: str | None = None) -> None:
    """``PromptServer.send_sync``: data is made plain JSON; what is not JSON becomes text. Never raises for a value."""
    line = host.connected()
    if line is not None:
        name = plain.clean(str(event))[:128] or "event"
        line.notify(
            wire.EVENT,
            {
                "event": name,
                "data": plain.to_json(data),
                "sid": None if sid is None else plain.clean(str(sid))[:128],
            },
        )


def progress_text(text: str, node_id: str) -> None:
    """``PromptServer.send_progress_text``: a line of text shown on a node."""
    line = host.connected()
    if line is not None:
        line.notify(
            wire.TEXT,
            {
                "node_id": plain.clean(str(node_id))[: wire.MAX_NODE_ID] or "?",
                "text": plain.clean(str(text))[:20_000],
            },
        )
