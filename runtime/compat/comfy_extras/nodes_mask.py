"""``comfy_extras.nodes_mask``: masks, and laying one picture or latent over another. Masks are [B,H,W] or [H,W]."""

from __future__ import annotations

from typing import Any

from .._nodes.limits import MAX_RESOLUTION, pixels
from .._nodes.saving import PreviewImage
from .._standins import names_only
from ._base import ExtraNode

__getattr__ = names_only(__name__)


def composite(
    destination: Any,
    source: Any,
    x: int,
    y: int,
    mask: Any = None,
    multiplier: int = 8,
    resize_source: bool = False,
) -> Any:
    """Lay ``source`` over ``destination`` (both [B,C,H,W], changed in place), where ``mask`` is 1.

    ``multiplier``: pixels per cell; ``x`` and ``y`` are pixels, and what would lie outside is cut off.
    """
    import torch

    from ..comfy.utils import repeat_to_batch_size

    source = source.to(destination.device)
    high, wide = destination.shape[-2:]
    if resize_source:
        source = torch.nn.functional.interpolate(source, size=(high, wide), mode="bilinear")
    source = repeat_to_batch_size(source, destination.shape[0])
    x = max(-source.shape[-1] * multiplier, min(x, wide * multiplier))
    y = max(-source.shape[-2] * multiplier, min(y, high * multiplier))
    left, top = x // multiplier, y // multiplier

    if mask is None:
        mask = torch.ones_like(source)
    else:
        mask = mask.to(destination.device, copy=True).reshape((-1, 1, mask.shape[-2], mask.shape[-1]))
        mask = torch.nn.functional.interpolate(mask, size=source.shape[-2:], mode="bilinear")
        mask = repeat_to_batch_size(mask, source.shape[0])

    # What lies to the left of the destination or above it is cut off first.
    cut = (..., slice(max(0, -top), None), slice(max(0, -left), None))
    source, mask, left, top = source[cut], mask[cut], max(0, left), max(0, top)
    # Dimensions 2 and 3 of the mask are cut to the rest, also of video ([B,C,T,H,W]): that is refused unless it fits.
    width, height = wide - left, high - top
    mask = mask[:, :, :height, :width]
    if mask.ndim < source.ndim:
        mask = mask.unsqueeze(1)
    place = (..., slice(top, top + source.shape[-2]), slice(left, left + source.shape[-1]))
    destination[place] = mask * source[..., :height, :width] + (1.0 - mask) * destination[place]
    return destination


class LatentCompositeMasked(ExtraNode):
    """Lays one latent over another where a mask says so."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "destination": ("LATENT",),
                "source": ("LATENT",),
                "x": pixels(step=8),
                "y": pixels(step=8),
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK",)},
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "composite"
    CATEGORY = "latent"

    def composite(
        self, destination: Any, source: Any, x: int, y: int, resize_source: bool, mask: Any = None
    ) -> tuple[Any]:
        samples = composite(destination["samples"].clone(), source["samples"], x, y, mask, 8, resize_source)
        return ({**destination, "samples": samples},)


class ImageCompositeMasked(ExtraNode):
    """Lays one picture over another where a mask says so."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "destination": ("IMAGE",),
                "source": ("IMAGE",),
                "x": pixels(),
                "y": pixels(),
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK",)},
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "composite"
    CATEGORY = "image"

    def composite(
        self, destination: Any, source: Any, x: int, y: int, resize_source: bool, mask: Any = None
    ) -> tuple[Any]:
        from ..node_helpers import image_alpha_fix

        destination, source = image_alpha_fix(destination, source)
        result = composite(
            destination.clone().movedim(-1, 1), source.movedim(-1, 1), x, y, mask, 1, resize_source
        )
        return (result.movedim(1, -1),)


class MaskToImage(ExtraNode):
    """A grey picture of a mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",)}}

    CATEGORY = "mask"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "mask_to_image"

    def mask_to_image(self, mask: Any) -> tuple[Any]:
        grey = mask.reshape((-1, mask.shape[-2], mask.shape[-1], 1))
        return (grey.expand(-1, -1, -1, 3),)


class ImageToMask(ExtraNode):
    """One channel of a picture as a mask."""

    _channels = ["red", "green", "blue", "alpha"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "channel": (cls._channels,)}}

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "image_to_mask"

    def image_to_mask(self, image: Any, channel: str) -> tuple[Any]:
        return (image[:, :, :, self._channels.index(channel)],)


class ImageColorToMask(ExtraNode):
    """1 where a picture has exactly a colour."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        colour = {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}
        return {"required": {"image": ("IMAGE",), "color": ("INT", colour)}}

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "image_to_mask"

    def image_to_mask(self, image: Any, color: int) -> tuple[Any]:
        import torch

        levels = (image.clamp(0, 1) * 255.0).round().to(torch.int)
        found = (levels[..., 0] << 16) + (levels[..., 1] << 8) + levels[..., 2]
        return ((found == color).float(),)


class SolidMask(ExtraNode):
    """A mask of one value."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "value": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
                "width": pixels(512, 1),
                "height": pixels(512, 1),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "solid"

    def solid(self, value: float, width: int, height: int) -> tuple[Any]:
        import torch

        return (torch.full((1, height, width), value, dtype=torch.float32, device="cpu"),)


class InvertMask(ExtraNode):
    """1 minus a mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",)}}

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "invert"

    def invert(self, mask: Any) -> tuple[Any]:
        return (1.0 - mask,)


