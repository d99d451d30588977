"""``comfy_extras.nodes_latent``: arithmetic with latents. The operations that act while sampling are not offered."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ._base import ExtraNode

__getattr__ = names_only(__name__)


def reshape_latent_to(target_shape: Any, latent: Any, repeat_batch: bool = True) -> Any:
    """Scale a latent to the size (and repeat it to the batch) of another."""
    from ..comfy.utils import common_upscale, repeat_to_batch_size

    if latent.shape[1:] != target_shape[1:]:
        latent = common_upscale(latent, target_shape[-1], target_shape[-2], "bilinear", "center")
    return repeat_to_batch_size(latent, target_shape[0]) if repeat_batch else latent


class _TwoLatents(ExtraNode):
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",)}}


class LatentAdd(_TwoLatents):
    """The sum of two latents."""

    def op(self, samples1: dict[str, Any], samples2: dict[str, Any]) -> tuple[Any]:
        one = samples1["samples"]
        return ({**samples1, "samples": one + reshape_latent_to(one.shape, samples2["samples"])},)


class LatentSubtract(_TwoLatents):
    """The difference of two latents."""

    def op(self, samples1: dict[str, Any], samples2: dict[str, Any]) -> tuple[Any]:
        one = samples1["samples"]
        return ({**samples1, "samples": one - reshape_latent_to(one.shape, samples2["samples"])},)


class LatentMultiply(ExtraNode):
    """A latent times a number."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        multiplier = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01}
        return {"required": {"samples": ("LATENT",), "multiplier": ("FLOAT", multiplier)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced"

    def op(self, samples: dict[str, Any], multiplier: float) -> tuple[Any]:
        return ({**samples, "samples": samples["samples"] * multiplier},)


class LatentInterpolate(ExtraNode):
    """Between two latents: directions and lengths are mixed separately."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        ratio = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",), "ratio": ("FLOAT", ratio)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced"

    def op(self, samples1: dict[str, Any], samples2: dict[str, Any], ratio: float) -> tuple[Any]:
        import torch

        one = samples1["samples"]
        two = reshape_latent_to(one.shape, samples2["samples"])
        length_one = torch.linalg.vector_norm(one, dim=1, keepdim=True)
        length_two = torch.linalg.vector_norm(two, dim=1, keepdim=True)
        direction = (one / length_one).nan_to_num() * ratio + (two / length_two).nan_to_num() * (1.0 - ratio)
        direction = (direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)).nan_to_num()
        return ({**samples1, "samples": direction * (length_one * ratio + length_two * (1.0 - ratio))},)


class LatentBatch(_TwoLatents):
    """Two batches in one."""

    FUNCTION = "batch"
    CATEGORY = "latent/batch"

    def batch(self, samples1: dict[str, Any], samples2: dict[str, Any]) -> tuple[Any]:
        import torch

        one = samples1["samples"]
        two = reshape_latent_to(one.shape, samples2["samples"], repeat_batch=False)
        indexes = [
            index
            for samples in (samples1, samples2)
            for index in samples.get("batch_index", range(samples["samples"].shape[0]))
        ]
        return ({**samples1, "samples": torch.cat((one, two), dim=0), "batch_index": indexes},)


class LatentBatchSeedBehavior(ExtraNode):
    """Whether each latent of a batch gets noise of its own."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"samples": ("LATENT",), "seed_behavior": (["random", "fixed"], {"default": "fixed"})}
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced"

    def op(self, samples: dict[str, Any], seed_behavior: str) -> tuple[Any]:
        result = samples.copy()
        if seed_behavior == "random":
            result.pop("batch_index", None)
        else:
            first = samples.get("batch_index", [0])[0]
            result["batch_index"] = [first] * samples["samples"].shape[0]
        return (result,)


NODE_CLASS_MAPPINGS = {
    "LatentAdd": LatentAdd,
    "LatentSubtract": LatentSubtract,
    "LatentMultiply": LatentMultiply,
    "LatentInterpolate": LatentInterpolate,
    "LatentBatch": LatentBatch,
    "LatentBatchSeedBehavior": LatentBatchSeedBehavior,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
