"""Published lists of sigmas, stretched to any number of steps."""

from __future__ import annotations

from typing import Any

from ._base import ExtraNode


def stretched(levels: list[float], count: int) -> Any:
    """``count`` falling values along a list of them, evenly in their logarithm."""
    import numpy as np

    rising = np.log(levels[::-1])
    return np.exp(np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(levels)), rising))[::-1].copy()


class ListedSigmas(ExtraNode):
    """Base of the schedulers that know a list of sigmas for each kind of model."""

    _levels: dict[str, list[float]]
    _steps: dict[str, int]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model_type": (list(cls._levels),),
                "steps": ("INT", cls._steps),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get_sigmas"
    CATEGORY = "sampling/custom_sampling/schedulers"

    def get_sigmas(self, model_type: str, steps: int, denoise: float) -> tuple[Any]:
        import torch

        if denoise <= 0.0:
            return (torch.FloatTensor([]),)
        levels: Any = list(self._levels[model_type])
        if steps + 1 != len(levels):
            levels = stretched(levels, steps + 1)
        kept = round(steps * denoise) if denoise < 1.0 else steps
        levels = levels[-(kept + 1) :]
        levels[-1] = 0
        return (torch.FloatTensor(levels),)
