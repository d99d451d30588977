"""``comfy_extras.nodes_sdupscale``: the conditioning of the 4x upscaler; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._nodes.images import scaled
from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode

__getattr__ = names_only(__name__)


class SD_4XUpscale_Conditioning(ExtraNode):
    """Hands pictures to the upscaler, a quarter of the size that comes out."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE",),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "scale_ratio": ("FLOAT", {"default": 4.0, "min": 0.0, "max": 10.0, "step": 0.01}),
                "noise_augmentation": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.001}),
            }
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    FUNCTION = "condition"
    CATEGORY = "conditioning/upscale_diffusion"

    def condition(
        self, images: Any, positive: Any, negative: Any, scale_ratio: float, noise_augmentation: float
    ) -> tuple[Any, Any, Any]:
        import torch

        width, height = (
            max(1, round(length * scale_ratio)) // 4 for length in (images.shape[2], images.shape[1])
        )
        small = scaled(images * 2.0 - 1.0, width, height, "bilinear", "center").movedim(-1, 1)
        values = {"concat_image": small, "noise_augmentation": noise_augmentation}
        return (
            conditioning_set_values(positive, values),
            conditioning_set_values(negative, values),
            {"samples": torch.zeros([images.shape[0], 4, height, width])},
        )


NODE_CLASS_MAPPINGS = {
    "SD_4XUpscale_Conditioning": SD_4XUpscale_Conditioning,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
