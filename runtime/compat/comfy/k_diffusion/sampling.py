"""``comfy.k_diffusion.sampling``: lists of sigmas, steps and noise; the samplers, which need a model, by name only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..._standins import names_only
from .utils import append_dims

__getattr__ = names_only(__name__)


def append_zero(x: Any) -> Any:
    import torch

    return torch.cat([x, x.new_zeros([1])])


def get_sigmas_karras(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: Any = "cpu"
) -> Any:
    """Even steps in the rho-th root of sigma."""
    import torch

    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return append_zero((first + torch.linspace(0, 1, n, device=device) * (last - first)) ** rho)


def get_sigmas_exponential(n: int, sigma_min: float, sigma_max: float, device: Any = "cpu") -> Any:
    """Even steps in the logarithm of sigma."""
    import torch

    first, last = math.log(sigma_max), math.log(sigma_min)
    logarithms = torch.linspace(first, last, n, device=device)
    return append_zero(torch.exp(logarithms))


def get_sigmas_polyexponential(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device: Any = "cpu"
) -> Any:
    """Steps of a power law in the logarithm of sigma."""
    import torch

    first, last = math.log(sigma_max), math.log(sigma_min)
    return append_zero(torch.exp(torch.linspace(1, 0, n, device=device) ** rho * (first - last) + last))


def get_sigmas_laplace(
    n: int, sigma_min: float, sigma_max: float, mu: float = 0.0, beta: float = 0.5, device: Any = "cpu"
) -> Any:
    """Quantiles of a Laplace distribution of log sigma; this one does not end with zero."""
    import torch

    from_middle = 0.5 - torch.linspace(0, 1, n, device=device)
    logarithm = mu - beta * torch.sign(from_middle) * torch.log(1 - 2 * torch.abs(from_middle) + 1e-5)
    return torch.exp(logarithm).clamp(min=sigma_min, max=sigma_max)


def get_sigmas_vp(
    n: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 1e-3, device: Any = "cpu"
) -> Any:
    """Sigmas of the continuous variance-preserving process."""
    import torch

    time = torch.linspace(1, eps_s, n, device=device)
    return append_zero((beta_d * time**2 / 2 + beta_min * time).expm1().sqrt())


def to_d(x: Any, sigma: Any, denoised: Any) -> Any:
    """The slope from what a model was given to what it made of it."""
    return (x - denoised) / append_dims(sigma, x.ndim)


def get_ancestral_step(sigma_from: Any, sigma_to: Any, eta: float = 1.0) -> tuple[Any, Any]:
    """How far down to step, and how much noise to add there, to arrive at ``sigma_to``."""
    there = sigma_to**2
    added = eta * (there * (sigma_from**2 - there) / sigma_from**2) ** 0.5 if eta else 0.0
    if eta and added > sigma_to:
        added = sigma_to
    return ((there - added**2) ** 0.5 if added else sigma_to), added


def default_noise_sampler(x: Any, seed: int | None = None) -> Callable[[Any, Any], Any]:
    """A function of two sigmas that gives noise of the tensor's shape."""
    import torch

    made = None if seed is None else torch.Generator(device=x.device)
    if made is not None and seed is not None:
        made.manual_seed(seed)

    like = {"dtype": x.dtype, "layout": x.layout, "device": x.device}
    return lambda *sigmas: torch.randn(x.shape, generator=made, **like)
