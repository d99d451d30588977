"""``comfy_extras.nodes_sd3``: the empty latent of Stable Diffusion 3; what needs a model by name only."""

from __future__ import annotations

from .._standins import names_only
from ._empty import empty_latent, picture

__getattr__ = names_only(__name__)

EmptySD3LatentImage = empty_latent(
    "EmptySD3LatentImage",
    __name__,
    "latent/sd3",
    picture(1024, 1024, 16),
    lambda width, height: [16, height // 8, width // 8],
)

NODE_CLASS_MAPPINGS = {
    "EmptySD3LatentImage": EmptySD3LatentImage,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
