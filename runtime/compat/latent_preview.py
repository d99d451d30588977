"""``latent_preview``: pictures of what a sampler is doing.

``get_previewer`` answers as ComfyUI does with previews switched off (None); ``prepare_callback`` then reports progress
only. ``LatentPreviewer`` can be subclassed; the previewers that decode need a model and are names only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._standins import names_only
from .comfy import cli_args

LatentPreviewMethod = cli_args.LatentPreviewMethod
MAX_PREVIEW_RESOLUTION: int = cli_args.args.preview_size

__getattr__ = names_only(__name__, ["TAESD", "TAEHV", "TAESDPreviewerImpl", "TAEHVPreviewerImpl"])


def preview_to_image(latent_image: Any, do_scale: bool = True) -> Any:
    """A picture [H,W,C] as a PIL image; values are -1..1 (0..1 without ``do_scale``)."""
    import torch
    from PIL import Image

    scaled = (latent_image + 1.0) / 2.0 if do_scale else latent_image
    pixels = scaled.float().clamp(0, 1).mul(255).to(device="cpu", dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


class LatentPreviewer:
    """Base class: ``decode_latent_to_preview`` makes a PIL image of a latent."""

    def decode_latent_to_preview(self, x0: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not say how to decode a latent")

    def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> tuple[str, Any, int]:
        return ("JPEG", self.decode_latent_to_preview(x0), MAX_PREVIEW_RESOLUTION)


class Latent2RGBPreviewer(LatentPreviewer):
    """Shows a latent by a linear map from its channels to red, green and blue."""

    def __init__(
        self,
        latent_rgb_factors: Any,
        latent_rgb_factors_bias: Any = None,
        latent_rgb_factors_reshape: Any = None,
    ) -> None:
        import torch

        self.latent_rgb_factors_reshape = latent_rgb_factors_reshape
        bias = latent_rgb_factors_bias
        self.latent_rgb_factors_bias = bias if bias is None else torch.tensor(bias, device="cpu")
        self.latent_rgb_factors = torch.tensor(latent_rgb_factors, device="cpu").T

    def decode_latent_to_preview(self, x0: Any) -> Any:
        import torch

        if self.latent_rgb_factors_reshape is not None:
            x0 = self.latent_rgb_factors_reshape(x0)
        first = x0[0, :, 0] if x0.ndim == 5 else x0[0]
        factors = self.latent_rgb_factors.to(dtype=x0.dtype, device=x0.device)
        bias = self.latent_rgb_factors_bias
        if bias is not None:
            bias = bias.to(dtype=x0.dtype, device=x0.device)
        return preview_to_image(torch.nn.functional.linear(first.movedim(0, -1), factors, bias=bias))


def get_previewer(device: Any, latent_format: Any) -> LatentPreviewer | None:
    """The previewer for a latent format: none, as with previews switched off."""
    del device, latent_format
    return None


def prepare_callback(
    model: Any, steps: int, x0_output_dict: dict[str, Any] | None = None
) -> Callable[..., None]:
    """A sampler's callback ``(step, x0, x, total_steps)`` that reports progress."""
    from .comfy.utils import ProgressBar

    bar = ProgressBar(steps)
    kept: dict[str, Any] | None = x0_output_dict
    previewer = get_previewer(getattr(model, "load_device", None), None)

    def report(step: int, x0: Any, x: Any, total_steps: int) -> None:
        del x
        if kept is not None:
            kept.update(x0=x0)
        picture = previewer and previewer.decode_latent_to_preview_image("JPEG", x0)
        bar.update_absolute(step + 1, total_steps, picture)

    return report


def set_preview_method(override: str | None = None) -> None:
    """Accepted and without effect: there are no latent previews here."""
    del override
