"""``comfy_extras.nodes_edit_model``: the reference latent of models that edit; what needs a model by name only."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ..node_helpers import conditioning_set_values
from ._base import ExtraNode

__getattr__ = names_only(__name__)


class ReferenceLatent(ExtraNode):
    """Adds a latent to those that the model looks at."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"conditioning": ("CONDITIONING",)}, "optional": {"latent": ("LATENT",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "advanced/conditioning/edit_models"

    def append(self, conditioning: Any, latent: Any = None) -> tuple[Any]:
        if latent is not None:
            values = {"reference_latents": [latent["samples"]]}
            conditioning = conditioning_set_values(conditioning, values, append=True)
        return (conditioning,)


NODE_CLASS_MAPPINGS = {
    "ReferenceLatent": ReferenceLatent,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
