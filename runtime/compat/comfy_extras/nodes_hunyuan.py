"""``comfy_extras.nodes_hunyuan``: latents of the Hunyuan models; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode
from ._empty import empty_latent, side, video

__getattr__ = names_only(__name__)

EmptyHunyuanLatentVideo = empty_latent(
    "EmptyHunyuanLatentVideo",
    __name__,
    "latent/video",
    video(848, 480, 16, 25, 4),
    lambda width, height, length: [16, (length - 1) // 4 + 1, height // 8, width // 8],
)
EmptyHunyuanImageLatent = empty_latent(
    "EmptyHunyuanImageLatent",
    __name__,
    "latent",
    {"width": side(2048, 32, 64), "height": side(2048, 32, 64)},
    lambda width, height: [64, height // 32, width // 32],
)


class HunyuanRefinerLatent(ExtraNode):
    """Hands a latent to the refiner, with an empty one of its own shape to fill."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent": ("LATENT",),
                "noise_augmentation": ("FLOAT", {"default": 0.10, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    FUNCTION = "refine"
    CATEGORY = "sd"

    def refine(
        self, positive: Any, negative: Any, latent: Any, noise_augmentation: float
    ) -> tuple[Any, Any, Any]:
        import torch

        samples = latent["samples"]
        values = {"concat_latent_image": samples, "noise_augmentation": noise_augmentation}
        empty = torch.zeros([samples.shape[0], 32, *samples.shape[-3:]])
        return (
            conditioning_set_values(positive, values),
            conditioning_set_values(negative, values),
            {"samples": empty},
        )


NODE_CLASS_MAPPINGS = {
    "EmptyHunyuanLatentVideo": EmptyHunyuanLatentVideo,
    "EmptyHunyuanImageLatent": EmptyHunyuanImageLatent,
    "HunyuanRefinerLatent": HunyuanRefinerLatent,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
