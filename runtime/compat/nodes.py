"""``nodes``: ComfyUI's core nodes as Python classes, its tables of nodes, and figures that packs declare with.

Real: the nodes for pictures, masks, latents, texts and conditionings. By name only: everything that needs a model
(``_nodes/models.py``). ``NODE_CLASS_MAPPINGS`` holds the core nodes and this sandbox's own pack; other packs live in
sandboxes of their own and cannot be found here.
"""

from __future__ import annotations

import os
from typing import Any

from ..sdk import paths, registry
from ._nodes.conditioning import (
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningMultiply,
    ConditioningSetArea,
    ConditioningSetAreaPercentage,
    ConditioningSetAreaStrength,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
    ConditioningZeroOut,
)
from ._nodes.images import EmptyImage, ImageBatch, ImageInvert, ImagePadForOutpaint, ImageScale, ImageScaleBy
from ._nodes.latents import (
    EmptyLatentImage,
    LatentBlend,
    LatentComposite,
    LatentCrop,
    LatentFlip,
    LatentFromBatch,
    LatentRotate,
    LatentUpscale,
    LatentUpscaleBy,
    LoadLatent,
    RepeatLatentBatch,
    SaveLatent,
    SetLatentNoiseMask,
)
from ._nodes.limits import MAX_RESOLUTION
from ._nodes.loading import LoadImage, LoadImageMask, LoadImageOutput
from ._nodes.models import MODEL_CLASSES, MODEL_FUNCTIONS
from ._nodes.saving import PreviewImage, SaveImage
from ._standins import SERVER, names_only
from .comfy import model_management
from .comfy_extras._core import MODULES as _EXTRAS

__all__ = [
    "CORE_CLASSES",
    "CORE_DISPLAY_NAMES",
    "MAX_RESOLUTION",
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
]

__file__ = os.path.join(paths.app(), "nodes.py")

_OWN = [
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningMultiply,
    ConditioningSetArea,
    ConditioningSetAreaPercentage,
    ConditioningSetAreaStrength,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
    ConditioningZeroOut,
    EmptyImage,
    EmptyLatentImage,
    ImageBatch,
    ImageInvert,
    ImagePadForOutpaint,
    ImageScale,
    ImageScaleBy,
    LatentBlend,
    LatentComposite,
    LatentCrop,
    LatentFlip,
    LatentFromBatch,
    LatentRotate,
    LatentUpscale,
    LatentUpscaleBy,
    LoadImage,
    LoadImageMask,
    LoadImageOutput,
    LoadLatent,
    PreviewImage,
    RepeatLatentBatch,
    SaveImage,
    SaveLatent,
    SetLatentNoiseMask,
]

#: What the core extension offers as nodes: everything here that runs without a model.
CORE_CLASSES: dict[str, Any] = {made.__name__: made for made in _OWN}
CORE_DISPLAY_NAMES: dict[str, str] = {
    "ConditioningCombine": "Conditioning (Combine)",
    "ConditioningConcat": "Conditioning (Concat)",
    "ConditioningSetArea": "Conditioning (Set Area)",
    "ConditioningSetAreaPercentage": "Conditioning (Set Area with Percentage)",
    "ConditioningSetMask": "Conditioning (Set Mask)",
    "EmptyLatentImage": "Empty Latent Image",
    "ImageBatch": "Batch Images",
    "ImageInvert": "Invert Image",
    "ImagePadForOutpaint": "Pad Image for Outpainting",
    "ImageScale": "Upscale Image",
    "ImageScaleBy": "Upscale Image By",
    "LatentBlend": "Latent Blend",
    "LatentComposite": "Latent Composite",
    "LatentCrop": "Crop Latent",
    "LatentFlip": "Flip Latent",
    "LatentFromBatch": "Latent From Batch",
    "LatentRotate": "Rotate Latent",
    "LatentUpscale": "Upscale Latent",
    "LatentUpscaleBy": "Upscale Latent By",
    "LoadImage": "Load Image",
    "LoadImageMask": "Load Image (as Mask)",
    "LoadImageOutput": "Load Image (from Outputs)",
    "PreviewImage": "Preview Image",
    "RepeatLatentBatch": "Repeat Latent Batch",
    "SaveImage": "Save Image",
    "SetLatentNoiseMask": "Set Latent Noise Mask",
}
for _module in _EXTRAS:
    CORE_CLASSES.update(_module.NODE_CLASS_MAPPINGS)
    CORE_DISPLAY_NAMES.update(_module.NODE_DISPLAY_NAME_MAPPINGS)

globals().update(MODEL_CLASSES)

NODE_CLASS_MAPPINGS = registry.node_classes
NODE_DISPLAY_NAME_MAPPINGS = registry.display_names
EXTENSION_WEB_DIRS = registry.web_directories
LOADED_MODULE_DIRS = registry.module_directories
for _name, _class in {**MODEL_CLASSES, **CORE_CLASSES}.items():
    NODE_CLASS_MAPPINGS.setdefault(_name, _class)
for _name, _label in CORE_DISPLAY_NAMES.items():
    NODE_DISPLAY_NAME_MAPPINGS.setdefault(_name, _label)

_refused = names_only(__name__, MODEL_FUNCTIONS)
_server_only = names_only(
    __name__,
    (
        "init_builtin_api_nodes",
        "init_builtin_extra_nodes",
        "init_external_custom_nodes",
        "init_extra_nodes",
        "init_public_apis",
        "load_custom_node",
    ),
    SERVER,
)


def __getattr__(name: str) -> Any:
    try:
        return _server_only(name)
    except AttributeError:
        return _refused(name)


def interrupt_processing(value: bool = True) -> None:
    """Ask the running node of this sandbox to stop."""
    model_management.interrupt_current_processing(value)


def before_node_execution() -> None:
    """Stop here if the user has asked for that.

    Raises:
        InterruptProcessingException: the user has.
    """
    model_management.throw_exception_if_processing_interrupted()


def get_module_name(module_path: str) -> str:
    """A pack's name, from the path of its folder or file."""
    base = os.path.basename(os.path.normpath(module_path))
    return base.removesuffix(".py")
