"""Masks come as [H,W], [B,H,W] or with further dimensions in front: one form for those who work on them."""

from __future__ import annotations

from typing import Any


def stacked(mask: Any) -> Any:
    """[...,H,W] as [B,H,W]."""
    return mask[None] if mask.ndim == 2 else mask.flatten(0, -3)


def grey(mask: Any) -> Any:
    """A picture [B,H,W,3] of a mask."""
    return stacked(mask)[..., None].expand(-1, -1, -1, 3)
