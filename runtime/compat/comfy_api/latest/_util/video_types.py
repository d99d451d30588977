"""Video vocabulary: containers, codecs, and a video taken apart."""

# ruff: noqa: UP042 - packs rely on how (str, Enum) prints
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any


class VideoCodec(str, Enum):
    AUTO = "auto"
    H264 = "h264"

    @classmethod
    def as_input(cls) -> list[str]:
        """The names to offer in a menu."""
        return [member.value for member in cls]


class VideoContainer(str, Enum):
    AUTO = "auto"
    MP4 = "mp4"

    @classmethod
    def as_input(cls) -> list[str]:
        """The names to offer in a menu."""
        return [member.value for member in cls]

    @classmethod
    def get_extension(cls, value: Any) -> str:
        """The file suffix of a container; that of "auto" is mp4's."""
        kind = cls(value) if isinstance(value, str) else value
        return "mp4" if kind in (cls.AUTO, cls.MP4) else ""


@dataclass
class VideoComponents:
    """A video taken apart: frames [T,H,W,C], sound, speed."""

    images: Any
    frame_rate: Fraction
    audio: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    alpha: Any = None
    bit_depth: int = 8
