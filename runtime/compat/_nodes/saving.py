"""SaveImage, PreviewImage: pictures to files, with the workflow in the PNG's text chunks."""

from __future__ import annotations

import json
import os
import random
from typing import Any

from .. import folder_paths
from ..comfy.cli_args import args


def to_pil(image: Any) -> Any:
    """One picture [H,W,C] (or [H,W]) with values 0..1 as a PIL image of 8 bits."""
    import numpy as np
    from PIL import Image

    pixels = np.clip(255.0 * image.detach().float().cpu().numpy(), 0, 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(pixels)


def text_chunks(prompt: Any, extra_pnginfo: dict[str, Any] | None) -> dict[str, str]:
    """What goes into a saved file so that its workflow can be loaded again; nothing when that is switched off."""
    if args.disable_metadata:
        return {}
    chunks = {} if prompt is None else {"prompt": json.dumps(prompt)}
    chunks.update({str(key): json.dumps(value) for key, value in (extra_pnginfo or {}).items()})
    return chunks


def png_info(prompt: Any, extra_pnginfo: dict[str, Any] | None) -> Any:
    from PIL.PngImagePlugin import PngInfo

    chunks = text_chunks(prompt, extra_pnginfo)
    if args.disable_metadata:
        return None
    info = PngInfo()
    for key, value in chunks.items():
        info.add_text(key, value)
    return info


class NumberedFiles:
    """The next files of a prefix in a directory, ``<prefix>_<number>_``; ``saved`` is how a client asks for them."""

    def __init__(self, prefix: str, directory: str, kind: str, pictures: Any = None) -> None:
        """``pictures`` [B,H,W,C]: their size may be part of the prefix."""
        high, wide = (0, 0) if pictures is None else pictures[0].shape[:2]
        place = folder_paths.get_save_image_path(prefix, directory, wide, high)
        self._folder, self._stem, self._number, self._subfolder, _ = place
        self._kind = kind
        self.saved: list[dict[str, str]] = []

    def next(self, ending: str, batch_number: int | None = None) -> str:
        """The path to write to; ``batch_number`` takes the place of ``%batch_num%``."""
        stem = self._stem if batch_number is None else self._stem.replace("%batch_num%", str(batch_number))
        name = f"{stem}_{self._number:05}_{ending}"
        self._number += 1
        self.saved.append({"filename": name, "subfolder": self._subfolder, "type": self._kind})
        return os.path.join(self._folder, name)


class SaveImage:
    """Saves pictures to the output directory."""

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()
        self.type = "output"
        self.prefix_append = ""
        self.compress_level = 4

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        prefix_help = (
            "Start of the file name. May hold %date:yyyy-MM-dd%, %Node.widget% and other placeholders."
        )
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "What to save."}),
                "filename_prefix": ("STRING", {"default": "ComfyUI", "tooltip": prefix_help}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES: tuple[Any, ...] = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image"
    DESCRIPTION = "Saves the input images to the output directory."

    def save_images(
        self, images: Any, filename_prefix: str = "ComfyUI", prompt: Any = None, extra_pnginfo: Any = None
    ) -> dict[str, Any]:
        """Write each picture of the batch to ``<prefix>_<number>_.png``."""
        if len(images) == 0:
            return {"ui": {"images": []}}
        files = NumberedFiles(filename_prefix + self.prefix_append, self.output_dir, self.type, images)
        for number, image in enumerate(images):
            path, chunks = files.next(".png", number), png_info(prompt, extra_pnginfo)
            to_pil(image).save(path, pnginfo=chunks, compress_level=self.compress_level)
        return {"ui": {"images": files.saved}}


class PreviewImage(SaveImage):
    """Shows pictures; they go to the temporary directory."""

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_temp_directory()
        self.type = "temp"
        self.prefix_append = "_temp_" + "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=5))  # noqa: S311
        self.compress_level = 1

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": ("IMAGE",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    DESCRIPTION = "Shows the input images without keeping them."
