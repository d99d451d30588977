"""The latent nodes of ``nodes`` that need no model.

A latent is a dict with ``samples`` [B,C,H,W]; one cell stands for eight by eight pixels.
"""

from __future__ import annotations

from typing import Any

from .limits import CROPPING, FLIPS, LATENT_SCALING, MAX_RESOLUTION, TURNS, pixels, turns
from .masks import stacked

_FACTOR = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01})


class EmptyLatentImage:
    """A latent of zeros for a picture of the given size."""

    def __init__(self) -> None:
        self.device = "cpu"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = {"default": 512, "min": 16, "max": MAX_RESOLUTION, "step": 8}
        return {
            "required": {
                "width": ("INT", {**size, "tooltip": "How wide the decoded pictures will be."}),
                "height": ("INT", {**size, "tooltip": "How high the decoded pictures will be."}),
                "batch_size": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 4096,
                        "tooltip": "How many latents to make.",
                    },
                ),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    OUTPUT_TOOLTIPS = ("Latents of zeros, for a sampler to start from.",)
    FUNCTION = "generate"
    CATEGORY = "latent"
    DESCRIPTION = "Latents with nothing in them yet, as the start of sampling."

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[Any]:
        import torch

        rows, columns = height // 8, width // 8
        latent = {
            "downscale_ratio_spacial": 8,
            "samples": torch.zeros(batch_size, 4, rows, columns, device=self.device),
        }
        return (latent,)


def _noise_masks(samples: dict[str, Any]) -> Any:
    """A latent's noise masks: one for all items, or one each; None when it has none."""
    from ..comfy.utils import repeat_to_batch_size

    masks, count = samples.get("noise_mask"), len(samples["samples"])
    too_few = masks is not None and 1 < len(masks) < count
    return repeat_to_batch_size(masks, count) if too_few else masks


def _times(batch: Any, amount: int) -> Any:
    return batch.repeat(amount, *[1] * (batch.ndim - 1))


class LatentFromBatch:
    """Some items of a batch."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT",),
                "batch_index": ("INT", {"default": 0, "min": 0, "max": 63}),
                "length": ("INT", {"default": 1, "min": 1, "max": 64}),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "frombatch"
    CATEGORY = "latent/batch"

    def frombatch(self, samples: dict[str, Any], batch_index: int, length: int) -> tuple[Any]:
        count = len(samples["samples"])
        chosen = range(count)[min(batch_index, count - 1) :][:length]
        part = slice(chosen.start, chosen.stop)
        indexes = samples["batch_index"][part] if "batch_index" in samples else list(chosen)
        picked = {**samples, "samples": samples["samples"][part].clone(), "batch_index": indexes}
        masks = _noise_masks(samples)
        if masks is not None:
            picked["noise_mask"] = (masks if len(masks) == 1 else masks[part]).clone()
        return (picked,)


class RepeatLatentBatch:
    """A batch several times over."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "amount": ("INT", {"default": 1, "min": 1, "max": 64})}}

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "repeat"
    CATEGORY = "latent/batch"

    def repeat(self, samples: dict[str, Any], amount: int) -> tuple[Any]:
        repeated = {**samples, "samples": _times(samples["samples"], amount)}
        masks = _noise_masks(samples)
        if masks is not None and len(masks) > 1:
            repeated["noise_mask"] = _times(masks, amount)
        if "batch_index" in samples:
            indexes = samples["batch_index"]
            span = 1 + max(indexes) - min(indexes)
            repeated["batch_index"] = [index + turn * span for turn in range(amount) for index in indexes]
        return (repeated,)


