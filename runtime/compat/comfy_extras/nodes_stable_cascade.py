"""``comfy_extras.nodes_stable_cascade``: what Stable Cascade needs besides a model; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode
from ._empty import BATCH, side

__getattr__ = names_only(__name__)


class StableCascade_EmptyLatentImage(ExtraNode):
    """The empty latents of both stages."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "width": side(1024, 8, 256),
                "height": side(1024, 8, 256),
                "compression": ("INT", {"default": 42, "min": 4, "max": 128, "step": 1}),
                "batch_size": BATCH,
            }
        }

    RETURN_TYPES = ("LATENT", "LATENT")
    RETURN_NAMES = ("stage_c", "stage_b")
    FUNCTION = "generate"
    CATEGORY = "latent/stable_cascade"

    def generate(self, width: int, height: int, compression: int, batch_size: int = 1) -> tuple[Any, Any]:
        import torch

        def empty(channels: int, pixels_per_cell: int) -> dict[str, Any]:
            rows, columns = height // pixels_per_cell, width // pixels_per_cell
            return {"samples": torch.zeros(batch_size, channels, rows, columns)}

        return empty(16, compression), empty(4, 4)


class StableCascade_StageB_Conditioning(ExtraNode):
    """Hands the result of stage C to stage B."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",), "stage_c": ("LATENT",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "set_prior"
    CATEGORY = "conditioning/stable_cascade"

    def set_prior(self, conditioning: Any, stage_c: Any) -> tuple[Any]:
        return (conditioning_set_values(conditioning, {"stable_cascade_prior": stage_c["samples"]}),)


NODE_CLASS_MAPPINGS = {
    "StableCascade_EmptyLatentImage": StableCascade_EmptyLatentImage,
    "StableCascade_StageB_Conditioning": StableCascade_StageB_Conditioning,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
