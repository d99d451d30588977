"""LoadImage and its kin: files to pictures. This is where strangers' image files are decoded, inside a sandbox."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from .. import folder_paths, node_helpers


def _input_pictures() -> list[str]:
    directory = folder_paths.get_input_directory()
    try:
        files = [name for name in os.listdir(directory) if os.path.isfile(os.path.join(directory, name))]
    except FileNotFoundError:
        return []
    return sorted(folder_paths.filter_files_content_types(files, ["image"]))


def _digest(name: str) -> str:
    with open(folder_paths.get_annotated_filepath(name), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(name: str) -> bool | str:
    return True if folder_paths.exists_annotated_filepath(name) else f"Invalid image file: {name}"


def _eight_bit(frame: Any) -> Any:
    """Bring pictures with 16 or 32 bits of grey down to 8, which ``convert`` would only clip."""
    if frame.mode.startswith("I;16"):
        frame = frame.convert("I")
    return frame.point(lambda value: value * (1 / 255)) if frame.mode == "I" else frame


def _plane(channel: Any) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(channel).astype(np.float32) / 255.0)


def decode(path: str) -> tuple[Any, Any]:
    """Read a picture file: all frames of the first one's size as [B,H,W,3], and the inverted alpha as [B,H,W].

    A picture without transparency gets an empty mask of 64 by 64.
    """
    import torch
    from PIL import Image, ImageOps, ImageSequence

    pictures: list[Any] = []
    masks: list[Any] = []
    size: tuple[int, int] | None = None
    with node_helpers.pillow(Image.open, path) as file:
        for raw in ImageSequence.Iterator(file):
            frame = _eight_bit(node_helpers.pillow(ImageOps.exif_transpose, raw))
            colour = frame.convert("RGB")
            size = size or colour.size
            if colour.size != size:
                continue
            pictures.append(_plane(colour)[None])
            if "A" in frame.getbands():
                masks.append(1.0 - _plane(frame.getchannel("A"))[None])
            elif "transparency" in frame.info:
                masks.append(1.0 - _plane(frame.convert("RGBA").getchannel("A"))[None])
            else:
                masks.append(torch.zeros((1, 64, 64), dtype=torch.float32))
            if file.format == "MPO":  # a second view or a thumbnail, not a frame
                break
    if len({mask.shape for mask in masks}) > 1:
        # Some frames with transparency and some without: the latter are opaque.
        shape = pictures[0].shape[:3]
        masks = [mask if mask.shape == shape else torch.zeros(shape) for mask in masks]
    return torch.cat(pictures, dim=0), torch.cat(masks, dim=0)


class LoadImage:
    """Loads a picture from the input directory, or from another with ``name [output]``."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": (_input_pictures(), {"image_upload": True})}}

    CATEGORY = "image"
    RETURN_TYPES: tuple[Any, ...] = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    def load_image(self, image: str) -> tuple[Any, Any]:
        return decode(folder_paths.get_annotated_filepath(image))

    @classmethod
    def IS_CHANGED(cls, image: str) -> str:
        return _digest(image)

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        return _checked(image)


class LoadImageOutput(LoadImage):
    """Loads a picture that was saved before; the list comes from the host."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        options = {
            "image_upload": True,
            "image_folder": "output",
            "remote": {
                "route": "/internal/files/output",
                "refresh_button": True,
                "control_after_refresh": "first",
            },
        }
        return {"required": {"image": ("COMBO", options)}}

    DESCRIPTION = "Loads an image from the output folder. Refreshing shows the newest one first."
    EXPERIMENTAL = True
    FUNCTION = "load_image"


class LoadImageMask:
    """Loads one channel of a picture as a mask."""

    _color_channels = ["alpha", "red", "green", "blue"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": (_input_pictures(), {"image_upload": True}),
                "channel": (cls._color_channels,),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES: tuple[Any, ...] = ("MASK",)
    FUNCTION = "load_image"

    def load_image(self, image: str, channel: str) -> tuple[Any]:
        from PIL import Image, ImageOps

        path = folder_paths.get_annotated_filepath(image)
        with node_helpers.pillow(Image.open, path) as file:
            picture = node_helpers.pillow(ImageOps.exif_transpose, file)
            if picture.getbands() != ("R", "G", "B", "A"):
                picture = _eight_bit(picture).convert("RGBA")  # without transparency the alpha is opaque
            letter = channel[0].upper()
            mask = _plane(picture.getchannel(letter))
        return ((1.0 - mask if letter == "A" else mask)[None],)

    @classmethod
    def IS_CHANGED(cls, image: str, channel: str) -> str:
        del channel
        return _digest(image)

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        return _checked(image)
