"""The plain values that cross nodes, as type names."""

from __future__ import annotations

from typing import Any, TypedDict

ImageInput = Any  # tensor [B,H,W,C], values 0..1
MaskInput = Any  # tensor [B,H,W], values 0..1


class AudioInput(TypedDict):
    waveform: Any  # tensor [B,C,T]
    sample_rate: int


class LatentInput(TypedDict, total=False):
    samples: Any  # tensor [B,C,H,W]
    noise_mask: Any
    batch_index: list[int]
