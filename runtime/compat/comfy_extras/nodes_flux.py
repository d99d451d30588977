"""``comfy_extras.nodes_flux``: guidance and sizes of the Flux models; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._nodes.images import scaled
from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode
from ._empty import empty_latent, picture

__getattr__ = names_only(__name__)

#: Widths that Flux Kontext was trained with; the height of each is the width that mirrors it.
_KONTEXT = (672, 688, 720, 752, 800, 832, 880, 944, 1024, 1104, 1184, 1248, 1328, 1392, 1456, 1504, 1568)
PREFERED_KONTEXT_RESOLUTIONS = list(zip(_KONTEXT, reversed(_KONTEXT), strict=True))


class _Flux(ExtraNode):
    RETURN_TYPES: tuple[Any, ...] = ("CONDITIONING",)
    CATEGORY = "advanced/conditioning/flux"


class FluxGuidance(_Flux):
    """Sets the guidance that Flux takes as an input."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        guidance = ("FLOAT", {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1})
        return {"required": {"conditioning": ("CONDITIONING",), "guidance": guidance}}

    FUNCTION = "append"

    def append(self, conditioning: Any, guidance: float) -> tuple[Any]:
        return (conditioning_set_values(conditioning, {"guidance": guidance}),)


class FluxDisableGuidance(_Flux):
    """Takes the guidance away."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",)}}

    FUNCTION = "append"

    def append(self, conditioning: Any) -> tuple[Any]:
        return (conditioning_set_values(conditioning, {"guidance": None}),)


class FluxKontextImageScale(_Flux):
    """Scales a picture to the nearest of the sizes that Kontext was trained with."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "scale"

    def scale(self, image: Any) -> tuple[Any]:
        aspect = image.shape[2] / image.shape[1]
        width, height = min(
            PREFERED_KONTEXT_RESOLUTIONS, key=lambda size: (abs(aspect - size[0] / size[1]), size)
        )
        return (scaled(image, width, height, "lanczos", "center"),)


class FluxKontextMultiReferenceLatentMethod(_Flux):
    """How the model tells several reference latents apart."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        method = (["offset", "index", "uxo/uno"],)
        return {"required": {"conditioning": ("CONDITIONING",), "reference_latents_method": method}}

    FUNCTION = "append"
    EXPERIMENTAL = True

    def append(self, conditioning: Any, reference_latents_method: str) -> tuple[Any]:
        if "uxo" in reference_latents_method or "uso" in reference_latents_method:
            reference_latents_method = "uxo"
        return (
            conditioning_set_values(conditioning, {"reference_latents_method": reference_latents_method}),
        )


EmptyFlux2LatentImage = empty_latent(
    "EmptyFlux2LatentImage",
    __name__,
    "latent",
    picture(1024, 1024, 16),
    lambda width, height: [128, height // 16, width // 16],
)

NODE_CLASS_MAPPINGS = {
    "FluxGuidance": FluxGuidance,
    "FluxDisableGuidance": FluxDisableGuidance,
    "FluxKontextImageScale": FluxKontextImageScale,
    "FluxKontextMultiReferenceLatentMethod": FluxKontextMultiReferenceLatentMethod,
    "EmptyFlux2LatentImage": EmptyFlux2LatentImage,
}
NODE_DISPLAY_NAME_MAPPINGS = {"EmptyFlux2LatentImage": "Empty Flux 2 Latent"}
