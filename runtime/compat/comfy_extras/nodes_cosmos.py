"""``comfy_extras.nodes_cosmos``: the empty latent of Cosmos; what needs a model by name only."""

from __future__ import annotations

from .._standins import names_only
from ._empty import empty_latent, video

__getattr__ = names_only(__name__)

EmptyCosmosLatentVideo = empty_latent(
    "EmptyCosmosLatentVideo",
    __name__,
    "latent/video",
    video(1280, 704, 16, 121, 8),
    lambda width, height, length: [16, (length - 1) // 8 + 1, height // 8, width // 8],
)

NODE_CLASS_MAPPINGS = {
    "EmptyCosmosLatentVideo": EmptyCosmosLatentVideo,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
