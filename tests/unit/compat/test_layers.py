"""Layers, attention and helpers of samplers: real where no model is needed, by name only where one is."""

import math

import pytest
import torch

from runtime.compat._standins import NotProvidedError
from runtime.compat.comfy import ops, sample, sampler_helpers
from runtime.compat.comfy.ldm.modules import attention

LAYERS = {
    "Linear": ((6, 4), (2, 3, 6)),
    "Conv1d": ((6, 4, 3), (2, 6, 9)),
    "Conv2d": ((6, 4, 3), (2, 6, 9, 7)),
    "Conv3d": ((6, 2, 3), (1, 6, 5, 5, 5)),
    "GroupNorm": ((3, 6), (2, 6, 5)),
    "LayerNorm": ((6,), (2, 3, 6)),
    "RMSNorm": ((6,), (2, 3, 6)),
    "ConvTranspose1d": ((6, 2, 3, 2), (1, 6, 5)),
    "ConvTranspose2d": ((6, 2, 3, 2), (1, 6, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_torchs_does_and_casts_its_weights_on_demand(name):
    arguments, shape = LAYERS[name]
    torch.manual_seed(0)
    real, given = getattr(torch.nn, name)(*arguments), torch.rand(shape)
    plain = getattr(ops.disable_weight_init, name)(*arguments)
    plain.load_state_dict(real.state_dict())
    assert isinstance(plain, getattr(torch.nn, name))
    assert torch.equal(plain(given), real(given))
    casting = getattr(ops.manual_cast, name)(*arguments)
    casting.load_state_dict(real.state_dict())
    casting.to(torch.float64)
    assert casting(given).dtype == torch.float32
    assert torch.allclose(casting(given), real(given), atol=1e-6)


def test_layers_are_subclassed_and_collected_as_packs_do():
    class Mine(ops.manual_cast):
        class Linear(ops.manual_cast.Linear):
            def reset_parameters(self):
                torch.nn.init.ones_(self.weight)

    assert Mine.Linear(2, 2, bias=False).weight.sum() == 4
    assert isinstance(Mine.conv_nd(2, 1, 1, 3), torch.nn.Conv2d)
    assert issubclass(ops.manual_cast, ops.disable_weight_init)
    with pytest.raises(ValueError, match="unsupported dimensions: 4"):
        ops.disable_weight_init.conv_nd(4, 1, 1, 3)


def test_functions_hung_on_a_layer_change_its_weights():
    layer = ops.disable_weight_init.Linear(2, 1)
    layer.load_state_dict({"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    layer.weight_function = [lambda weight: weight * 3]
    layer.bias_function = [lambda bias: bias + 1]
    assert layer(torch.ones(1, 2)).item() == 7


def test_an_embedding_gives_the_dtype_that_is_asked_for():
    table = ops.manual_cast.Embedding(3, 2)
    table.load_state_dict({"weight": torch.arange(6.0).reshape(3, 2)})
    assert table(torch.tensor([2]), out_dtype=torch.float16).tolist() == [[4, 5]]
    assert table(torch.tensor([2]), out_dtype=torch.float16).dtype == torch.float16
    plain = ops.disable_weight_init.Embedding(3, 2)
    assert plain(torch.tensor([1]), out_dtype=torch.float16).shape == (1, 2)


def test_operations_that_cast_are_picked_when_the_dtypes_differ():
    assert ops.pick_operations(torch.float16, torch.float32) is ops.manual_cast
    assert ops.pick_operations(torch.float32, torch.float32) is ops.disable_weight_init


def test_what_needs_a_model_is_a_name_that_refuses():
    with pytest.raises(NotProvidedError, match=r"comfy.ops.fp8_ops needs a model runtime"):
        ops.fp8_ops()
    with pytest.raises(NotProvidedError, match=r"comfy.ldm.modules.attention.SpatialTransformer"):
        attention.SpatialTransformer(1)
    with pytest.raises(NotProvidedError, match=r"comfy.sampler_helpers.get_additional_models"):
        sampler_helpers.get_additional_models([], None)


@pytest.mark.parametrize(
    "name",
    [
        "optimized_attention",
        "optimized_attention_masked",
        "attention_basic",
        "attention_split",
        "attention_sub_quad",
    ],
)
def test_every_attention_is_softmax_of_the_products(name):
    torch.manual_seed(1)
    q, k, v = torch.rand(2, 5, 8), torch.rand(2, 7, 8), torch.rand(2, 7, 8)
    mask = torch.rand(5, 7)
    apart = [part.reshape(2, -1, 2, 4).transpose(1, 2) for part in (q, k, v)]
    weights = (apart[0] @ apart[1].transpose(-1, -2) / math.sqrt(4) + mask).softmax(-1)
    expected = (weights @ apart[2]).transpose(1, 2).reshape(2, 5, 8)
    function = getattr(attention, name)
    assert torch.allclose(function(q, k, v, 2, mask), expected, atol=1e-6)
    assert torch.allclose(function(*apart, 2, mask[None], skip_reshape=True), expected, atol=1e-6)
    outer = function(q, k, v, 2, mask, skip_output_reshape=True)
    assert torch.allclose(outer.transpose(1, 2).reshape(2, 5, 8), expected, atol=1e-6)


def test_an_empty_latent_takes_the_form_that_the_model_wants_and_a_full_one_keeps_its_channels():
    class Form:
        latent_channels, latent_dimensions = 16, 3

    class Model:
        def get_model_object(self, name):
            assert name == "latent_format"
            return Form

    assert sample.fix_empty_latent_channels(Model(), torch.zeros(1, 4, 8, 8)).shape == (1, 16, 1, 8, 8)
    assert sample.fix_empty_latent_channels(Model(), torch.ones(1, 4, 8, 8)).shape == (1, 4, 1, 8, 8)


def test_a_conditioning_becomes_dicts_with_an_id_each():
    tensor = torch.ones(2)
    first, second = sampler_helpers.convert_cond([[tensor, {"a": 1}], [None, {"model_conds": {"b": 2}}]])
    assert first["cross_attn"] is tensor
    assert (first["a"], first["model_conds"]) == (1, {})
    assert ("cross_attn" in second, second["model_conds"]) == (False, {"b": 2})
    assert first["uuid"] != second["uuid"]


def test_a_noise_mask_takes_the_form_of_the_latent():
    assert sample.prepare_mask(torch.ones(1, 8, 8), (2, 4, 16, 16), "cpu").shape[-2:] == (16, 16)
