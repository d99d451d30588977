"""EmptyImage, ImageScale, ImageBatch ...: the image nodes of ``nodes``. Pictures are [B,H,W,C], values 0..1."""

from __future__ import annotations

from typing import Any

from .limits import CROPPING, IMAGE_SCALING, pixels


def scaled(image: Any, width: int, height: int, method: str, crop: str = "disabled") -> Any:
    """``common_upscale`` for pictures with the channels last."""
    from ..comfy.utils import common_upscale

    return common_upscale(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


class EmptyImage:
    """A picture of one colour."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "width": pixels(512, 1),
                "height": pixels(512, 1),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("IMAGE",)
    FUNCTION = "generate"
    CATEGORY = "image"

    def generate(self, width: int, height: int, batch_size: int = 1, color: int = 0) -> tuple[Any]:
        import torch

        channels = [(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
        planes = [torch.full([batch_size, height, width, 1], value, device=self.device) for value in channels]
        return (torch.cat(planes, dim=-1),)


class ImageScale:
    """Scales to a size; a width or height of 0 follows from the other."""

    upscale_methods = IMAGE_SCALING
    crop_methods = CROPPING

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (cls.upscale_methods,),
                "width": pixels(512),
                "height": pixels(512),
                "crop": (cls.crop_methods,),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    def upscale(self, image: Any, upscale_method: str, width: int, height: int, crop: str) -> tuple[Any]:
        if width == 0 and height == 0:
            return (image,)
        have_high, have_wide = image.shape[1], image.shape[2]
        if width == 0:
            width = max(1, round(have_wide * height / have_high))
        elif height == 0:
            height = max(1, round(have_high * width / have_wide))
        return (scaled(image, width, height, upscale_method, crop),)


class ImageScaleBy:
    """Scales by a factor."""

    upscale_methods = IMAGE_SCALING

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (cls.upscale_methods,),
                "scale_by": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}),
            }
        }

    RETURN_TYPES: tuple[Any, ...] = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    def upscale(self, image: Any, upscale_method: str, scale_by: float) -> tuple[Any]:
        width, height = round(image.shape[2] * scale_by), round(image.shape[1] * scale_by)
        return (scaled(image, width, height, upscale_method),)


class ImageInvert:
    """Turns a picture into its negative."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES: tuple[Any, ...] = ("IMAGE",)
    FUNCTION = "invert"
    CATEGORY = "image"

    def invert(self, image: Any) -> tuple[Any]:
        return (1.0 - image,)


class ImageBatch:
    """Joins two batches; the second is scaled to the size of the first."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    RETURN_TYPES: tuple[Any, ...] = ("IMAGE",)
    FUNCTION = "batch"
    CATEGORY = "image"
    DEPRECATED = False

    def batch(self, image1: Any, image2: Any) -> tuple[Any]:
        import torch

        both = (image1, image2)
        channels = max(image.shape[-1] for image in both)
        first, second = (
            torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0) for image in both
        )
        high, wide = first.shape[1:3]
        if second.shape[1:3] != (high, wide):
            second = scaled(second, wide, high, "bilinear", "center")
        return (torch.cat([first, second]),)


class ImagePadForOutpaint:
    """Adds grey borders, and a mask that is 1 there and fades into the picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sides = {side: pixels(step=8) for side in ("left", "top", "right", "bottom")}
        return {"required": {"image": ("IMAGE",), **sides, "feathering": pixels(40)}}

    RETURN_TYPES: tuple[Any, ...] = ("IMAGE", "MASK")
    FUNCTION = "expand_image"
    CATEGORY = "image"

    def expand_image(
        self, image: Any, left: int, top: int, right: int, bottom: int, feathering: int
    ) -> tuple[Any, Any]:
        import torch

        batch, high, wide, channels = image.shape
        padded = torch.full(
            (batch, high + top + bottom, wide + left + right, channels), 0.5, dtype=torch.float32
        )
        padded[:, top : top + high, left : left + wide] = image
        mask = torch.ones(padded.shape[1:3], dtype=torch.float32)
        inner = torch.zeros((high, wide), dtype=torch.float32)
        if feathering > 0 and feathering * 2 < min(high, wide):
            rows, columns = torch.arange(high).double(), torch.arange(wide).double()
            far = float(high + wide + feathering)
            distance = torch.minimum(
                torch.minimum(
                    rows if top else torch.full_like(rows, far), high - rows if bottom else rows * 0 + far
                )[:, None],
                torch.minimum(
                    columns if left else torch.full_like(columns, far),
                    wide - columns if right else columns * 0 + far,
                )[None, :],
            )
            inner = (((feathering - distance) / feathering).clamp(min=0) ** 2).float()
        mask[top : top + high, left : left + wide] = inner
        return padded, mask.unsqueeze(0)
