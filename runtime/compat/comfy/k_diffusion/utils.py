"""``comfy.k_diffusion.utils``: shapes of tensors and pictures in a folder; what trains is names only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._standins import names_only

__getattr__ = names_only(__name__)


def append_dims(x: Any, target_dims: int) -> Any:
    """The tensor with dimensions of one at its end, until it has ``target_dims``.

    Raises:
        ValueError: it has more already.
    """
    missing = target_dims - x.ndim
    if missing < 0:
        raise ValueError(f"the tensor has {x.ndim} dimensions, which is more than {target_dims}")
    return x.reshape(*x.shape, *[1] * missing)


class FolderOfImages:
    """The pictures below a folder in the order of their names; packs read its list of endings, too."""

    IMG_EXTENSIONS = frozenset(  # a pack writes the list into its inputs
        {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
    )

    def __init__(self, root: str, transform: Callable[[Any], Any] | None = None) -> None:
        below = Path(root)
        files = (
            file
            for ending in self.IMG_EXTENSIONS
            for file in below.rglob("*")
            if file.suffix.lower() == ending
        )
        self.root, self.paths, self.transform = below, sorted(files), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int) -> tuple[Any]:
        from PIL import Image

        with Image.open(self.paths[key]) as picture:
            read = picture.convert("RGB")
        return (read if self.transform is None else self.transform(read),)
