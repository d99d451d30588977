"""Empty latents: each family of models has a shape of its own, and that is all that differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._nodes.limits import MAX_RESOLUTION
from ._base import ExtraNode

BATCH = ("INT", {"default": 1, "min": 1, "max": 4096})


def side(default: int, step: int, minimum: int | None = None) -> tuple[str, dict[str, int]]:
    """An INT input for a width, a height or a number of frames."""
    low = step if minimum is None else minimum
    return ("INT", {"default": default, "min": low, "max": MAX_RESOLUTION, "step": step})


def picture(width: int, height: int, step: int) -> dict[str, Any]:
    return {"width": side(width, step), "height": side(height, step)}


def video(width: int, height: int, step: int, length: int, frames: int, at_least: int = 1) -> dict[str, Any]:
    return {**picture(width, height, step), "length": side(length, frames, at_least)}


def empty_latent(
    name: str,
    module: str,
    category: str,
    inputs: dict[str, Any],
    shape: Callable[..., list[int]],
    kind: str | None = None,
) -> Any:
    """Make the node class ``name``; ``shape`` takes the inputs but the batch size and gives the rest of the shape."""
    declared = {**inputs, "batch_size": BATCH}

    def generate(self: Any, *given: Any, **more: Any) -> tuple[dict[str, Any]]:
        import torch

        asked = {"batch_size": 1, **dict(zip(declared, given, strict=False)), **more}
        samples = torch.zeros([asked.pop("batch_size"), *shape(**asked)])
        return ({"samples": samples, "type": kind} if kind else {"samples": samples},)

    return type(
        name,
        (ExtraNode,),
        {
            "INPUT_TYPES": classmethod(lambda cls: {"required": declared}),
            "RETURN_TYPES": ("LATENT",),
            "FUNCTION": "generate",
            "CATEGORY": category,
            "generate": generate,
            "__module__": module,
            "__doc__": f"{name}: zeros in the shape that its models take.",
        },
    )
