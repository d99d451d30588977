"""File items in a node's UI data: ``{"filename", "subfolder", "type"}`` as the tenant's clients may ask for them.

A sandbox whose policy gives it only its own folder of ``output`` or ``temp`` (or of a folder in them) sees that folder
as the whole directory, so the ``subfolder`` it reports lacks the name of its own one. This is the one place that puts
it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.registry import NodeType

JSON = Any


def with_private_folders(ui: Mapping[str, JSON], node_type: NodeType) -> dict[str, JSON]:
    """``ui`` with the subfolder of every output or temp file made relative to the tenant's own directory.

    What a sandbox names is only text: steps upwards are dropped, so that it cannot point at another extension's folder.
    """
    if not node_type.private_areas:
        return dict(ui)
    return {
        key: [_resolved(item, node_type) for item in items] if isinstance(items, list) else items
        for key, items in ui.items()
    }


def _resolved(item: JSON, node_type: NodeType) -> JSON:
    if not isinstance(item, dict) or not isinstance(item.get("filename"), str):
        return item
    area, subfolder = item.get("type"), item.get("subfolder", "")
    if not isinstance(area, str) or not isinstance(subfolder, str):
        return item
    steps = [step for step in subfolder.replace("\\", "/").split("/") if step not in ("", ".", "..")]
    for depth in range(len(steps), -1, -1):
        if "/".join([area, *steps[:depth]]) in node_type.private_areas:
            return {**item, "subfolder": "/".join([*steps[:depth], node_type.own_folder, *steps[depth:]])}
    return item
