"""``comfy.latent_formats``: how the latents of model families are laid out.

The base class is real, for packs that describe a format of their own or convert with one. The formats of particular
models are names only: their figures belong to the model runtime.
"""

from __future__ import annotations

from typing import Any

from .._standins import names_only


class LatentFormat:
    """A scale factor, a number of channels, and how to show a latent as colours."""

    scale_factor: float = 1.0
    latent_channels: int = 4
    latent_dimensions: int = 2
    latent_rgb_factors: Any = None
    latent_rgb_factors_bias: Any = None
    latent_rgb_factors_reshape: Any = None
    taesd_decoder_name: str | None = None
    spacial_downscale_ratio: int = 8
    temporal_downscale_ratio: int = 1

    def process_in(self, latent: Any) -> Any:
        return latent * self.scale_factor

    def process_out(self, latent: Any) -> Any:
        return latent / self.scale_factor


__getattr__ = names_only(__name__)
