"""``comfy_extras.nodes_chroma_radiance``: the empty latent of Chroma Radiance; what needs a model by name only."""

from __future__ import annotations

from .._standins import names_only
from ._empty import empty_latent, picture

__getattr__ = names_only(__name__)

EmptyChromaRadianceLatentImage = empty_latent(
    "EmptyChromaRadianceLatentImage",
    __name__,
    "latent/chroma_radiance",
    picture(1024, 1024, 16),
    lambda width, height: [3, height, width],
)

NODE_CLASS_MAPPINGS = {
    "EmptyChromaRadianceLatentImage": EmptyChromaRadianceLatentImage,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
