"""``comfy_extras.nodes_mochi``: the empty latent of Mochi; what needs a model by name only."""

from __future__ import annotations

from .._standins import names_only
from ._empty import empty_latent, video

__getattr__ = names_only(__name__)

EmptyMochiLatentVideo = empty_latent(
    "EmptyMochiLatentVideo",
    __name__,
    "latent/video",
    video(848, 480, 16, 25, 6, 7),
    lambda width, height, length: [12, (length - 1) // 6 + 1, height // 8, width // 8],
)

NODE_CLASS_MAPPINGS = {
    "EmptyMochiLatentVideo": EmptyMochiLatentVideo,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
