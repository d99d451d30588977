"""``comfy_extras.nodes_rebatch``: lists of batches cut into batches of one size."""

from __future__ import annotations

from typing import Any

from .._standins import names_only
from ._base import ExtraNode

__getattr__ = names_only(__name__)


class _Rebatch(ExtraNode):
    _input: str
    _kind: str

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = ("INT", {"default": 1, "min": 1, "max": 4096})
        return {"required": {cls._input: (cls._kind,), "batch_size": size}}

    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "rebatch"


class _Pile:
    """Latents that lie together until there are enough for a batch."""

    def __init__(self, latent: dict[str, Any], offset: int) -> None:
        import torch

        self.samples = latent["samples"]
        count = self.samples.shape[0]
        mask = latent.get("noise_mask")
        if mask is None:
            mask = torch.ones((count, 1, self.samples.shape[2] * 8, self.samples.shape[3] * 8))
        if mask.shape[0] < count:
            mask = mask.repeat((count - 1) // mask.shape[0] + 1, 1, 1, 1)[:count]
        self.mask = mask
        self.indexes = latent.get("batch_index") or list(range(offset, offset + count))

    def __len__(self) -> int:
        return int(self.samples.shape[0])

    def fits(self, other: _Pile) -> bool:
        return self.samples.shape[-2:] == other.samples.shape[-2:]

    def add(self, other: _Pile) -> None:
        import torch

        self.samples = torch.cat((self.samples, other.samples))
        self.mask = torch.cat((self.mask, other.mask))
        self.indexes = self.indexes + other.indexes

    def take(self, count: int) -> dict[str, Any]:
        """The first ``count`` as a latent; they leave the pile."""
        taken = {
            "samples": self.samples[:count],
            "noise_mask": self.mask[:count],
            "batch_index": self.indexes[:count],
        }
        self.samples, self.mask, self.indexes = self.samples[count:], self.mask[count:], self.indexes[count:]
        return taken


class LatentRebatch(_Rebatch):
    """Latents of the same size, whatever batches they came in, in batches of ``batch_size``."""

    _input, _kind = "latents", "LATENT"
    RETURN_TYPES = ("LATENT",)
    CATEGORY = "latent/batch"

    def rebatch(self, latents: list[dict[str, Any]], batch_size: list[int]) -> tuple[Any]:
        size = batch_size[0]
        batches: list[dict[str, Any]] = []
        pile: _Pile | None = None
        seen = 0
        for latent in latents:
            new = _Pile(latent, seen)
            seen += len(new.indexes)
            if pile is not None and not pile.fits(new):
                batches.append(pile.take(size))
                pile = None
            if pile is None:
                pile = new
            else:
                pile.add(new)
            if len(pile) > size:
                batches += [pile.take(size) for _ in range(len(pile) // size)]
                pile = pile if len(pile) else None
        if pile is not None:
            batches.append(pile.take(size))
        for batch in batches:
            if batch["noise_mask"].mean() == 1.0:  # nothing is masked
                del batch["noise_mask"]
        return (batches,)


class ImageRebatch(_Rebatch):
    """Pictures of one size, whatever batches they came in, in batches of ``batch_size``."""

    _input, _kind = "images", "IMAGE"
    RETURN_TYPES = ("IMAGE",)
    CATEGORY = "image/batch"

    def rebatch(self, images: list[Any], batch_size: list[int]) -> tuple[Any]:
        import torch

        single = [image[index : index + 1] for image in images for index in range(image.shape[0])]
        size = batch_size[0]
        return ([torch.cat(single[at : at + size], dim=0) for at in range(0, len(single), size)],)


NODE_CLASS_MAPPINGS = {"RebatchLatents": LatentRebatch, "RebatchImages": ImageRebatch}
NODE_DISPLAY_NAME_MAPPINGS = {"RebatchLatents": "Rebatch Latents", "RebatchImages": "Rebatch Images"}
