"""``comfy_extras.nodes_lt``: latents, conditionings and sigmas of LTX Video; what needs a model by name only."""

from __future__ import annotations

import math
from typing import Any

from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode
from ._empty import empty_latent, side

__getattr__ = names_only(__name__)

EmptyLTXVLatentVideo = empty_latent(
    "EmptyLTXVLatentVideo",
    __name__,
    "latent/video/ltxv",
    {"width": side(768, 32, 64), "height": side(512, 32, 64), "length": side(97, 8, 1)},
    lambda width, height, length: [128, (length - 1) // 8 + 1, height // 32, width // 32],
)


class LTXVConditioning(ExtraNode):
    """Sets the frame rate."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        rate = ("FLOAT", {"default": 25.0, "min": 0.0, "max": 1000.0, "step": 0.01})
        return {
            "required": {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "frame_rate": rate}
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    FUNCTION = "append"
    CATEGORY = "conditioning/video_models"

    def append(self, positive: Any, negative: Any, frame_rate: float) -> tuple[Any, Any]:
        rate = {"frame_rate": frame_rate}
        return conditioning_set_values(positive, rate), conditioning_set_values(negative, rate)


class LTXVCropGuides(ExtraNode):
    """Takes the guiding frames, which were put at its end, off a latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "latent": ("LATENT",)}
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    FUNCTION = "crop"
    CATEGORY = "conditioning/video_models"

    def crop(self, positive: Any, negative: Any, latent: Any) -> tuple[Any, Any, Any]:
        import torch

        samples, mask = latent["samples"].clone(), latent.get("noise_mask")
        if mask is None:
            cells = samples[:, :1, :, :1, :1]  # one for each frame
            mask = torch.ones_like(cells, dtype=torch.float32)
        else:
            mask = mask.clone()
        guides = next((extra["keyframe_idxs"] for _, extra in positive if "keyframe_idxs" in extra), None)
        count = 0 if guides is None else torch.unique(guides[:, 0]).shape[0]
        if count:
            samples, mask = samples[:, :, :-count], mask[:, :, :-count]
            positive, negative = (
                conditioning_set_values(items, {"keyframe_idxs": None}) for items in (positive, negative)
            )
        return positive, negative, {"samples": samples, "noise_mask": mask}


class LTXVScheduler(ExtraNode):
    """Sigmas that stay high for longer the more there is to make."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        shift = {"min": 0.0, "max": 100.0, "step": 0.01}
        return {
            "required": {
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
                "max_shift": ("FLOAT", {"default": 2.05, **shift}),
                "base_shift": ("FLOAT", {"default": 0.95, **shift}),
                "stretch": ("BOOLEAN", {"default": True}),
                "terminal": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 0.99, "step": 0.01}),
            },
            "optional": {"latent": ("LATENT",)},
        }

    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get_sigmas"
    CATEGORY = "sampling/custom_sampling/schedulers"

    def get_sigmas(
        self,
        steps: int,
        max_shift: float,
        base_shift: float,
        stretch: bool,
        terminal: float,
        latent: Any = None,
    ) -> tuple[Any]:
        import torch

        cells = 4096 if latent is None else math.prod(latent["samples"].shape[2:])
        # The shift is base_shift for 1024 cells and max_shift for 4096, and goes on along that line.
        slope = (max_shift - base_shift) / (4096 - 1024)
        shift = math.exp(cells * slope + (base_shift - slope * 1024))
        times = torch.linspace(1.0, 0.0, steps + 1)
        sigmas = torch.where(times != 0, shift / (shift + (1 / times - 1)), 0)
        if stretch:
            inner = sigmas != 0
            below = 1.0 - sigmas[inner]
            sigmas[inner] = 1.0 - below / (below[-1] / (1.0 - terminal))
        return (sigmas,)


NODE_CLASS_MAPPINGS = {
    "EmptyLTXVLatentVideo": EmptyLTXVLatentVideo,
    "LTXVConditioning": LTXVConditioning,
    "LTXVCropGuides": LTXVCropGuides,
    "LTXVScheduler": LTXVScheduler,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
