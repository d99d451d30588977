"""Scaling of pictures and latents, [B,C,H,W]: the six methods that ``comfy.utils.common_upscale`` offers."""

from __future__ import annotations

from typing import Any


def common_upscale(samples: Any, width: int, height: int, upscale_method: str, crop: str) -> Any:
    """Scale to ``width`` x ``height``; with crop "center" cut to the new aspect first. Frames of video one by one."""
    import torch

    if samples.ndim > 4:  # [B,C,...,H,W]
        frames = samples.flatten(2, -3).transpose(1, 2)
        small = common_upscale(frames.flatten(0, 1), width, height, upscale_method, crop)
        return small.unflatten(0, frames.shape[:2]).transpose(1, 2).unflatten(2, samples.shape[2:-2])
    if crop == "center":
        have, wanted = samples.shape[-1] / samples.shape[-2], width / height
        if have > wanted:
            samples = _middle(samples, -1, wanted / have)
        elif have < wanted:
            samples = _middle(samples, -2, have / wanted)
    own = {"bislerp": bislerp, "lanczos": lanczos}
    if upscale_method in own:
        return own[upscale_method](samples, width, height)
    return torch.nn.functional.interpolate(samples, size=(height, width), mode=upscale_method)


def _middle(samples: Any, dim: int, share: float) -> Any:
    """The middle part of a dimension."""
    length = samples.shape[dim]
    margin = round((length - length * share) / 2)
    return samples.narrow(dim, margin, length - 2 * margin)


def lanczos(samples: Any, width: int, height: int) -> Any:
    """Scale with Pillow's Lanczos filter, in 8 bits per channel as ComfyUI does."""
    import numpy as np
    import torch
    from PIL import Image

    def scale(plane: Any) -> Any:
        picture = Image.fromarray(plane).resize((width, height), resample=Image.Resampling.LANCZOS)
        return np.array(picture)

    results = []
    for item in samples:
        channels_last = item.movedim(0, -1).float().cpu().numpy()
        pixels = np.clip(255.0 * channels_last, 0, 255).astype(np.uint8)
        if pixels.shape[-1] in (3, 4):
            scaled = scale(pixels)
        else:
            scaled = np.stack(
                [scale(np.ascontiguousarray(pixels[..., i])) for i in range(pixels.shape[-1])], axis=-1
            )
        results.append(torch.from_numpy(scaled.astype(np.float32) / 255.0).movedim(-1, 0))
    if not results:
        return samples.new_zeros((0, samples.shape[1], height, width))
    return torch.stack(results).to(samples.device, samples.dtype)


def bislerp(samples: Any, width: int, height: int) -> Any:
    """Scale like "bilinear", but turn between neighbouring channel vectors instead of mixing them."""
    wide = _slerp_along(samples.float(), -1, width)
    return _slerp_along(wide, -2, height).to(samples.dtype)


def _slerp_along(samples: Any, dim: int, new: int) -> Any:
    import torch

    old = samples.shape[dim]
    # Pixel centres of the new grid in coordinates of the old one, kept inside it.
    where = ((torch.arange(new, device=samples.device, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(
        0, old - 1
    )
    first = where.floor().long()
    second = (first + 1).clamp(max=old - 1)
    share = (where - first).to(torch.float32)
    share = share.reshape([-1 if axis == samples.ndim + dim else 1 for axis in range(samples.ndim)])
    return _slerp(samples.index_select(dim, first), samples.index_select(dim, second), share)


def _slerp(one: Any, two: Any, share: Any) -> Any:
    """Between two tensors of channel vectors (dim 1), ``share`` of the way."""
    import torch

    length_one = one.norm(dim=1, keepdim=True)
    length_two = two.norm(dim=1, keepdim=True)
    unit_one = torch.where(length_one > 0, one / length_one, torch.zeros_like(one))
    unit_two = torch.where(length_two > 0, two / length_two, torch.zeros_like(two))
    cosine = (unit_one * unit_two).sum(dim=1, keepdim=True)
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    turned = (torch.sin((1 - share) * angle) / sine) * unit_one + (torch.sin(share * angle) / sine) * unit_two
    result = turned * (length_one * (1 - share) + length_two * share)
    result = torch.where(cosine > 1 - 1e-5, one, result)
    return torch.where(cosine < 1e-5 - 1, one * (1 - share) + two * share, result)
