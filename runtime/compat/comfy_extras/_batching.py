"""Any number of pictures, masks or latents in one batch, in the size of the first."""

from __future__ import annotations

from typing import Any

from .._nodes.images import scaled
from ._base import V3Node, io


def batch_images(images: list[Any]) -> Any:
    """One batch; missing channels are filled with 1 (opaque)."""
    import torch

    channels = max(image.shape[-1] for image in images)
    filled = [
        torch.nn.functional.pad(image, (0, 1), value=1.0) if image.shape[-1] < channels else image
        for image in images
    ]
    high, wide = filled[0].shape[1:3]
    return torch.cat(
        [
            image
            if image.shape[1:] == filled[0].shape[1:]
            else scaled(image, wide, high, "bilinear", "center")
            for image in filled
        ]
    )


def batch_masks(masks: list[Any]) -> Any:
    import torch

    size = masks[0].shape[1:]

    def fitted(mask: Any) -> Any:
        if mask.shape[1:] == size:
            return mask
        return scaled(mask.unsqueeze(-1), size[1], size[0], "bilinear", "center").squeeze(-1)

    return torch.cat([fitted(mask) for mask in masks])


def batch_latents(latents: list[dict[str, Any]]) -> dict[str, Any]:
    """One latent with all of them; each keeps the index of its noise."""
    import torch

    from .nodes_latent import reshape_latent_to

    shape = latents[0]["samples"].shape
    samples = [reshape_latent_to(shape, latent["samples"], repeat_batch=False) for latent in latents]
    indexes = [
        index for latent in latents for index in latent.get("batch_index", range(latent["samples"].shape[0]))
    ]
    return {**latents[0], "samples": torch.cat(samples), "batch_index": indexes}


def _schema(node: str, name: str, label: str, kind: Any, category: str) -> Any:
    template = io.Autogrow.TemplatePrefix(kind.Input(name), prefix=name, min=1, max=50)
    return io.Schema(
        node_id=node,
        display_name=label,
        category=category,
        inputs=[io.Autogrow.Input(f"{name}s", template=template)],
        outputs=[kind.Output()],
    )


class BatchImagesNode(V3Node):
    """Pictures in one batch."""

    @classmethod
    def define_schema(cls) -> Any:
        return _schema("BatchImagesNode", "image", "Batch Images", io.Image, "image")

    @classmethod
    def execute(cls, images: dict[str, Any]) -> Any:
        return io.NodeOutput(batch_images(list(images.values())))


class BatchMasksNode(V3Node):
    """Masks in one batch."""

    @classmethod
    def define_schema(cls) -> Any:
        return _schema("BatchMasksNode", "mask", "Batch Masks", io.Mask, "mask")

    @classmethod
    def execute(cls, masks: dict[str, Any]) -> Any:
        return io.NodeOutput(batch_masks(list(masks.values())))


class BatchLatentsNode(V3Node):
    """Latents in one batch."""

    @classmethod
    def define_schema(cls) -> Any:
        return _schema("BatchLatentsNode", "latent", "Batch Latents", io.Latent, "latent")

    @classmethod
    def execute(cls, latents: dict[str, Any]) -> Any:
        return io.NodeOutput(batch_latents(list(latents.values())))
