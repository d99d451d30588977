"""``VideoInput``: what a VIDEO value can do."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

from .._util.video_types import VideoCodec, VideoComponents, VideoContainer


class VideoInput(ABC):
    """A video, wherever its frames come from."""

    @abstractmethod
    def get_components(self) -> VideoComponents:
        """Take the video apart."""

    @abstractmethod
    def save_to(
        self,
        path: str | io.BytesIO,
        format: VideoContainer = VideoContainer.AUTO,
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Write the video."""

    def get_stream_source(self) -> str | io.BytesIO:
        """A path or buffer that a media library can open."""
        buffer = io.BytesIO()
        self.save_to(buffer)
        buffer.seek(0)
        return buffer

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height."""
        images = self.get_components().images
        return images.shape[2], images.shape[1]

    def get_duration(self) -> float:
        """Length in seconds."""
        components = self.get_components()
        return float(components.images.shape[0] / components.frame_rate)

    def get_frame_count(self) -> int:
        return int(self.get_components().images.shape[0])

    def get_frame_rate(self) -> Fraction:
        return Fraction(self.get_components().frame_rate)

    def get_bit_depth(self) -> int:
        return self.get_components().bit_depth

    def get_container_format(self) -> str:
        return "mp4"

    def get_active_trim_window(self) -> tuple[float, float]:
        """(start, duration) in seconds; duration 0 means to the end."""
        return 0.0, 0.0

    def as_trimmed(
        self, start_time: float = 0.0, duration: float = 0.0, strict_duration: bool = False
    ) -> VideoInput | None:
        """A part of the video; None with ``strict_duration`` when there is not enough of it."""
        from .._input_impl.video_types import VideoFromComponents

        components = self.get_components()
        rate = components.frame_rate
        first = round(start_time * rate)
        wanted = round(duration * rate) if duration else components.images.shape[0] - first
        images = components.images[first : first + wanted]
        if strict_duration and images.shape[0] < wanted:
            return None
        audio = components.audio
        if audio is not None:
            sample_rate = audio["sample_rate"]
            begin = round(start_time * sample_rate)
            end = None if not duration else begin + round(duration * sample_rate)
            audio = {"waveform": audio["waveform"][..., begin:end], "sample_rate": sample_rate}
        return VideoFromComponents(VideoComponents(images, rate, audio, components.metadata))
