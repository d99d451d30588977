"""``comfy_extras.nodes_model_merging``: saving a checkpoint is declared, for packs to subclass; all is by name only."""

from __future__ import annotations

from typing import Any

from .. import folder_paths
from .._standins import names_only, refuse
from ._base import ExtraNode

__getattr__ = names_only(__name__)


class CheckpointSave(ExtraNode):
    """Declared in full; running it needs a model."""

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "vae": ("VAE",),
                "filename_prefix": ("STRING", {"default": "checkpoints/ComfyUI"}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "advanced/model_merging"

    def save(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        refuse("comfy_extras.nodes_model_merging.CheckpointSave")
