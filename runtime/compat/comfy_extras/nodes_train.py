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
    from PIL import Image

    if not image_files:
        raise ValueError(f"there is no picture ({', '.join(_PICTURES)}) in {os.path.basename(input_dir)!r}")
    pictures = []
    for name in image_files:
        with node_helpers.pillow(Image.open, os.path.join(input_dir, name)) as file:
            picture = (file.point(lambda value: value * (1 / 255)) if file.mode == "I" else file).convert(
                "RGB"
            )
        if w is None and h is None:
            w, h = picture.size
        if picture.size != (w, h):
            if resize_method in ("Stretch", "Pad"):
                picture = picture.resize((w, h), Image.Resampling.LANCZOS)
            elif resize_method == "Crop":
                picture = picture.crop((0, 0, w, h))
            elif resize_method == "None":
                raise ValueError(
                    f"{name} is {picture.width} by {picture.height}, the first picture {w} by {h}: choose a"
                    " resize_method, or give pictures of one size"
                )
        pictures.append(torch.from_numpy(np.array(picture).astype(np.float32) / 255.0)[None])
    return torch.cat(pictures, dim=0)


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
        directory = os.path.join(folder_paths.get_input_directory(), folder)
        names = [name for name in os.listdir(directory) if name.lower().endswith(_PICTURES)]
        return (load_and_process_images(names, directory, resize_method),)


NODE_CLASS_MAPPINGS = {"LoadImageSetFromFolderNode": LoadImageSetFromFolderNode}
NODE_DISPLAY_NAME_MAPPINGS = {"LoadImageSetFromFolderNode": "Load Image Dataset from Folder"}
