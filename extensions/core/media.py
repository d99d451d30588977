"""What the host needs of picture files and must not do itself: it decodes no media, this sandbox does.

``RingfencePreview`` re-encodes a file for ``/view``, ``RingfenceMask`` merges an upload for ``/upload/mask``,
``RingfenceCover`` re-encodes a model's picture, which comes as bytes: this sandbox sees no models. Only the host can
call them: they are in no catalogue, so no prompt can name them.
"""

# ruff: noqa: A002 - inputs are called as in the HTTP API

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths

#: Width times height of the largest picture that is decoded here: four bytes for each, several times over, must fit
#: the sandbox's memory. It is also the figure at which Pillow begins to warn.
MAX_PIXELS = 89_478_485
_FORMATS = {"webp": "image/webp", "jpeg": "image/jpeg"}
_CHANNELS = ("", "rgba", "rgb", "a")
_TEXT = ("STRING", {"default": ""})


class MediaError(ValueError):
    """A picture that cannot be decoded or encoded, said so that a user of the HTTP API can act on it."""


def located(filename: str, subfolder: str, kind: str) -> Path:
    """The path of a file of this tenant.

    Raises:
        MediaError: it lies outside of its directory, or is not there.
    """
    root = folder_paths.get_directory_by_type(kind)
    if root is None:
        raise MediaError(f"type must be input, output or temp, not {kind[:40]!r}")
    base = Path(root).resolve()
    path = (base / subfolder / filename).resolve()
    if not path.is_relative_to(base):
        raise MediaError(f"{filename[:200]!r} lies outside of the {kind} directory")
    if not path.is_file():
        raise MediaError(f"there is no file {filename[:200]!r} in the {kind} directory")
    return path


@contextmanager
def opened(source: Any, name: str) -> Iterator[Any]:
    """Open a picture of a bounded size; every failure to decode it, also within the block, names it.

    Raises:
        MediaError: it is no picture, damaged, or too large.
    """
    from PIL import Image

    name = repr(name[:200])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(source)
        with picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise MediaError(
                    f"{name} has {picture.width} by {picture.height} pixels; at most {MAX_PIXELS} are decoded here"
                )
            yield picture
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"{name} has over {2 * MAX_PIXELS} pixels; at most {MAX_PIXELS} are decoded here"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise MediaError(f"{name} cannot be read as a picture: {error}") from error


def encoded(picture: Any, form: str, **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def preview(picture: Any, form: str, quality: int, channel: str) -> bytes:
    """A smaller file of the same picture; JPEG has no alpha, nor has what was asked for with channel ``rgb``."""
    if form == "jpeg" or channel == "rgb":
        picture = picture.convert("RGB")
    return encoded(picture, form, quality=quality)


def without_alpha(picture: Any) -> bytes:
    """A PNG of the colours alone, also where the picture is transparent."""
    return encoded(picture.convert("RGB"), "png")


def alpha_only(picture: Any) -> bytes:
    """A black PNG with the picture's alpha; opaque if it has none."""
    from PIL import Image

    alpha = picture.getchannel("A") if "A" in picture.getbands() else Image.new("L", picture.size, 255)
    black = Image.new("RGBA", picture.size)
    black.putalpha(alpha)
    return encoded(black, "png")


class RingfencePreview:
    """A picture file in another form, for ``/view?preview=`` and ``/view?channel=``.

    ``format`` is webp or jpeg, or empty: then ``channel`` (rgb or a) alone says what is wanted, as a PNG.
    """

    RINGFENCE_HIDDEN = True
    CATEGORY = "ringfence"
    RETURN_TYPES = ("BYTES", "STRING")
    RETURN_NAMES = ("data", "content_type")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "filename": _TEXT,
                "subfolder": _TEXT,
                "type": (["output", "input", "temp"],),
                "format": (["", *_FORMATS],),
                "quality": ("INT", {"default": 90, "min": 0, "max": 100}),
                "channel": (list(_CHANNELS),),
            }
        }

    def run(
        self,
        filename: str,
        subfolder: str,
        type: str,
        format: str,
        quality: int,
        channel: str,
    ) -> tuple[bytes, str]:
        """Return the new file's bytes and its content type.

        Raises:
            MediaError: see there.
        """
        if format and format not in _FORMATS:
            raise MediaError(f"a preview can be webp or jpeg, not {format[:40]!r}")
        if channel not in _CHANNELS:
            raise MediaError(f"channel can be rgba, rgb or a, not {channel[:40]!r}")
        with opened(located(filename, subfolder, type), filename) as picture:
            if format:
                return preview(picture, format, min(max(quality, 0), 100), channel), _FORMATS[format]
            if channel == "rgb":
                return without_alpha(picture), "image/png"
            if channel == "a":
                return alpha_only(picture), "image/png"
        raise MediaError("neither a format nor a channel asks for another form of this file")


class RingfenceMask:
    """A picture of the tenant's with the alpha of an uploaded one, for ``/upload/mask``; its PNG texts are kept."""

    RINGFENCE_HIDDEN = True
    CATEGORY = "ringfence"
    RETURN_TYPES = ("BYTES",)
    RETURN_NAMES = ("data",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": ("BYTES",),
                "filename": _TEXT,
                "subfolder": _TEXT,
                "type": (["output", "input", "temp"],),
            }
        }

    def run(self, mask: bytes, filename: str, subfolder: str, type: str) -> tuple[bytes]:
        """Return the bytes of a PNG.

        Raises:
            MediaError: one of the two is no picture or too large, or they differ in size.
        """
        from PIL.PngImagePlugin import PngInfo

        with opened(io.BytesIO(mask), "the mask") as upload:
            alpha = upload.convert("RGBA").getchannel("A")
        with opened(located(filename, subfolder, type), filename) as original:
            if original.size != alpha.size:
                raise MediaError(
                    f"the mask has {alpha.width} by {alpha.height} pixels, {filename[:200]!r} has "
                    f"{original.width} by {original.height}: they must be the same"
                )
            texts = PngInfo()
            for key, value in (getattr(original, "text", None) or {}).items():
                texts.add_text(key, value)
            merged = original.convert("RGBA")
        merged.putalpha(alpha)
        return (encoded(merged, "png", compress_level=4, pnginfo=texts),)


class RingfenceCover:
    """A picture of any form as WebP, for ``/experiment/models/preview``."""

    RINGFENCE_HIDDEN = True
    CATEGORY = "ringfence"
    RETURN_TYPES = ("BYTES",)
    RETURN_NAMES = ("data",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"picture": ("BYTES",)}}

    def run(self, picture: bytes) -> tuple[bytes]:
        """Return the bytes of a WebP.

        Raises:
            MediaError: it is no picture, or too large.
        """
        with opened(io.BytesIO(picture), "the model's picture") as found:
            return (encoded(found, "webp"),)


MEDIA_CLASSES: dict[str, Any] = {
    "RingfencePreview": RingfencePreview,
    "RingfenceMask": RingfenceMask,
    "RingfenceCover": RingfenceCover,
}
