"""``comfy_extras.nodes_post_processing``: blending, blurring, sharpening, fewer colours."""

from __future__ import annotations

import math
from typing import Any

from .._nodes.images import scaled
from .._nodes.limits import IMAGE_SCALING
from .._standins import names_only
from ._base import ExtraNode
from ._batching import BatchImagesNode, BatchLatentsNode, BatchMasksNode
from ._resizing import ResizeImageMaskNode

__getattr__ = names_only(__name__)


class Blend(ExtraNode):
    """Mixes two pictures; the second is scaled to the first."""

    _modes = ["normal", "multiply", "screen", "overlay", "soft_light", "difference"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image1": ("IMAGE",),
                "image2": ("IMAGE",),
                "blend_factor": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}),
                "blend_mode": (cls._modes,),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "blend_images"
    CATEGORY = "image/postprocessing"

    def blend_images(self, image1: Any, image2: Any, blend_factor: float, blend_mode: str) -> tuple[Any]:
        from ..node_helpers import image_alpha_fix

        image1, image2 = image_alpha_fix(image1, image2)
        image2 = image2.to(image1.device)
        if image1.shape != image2.shape:
            image2 = scaled(image2, image1.shape[2], image1.shape[1], "bicubic", "center")
        mixed = self.blend_mode(image1, image2, blend_mode)
        return ((image1 * (1 - blend_factor) + mixed * blend_factor).clamp(0, 1),)

    def blend_mode(self, img1: Any, img2: Any, mode: str) -> Any:
        import torch

        if mode not in self._modes:
            raise ValueError(f"no such blend mode: {mode!r}")
        if mode in ("normal", "multiply", "difference"):
            return {"normal": img2, "multiply": img1 * img2, "difference": img1 - img2}[mode]
        if mode == "soft_light":
            lean = 2 * img2 - 1  # below 0 it darkens
            lighter, darker = lean * (self.g(img1) - img1), lean * img1 * (1 - img1)
            return img1 + torch.where(lean > 0, lighter, darker)
        rests = (1 - img1) * (1 - img2)
        return 1 - rests if mode == "screen" else torch.where(img1 > 0.5, 1 - 2 * rests, 2 * img1 * img2)

    def g(self, x: Any) -> Any:
        """The curve of soft light: a root, and for the darkest quarter the cubic that meets it."""
        import torch

        root, cubic = x.sqrt(), x * (4 + x * (16 * x - 12))
        return torch.where(x > 0.25, root, cubic)


def gaussian_kernel(kernel_size: int, sigma: float, device: Any = None) -> Any:
    """A square of Gaussian weights over -1..1 that sum to 1."""
    import torch

    line = torch.linspace(-1, 1, kernel_size, device=device)
    squares = line[:, None] ** 2 + line[None, :] ** 2
    weights = torch.exp(-squares / (2.0 * sigma * sigma))
    return weights / weights.sum()


