"""``ui``: what a V3 node shows. The preview classes write their files when they are made."""

from __future__ import annotations

import os
import random
import string
from typing import Any

from ... import folder_paths
from ..._nodes.masks import grey
from ..._nodes.saving import NumberedFiles, png_info, text_chunks, to_pil
from ._input_impl.video_types import _av
from ._types import FolderType

__all__ = [
    "AudioSaveHelper",
    "ImageSaveHelper",
    "PreviewAudio",
    "PreviewImage",
    "PreviewMask",
    "PreviewText",
    "PreviewUI3D",
    "PreviewUI3DAdvanced",
    "PreviewVideo",
    "SavedAudios",
    "SavedImages",
    "SavedResult",
]


class _UIOutput:
    def as_dict(self) -> dict[str, Any]:
        raise NotImplementedError


class SavedResult(dict):
    """Where a file is, as a client asks for it."""

    def __init__(self, filename: str, subfolder: str, type: FolderType | str) -> None:
        super().__init__(filename=filename, subfolder=subfolder, type=FolderType(type).value)

    @property
    def filename(self) -> str:
        return str(self["filename"])

    @property
    def subfolder(self) -> str:
        return str(self["subfolder"])

    @property
    def type(self) -> FolderType:
        return FolderType(self["type"])


class SavedImages(_UIOutput):
    def __init__(self, results: list[SavedResult], is_animated: bool = False) -> None:
        self.results = results
        self.is_animated = is_animated

    def as_dict(self) -> dict[str, Any]:
        moving = {"animated": (True,)} if self.is_animated else {}
        return {"images": self.results, **moving}


class SavedAudios(_UIOutput):
    def __init__(self, results: list[SavedResult]) -> None:
        self.results = results

    def as_dict(self) -> dict[str, Any]:
        return {"audio": self.results}


def _directory(folder_type: FolderType | str) -> str:
    kind = FolderType(folder_type)
    if kind is FolderType.input:
        return folder_paths.get_input_directory()
    return (
        folder_paths.get_output_directory()
        if kind is FolderType.output
        else folder_paths.get_temp_directory()
    )


def _metadata(cls: Any) -> tuple[Any, Any]:
    hidden = getattr(cls, "hidden", None)
    return (None, None) if hidden is None else (hidden.prompt, hidden.extra_pnginfo)


def _files(prefix: str, folder_type: FolderType | str, pictures: Any = None) -> NumberedFiles:
    return NumberedFiles(prefix, _directory(folder_type), FolderType(folder_type).value, pictures)


def _results(files: NumberedFiles) -> list[SavedResult]:
    return [SavedResult(**saved) for saved in files.saved]


class ImageSaveHelper:
    """Saves pictures [B,H,W,C], with the workflow in the file when the node's class is given."""

    @staticmethod
    def _convert_tensor_to_pil(image_tensor: Any) -> Any:
        return to_pil(image_tensor)

    @staticmethod
    def _create_png_metadata(cls: Any) -> Any:  # noqa: PLW0211 - the node's class
        return None if cls is None else png_info(*_metadata(cls))

    @staticmethod
    def save_images(
        images: Any, filename_prefix: str, folder_type: FolderType, cls: Any, compress_level: int = 4
    ) -> list[SavedResult]:
        """Write each picture to a PNG file of its own."""
        if len(images) == 0:
            return []
        files = _files(filename_prefix, folder_type, images)
        chunks = ImageSaveHelper._create_png_metadata(cls)
        for number, image in enumerate(images):
            to_pil(image).save(files.next(".png", number), pnginfo=chunks, compress_level=compress_level)
        return _results(files)

    @staticmethod
    def get_save_images_ui(
        images: Any, filename_prefix: str, cls: Any, compress_level: int = 4
    ) -> SavedImages:
        return SavedImages(
            ImageSaveHelper.save_images(images, filename_prefix, FolderType.output, cls, compress_level)
        )

    @staticmethod
    def save_animated_png(
        images: Any, filename_prefix: str, folder_type: FolderType, cls: Any, fps: float, compress_level: int
    ) -> SavedResult:
        """Write the batch to one animated PNG file."""
        from ...comfy_extras.nodes_images import png_animation_info, save_animation

        files = _files(filename_prefix, folder_type, images)
        chunks = None if cls is None else png_animation_info(*_metadata(cls))
        pictures = [to_pil(image) for image in images]
        save_animation(pictures, files.next(".png"), fps, pnginfo=chunks, compress_level=compress_level)
        return _results(files)[0]

    @staticmethod
    def get_save_animated_png_ui(
        images: Any, filename_prefix: str, cls: Any, fps: float, compress_level: int
    ) -> SavedImages:
        result = ImageSaveHelper.save_animated_png(
            images, filename_prefix, FolderType.output, cls, fps, compress_level
        )
        return SavedImages([result], is_animated=len(images) > 1)

    @staticmethod
    def save_animated_webp(
        images: Any,
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        fps: float,
        lossless: bool,
        quality: int,
        method: int,
    ) -> SavedResult:
        """Write the batch to one animated WebP file."""
        from ...comfy_extras.nodes_images import save_animation, webp_exif

        pictures = [to_pil(image) for image in images]
        look: dict[str, Any] = {"lossless": lossless, "quality": quality, "method": method}
        if cls is not None:
            look["exif"] = webp_exif(pictures[0], *_metadata(cls))
        files = _files(filename_prefix, folder_type, images)
        save_animation(pictures, files.next(".webp"), fps, **look)
        return _results(files)[0]

    @staticmethod
    def get_save_animated_webp_ui(
        images: Any, filename_prefix: str, cls: Any, fps: float, lossless: bool, quality: int, method: int
    ) -> SavedImages:
        result = ImageSaveHelper.save_animated_webp(
            images, filename_prefix, FolderType.output, cls, fps, lossless, quality, method
        )
        return SavedImages([result], is_animated=len(images) > 1)


