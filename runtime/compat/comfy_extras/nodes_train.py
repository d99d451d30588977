"""``comfy_extras.nodes_train``: pictures of a folder as one batch; training itself needs a model and is names only."""

from __future__ import annotations

import os
from typing import Any

from .. import folder_paths, node_helpers
from .._standins import names_only

__getattr__ = names_only(__name__)

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def load_and_process_images(
    image_files: list[str], input_dir: str, resize_method: str = "None", w: Any = None, h: Any = None
) -> Any:
    """Read files as one batch in the size of the first.

    Raises:
        ValueError: there are none, or one has another size and ``resize_method`` is "None".
    """
    import numpy as np
    import torch

    if not image_files:
        raise ValueError(f"there is no picture ({', '.join(_PICTURES)}) in {os.path.basename(input_dir)!r}")
    size = None if w is None and h is None else (w, h)
    batch = []
    for name in image_files:
        picture = _opened(os.path.join(input_dir, name))
        size = size or picture.size
        fitted = picture if picture.size == size else _in_size(picture, size, resize_method, name)
        batch.append(np.asarray(fitted, dtype=np.float32) / 255.0)
    return torch.from_numpy(np.stack(batch))


def _opened(path: str) -> Any:
    from PIL import Image

    with node_helpers.pillow(Image.open, path) as file:
        deep = file.mode == "I"  # 32 bits a pixel
        readable = file.point(lambda level: level * (1 / 255)) if deep else file
        return readable.convert("RGB")


def _in_size(picture: Any, size: tuple[Any, Any], method: str, name: str) -> Any:
    from PIL import Image

    match method:
        case "Crop":
            return picture.crop((0, 0, *size))
        case "Stretch" | "Pad":  # ComfyUI stretches for both
            return picture.resize(size, Image.Resampling.LANCZOS)
        case "None":
            raise ValueError(
                f"{name} is {picture.width} by {picture.height}, the first picture {size[0]} by {size[1]}: choose a"
                " resize_method, or give pictures of one size"
            )
    return picture


class LoadImageSetFromFolderNode:
    """All pictures of a folder in the input directory."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"folder": (folder_paths.get_input_subfolders(),)},
            "optional": {"resize_method": (["None", "Stretch", "Crop", "Pad"], {"default": "None"})},
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load_images"
    CATEGORY = "loaders"
    EXPERIMENTAL = True

    def load_images(self, folder: str, resize_method: str = "None") -> tuple[Any]:
        place = os.path.join(folder_paths.get_input_directory(), folder)
        with os.scandir(place) as entries:
            pictures = [entry.name for entry in entries if entry.name.lower().endswith(_PICTURES)]
        return (load_and_process_images(pictures, place, resize_method),)


NODE_CLASS_MAPPINGS = {"LoadImageSetFromFolderNode": LoadImageSetFromFolderNode}
NODE_DISPLAY_NAME_MAPPINGS = {"LoadImageSetFromFolderNode": "Load Image Dataset from Folder"}
