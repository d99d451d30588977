"""``comfy_extras.nodes_ace``: the empty latent of ACE-Step; what needs a model by name only."""

from __future__ import annotations

from .._standins import names_only
from ._empty import empty_latent

__getattr__ = names_only(__name__)

EmptyAceStepLatentAudio = empty_latent(
    "EmptyAceStepLatentAudio",
    __name__,
    "latent/audio",
    {"seconds": ("FLOAT", {"default": 120.0, "min": 1.0, "max": 1000.0, "step": 0.1})},
    lambda seconds: [8, 16, int(seconds * 44100 / 512 / 8)],
    kind="audio",
)

NODE_CLASS_MAPPINGS = {
    "EmptyAceStepLatentAudio": EmptyAceStepLatentAudio,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
