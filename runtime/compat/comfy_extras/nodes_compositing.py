"""``comfy_extras.nodes_compositing``: Porter and Duff's operators, and alpha as a channel or as a mask (1 = clear)."""

from __future__ import annotations

from enum import Enum
from typing import Any

from .._nodes.images import scaled
from .._nodes.masks import stacked
from .._standins import names_only
from ._base import ExtraNode

__getattr__ = names_only(__name__)

_MODES = (
    "ADD CLEAR DARKEN DST DST_ATOP DST_IN DST_OUT DST_OVER LIGHTEN MULTIPLY OVERLAY SCREEN SRC SRC_ATOP SRC_IN SRC_OUT"
    " SRC_OVER XOR"
)
PorterDuffMode = Enum("PorterDuffMode", _MODES, start=0)  # type: ignore[misc]


def resize_mask(mask: Any, shape: Any) -> Any:
    """A mask [B,H,W] in another size."""
    import torch

    high, wide = shape[0], shape[1]
    return torch.nn.functional.interpolate(stacked(mask)[:, None], size=(high, wide), mode="bilinear")[:, 0]


def _operators() -> dict[str, Any]:
    """mode -> what it makes of premultiplied colours and alphas (s, sa over d, da): (colour, alpha)."""
    import torch

    def union(sa: Any, da: Any) -> Any:
        return sa + da - sa * da

    def sum_of_rests(s: Any, sa: Any, d: Any, da: Any) -> Any:
        return (1 - da) * s + (1 - sa) * d

    def overlay(s: Any, sa: Any, d: Any, da: Any) -> Any:
        rests = (sa - d) * (da - s)  # each colour against the other's alpha, as ComfyUI has it
        return torch.where(2 * d >= da, sa * da - 2 * rests, 2 * s * d)

    return {
        "ADD": lambda s, sa, d, da: (torch.clamp(s + d, 0, 1), torch.clamp(sa + da, 0, 1)),
        "CLEAR": lambda s, sa, d, da: (torch.zeros_like(d), torch.zeros_like(da)),
        "DARKEN": lambda s, sa, d, da: (sum_of_rests(s, sa, d, da) + torch.min(s, d), union(sa, da)),
        "DST": lambda s, sa, d, da: (d, da),
        "DST_ATOP": lambda s, sa, d, da: (sa * d + (1 - da) * s, sa),
        "DST_IN": lambda s, sa, d, da: (d * sa, sa * da),
        "DST_OUT": lambda s, sa, d, da: ((1 - sa) * d, (1 - sa) * da),
        "DST_OVER": lambda s, sa, d, da: (d + (1 - da) * s, da + (1 - da) * sa),
        "LIGHTEN": lambda s, sa, d, da: (sum_of_rests(s, sa, d, da) + torch.max(s, d), union(sa, da)),
        "MULTIPLY": lambda s, sa, d, da: (s * d, sa * da),
        "OVERLAY": lambda s, sa, d, da: (overlay(s, sa, d, da), union(sa, da)),
        "SCREEN": lambda s, sa, d, da: (s + d - s * d, union(sa, da)),
        "SRC": lambda s, sa, d, da: (s, sa),
        "SRC_ATOP": lambda s, sa, d, da: (da * s + (1 - sa) * d, da),
        "SRC_IN": lambda s, sa, d, da: (s * da, sa * da),
        "SRC_OUT": lambda s, sa, d, da: ((1 - da) * s, (1 - da) * sa),
        "SRC_OVER": lambda s, sa, d, da: (s + (1 - sa) * d, sa + (1 - sa) * da),
        "XOR": lambda s, sa, d, da: (sum_of_rests(s, sa, d, da), (1 - da) * sa + (1 - sa) * da),
    }


def porter_duff_composite(src_image: Any, src_alpha: Any, dst_image: Any, dst_alpha: Any, mode: Any) -> Any:
    """Combine two pictures [H,W,C] with masks [H,W,1]; returns the same two things."""
    import torch

    source, target = 1 - src_alpha, 1 - dst_alpha
    colour, alpha = _operators()[mode.name](src_image * source, source, dst_image * target, target)
    colour = torch.where(alpha > 1e-5, colour / alpha, torch.zeros_like(colour))
    return torch.clamp(colour, 0, 1), 1 - alpha


class PorterDuffImageComposite(ExtraNode):
    """Combines two pictures with one of Porter and Duff's operators."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "source": ("IMAGE",),
                "source_alpha": ("MASK",),
                "destination": ("IMAGE",),
                "destination_alpha": ("MASK",),
                "mode": (_MODES.split(), {"default": "DST"}),
            }
        }

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "composite"
    CATEGORY = "mask/compositing"

    def composite(
        self, source: Any, source_alpha: Any, destination: Any, destination_alpha: Any, mode: str
    ) -> tuple[Any, Any]:
        import torch

        def fitted(item: Any, like: Any) -> Any:
            return scaled(item[None], like.shape[1], like.shape[0], "bicubic", "center")[0]

        def combined(image: Any, clear: Any, below: Any, below_clear: Any) -> Any:
            if image.shape[2] != below.shape[2]:
                raise ValueError(
                    f"source has {image.shape[2]} channels and destination {below.shape[2]}: they must be the same"
                )
            clear, below_clear = clear.unsqueeze(2), below_clear.unsqueeze(2)
            if below_clear.shape[:2] != below.shape[:2]:
                below_clear = fitted(below_clear, below)
            if image.shape != below.shape:
                image = fitted(image, below)
            if clear.shape != below_clear.shape:
                clear = fitted(clear, below_clear)
            colour, mask = porter_duff_composite(image, clear, below, below_clear, PorterDuffMode[mode])
            return colour, mask.squeeze(2)

        parts = zip(source, source_alpha, destination, destination_alpha, strict=False)
        images, masks = zip(*(combined(*part) for part in parts), strict=True)
        return torch.stack(images), torch.stack(masks)


class SplitImageWithAlpha(ExtraNode):
    """The colours of a picture, and its transparency as a mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "split_image_with_alpha"
    CATEGORY = "mask/compositing"

    def split_image_with_alpha(self, image: Any) -> tuple[Any, Any]:
        import torch

        opaque = image[..., 3] if image.shape[3] > 3 else torch.ones_like(image[..., 0])
        return image[..., :3].clone(), 1.0 - opaque


class JoinImageWithAlpha(ExtraNode):
    """A picture that is transparent where a mask is 1."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "alpha": ("MASK",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "join_image_with_alpha"
    CATEGORY = "mask/compositing"

    def join_image_with_alpha(self, image: Any, alpha: Any) -> tuple[Any]:
        import torch

        count = min(len(image), len(alpha))
        opaque = 1.0 - resize_mask(alpha, image.shape[1:])
        return (torch.cat((image[:count, ..., :3], opaque[:count].unsqueeze(3)), dim=3),)


NODE_CLASS_MAPPINGS = {
    "PorterDuffImageComposite": PorterDuffImageComposite,
    "SplitImageWithAlpha": SplitImageWithAlpha,
    "JoinImageWithAlpha": JoinImageWithAlpha,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "PorterDuffImageComposite": "Porter-Duff Image Composite",
    "SplitImageWithAlpha": "Split Image with Alpha",
    "JoinImageWithAlpha": "Join Image with Alpha",
}
