"""``comfy_extras.nodes_hunyuan3d``: the empty latent of Hunyuan3D; what needs a model by name only."""

from __future__ import annotations

from .._standins import names_only
from ._empty import empty_latent

__getattr__ = names_only(__name__)

EmptyLatentHunyuan3Dv2 = empty_latent(
    "EmptyLatentHunyuan3Dv2",
    __name__,
    "latent/3d",
    {"resolution": ("INT", {"default": 3072, "min": 1, "max": 8192})},
    lambda resolution: [64, resolution],
    kind="hunyuan3dv2",
)

NODE_CLASS_MAPPINGS = {
    "EmptyLatentHunyuan3Dv2": EmptyLatentHunyuan3Dv2,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