class LatentUpscale:
    """Scales a latent to a size in pixels; 0 follows from the other."""

    upscale_methods = LATENT_SCALING
    crop_methods = CROPPING

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT",),
                "upscale_method": (cls.upscale_methods,),
                "width": pixels(512, step=8),
                "height": pixels(512, step=8),
                "crop": (cls.crop_methods,),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "upscale"
    CATEGORY = "latent"

    def upscale(
        self, samples: dict[str, Any], upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[Any]:
        from ..comfy.utils import common_upscale

        if width == 0 and height == 0:
            return (samples,)
        latent = samples["samples"]
        high, wide = latent.shape[-2], latent.shape[-1]
        if width == 0:
            height = max(64, height)
            width = max(64, round(wide * height / high))
        elif height == 0:
            width = max(64, width)
            height = max(64, round(high * width / wide))
        else:
            width, height = max(64, width), max(64, height)
        result = samples.copy()
        result["samples"] = common_upscale(latent, width // 8, height // 8, upscale_method, crop)
        return (result,)


class LatentUpscaleBy:
    """Scales a latent by a factor."""

    upscale_methods = LATENT_SCALING

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT",),
                "upscale_method": (cls.upscale_methods,),
                "scale_by": ("FLOAT", {"default": 1.5, "min": 0.01, "max": 8.0, "step": 0.01}),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "upscale"
    CATEGORY = "latent"

    def upscale(self, samples: dict[str, Any], upscale_method: str, scale_by: float) -> tuple[Any]:
        from ..comfy.utils import common_upscale

        latent = samples["samples"]
        width, height = round(latent.shape[-1] * scale_by), round(latent.shape[-2] * scale_by)
        if width < 1 or height < 1:
            raise ValueError(
                f"scaling {latent.shape[-1]} by {latent.shape[-2]} cells by {scale_by} leaves nothing"
            )
        return ({**samples, "samples": common_upscale(latent, width, height, upscale_method, "disabled")},)


class LatentRotate:
    """Turns a latent clockwise."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "rotation": (TURNS,)}}

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "rotate"
    CATEGORY = "latent/transform"

    def rotate(self, samples: dict[str, Any], rotation: str) -> tuple[Any]:
        import torch

        return ({**samples, "samples": torch.rot90(samples["samples"], k=turns(rotation), dims=[3, 2])},)


class LatentFlip:
    """Mirrors a latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "flip_method": (FLIPS,)}}

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "flip"
    CATEGORY = "latent/transform"

    def flip(self, samples: dict[str, Any], flip_method: str) -> tuple[Any]:
        import torch

        dim = 2 if flip_method.startswith("x") else 3
        return ({**samples, "samples": torch.flip(samples["samples"], dims=[dim])},)


class LatentComposite:
    """Lays one latent over another, fading in at inner edges."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        places = {name: pixels(step=8) for name in ("x", "y", "feather")}
        return {"required": {"samples_to": ("LATENT",), "samples_from": ("LATENT",), **places}}

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "composite"
    CATEGORY = "latent"

    def composite(
        self,
        samples_to: dict[str, Any],
        samples_from: dict[str, Any],
        x: int,
        y: int,
        composite_method: str = "normal",
        feather: int = 0,
    ) -> tuple[Any]:
        import torch

        del composite_method
        x, y, feather = x // 8, y // 8, feather // 8
        under = samples_to["samples"].clone()
        over = samples_from["samples"][..., : under.shape[2] - y, : under.shape[3] - x]
        high, wide = over.shape[2], over.shape[3]
        mask = torch.ones_like(over)
        for step in range(
            feather
        ):  # past the latent's own size the slices count from its other end, as in ComfyUI
            share = (1.0 / feather) * (step + 1)
            if y != 0:
                mask[:, :, step : step + 1] *= share
            if y + high < under.shape[2]:
                mask[:, :, high - 1 - step : high - step] *= share
            if x != 0:
                mask[:, :, :, step : step + 1] *= share
            if x + wide < under.shape[3]:
                mask[:, :, :, wide - 1 - step : wide - step] *= share
        place = under[:, :, y : y + high, x : x + wide]
        under[:, :, y : y + high, x : x + wide] = over * mask + place * (1.0 - mask)
        return ({**samples_to, "samples": under},)


class LatentBlend:
    """Mixes two latents; the second is scaled to the first."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",), "blend_factor": _FACTOR}}

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "blend"
    CATEGORY = "_for_testing"

    def blend(
        self,
        samples1: dict[str, Any],
        samples2: dict[str, Any],
        blend_factor: float,
        blend_mode: str = "normal",
    ) -> tuple[Any]:
        from ..comfy.utils import common_upscale

        if blend_mode != "normal":
            raise ValueError(f"no such blend mode: {blend_mode!r}")
        one, two = samples1["samples"], samples2["samples"]
        if one.shape != two.shape:
            two = common_upscale(two, one.shape[3], one.shape[2], "bicubic", "center")
        return ({**samples1, "samples": one * blend_factor + two * (1 - blend_factor)},)


