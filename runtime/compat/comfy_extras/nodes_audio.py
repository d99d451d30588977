"""``comfy_extras.nodes_audio``: what Stable Audio needs besides a model; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode
from ._empty import empty_latent

__getattr__ = names_only(__name__)

_SECONDS = {"min": 0.0, "max": 1000.0, "step": 0.1}

EmptyLatentAudio = empty_latent(
    "EmptyLatentAudio",
    __name__,
    "latent/audio",
    {"seconds": ("FLOAT", {"default": 47.6, "min": 1.0, "max": 1000.0, "step": 0.1})},
    lambda seconds: [64, round(seconds * 44100 / 2048 / 2) * 2],
    kind="audio",
)


class ConditioningStableAudio(ExtraNode):
    """Tells Stable Audio which part of a piece it makes."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "seconds_start": ("FLOAT", {"default": 0.0, **_SECONDS}),
                "seconds_total": ("FLOAT", {"default": 47.0, **_SECONDS}),
            }
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(
        self, positive: Any, negative: Any, seconds_start: float, seconds_total: float
    ) -> tuple[Any, Any]:
        times = {"seconds_start": seconds_start, "seconds_total": seconds_total}
        return conditioning_set_values(positive, times), conditioning_set_values(negative, times)


NODE_CLASS_MAPPINGS = {
    "EmptyLatentAudio": EmptyLatentAudio,
    "ConditioningStableAudio": ConditioningStableAudio,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
