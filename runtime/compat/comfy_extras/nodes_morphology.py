"""``comfy_extras.nodes_morphology``: erosion, dilation and what is made of them; RGB to YCbCr and back."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ._base import ExtraNode

__getattr__ = names_only(__name__)


def _dilated(planes: Any, size: int, before: int | None = None) -> Any:
    """The largest value of each square; beyond the border there is nothing.

    ``before``: how much of the square lies before its middle; in an even one the middle lies after the half, turned
    round for erosion, so that opening and closing move nothing.
    """
    import torch

    before = size - size // 2 - 1 if before is None else before
    after = size - 1 - before
    padded = torch.nn.functional.pad(planes, (before, after, before, after), value=-torch.inf)
    return torch.nn.functional.max_pool2d(padded, size, stride=1)


def _eroded(planes: Any, size: int) -> Any:
    return -_dilated(-planes, size, size // 2)


class Morphology(ExtraNode):
    """Grey-scale morphology of each channel with a square."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "operation": (["erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"],),
                "kernel_size": ("INT", {"default": 3, "min": 3, "max": 999, "step": 1}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "process"
    CATEGORY = "image/postprocessing"

    def process(self, image: Any, operation: str, kernel_size: int) -> tuple[Any]:
        planes = image.movedim(-1, 1)

        def through(*steps: Any) -> Any:
            result = planes
            for step in steps:
                result = step(result, kernel_size)
            return result

        made = {
            "erode": lambda: through(_eroded),
            "dilate": lambda: through(_dilated),
            "open": lambda: through(_eroded, _dilated),
            "close": lambda: through(_dilated, _eroded),
            "gradient": lambda: through(_dilated) - through(_eroded),
            "top_hat": lambda: planes - through(_eroded, _dilated),
            "bottom_hat": lambda: through(_dilated, _eroded) - planes,
        }
        if operation not in made:
            raise ValueError(f"there is no operation {operation!r}")
        return (made[operation]().movedim(1, -1),)


class ImageRGBToYUV(ExtraNode):
    """Brightness and the two colour differences, each as a grey picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE", "IMAGE", "IMAGE")
    RETURN_NAMES = ("Y", "U", "V")
    FUNCTION = "convert"
    CATEGORY = "image/batch"

    def convert(self, image: Any) -> tuple[Any, Any, Any]:
        if image.shape[-1] != 3:
            raise ValueError(
                f"the picture has {image.shape[-1]} channels; YUV is made of red, green and blue"
            )
        red, green, blue = image.unbind(-1)
        bright = 0.299 * red + 0.587 * green + 0.114 * blue
        planes = (bright, (blue - bright) * 0.564 + 0.5, (red - bright) * 0.713 + 0.5)
        u = [plane.unsqueeze(-1).expand_as(image) for plane in planes]
        return u[0], u[1], u[2]


class ImageYUVToRGB(ExtraNode):
    """The picture of which these are brightness and colour differences."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"Y": ("IMAGE",), "U": ("IMAGE",), "V": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "convert"
    CATEGORY = "image/batch"

    def convert(self, Y: Any, U: Any, V: Any) -> tuple[Any]:
        import torch

        bright, blue, red = (plane.mean(dim=-1, keepdim=True) for plane in (Y, U, V))
        blue, red = blue - 0.5, red - 0.5
        # What undoes the figures above: 1 / 0.713, 1 / 0.564, and what is left of green.
        green = bright - 0.7144034731 * red - 0.3443401356 * blue
        return (
            torch.cat([bright + 1.4025245442 * red, green, bright + 1.7730496454 * blue], dim=-1).clamp(0, 1),
        )


NODE_CLASS_MAPPINGS = {
    "Morphology": Morphology,
    "ImageRGBToYUV": ImageRGBToYUV,
    "ImageYUVToRGB": ImageYUVToRGB,
}
NODE_DISPLAY_NAME_MAPPINGS = {"Morphology": "ImageMorphology"}
