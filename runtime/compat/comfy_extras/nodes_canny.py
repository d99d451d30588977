"""``comfy_extras.nodes_canny``: Canny's edge detector."""

from __future__ import annotations

import math
from typing import Any

from .._standins import names_only
from ._base import ExtraNode

__getattr__ = names_only(__name__)

#: (down, right) of the neighbour in each of the eight directions, clockwise from the right; the pixel itself is last.
_AROUND = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 0))


def _blurred(grey: Any) -> Any:
    """A Gauss of sigma 1 over five pixels each way."""
    import torch

    from_middle = torch.arange(-2, 3, dtype=grey.dtype)
    weights = torch.exp(-from_middle.pow(2.0) / 2.0)
    weights = weights / weights.sum()
    padded = torch.nn.functional.pad(grey, (2, 2, 2, 2), mode="reflect")
    across = torch.nn.functional.conv2d(padded, weights.view(1, 1, 1, 5))
    return torch.nn.functional.conv2d(across, weights.view(1, 1, 5, 1))


def _gradients(grey: Any) -> tuple[Any, Any]:
    import torch

    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=grey.dtype)
    padded = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    both = torch.nn.functional.conv2d(padded, torch.stack([sobel, sobel.T]).unsqueeze(1))
    return both[:, :1], both[:, 1:]


def edges(image: Any, low: float, high: float) -> Any:
    """The edges of pictures [B,3,H,W] as [B,1,H,W]: ridges above ``high``, and above ``low`` where they touch those."""
    import torch

    red, green, blue = image.split(1, dim=1)
    right, down = _gradients(_blurred(0.299 * red + 0.587 * green + 0.114 * blue))
    # One pixel beyond the picture there is no gradient.
    right_padded, down_padded = (torch.nn.functional.pad(part, (1, 1, 1, 1)) for part in (right, down))
    steep = torch.sqrt(right_padded * right_padded + down_padded * down_padded + 1e-6)
    height, width = right.shape[-2:]
    around = torch.stack(
        [steep[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _AROUND], dim=2
    )
    here = around[:, :, 8]
    ahead = (torch.atan2(down, right) * (4 / math.pi)).round().long() % 8
    is_ridge = here > steep[..., :1, :1]
    for direction in (ahead, (ahead + 4) % 8):
        other = torch.gather(around, 2, direction.unsqueeze(2))[:, :, 0]
        # Of two equal pixels side by side or one above the other, the left or upper one is the ridge.
        may_tie = (direction == 0) | (direction == 2)
        is_ridge = is_ridge & ((here > other) | (may_tie & (here == other)))
    strong, weak = is_ridge & (here > high), is_ridge & (here > low)
    while True:
        near = torch.nn.functional.max_pool2d(strong.to(image.dtype), 3, stride=1, padding=1) > 0
        grown = strong | (weak & near)
        if bool((grown == strong).all()):
            return grown.to(image.dtype)
        strong = grown


class Canny(ExtraNode):
    """White lines where a picture has edges."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"min": 0.01, "max": 0.99, "step": 0.01}
        return {
            "required": {
                "image": ("IMAGE",),
                "low_threshold": ("FLOAT", {"default": 0.4, **share}),
                "high_threshold": ("FLOAT", {"default": 0.8, **share}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "detect_edge"
    CATEGORY = "image/preprocessors"

    def detect_edge(self, image: Any, low_threshold: float, high_threshold: float) -> tuple[Any]:
        if image.shape[-1] != 3:
            raise ValueError(
                f"the picture has {image.shape[-1]} channels; edges are found in red, green and blue"
            )
        if low_threshold > high_threshold:
            raise ValueError(f"low_threshold {low_threshold} is above high_threshold {high_threshold}")
        found = edges(image.movedim(-1, 1), low_threshold, high_threshold)
        return (found.repeat(1, 3, 1, 1).movedim(1, -1),)


NODE_CLASS_MAPPINGS = {"Canny": Canny}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
