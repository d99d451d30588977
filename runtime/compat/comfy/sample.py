"""``comfy.sample``: noise is real (torch alone makes it); sampling needs a model and is names only."""

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


__getattr__ = names_only(__name__)
