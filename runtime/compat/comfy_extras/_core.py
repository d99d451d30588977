"""Which modules of ``comfy_extras`` bring nodes of the core extension."""

from __future__ import annotations

import importlib

_NAMES = (
    "ace", "align_your_steps", "audio", "canny", "chroma_radiance", "compositing", "cosmos", "custom_sampler",
    "edit_model", "flux", "hooks", "hunyuan", "hunyuan3d", "image_compare", "images", "latent", "logic", "lt", "mask",
    "math", "mochi", "morphology", "number_convert", "optimalsteps", "post_processing", "preview_any", "primitive",
    "rebatch", "resolution", "sd3", "sdupscale", "seed", "stable_cascade", "string", "toolkit", "train", "video_model",
    "wan", "webcam",
)  # fmt: skip

MODULES = tuple(importlib.import_module(f".nodes_{name}", __package__) for name in _NAMES)