class AudioSaveHelper:
    """Saves AUDIO values. Encoding needs PyAV, which a pack has to require."""

    _OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
    _BIT_RATES = {"64k": 64000, "96k": 96000, "128k": 128000, "192k": 192000, "320k": 320000}

    @staticmethod
    def save_audio(
        audio: dict[str, Any],
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        format: str = "flac",
        quality: str = "128k",
    ) -> list[SavedResult]:
        """Write each waveform of the batch to a flac, mp3 or opus file."""
        av = _av("audio")
        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, _directory(folder_type)
        )
        tags = {} if cls is None else text_chunks(*_metadata(cls))
        codecs = {"flac": "flac", "mp3": "libmp3lame", "opus": "libopus"}
        if format not in codecs:
            raise ValueError(f"audio is saved as {', '.join(codecs)}, not as {format!r}")
        rate = int(audio["sample_rate"])
        if format == "opus" and rate not in AudioSaveHelper._OPUS_RATES:
            allowed = [known for known in AudioSaveHelper._OPUS_RATES if known >= rate]
            rate = allowed[0] if allowed else 48000
        results = []
        for number, waveform in enumerate(audio["waveform"].cpu()):
            name = f"{stem.replace('%batch_num%', str(number))}_{counter + number:05}.{format}"
            with av.open(os.path.join(folder, name), mode="w", format=format) as container:
                container.metadata.update(tags)
                layout = "mono" if waveform.shape[0] == 1 else "stereo"
                stream = container.add_stream(codecs[format], rate=rate, layout=layout)
                if format == "mp3" and quality == "V0":
                    stream.codec_context.qscale = 1
                elif format != "flac":
                    stream.bit_rate = AudioSaveHelper._BIT_RATES.get(quality, 128000)
                samples = waveform.movedim(0, 1).reshape(1, -1).float().numpy()
                frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
                frame.sample_rate = int(audio["sample_rate"])
                frame.pts = 0
                container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
            results.append(SavedResult(name, subfolder, folder_type))
        return results

    @staticmethod
    def get_save_audio_ui(
        audio: dict[str, Any], filename_prefix: str, cls: Any, format: str = "flac", quality: str = "128k"
    ) -> SavedAudios:
        return SavedAudios(
            AudioSaveHelper.save_audio(audio, filename_prefix, FolderType.output, cls, format, quality)
        )


def _temporary_prefix() -> str:
    return "ComfyUI_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))  # noqa: S311


class PreviewImage(_UIOutput):
    """Shows pictures; they are written to the temporary directory now."""

    def __init__(self, image: Any, animated: bool = False, cls: Any = None, **kwargs: Any) -> None:
        del kwargs
        self.values = ImageSaveHelper.save_images(
            image, _temporary_prefix(), FolderType.temp, cls, compress_level=1
        )
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    """Shows a mask as a grey picture."""

    def __init__(self, mask: Any, animated: bool = False, cls: Any = None, **kwargs: Any) -> None:
        super().__init__(grey(mask), animated, cls, **kwargs)


class PreviewAudio(_UIOutput):
    """Plays audio; it is written to the temporary directory now."""

    def __init__(self, audio: dict[str, Any], cls: Any = None, **kwargs: Any) -> None:
        del kwargs
        self.values = AudioSaveHelper.save_audio(audio, _temporary_prefix(), FolderType.temp, cls, "flac")

    def as_dict(self) -> dict[str, Any]:
        return {"audio": self.values}


class PreviewVideo(_UIOutput):
    def __init__(self, values: list[SavedResult | dict[str, Any]], **kwargs: Any) -> None:
        del kwargs
        self.values = values

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (True,)}


class PreviewText(_UIOutput):
    def __init__(self, value: str, **kwargs: Any) -> None:
        del kwargs
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


class PreviewUI3D(_UIOutput):
    """Shows a 3-D model file, over a background picture if there is one."""

    def __init__(self, model_file: Any, camera_info: Any, **kwargs: Any) -> None:
        self.model_file = model_file
        self.camera_info = camera_info
        self.bg_image_path: str | None = None
        background = kwargs.get("bg_image")
        if background is not None:
            saved = ImageSaveHelper.save_images(background[:1], _temporary_prefix(), FolderType.temp, None, 1)
            self.bg_image_path = f"temp/{saved[0].filename}"

    def as_dict(self) -> dict[str, Any]:
        return {"result": [self.model_file, self.camera_info, self.bg_image_path]}


class PreviewUI3DAdvanced(_UIOutput):
    def __init__(self, model_file: Any, camera_info: Any, model_3d_info: Any, **kwargs: Any) -> None:
        del kwargs
        self.values = [model_file, camera_info, model_3d_info]

    def as_dict(self) -> dict[str, Any]:
        return {"result": self.values}
