"""A picture as a list of overlapping tiles, and the picture of such a list."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ._base import V3Node, io


def _starts(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the tiles along one side; the last is moved back to end with it."""
    stride = round(max(tile * 0.25, tile - overlap))
    at = 0
    while at < length:
        end = min(at + tile, length)
        yield max(0, end - tile), end
        if end >= length:
            return
        at += stride


def _grid(width: int, height: int, tile_width: int, tile_height: int, overlap: int) -> list[tuple[int, ...]]:
    return [
        (left, top, right, bottom)
        for top, bottom in _starts(height, tile_height, overlap)
        for left, right in _starts(width, tile_width, overlap)
    ]


class SplitImageToTileList(V3Node):
    """Cuts a picture into tiles, row by row."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SplitImageToTileList",
            display_name="Split Image into List of Tiles",
            category="image/batch",
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("tile_width", default=1024, min=64, max=16384),
                io.Int.Input("tile_height", default=1024, min=64, max=16384),
                io.Int.Input("overlap", default=128, min=0, max=4096),
            ],
            outputs=[io.Image.Output(is_output_list=True)],
        )

    @staticmethod
    def get_grid_coords(width: int, height: int, tile_width: int, tile_height: int, overlap: int) -> Any:
        """(left, top, right, bottom) of each tile."""
        return _grid(width, height, tile_width, tile_height, overlap)

    @classmethod
    def execute(cls, image: Any, tile_width: int, tile_height: int, overlap: int) -> Any:
        places = _grid(image.shape[2], image.shape[1], tile_width, tile_height, overlap)
        return io.NodeOutput([image[:, top:bottom, left:right] for left, top, right, bottom in places])


class ImageMergeTileList(V3Node):
    """Puts tiles together again; where they overlap, the middle of a tile counts most."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ImageMergeTileList",
            display_name="Merge List of Tiles to Image",
            category="image/batch",
            is_input_list=True,
            inputs=[
                io.Image.Input("image_list"),
                io.Int.Input("final_width", default=1024, min=64, max=32768),
                io.Int.Input("final_height", default=1024, min=64, max=32768),
                io.Int.Input("overlap", default=128, min=0, max=4096),
            ],
            outputs=[io.Image.Output(is_output_list=False)],
        )

    @classmethod
    def execute(
        cls, image_list: list[Any], final_width: list[int], final_height: list[int], overlap: list[int]
    ) -> Any:
        import torch

        batch, high, wide, channels = image_list[0].shape
        width, height = final_width[0], final_height[0]
        like = {"device": image_list[0].device, "dtype": image_list[0].dtype}
        weight = torch.ones((1, high, wide, 1), **like)
        if overlap[0] > 0:
            down, across = (
                torch.sin(math.pi * torch.linspace(0, 1, length, **like)).clamp(min=1e-5)
                for length in (high, wide)
            )
            weight = (down.unsqueeze(1) * across.unsqueeze(0)).reshape(1, high, wide, 1)
        total = torch.zeros((batch, height, width, channels), **like)
        weights = torch.zeros((batch, height, width, 1), **like)
        for (left, top, right, bottom), tile in zip(
            _grid(width, height, wide, high, overlap[0]), image_list, strict=False
        ):
            rows, columns = min(bottom - top, tile.shape[1]), min(right - left, tile.shape[2])
            place = (slice(None), slice(top, top + rows), slice(left, left + columns))
            share = weight[:, :rows, :columns]
            total[place] += tile[:, :rows, :columns] * share
            weights[place] += share
        weights[weights == 0] = 1.0
        return io.NodeOutput(total / weights)
