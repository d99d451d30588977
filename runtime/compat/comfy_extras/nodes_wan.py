"""``comfy_extras.nodes_wan``: trimming a video latent; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ._base import ExtraNode

__getattr__ = names_only(__name__)


class TrimVideoLatent(ExtraNode):
    """Leaves out the first frames of a video latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        amount = ("INT", {"default": 0, "min": 0, "max": 99999})
        return {"required": {"samples": ("LATENT",), "trim_amount": amount}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/video"

    def op(self, samples: dict[str, Any], trim_amount: int) -> tuple[Any]:
        return ({**samples, "samples": samples["samples"][:, :, trim_amount:]},)


NODE_CLASS_MAPPINGS = {
    "TrimVideoLatent": TrimVideoLatent,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