class CropMask(ExtraNode):
    """A rectangle of a mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": ("MASK",),
                "x": pixels(),
                "y": pixels(),
                "width": pixels(512, 1),
                "height": pixels(512, 1),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "crop"

    def crop(self, mask: Any, x: int, y: int, width: int, height: int) -> tuple[Any]:
        mask = mask.reshape((-1, mask.shape[-2], mask.shape[-1]))
        return (mask[:, y : y + height, x : x + width],)


class MaskComposite(ExtraNode):
    """Combines two masks where they overlap."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "destination": ("MASK",),
                "source": ("MASK",),
                "x": pixels(),
                "y": pixels(),
                "operation": (["multiply", "add", "subtract", "and", "or", "xor"],),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "combine"

    def combine(self, destination: Any, source: Any, x: int, y: int, operation: str) -> tuple[Any]:
        output = destination.reshape((-1, destination.shape[-2], destination.shape[-1])).clone()
        source = source.reshape((-1, source.shape[-2], source.shape[-1]))
        right = min(x + source.shape[-1], output.shape[-1])
        bottom = min(y + source.shape[-2], output.shape[-2])
        over = source[:, : bottom - y, : right - x].to(output.device)
        under = output[:, y:bottom, x:right]
        as_bool, over_bool = under.round().bool(), over.round().bool()
        if operation == "multiply":
            result = under * over
        elif operation == "add":
            result = under + over
        elif operation == "subtract":
            result = under - over
        elif operation == "and":
            result = (as_bool & over_bool).float()
        elif operation == "or":
            result = (as_bool | over_bool).float()
        else:
            result = (as_bool ^ over_bool).float()
        output[:, y:bottom, x:right] = result
        return (output.clamp(0.0, 1.0),)


class FeatherMask(ExtraNode):
    """Lets a mask fade out at its edges."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"mask": ("MASK",), **{side: pixels() for side in ("left", "top", "right", "bottom")}}
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "feather"

    def feather(self, mask: Any, left: int, top: int, right: int, bottom: int) -> tuple[Any]:
        output = mask.reshape((-1, mask.shape[-2], mask.shape[-1])).clone()
        high, wide = output.shape[-2:]
        left, right, top, bottom = min(left, wide), min(right, wide), min(top, high), min(bottom, high)
        for column in range(left):
            output[:, :, column] *= (column + 1.0) / left
        for column in range(right):
            output[:, :, -column] *= (column + 1.0) / right  # ComfyUI's first step falls on column 0
        for row in range(top):
            output[:, row, :] *= (row + 1.0) / top
        for row in range(bottom):
            output[:, -row, :] *= (row + 1.0) / bottom
        return (output,)


class GrowMask(ExtraNode):
    """Makes a mask larger (or smaller) by some pixels."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        expand = {"default": 0, "min": -MAX_RESOLUTION, "max": MAX_RESOLUTION, "step": 1}
        return {
            "required": {
                "mask": ("MASK",),
                "expand": ("INT", expand),
                "tapered_corners": ("BOOLEAN", {"default": True}),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "expand_mask"

    def expand_mask(self, mask: Any, expand: int, tapered_corners: bool) -> tuple[Any]:
        import numpy as np
        import scipy.ndimage
        import torch

        corner = 0 if tapered_corners else 1
        footprint = np.array([[corner, 1, corner], [1, 1, 1], [corner, 1, corner]])
        step = scipy.ndimage.grey_erosion if expand < 0 else scipy.ndimage.grey_dilation
        grown = []
        for item in mask.reshape((-1, mask.shape[-2], mask.shape[-1])):
            plane = item.cpu().numpy()
            for _ in range(abs(expand)):
                plane = step(plane, footprint=footprint)
            grown.append(torch.from_numpy(np.ascontiguousarray(plane)))
        return (torch.stack(grown, dim=0),)


class ThresholdMask(ExtraNode):
    """1 where a mask is above a value."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        value = {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}
        return {"required": {"mask": ("MASK",), "value": ("FLOAT", value)}}

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "image_to_mask"

    def image_to_mask(self, mask: Any, value: float) -> tuple[Any]:
        return ((mask > value).float(),)


class MaskPreview(PreviewImage):
    """Shows a mask as a grey picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"mask": ("MASK",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    FUNCTION = "execute"
    CATEGORY = "mask"
    DESCRIPTION = "Shows the input mask without keeping it."

    def execute(
        self, mask: Any, filename_prefix: str = "ComfyUI", prompt: Any = None, extra_pnginfo: Any = None
    ) -> dict[str, Any]:
        (picture,) = MaskToImage().mask_to_image(mask)
        return self.save_images(picture, filename_prefix, prompt, extra_pnginfo)


NODE_CLASS_MAPPINGS = {
    "LatentCompositeMasked": LatentCompositeMasked,
    "ImageCompositeMasked": ImageCompositeMasked,
    "MaskToImage": MaskToImage,
    "ImageToMask": ImageToMask,
    "ImageColorToMask": ImageColorToMask,
    "SolidMask": SolidMask,
    "InvertMask": InvertMask,
    "CropMask": CropMask,
    "MaskComposite": MaskComposite,
    "FeatherMask": FeatherMask,
    "GrowMask": GrowMask,
    "ThresholdMask": ThresholdMask,
    "MaskPreview": MaskPreview,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ImageToMask": "Convert Image to Mask",
    "MaskToImage": "Convert Mask to Image",
    "MaskPreview": "Preview Mask",
}
