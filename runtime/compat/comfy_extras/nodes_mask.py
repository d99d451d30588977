"""``comfy_extras.nodes_mask``: masks, and laying one picture or latent over another. Masks are [B,H,W] or [H,W]."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from .._nodes.limits import MAX_RESOLUTION, pixels
from .._nodes.masks import grey, stacked
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

    def fitted(item: Any, size: Any) -> Any:
        return torch.nn.functional.interpolate(item, size=tuple(size), mode="bilinear")

    over = source.to(destination.device)
    if resize_source:
        over = fitted(over, destination.shape[-2:])
    over = repeat_to_batch_size(over, destination.shape[0])
    if mask is None:
        share = torch.ones_like(over)
    else:
        share = fitted(stacked(mask)[:, None].to(destination.device), over.shape[-2:])
        share = repeat_to_batch_size(share, over.shape[0])

    across = _Lap.of(x, over.shape[-1], destination.shape[-1], multiplier)
    down = _Lap.of(y, over.shape[-2], destination.shape[-2], multiplier)
    kept = (..., slice(down.skipped, None), slice(across.skipped, None))
    over, share = over[kept], share[kept]
    under = destination[..., down.start :, across.start :][..., : over.shape[-2], : over.shape[-1]]
    # Dimensions 2 and 3 of the mask are cut to the room, also of video ([B,C,T,H,W]): that is refused unless it fits.
    share = share[:, :, : down.room, : across.room]
    if share.ndim < over.ndim:
        share = share.unsqueeze(1)
    under[...] = share * over[..., : down.room, : across.room] + (1.0 - share) * under
    return destination


class _Lap(NamedTuple):
    """Where a side of one picture lies on that of another, in cells."""

    start: int  # in the lower one
    skipped: int  # of the upper one, before it begins to lie on the other
    room: int  # of the lower one, from ``start`` on

    @classmethod
    def of(cls, place: int, length: int, size: int, multiplier: int) -> _Lap:
        cell = min(max(place, -length * multiplier), size * multiplier) // multiplier
        start = max(cell, 0)
        return cls(start, start - cell, size - start)


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
        return (grey(mask),)


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

        cell = torch.tensor(value, dtype=torch.float32, device="cpu")
        return (cell.expand(1, height, width).clone(),)


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
        from_corner = stacked(mask)[:, y:, x:]
        return (from_corner[:, :height, :width],)


_ARITHMETIC = {"multiply": operator.mul, "add": operator.add, "subtract": operator.sub}
_LOGIC = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


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
                "operation": ([*_ARITHMETIC, *_LOGIC],),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "combine"

    def combine(self, destination: Any, source: Any, x: int, y: int, operation: str) -> tuple[Any]:
        made, over = stacked(destination).clone(), stacked(source)
        rows = min(over.shape[-2], made.shape[-2] - y)
        columns = min(over.shape[-1], made.shape[-1] - x)
        place = (slice(None), slice(y, y + rows), slice(x, x + columns))
        pair = (made[place], over[:, :rows, :columns].to(made.device))
        if operation in _ARITHMETIC:
            made[place] = _ARITHMETIC[operation](*pair)
        else:
            made[place] = _LOGIC[operation](*(part.round().bool() for part in pair)).float()
        return (made.clamp(0.0, 1.0),)


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
        output = stacked(mask).clone()
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
        import scipy.ndimage
        import torch

        # Neighbours by an edge, or by a corner too; a mask of the batch is no neighbour of the next.
        neighbours = scipy.ndimage.generate_binary_structure(2, 1 if tapered_corners else 2)[None]
        step = scipy.ndimage.grey_dilation if expand > 0 else scipy.ndimage.grey_erosion
        planes = stacked(mask).cpu().numpy()
        for _ in range(abs(expand)):
            planes = step(planes, footprint=neighbours)
        return (torch.from_numpy(planes.copy()),)


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
        return self.save_images(grey(mask), filename_prefix, prompt, extra_pnginfo)


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
