"""``node_helpers``: small functions for node authors. All of them are real; none needs a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from .comfy.cli_args import args


def conditioning_set_values(
    conditioning: list[Any], values: dict[str, Any] | None = None, append: bool = False
) -> list[Any]:
    """A copy of a conditioning with entries set in every item; ``append`` adds to a list that is there."""
    result = []
    for item in conditioning:
        extra = item[1].copy()
        for key, value in (values or {}).items():
            old = extra.get(key)
            extra[key] = old + value if append and old is not None else value
        result.append([item[0], extra])
    return result


def pillow(fn: Callable[[Any], Any], arg: Any) -> Any:
    """Call a Pillow function, and once more tolerating cut-off files if it fails."""
    from PIL import ImageFile, UnidentifiedImageError

    try:
        return fn(arg)
    except (OSError, UnidentifiedImageError, ValueError):
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return fn(arg)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def hasher() -> Callable[..., Any]:
    """The hash function that duplicates are found with (sha256 unless configured otherwise)."""
    name = args.default_hashing_function
    if name not in ("md5", "sha1", "sha256", "sha512"):
        raise KeyError(name)
    return getattr(hashlib, name)


def string_to_torch_dtype(string: str) -> Any:
    """The dtype that "fp32", "fp16" or "bf16" stands for, else None."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(string)


def image_alpha_fix(destination: Any, source: Any) -> tuple[Any, Any]:
    """Give two images [B,H,W,C] the same number of channels: drop the source's extra ones, add opaque alpha."""
    import torch

    missing = destination.shape[-1] - source.shape[-1]
    if missing < 0:
        return destination, source[..., :missing]
    if missing > 0:
        added = source.new_zeros((*source.shape[:-1], missing))
        added[..., -1] = 1
        source = torch.cat([source, added], dim=-1)
    return destination, source
