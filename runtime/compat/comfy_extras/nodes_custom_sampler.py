"""``comfy_extras.nodes_custom_sampler``: lists of sigmas, noise; what needs a model by name only."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

from .._standins import names_only
from ..comfy.k_diffusion import sampling
from ._base import ExtraNode

__getattr__ = names_only(__name__)

_STEPS = ("INT", {"default": 20, "min": 1, "max": 10000})


def _exact(default: float, high: float, step: float = 0.01, low: float = 0.0) -> tuple[str, dict[str, Any]]:
    """A FLOAT input that a client must not round."""
    return ("FLOAT", {"default": default, "min": low, "max": high, "step": step, "round": False})


_BETWEEN = {"sigma_max": _exact(14.614642, 5000.0), "sigma_min": _exact(0.0291675, 5000.0)}


class _Schedule(ExtraNode):
    _inputs: dict[str, Any]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"steps": _STEPS, **cls._inputs}}

    RETURN_TYPES = ("SIGMAS",)
    CATEGORY = "sampling/custom_sampling/schedulers"
    FUNCTION = "get_sigmas"


class KarrasScheduler(_Schedule):
    """Even steps in the rho-th root of sigma."""

    _inputs = {**_BETWEEN, "rho": _exact(7.0, 100.0)}

    def get_sigmas(self, steps: int, sigma_max: float, sigma_min: float, rho: float) -> tuple[Any]:
        return (sampling.get_sigmas_karras(steps, sigma_min, sigma_max, rho),)


class ExponentialScheduler(_Schedule):
    """Even steps in the logarithm of sigma."""

    _inputs = _BETWEEN

    def get_sigmas(self, steps: int, sigma_max: float, sigma_min: float) -> tuple[Any]:
        return (sampling.get_sigmas_exponential(steps, sigma_min, sigma_max),)


class PolyexponentialScheduler(_Schedule):
    """Steps of a power law in the logarithm of sigma."""

    _inputs = {**_BETWEEN, "rho": _exact(1.0, 100.0)}

    def get_sigmas(self, steps: int, sigma_max: float, sigma_min: float, rho: float) -> tuple[Any]:
        return (sampling.get_sigmas_polyexponential(steps, sigma_min, sigma_max, rho),)


class LaplaceScheduler(_Schedule):
    """Quantiles of a Laplace distribution of log sigma; this one does not end with zero."""

    _inputs = {
        **_BETWEEN,
        "mu": _exact(0.0, 10.0, 0.1, -10.0),
        "beta": _exact(0.5, 10.0, 0.1),
    }

    def get_sigmas(
        self, steps: int, sigma_max: float, sigma_min: float, mu: float, beta: float
    ) -> tuple[Any]:
        return (sampling.get_sigmas_laplace(steps, sigma_min, sigma_max, mu, beta),)


class VPScheduler(_Schedule):
    """Sigmas of the continuous variance-preserving process."""

    _inputs = {
        "beta_d": _exact(19.9, 5000.0),
        "beta_min": _exact(0.1, 5000.0),
        "eps_s": _exact(0.001, 1.0, 0.0001),
    }

    def get_sigmas(self, steps: int, beta_d: float, beta_min: float, eps_s: float) -> tuple[Any]:
        return (sampling.get_sigmas_vp(steps, beta_d, beta_min, eps_s),)


class _OfSigmas(ExtraNode):
    _inputs: dict[str, Any] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sigmas": ("SIGMAS",), **cls._inputs}}

    RETURN_TYPES: tuple[Any, ...] = ("SIGMAS",)
    CATEGORY = "sampling/custom_sampling/sigmas"
    FUNCTION = "get_sigmas"


class SplitSigmas(_OfSigmas):
    """The sigmas up to a step, and from it on."""

    _inputs = {"step": ("INT", {"default": 0, "min": 0, "max": 10000})}
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")

    def get_sigmas(self, sigmas: Any, step: int) -> tuple[Any, Any]:
        return sigmas[: step + 1], sigmas[step:]


class SplitSigmasDenoise(_OfSigmas):
    """The same with the place given as a share of the steps."""

    _inputs = {"denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})}
    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")

    def get_sigmas(self, sigmas: Any, denoise: float) -> tuple[Any, Any]:
        last = round(max(sigmas.shape[-1] - 1, 0) * denoise)
        return sigmas[:-last] if last else sigmas[:0], sigmas[-(last + 1) :]


class FlipSigmas(_OfSigmas):
    """The sigmas backwards; a zero does not come first."""

    def get_sigmas(self, sigmas: Any) -> tuple[Any]:
        backwards = sigmas.flip(0)
        first = backwards[:1]
        first[first == 0] = 1e-4
        return (backwards,)


class SetFirstSigma(_OfSigmas):
    """Another first sigma."""

    _inputs = {"sigma": _exact(136.0, 20000.0, 0.001)}
    FUNCTION = "set_first_sigma"

    def set_first_sigma(self, sigmas: Any, sigma: float) -> tuple[Any]:
        changed = sigmas.clone()
        changed[0] = sigma
        return (changed,)


class ExtendIntermediateSigmas(_OfSigmas):
    """More steps between the sigmas of a range."""

    _inputs = {
        "steps": ("INT", {"default": 2, "min": 1, "max": 100}),
        "start_at_sigma": _exact(-1.0, 20000.0, low=-1.0),
        "end_at_sigma": _exact(12.0, 20000.0),
        "spacing": (["linear", "cosine", "sine"],),
    }
    FUNCTION = "extend"

    def extend(
        self, sigmas: Any, steps: int, start_at_sigma: float, end_at_sigma: float, spacing: str
    ) -> tuple[Any]:
        import torch

        highest = math.inf if start_at_sigma < 0 else start_at_sigma
        between = torch.linspace(0, 1, steps + 1, device=sigmas.device)[1:-1]
        if spacing == "cosine":
            between = torch.sin(between * math.pi / 2)
        elif spacing == "sine":
            between = 1 - torch.cos(between * math.pi / 2)
        longer = []
        for here, following in itertools.pairwise(sigmas):
            longer.append(here)
            if end_at_sigma <= here <= highest:
                longer.extend((between * (following - here) + here).tolist())
        longer.extend(sigmas[-1:])
        return (torch.FloatTensor(longer),)


#: Digits with or without a fraction, or a fraction alone; several dots are found and then refused.
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.+\d+)?|\.+\d+)")


class ManualSigmas(ExtraNode):
    """Sigmas as a text: every number in it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sigmas": ("STRING", {"default": "1, 0.5", "multiline": False})}}

    RETURN_TYPES = ("SIGMAS",)
    CATEGORY = "_for_testing/custom_sampling"
    FUNCTION = "get_sigmas"
    EXPERIMENTAL = True

    def get_sigmas(self, sigmas: str) -> tuple[Any]:
        import torch

        return (torch.FloatTensor([float(found.group()) for found in _NUMBER.finditer(sigmas)]),)


