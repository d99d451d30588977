"""The tables that rename a U-Net's weights; compared in full with ComfyUI's once, held here by what they add up to."""

from __future__ import annotations

import pytest

from runtime.compat.comfy import utils


def test_the_tables_name_every_parameter_of_their_layer() -> None:
    assert len(utils.UNET_MAP_ATTENTIONS) == 6
    assert len(utils.TRANSFORMER_BLOCKS) == 20
    assert len(utils.UNET_MAP_RESNET) == 12
    assert len(utils.UNET_MAP_BASIC) == 18
    assert utils.UNET_MAP_RESNET["emb_layers.1.bias"] == "time_emb_proj.bias"
    assert "attn2.to_k.weight" in utils.TRANSFORMER_BLOCKS
    assert "attn2.to_k.bias" not in utils.TRANSFORMER_BLOCKS  # these layers have none


def test_a_models_names_in_the_form_of_diffusers_lead_to_the_originals() -> None:
    names = utils.unet_to_diffusers(
        {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
        }
    )
    assert len(names) == 714  # the same number, and the same names, that ComfyUI has for this shape
    for theirs, ours in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.1.attentions.1.proj_in.bias": "input_blocks.5.1.proj_in.bias",
        "mid_block.attentions.0.transformer_blocks.0.norm1.bias": "middle_block.1.transformer_blocks.0.norm1.bias",
        "down_blocks.3.resnets.0.conv1.weight": "input_blocks.10.0.in_layers.2.weight",
        "mid_block.resnets.1.norm2.bias": "middle_block.2.out_layers.0.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
    }.items():
        assert names[theirs] == ours
    assert "down_blocks.3.attentions.0.norm.weight" not in names


@pytest.mark.parametrize("config", [{}, {"channel_mult": [1, 2]}])
def test_a_model_that_is_no_such_network_has_no_names(config: dict[str, object]) -> None:
    assert utils.unet_to_diffusers(config) == {}
