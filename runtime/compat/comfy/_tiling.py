"""Running a function over overlapping tiles of a large tensor and blending the results back together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


def get_tiled_scale_steps(width: int, height: int, tile_x: int, tile_y: int, overlap: int) -> int:
    """How many tiles ``tiled_scale`` takes for one picture."""
    return len(_starts(width, tile_x, overlap)) * len(_starts(height, tile_y, overlap))


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
    sides = (tile_y, tile_x)
    return tiled_scale_multidim(
        samples, function, sides, overlap, upscale_amount, out_channels, output_device, pbar=pbar
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

    ``upscale_amount`` is how much larger (with ``downscale``: smaller) the function's result is; it and
    ``index_formulas`` may be one for all dimensions or one each, and a number or a function of the size. ``overlap`` is
    a number, or one for each dimension.
    """
    import torch

    each = [_for_each(option, len(tile)) for option in (overlap, upscale_amount, index_formulas)]
    axes = [
        _Axis(size, length, lap, amount, amount if formula is None else formula, downscale)
        for size, length, lap, amount, formula in zip(samples.shape[2:], tile, *each, strict=False)
    ]

    tick = (lambda _: None) if pbar is None else pbar.update

    def done(piece: Any) -> Any:
        result = function(piece)
        tick(1)
        return result.to(output_device)

    shape = [out_channels, *(axis.scaled(axis.size) for axis in axes)]
    output = torch.empty([len(samples), *shape], device=output_device)
    whole = all(axis.size <= axis.tile for axis in axes)
    for number, item in enumerate(samples.split(1)):
        if whole:
            output[number : number + 1] = done(item)
        else:
            output[number : number + 1] = _blended(item, axes, done, shape, output_device)
    return output


def _for_each(option: Any, dims: int) -> list[Any]:
    return list(option) if isinstance(option, (tuple, list)) else [option] * dims


@dataclass(frozen=True)
class _Axis:
    """One dimension that is tiled; ``amount`` scales a length, ``formula`` a position."""

    size: int
    tile: int
    overlap: int
    amount: Any
    formula: Any
    shrinks: bool

    def scaled(self, length: float) -> int:
        return self._by(self.amount, length)

    def moved(self, position: int) -> int:
        return self._by(self.formula, position)

    def _by(self, factor: Any, value: float) -> int:
        if callable(factor):
            return round(factor(value))
        return round(value / factor if self.shrinks else value * factor)

    def spans(self) -> list[tuple[int, int]]:
        """Start and length of each tile."""
        last = self.size - self.overlap
        starts = [max(0, min(start, last)) for start in _starts(self.size, self.tile, self.overlap)]
        return [(start, min(self.tile, self.size - start)) for start in starts]


def _blended(
    item: Any, axes: list[_Axis], function: Callable[[Any], Any], shape: list[int], device: Any
) -> Any:
    """The tiles' results, weighted, by the sum of their weights."""
    import torch

    total, weights = (torch.zeros([1, *shape], device=device) for _ in range(2))
    for spans in itertools.product(*(axis.spans() for axis in axes)):
        piece = item
        for dim, (start, length) in enumerate(spans, 2):
            piece = piece.narrow(dim, start, length)
        result = function(piece)
        weight = torch.ones_like(result)
        where = [slice(None), slice(None)]
        for dim, (axis, (start, _)) in enumerate(zip(axes, spans, strict=True), 2):
            length = result.shape[dim]
            ramp = _ramp(length, axis.scaled(axis.overlap)).to(weight)
            weight *= ramp.reshape([-1] + [1] * (weight.ndim - dim - 1))
            place = axis.moved(start)
            where.append(slice(place, place + length))
        total[tuple(where)] += result * weight
        weights[tuple(where)] += weight
    return total / weights


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    return list(range(0, size - overlap, tile - overlap)) if size > tile else [0]


def _ramp(size: int, width: int) -> Any:
    """A tile's weights along one dimension: rising over ``width`` cells at both ends, else 1."""
    import torch

    weights = torch.ones(size)
    if 0 < width < size:
        rising = torch.arange(1, width + 1, dtype=torch.float64) / width
        weights[:width] *= rising
        weights[-width:] *= rising.flip(0)
    return weights
