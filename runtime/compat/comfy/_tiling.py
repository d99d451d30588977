"""Running a function over overlapping tiles of a large tensor and blending the results back together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any


def get_tiled_scale_steps(width: int, height: int, tile_x: int, tile_y: int, overlap: int) -> int:
    """How many tiles ``tiled_scale`` takes for one picture."""
    rows = 1 if height <= tile_y else math.ceil((height - overlap) / (tile_y - overlap))
    columns = 1 if width <= tile_x else math.ceil((width - overlap) / (tile_x - overlap))
    return rows * columns


def tiled_scale(
    samples: Any,
    function: Callable[[Any], Any],
    tile_x: int = 64,
    tile_y: int = 64,
    overlap: int = 8,
    upscale_amount: float = 4,
    out_channels: int = 3,
    output_device: Any = "cpu",
    pbar: Any = None,
) -> Any:
    """``tiled_scale_multidim`` for pictures [B,C,H,W]."""
    return tiled_scale_multidim(
        samples,
        function,
        (tile_y, tile_x),
        overlap=overlap,
        upscale_amount=upscale_amount,
        out_channels=out_channels,
        output_device=output_device,
        pbar=pbar,
    )


def tiled_scale_multidim(
    samples: Any,
    function: Callable[[Any], Any],
    tile: Sequence[int] = (64, 64),
    overlap: Any = 8,
    upscale_amount: Any = 4,
    out_channels: int = 3,
    output_device: Any = "cpu",
    downscale: bool = False,
    index_formulas: Any = None,
    pbar: Any = None,
) -> Any:
    """Apply ``function`` to tiles of the trailing ``len(tile)`` dimensions; overlaps fade into each other.

    ``upscale_amount`` is how much larger (with ``downscale``: smaller) the function's result is; like ``overlap`` and
    ``index_formulas`` it may be one for all dimensions or one each, and a number or a function of the size.
    """
    import torch

    dims = len(tile)
    overlaps = list(overlap) if isinstance(overlap, (tuple, list)) else [overlap] * dims
    amounts = list(upscale_amount) if isinstance(upscale_amount, (tuple, list)) else [upscale_amount] * dims
    positions = amounts if index_formulas is None else index_formulas
    positions = list(positions) if isinstance(positions, (tuple, list)) else [positions] * dims

    def apply(amount: Any, value: float) -> int:
        if callable(amount):
            return round(amount(value))
        return round(value / amount) if downscale else round(value * amount)

    sizes = list(samples.shape[2:])
    out_sizes = [apply(amounts[dim], sizes[dim]) for dim in range(dims)]
    output = torch.empty([samples.shape[0], out_channels, *out_sizes], device=output_device)
    for index in range(samples.shape[0]):
        item = samples[index : index + 1]
        if all(sizes[dim] <= tile[dim] for dim in range(dims)):
            output[index : index + 1] = function(item).to(output_device)
            if pbar is not None:
                pbar.update(1)
            continue
        total = torch.zeros([1, out_channels, *out_sizes], device=output_device)
        weight = torch.zeros([1, out_channels, *out_sizes], device=output_device)
        for corner in itertools.product(
            *[_starts(sizes[dim], tile[dim], overlaps[dim]) for dim in range(dims)]
        ):
            piece = item
            place = []
            for dim, corner_start in enumerate(corner):
                start = max(0, min(sizes[dim] - overlaps[dim], corner_start))
                piece = piece.narrow(dim + 2, start, min(tile[dim], sizes[dim] - start))
                place.append(apply(positions[dim], start))
            result = function(piece).to(output_device)
            mask = torch.ones_like(result)
            for dim in range(dims):
                _fade(mask, dim + 2, apply(amounts[dim], overlaps[dim]))
            target, target_weight = total, weight
            for dim, start in enumerate(place):
                target = target.narrow(dim + 2, start, mask.shape[dim + 2])
                target_weight = target_weight.narrow(dim + 2, start, mask.shape[dim + 2])
            target.add_(result * mask)
            target_weight.add_(mask)
            if pbar is not None:
                pbar.update(1)
        output[index : index + 1] = total / weight
    return output


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    return list(range(0, size - overlap, tile - overlap)) if size > tile else [0]


def _fade(mask: Any, dim: int, width: int) -> None:
    """Let a tile's weight rise from its edges over ``width`` cells."""
    size = mask.shape[dim]
    if width >= size:
        return
    for step in range(width):
        share = (step + 1) / width
        mask.narrow(dim, step, 1).mul_(share)
        mask.narrow(dim, size - 1 - step, 1).mul_(share)
