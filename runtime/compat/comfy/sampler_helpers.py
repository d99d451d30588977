"""``comfy.sampler_helpers``: preparing masks and conditionings is real; what handles models is names only."""

from __future__ import annotations

import uuid
from typing import Any

from .._standins import names_only
from .sample import prepare_mask

__all__ = ["convert_cond", "prepare_mask"]

__getattr__ = names_only(__name__)


def convert_cond(cond: list[Any]) -> list[dict[str, Any]]:
    """A conditioning as a list of dicts, each with its tensor as ``cross_attn`` and an id of its own."""
    converted = []
    for tensor, extra in (item[:2] for item in cond):
        entry = dict(extra)
        if tensor is not None:
            entry["cross_attn"] = tensor
        entry["model_conds"] = extra.get("model_conds", {})
        entry["uuid"] = uuid.uuid4()
        converted.append(entry)
    return converted
