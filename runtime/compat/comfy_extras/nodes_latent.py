"""``comfy_extras.nodes_latent``: arithmetic with latents. What acts while a model samples is by name only."""

from __future__ import annotations

from typing import Any

from .._nodes.limits import MAX_RESOLUTION, pixels
from .._standins import names_only
from ._base import ExtraNode
from .nodes_post_processing import gaussian_kernel

__getattr__ = names_only(__name__)


def reshape_latent_to(target_shape: Any, latent: Any, repeat_batch: bool = True) -> Any:
    """Scale a latent to the size (and repeat it to the batch) of another."""
    from ..comfy.utils import common_upscale, repeat_to_batch_size

    batch, *wanted = target_shape
    if list(latent.shape[1:]) != wanted:
        high, wide = wanted[-2:]
        latent = common_upscale(latent, wide, high, "bilinear", "center")
    return repeat_to_batch_size(latent, batch) if repeat_batch else latent


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


class LatentConcat(ExtraNode):
    """Puts two latents side by side, one above the other, or one after the other."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sides = (["x", "-x", "y", "-y", "t", "-t"],)
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",), "dim": sides}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced"

    def op(self, samples1: dict[str, Any], samples2: dict[str, Any], dim: str) -> tuple[Any]:
        import torch

        from ..comfy.utils import repeat_to_batch_size

        one = samples1["samples"]
        both = [one, repeat_to_batch_size(samples2["samples"], one.shape[0])]
        if dim.startswith("-"):
            both.reverse()
        return ({**samples1, "samples": torch.cat(both, dim=_AXES[dim[-1]])},)


_AXES = {"x": -1, "y": -2, "t": -3}


class LatentCut(ExtraNode):
    """A stretch of a latent along one axis; a negative index counts from the end."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        index = {"default": 0, "min": -MAX_RESOLUTION, "max": MAX_RESOLUTION, "step": 1}
        return {
            "required": {
                "samples": ("LATENT",),
                "dim": (["x", "y", "t"],),
                "index": ("INT", index),
                "amount": pixels(1, 1),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced"

    def op(self, samples: dict[str, Any], dim: str, index: int, amount: int) -> tuple[Any]:
        latent = samples["samples"]
        axis = latent.ndim + _AXES[dim]
        length = latent.shape[axis]
        start = min(index, length - 1) if index >= 0 else max(index, -length)
        left = length - start if start >= 0 else -start
        return ({**samples, "samples": latent.narrow(axis, start, min(left, amount))},)


class LatentApplyOperation(ExtraNode):
    """Applies an operation to a latent at once."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "operation": ("LATENT_OPERATION",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced/operations"
    EXPERIMENTAL = True

    def op(self, samples: dict[str, Any], operation: Any) -> tuple[Any]:
        return ({**samples, "samples": operation(latent=samples["samples"])},)


class LatentOperationTonemapReinhard(ExtraNode):
    """An operation that brings the largest values down, after Reinhard."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"multiplier": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.01})}
        }

    RETURN_TYPES = ("LATENT_OPERATION",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced/operations"
    EXPERIMENTAL = True

    def op(self, multiplier: float) -> tuple[Any]:
        import torch

        def tonemap(latent: Any, **ignored: Any) -> Any:
            length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-10
            direction = latent / length
            middle, spread = (f(length, dim=(1, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
            top = (spread * 5 + middle) * multiplier
            share = length * (1.0 / top)
            return direction * (share / (share + 1.0) * top)

        return (tonemap,)


class LatentOperationSharpen(ExtraNode):
    """An operation that sharpens the directions of a latent's vectors, not their lengths."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "sharpen_radius": ("INT", {"default": 9, "min": 1, "max": 31, "step": 1}),
                "sigma": ("FLOAT", {"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.1}),
                "alpha": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 5.0, "step": 0.01}),
            }
        }

    RETURN_TYPES = ("LATENT_OPERATION",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced/operations"
    EXPERIMENTAL = True

    def op(self, sharpen_radius: int, sigma: float, alpha: float) -> tuple[Any]:
        import torch

        def sharpen(latent: Any, **ignored: Any) -> Any:
            radius, channels = sharpen_radius, latent.shape[1]
            length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-6
            kernel = gaussian_kernel(2 * radius + 1, sigma, device=latent.device) * (alpha * -10)
            kernel[radius, radius] = kernel[radius, radius] - kernel.sum() + 1.0
            padded = torch.nn.functional.pad(latent / length, (radius,) * 4, "reflect")
            weights = kernel.repeat(channels, 1, 1).unsqueeze(1)
            return length * torch.nn.functional.conv2d(padded, weights, groups=channels)

        return (sharpen,)


class LatentCutToBatch(ExtraNode):
    """Slices of a latent along one axis as a batch; what does not fill a slice is left out."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "dim": (["t", "x", "y"],), "slice_size": pixels(1, 1)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/advanced"

    def op(self, samples: dict[str, Any], dim: str, slice_size: int) -> tuple[Any]:
        latent = samples["samples"]
        axis = latent.ndim + _AXES[dim]
        if axis < 2:  # a picture has no time
            return (samples,)
        along = latent.movedim(axis, 1)
        size = min(slice_size, along.shape[1])
        along = along[:, : along.shape[1] // size * size]
        return ({**samples, "samples": along.reshape([-1, size, *along.shape[2:]]).movedim(1, axis)},)


class ReplaceVideoLatentFrames(ExtraNode):
    """Puts the frames of one video latent in the place of frames of another, if they fit there."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        index = {"default": 0, "min": -MAX_RESOLUTION, "max": MAX_RESOLUTION, "step": 1}
        return {
            "required": {"destination": ("LATENT",), "index": ("INT", index)},
            "optional": {"source": ("LATENT",)},
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "op"
    CATEGORY = "latent/batch"

    def op(self, destination: dict[str, Any], index: int, source: dict[str, Any] | None = None) -> tuple[Any]:
        if source is None:
            return (destination,)
        have, new = destination["samples"].shape[2], source["samples"].shape[2]
        start = have + index if index < 0 else index
        if start + new > have:
            print(f"{new} frames do not fit at frame {start} of {have}: nothing is replaced")  # noqa: T201 - the node's log
            return (destination,)
        samples = destination["samples"].clone()
        samples[:, :, start : start + new] = source["samples"]
        return ({**source, "samples": samples},)


NODE_CLASS_MAPPINGS = {
    "LatentAdd": LatentAdd,
    "LatentSubtract": LatentSubtract,
    "LatentMultiply": LatentMultiply,
    "LatentInterpolate": LatentInterpolate,
    "LatentBatch": LatentBatch,
    "LatentBatchSeedBehavior": LatentBatchSeedBehavior,
    "LatentConcat": LatentConcat,
    "LatentCut": LatentCut,
    "LatentCutToBatch": LatentCutToBatch,
    "ReplaceVideoLatentFrames": ReplaceVideoLatentFrames,
    "LatentApplyOperation": LatentApplyOperation,
    "LatentOperationTonemapReinhard": LatentOperationTonemapReinhard,
    "LatentOperationSharpen": LatentOperationSharpen,
}
NODE_DISPLAY_NAME_MAPPINGS = {"ReplaceVideoLatentFrames": "Replace Video Latent Frames"}