def _convolved(image: Any, kernel: Any, radius: int) -> Any:
    """Each channel of [B,H,W,C] with a square kernel; edges mirrored."""
    import torch

    channels = image.shape[-1]
    weights = kernel.to(image).repeat(channels, 1, 1).unsqueeze(1)
    padded = torch.nn.functional.pad(image.permute(0, 3, 1, 2), [radius] * 4, "reflect")
    result = torch.nn.functional.conv2d(padded, weights, padding=kernel.shape[-1] // 2, groups=channels)
    return result[:, :, radius:-radius, radius:-radius].permute(0, 2, 3, 1)


class Blur(ExtraNode):
    """Gaussian blur."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "blur_radius": ("INT", {"default": 1, "min": 1, "max": 31, "step": 1}),
                "sigma": ("FLOAT", {"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.1}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "blur"
    CATEGORY = "image/postprocessing"

    def blur(self, image: Any, blur_radius: int, sigma: float) -> tuple[Any]:
        if blur_radius == 0:
            return (image,)
        kernel = gaussian_kernel(2 * blur_radius + 1, sigma, device=image.device)
        return (_convolved(image, kernel, blur_radius),)


class Sharpen(ExtraNode):
    """Sharpens by taking the blurred picture away."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "sharpen_radius": ("INT", {"default": 1, "min": 1, "max": 31, "step": 1}),
                "sigma": ("FLOAT", {"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.01}),
                "alpha": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 5.0, "step": 0.01}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "sharpen"
    CATEGORY = "image/postprocessing"

    def sharpen(self, image: Any, sharpen_radius: int, sigma: float, alpha: float) -> tuple[Any]:
        if sharpen_radius == 0:
            return (image,)
        kernel = gaussian_kernel(2 * sharpen_radius + 1, sigma, device=image.device) * -(alpha * 10)
        middle = sharpen_radius
        kernel[middle, middle] = kernel[middle, middle] - kernel.sum() + 1.0
        return (_convolved(image, kernel, sharpen_radius).clamp(0, 1),)


class Quantize(ExtraNode):
    """Reduces a picture to a number of colours."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "colors": ("INT", {"default": 256, "min": 1, "max": 256, "step": 1}),
                "dither": (["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"],),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "quantize"
    CATEGORY = "image/postprocessing"

    @staticmethod
    def bayer(im: Any, pal_im: Any, order: int) -> Any:
        """Map a picture to a palette with an ordered dither of ``order`` x ``order`` cells."""
        import numpy as np
        from PIL import Image

        matrix = np.zeros((1, 1), dtype=np.float32)
        while matrix.shape[0] < order:
            step = 1 / (2 * matrix.shape[0]) ** 2
            matrix = np.block([[matrix, matrix + 2 * step], [matrix + 3 * step, matrix + step]])
        spread = 2 * 256 / (len(pal_im.getpalette()) // 3)
        offsets = spread * (matrix - matrix.mean()) + 0.5
        pixels = np.array(im).astype(np.float32)
        high, wide = pixels.shape[:2]
        repeated = np.tile(offsets, (math.ceil(high / order), math.ceil(wide / order)))[:high, :wide, None]
        shifted = Image.fromarray(np.clip(pixels + repeated, 0, 255).astype(np.uint8))
        return shifted.quantize(palette=pal_im, dither=Image.Dither.NONE)

    def quantize(self, image: Any, colors: int, dither: str) -> tuple[Any]:
        import numpy as np
        import torch
        from PIL import Image

        result = image.clone()  # a fourth channel stays as it is
        for index, picture in enumerate(image):
            im = Image.fromarray((picture[..., :3] * 255).to(torch.uint8).cpu().numpy())
            palette = im.quantize(colors)
            if dither.startswith("bayer"):
                reduced = self.bayer(im, palette, int(dither.rsplit("-", 1)[-1]))
            else:
                kind = Image.Dither.FLOYDSTEINBERG if dither == "floyd-steinberg" else Image.Dither.NONE
                reduced = im.quantize(palette=palette, dither=kind)
            pixels = np.array(reduced.convert("RGB")).astype(np.float32) / 255.0
            result[index, ..., :3] = torch.from_numpy(pixels)
        return (result,)


class ImageScaleToTotalPixels(ExtraNode):
    """Scales to a number of pixels, keeping the aspect."""

    upscale_methods = IMAGE_SCALING
    crop_methods = ["disabled", "center"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (cls.upscale_methods,),
                "megapixels": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 16.0, "step": 0.01}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    def upscale(
        self, image: Any, upscale_method: str, megapixels: float, resolution_steps: int = 1
    ) -> tuple[Any]:
        high, wide = image.shape[1], image.shape[2]
        factor = math.sqrt(megapixels * 1024 * 1024 / (wide * high))
        width = round(wide * factor / resolution_steps) * resolution_steps
        height = round(high * factor / resolution_steps) * resolution_steps
        return (scaled(image, width, height, upscale_method),)


NODE_CLASS_MAPPINGS = {
    "ImageBlend": Blend,
    "ImageBlur": Blur,
    "ImageQuantize": Quantize,
    "ImageSharpen": Sharpen,
    "ImageScaleToTotalPixels": ImageScaleToTotalPixels,
    "ResizeImageMaskNode": ResizeImageMaskNode,
    "BatchImagesNode": BatchImagesNode,
    "BatchMasksNode": BatchMasksNode,
    "BatchLatentsNode": BatchLatentsNode,
}
NODE_DISPLAY_NAME_MAPPINGS = {"ImageScaleToTotalPixels": "Scale Image to Total Pixels"}
NODE_DISPLAY_NAME_MAPPINGS |= {
    "ResizeImageMaskNode": "Resize Image/Mask",
    "BatchImagesNode": "Batch Images",
    "BatchMasksNode": "Batch Masks",
    "BatchLatentsNode": "Batch Latents",
}
