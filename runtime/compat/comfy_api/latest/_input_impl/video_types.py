"""VIDEO values from a file or from frames. Reading and writing needs PyAV (``av``), which a pack has to require."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from typing import Any

from .._input.video_types import VideoInput
from .._util.video_types import VideoCodec, VideoComponents, VideoContainer


class MediaLibraryMissingError(ImportError):
    """Sound and video need PyAV, and the extension's environment lacks it."""

    __module__ = "ringfence"  # as shown to users


def _av(what: str = "video") -> Any:
    try:
        import av  # type: ignore[import-not-found]
    except ImportError as error:
        raise MediaLibraryMissingError(
            f"{what} needs the package 'av' (PyAV), which this environment lacks: add 'av' to the requirements.txt of "
            f"this extension"
        ) from error
    return av


def get_open_write_kwargs(
    dest: str | io.BytesIO, container_format: str, to_format: str | None
) -> dict[str, Any]:
    """How to open a destination for writing."""
    options: dict[str, Any] = {"mode": "w", "options": {"movflags": "use_metadata_tags"}}
    if isinstance(dest, io.BytesIO) or to_format not in (None, "auto"):
        options["format"] = container_format if to_format in (None, "auto") else to_format
    return options


class VideoFromFile(VideoInput):
    """A video file, or a part of it."""

    def __init__(self, file: str | io.BytesIO, *, start_time: float = 0.0, duration: float = 0.0) -> None:
        self.__file = file
        self._start = start_time
        self._duration = duration

    def _open(self) -> Any:
        return _av().open(self.get_stream_source(), mode="r")

    def get_stream_source(self) -> str | io.BytesIO:
        source = self.__file
        if hasattr(source, "seek"):
            source.seek(0)  # whoever read it last left it at the end
        return source

    def get_active_trim_window(self) -> tuple[float, float]:
        return self._start, self._duration

    def get_dimensions(self) -> tuple[int, int]:
        with self._open() as container:
            for stream in container.streams.video:
                return stream.width, stream.height
        raise ValueError("the file has no video in it")

    def get_container_format(self) -> str:
        with self._open() as container:
            return str(container.format.name)

    def get_frame_rate(self) -> Fraction:
        with self._open() as container:
            for stream in container.streams.video:
                return Fraction(stream.average_rate) if stream.average_rate else Fraction(1)
        raise ValueError("the file has no video in it")

    def get_duration(self) -> float:
        with self._open() as container:
            if container.duration is not None:
                whole = float(container.duration) / 1_000_000
            else:
                whole = sum(1 for _ in container.decode(video=0)) / float(self.get_frame_rate())
        rest = max(0.0, whole - self._start)
        return min(rest, self._duration) if self._duration else rest

    def get_components(self) -> VideoComponents:
        import numpy as np
        import torch

        frames, rate, metadata = [], Fraction(1), None
        end = self._start + self._duration if self._duration else float("inf")
        with self._open() as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise ValueError("the file has no video in it")
            rate = Fraction(stream.average_rate) if stream.average_rate else Fraction(1)
            metadata = dict(container.metadata)
            for frame in container.decode(stream):
                when = frame.time or 0.0
                if self._start <= when < end:
                    frames.append(
                        torch.from_numpy(frame.to_ndarray(format="rgb24").astype(np.float32) / 255.0)
                    )
        images = torch.stack(frames) if frames else torch.zeros(0, 0, 0, 3)
        return VideoComponents(images, rate, self._sound(end), metadata)

    def _sound(self, end: float) -> dict[str, Any] | None:
        import torch

        with self._open() as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None:
                return None
            av = _av()
            resampler = av.audio.resampler.AudioResampler(
                format="fltp", layout=stream.layout, rate=stream.rate
            )
            pieces = []
            for frame in container.decode(stream):
                if self._start <= (frame.time or 0.0) < end:
                    pieces += [torch.from_numpy(part.to_ndarray()) for part in resampler.resample(frame)]
            if not pieces:
                return None
            return {"waveform": torch.cat(pieces, dim=1)[None].float(), "sample_rate": int(stream.rate)}

    def save_to(
        self,
        path: str | io.BytesIO,
        format: VideoContainer = VideoContainer.AUTO,
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Write the video; a whole file in the right container is copied as it is."""
        source = self.get_stream_source()
        if not self._start and not self._duration and metadata is None and format == VideoContainer.AUTO:
            data = source.getvalue() if isinstance(source, io.BytesIO) else _read(source)
            if isinstance(path, io.BytesIO):
                path.write(data)
            else:
                with open(path, "wb") as file:
                    file.write(data)
            return
        VideoFromComponents(self.get_components()).save_to(path, format, codec, metadata)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class VideoFromComponents(VideoInput):
    """A video made of frames and sound."""

    def __init__(self, components: VideoComponents, *, bit_depth: int | None = None) -> None:
        self.__components = components
        self._bit_depth = bit_depth

    def get_components(self) -> VideoComponents:
        return self.__components

    def get_bit_depth(self) -> int:
        return self._bit_depth or self.__components.bit_depth

    def save_to(
        self,
        path: str | io.BytesIO,
        format: VideoContainer = VideoContainer.AUTO,
        codec: VideoCodec = VideoCodec.AUTO,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Encode as H.264 in MP4.

        Raises:
            ValueError: another container or codec is asked for.
        """
        import torch

        if VideoContainer(format) not in (VideoContainer.AUTO, VideoContainer.MP4):
            raise ValueError(f"video is written as mp4, not as {format}")
        if VideoCodec(codec) not in (VideoCodec.AUTO, VideoCodec.H264):
            raise ValueError(f"video is encoded as h264, not as {codec}")
        av = _av()
        parts = self.__components
        with av.open(path, **get_open_write_kwargs(path, "mp4", "mp4")) as output:
            for key, value in (metadata or {}).items():
                output.metadata[key] = value if isinstance(value, str) else json.dumps(value)
            rate = Fraction(round(parts.frame_rate * 1000), 1000)
            video = output.add_stream("h264", rate=rate)
            video.width, video.height = parts.images.shape[2], parts.images.shape[1]
            video.pix_fmt = "yuv420p"
            sound = None
            if parts.audio is not None:
                layout = "mono" if parts.audio["waveform"].shape[1] == 1 else "stereo"
                sound = output.add_stream("aac", rate=int(parts.audio["sample_rate"]), layout=layout)
            for image in parts.images:
                pixels = (image[..., :3] * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                output.mux(video.encode(frame))
            output.mux(video.encode(None))
            if sound is not None and parts.audio is not None:
                length = int(parts.images.shape[0] / parts.frame_rate * parts.audio["sample_rate"]) + 1
                wave = parts.audio["waveform"][0, :2, :length].float().cpu().contiguous().numpy()
                frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
                frame.sample_rate = int(parts.audio["sample_rate"])
                frame.pts = 0
                output.mux(sound.encode(frame))
                output.mux(sound.encode(None))