class LatentCrop:
    """Cuts a rectangle (in pixels) out of a latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT",),
                "width": pixels(512, 64, 8),
                "height": pixels(512, 64, 8),
                "x": pixels(step=8),
                "y": pixels(step=8),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "crop"
    CATEGORY = "latent/transform"

    def crop(self, samples: dict[str, Any], width: int, height: int, x: int, y: int) -> tuple[Any]:
        latent = samples["samples"]
        # At least one minimum-sized tile (8 cells) stays; in a smaller latent the place counts from the far end.
        left, top = min(x // 8, latent.shape[3] - 8), min(y // 8, latent.shape[2] - 8)
        return ({**samples, "samples": latent[:, :, top : top + height // 8, left : left + width // 8]},)


class SetLatentNoiseMask:
    """Marks where a sampler shall change a latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "mask": ("MASK",)}}

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "set_mask"
    CATEGORY = "latent/inpaint"

    def set_mask(self, samples: dict[str, Any], mask: Any) -> tuple[Any]:
        return ({**samples, "noise_mask": stacked(mask)[:, None]},)


def _file_pairs(samples: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {"latent_tensor": samples["samples"].contiguous(), "latent_format_version_0": torch.tensor([])}


class SaveLatent:
    """Saves a latent to the output directory, as a safetensors file named ``.latent``."""

    def __init__(self) -> None:
        from .. import folder_paths

        self.output_dir = folder_paths.get_output_directory()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT",),
                "filename_prefix": ("STRING", {"default": "latents/ComfyUI"}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES: tuple[Any, ...] = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    CATEGORY = "_for_testing"

    def save(
        self,
        samples: dict[str, Any],
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: Any = None,
    ) -> dict[str, Any]:
        from ..comfy.utils import save_torch_file
        from .saving import NumberedFiles, text_chunks

        files = NumberedFiles(filename_prefix, self.output_dir, "output")
        texts = text_chunks(prompt, extra_pnginfo)
        save_torch_file(_file_pairs(samples), files.next(".latent"), metadata=texts or None)
        return {"ui": {"latents": files.saved}}


class LoadLatent:
    """Loads a ``.latent`` file from the input directory."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        import os

        from .. import folder_paths

        directory = folder_paths.get_input_directory()
        files = os.listdir(directory) if os.path.isdir(directory) else []
        return {"required": {"latent": (sorted(name for name in files if name.endswith(".latent")),)}}

    RETURN_TYPES: tuple[Any, ...] = ("LATENT",)
    FUNCTION = "load"
    CATEGORY = "_for_testing"

    def load(self, latent: str) -> tuple[Any]:
        from safetensors.torch import load_file

        from .. import folder_paths

        content = load_file(folder_paths.get_annotated_filepath(latent), device="cpu")
        scale = 1.0 if "latent_format_version_0" in content else 1.0 / 0.18215
        return ({"samples": content["latent_tensor"].float() * scale},)

    @classmethod
    def IS_CHANGED(cls, latent: str) -> str:
        from .loading import _digest

        return _digest(latent)

    @classmethod
    def VALIDATE_INPUTS(cls, latent: str) -> bool | str:
        from .. import folder_paths

        return True if folder_paths.exists_annotated_filepath(latent) else f"Invalid latent file: {latent}"
