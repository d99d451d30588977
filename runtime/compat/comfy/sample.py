"""``comfy.sample``: noise, masks and empty latents are real (torch alone makes them); sampling is names only."""

from __future__ import annotations

from typing import Any

from .._standins import names_only


def prepare_noise(latent_image: Any, seed: int, noise_inds: Any = None) -> Any:
    """Gaussian noise in the shape of a latent, the same for the same seed; ``noise_inds`` picks it per batch item."""
    import torch

    generator = torch.manual_seed(seed)

    def noise(shape: Any) -> Any:
        made = torch.randn(
            shape, dtype=torch.float32, layout=latent_image.layout, generator=generator, device="cpu"
        )
        return made.to(dtype=latent_image.dtype)

    if noise_inds is None:
        return noise(latent_image.size())
    wanted = [int(index) for index in noise_inds]
    rows = [noise([1, *latent_image.size()[1:]]) for _ in range(max(wanted) + 1)]
    return torch.cat([rows[index] for index in wanted], dim=0)


def prepare_mask(noise_mask: Any, shape: Any, device: Any) -> Any:
    """A noise mask in the shape of a latent, on a device."""
    from .utils import reshape_mask

    return reshape_mask(noise_mask, shape).to(device)


def fix_empty_latent_channels(model: Any, latent_image: Any) -> Any:
    """An all-zero latent with the channels and dimensions that the model's latent format has.

    ``model`` is whatever the pack has for one: it must answer ``get_model_object("latent_format")``.
    """
    from .utils import repeat_to_batch_size

    wanted = model.get_model_object("latent_format")
    fitted = latent_image
    if fitted.shape[1] != wanted.latent_channels and not fitted.any():
        fitted = repeat_to_batch_size(fitted, wanted.latent_channels, dim=1)
    without_time = fitted.ndim == 4 and wanted.latent_dimensions == 3
    return fitted[:, :, None] if without_time else fitted


__getattr__ = names_only(__name__)