class Noise_EmptyNoise:
    """No noise at all."""

    def __init__(self) -> None:
        self.seed = 0

    def generate_noise(self, input_latent: dict[str, Any]) -> Any:
        import torch

        return torch.zeros_like(input_latent["samples"], device="cpu")


class Noise_RandomNoise:
    """The noise that belongs to a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: dict[str, Any]) -> Any:
        from ..comfy.sample import prepare_noise

        return prepare_noise(input_latent["samples"], self.seed, input_latent.get("batch_index"))


class DisableNoise(ExtraNode):
    """Noise that is none."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    RETURN_TYPES = ("NOISE",)
    FUNCTION = "get_noise"
    CATEGORY = "sampling/custom_sampling/noise"

    def get_noise(self) -> tuple[Any]:
        return (Noise_EmptyNoise(),)


class RandomNoise(DisableNoise):
    """Noise of a seed; made when it is used, in the shape of that latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seed = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
        return {"required": {"noise_seed": ("INT", seed)}}

    def get_noise(self, noise_seed: int) -> tuple[Any]:  # type: ignore[override]
        return (Noise_RandomNoise(noise_seed),)


NODE_CLASS_MAPPINGS = {
    made.__name__: made
    for made in (
        KarrasScheduler,
        ExponentialScheduler,
        PolyexponentialScheduler,
        LaplaceScheduler,
        VPScheduler,
        SplitSigmas,
        SplitSigmasDenoise,
        FlipSigmas,
        SetFirstSigma,
        ExtendIntermediateSigmas,
        ManualSigmas,
        DisableNoise,
        RandomNoise,
    )
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
