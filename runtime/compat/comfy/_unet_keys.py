"""How the two common forms of a U-Net's weights name the same tensor: the original's form, and that of diffusers.

Packs that read weights in the one form into a model of the other look names up here. The names are those of the model
files; the tables are put together from their parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

_BOTH: Final = ("weight", "bias")


def _parameters(*layers: str) -> list[str]:
    return [f"{layer}.{kind}" for layer, kind in product(layers, _BOTH)]


UNET_MAP_ATTENTIONS = set(_parameters("norm", "proj_in", "proj_out"))
TRANSFORMER_BLOCKS = {
    *_parameters("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"),
    *(f"attn{which}.to_{what}.weight" for which, what in product("12", "qkv")),
}
_RESNET_LAYERS: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_MAP_RESNET = {
    f"{ours}.{kind}": f"{theirs}.{kind}" for (ours, theirs), kind in product(_RESNET_LAYERS.items(), _BOTH)
}
_OUTER_LAYERS: Final = (
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "class_embedding.linear_1"),
    ("label_emb.0.2", "class_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
)
UNET_MAP_BASIC = {
    (f"{ours}.{kind}", f"{theirs}.{kind}") for (ours, theirs), kind in product(_OUTER_LAYERS, _BOTH)
}


def unet_to_diffusers(unet_config: dict[str, Any]) -> dict[str, str]:
    """From each name in the form of diffusers to the original's, for a U-Net of this shape."""
    if "num_res_blocks" not in unet_config:
        return {}
    levels = len(unet_config["channel_mult"])
    per_level = unet_config["num_res_blocks"]
    going_down = iter(list(unet_config["transformer_depth"]))
    # The way up is written from its end, as the blocks lie in the middle of the model outwards.
    going_up = iter(list(unet_config["transformer_depth_output"])[::-1])
    names = {theirs: ours for ours, theirs in UNET_MAP_BASIC}
    block = 1
    for level in range(levels):
        for index in range(per_level[level]):
            place, side = f"down_blocks.{level}", f"input_blocks.{block}"
            names.update(_resnet(f"{place}.resnets.{index}", f"{side}.0"))
            names.update(_attention(f"{place}.attentions.{index}", f"{side}.1", next(going_down)))
            block += 1
        for kind in _BOTH:  # of the last level too, where no model has one: ComfyUI's table says so
            names[f"down_blocks.{level}.downsamplers.0.conv.{kind}"] = f"input_blocks.{block}.0.op.{kind}"
        block += 1
    names.update(
        _attention("mid_block.attentions.0", "middle_block.1", unet_config["transformer_depth_middle"])
    )
    for index, ours in enumerate((0, 2)):
        names.update(_resnet(f"mid_block.resnets.{index}", f"middle_block.{ours}"))
    block = 0
    for level, count in enumerate(reversed(per_level)):
        for index in range(count + 1):
            place, side = f"up_blocks.{level}", f"output_blocks.{block}"
            names.update(_resnet(f"{place}.resnets.{index}", f"{side}.0"))
            depth = next(going_up)
            names.update(_attention(f"{place}.attentions.{index}", f"{side}.1", depth))
            if index == count:
                upsampler = f"{side}.{2 if depth else 1}.conv"
                for kind in _BOTH:
                    names[f"{place}.upsamplers.0.conv.{kind}"] = f"{upsampler}.{kind}"
            block += 1
    return names


def _resnet(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for name, other in UNET_MAP_RESNET.items():
        yield f"{theirs}.{other}", f"{ours}.{name}"


def _attention(theirs: str, ours: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth:
        for name in UNET_MAP_ATTENTIONS:
            yield f"{theirs}.{name}", f"{ours}.{name}"
    for layer, name in product(range(depth), TRANSFORMER_BLOCKS):
        inner = f"transformer_blocks.{layer}.{name}"
        yield f"{theirs}.{inner}", f"{ours}.{inner}"
