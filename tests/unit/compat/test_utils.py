"""Weight files, state dicts, memory answers."""

import struct

import pytest
import torch

from runtime.compat import node_helpers
from runtime.compat._standins import NotProvidedError
from runtime.compat.comfy import model_management, sample, utils
from runtime.compat.comfy.cli_args import args


def test_safetensors_travel_with_their_metadata(tmp_path):
    path = tmp_path / "w.safetensors"
    utils.save_torch_file({"a": torch.ones(2, 3).T}, str(path), metadata={"k": "v"})
    weights, metadata = utils.load_torch_file(str(path), return_metadata=True)
    assert torch.equal(weights["a"], torch.ones(3, 2))
    assert metadata == {"k": "v"}
    assert b'"k"' in utils.safetensors_header(str(path))
    assert utils.safetensors_header(str(path), max_size=3) is None


def test_a_broken_safetensors_file_is_a_clear_error(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"junk")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        utils.load_torch_file(path)


@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: {"state_dict": d, "epoch": 1}, lambda d: {"params": d}]
)
def test_a_pickle_of_tensors_is_unwrapped(tmp_path, wrap):
    path = tmp_path / "w.pt"
    torch.save(wrap({"a": torch.ones(2), "b": torch.ones(1)}), path)
    assert set(utils.load_torch_file(str(path))) == {"a", "b"}


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "w.ckpt"
    torch.save({"a": Evil()}, path)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        utils.load_torch_file(str(path))


def test_state_dicts_are_renamed_and_measured():
    weights = {"m.a": torch.ones(2, dtype=torch.float16), "m.b": torch.ones(1), "c": torch.ones(3)}
    assert utils.calculate_parameters(weights, "m.") == 3
    assert utils.weight_dtype(weights, "m.") == torch.float16
    picked = utils.state_dict_prefix_replace(dict(weights), {"m.": "n."}, filter_keys=True)
    assert set(picked) == {"n.a", "n.b"}
    assert set(utils.state_dict_key_replace(dict(weights), {"c": "d"})) == {"m.a", "m.b", "d"}


def test_attributes_are_reached_by_dotted_names():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    before = utils.set_attr_param(model, "0.weight", torch.zeros(2, 2))
    assert before.requires_grad
    utils.copy_to_param(model, "0.weight", torch.ones(2, 2))
    assert utils.get_attr(model, "0.weight").sum() == 4


def test_latents_are_packed_and_unpacked():
    latents = [torch.rand(2, 4, 3, 3), torch.rand(2, 8, 5)]
    packed, shapes = utils.pack_latents(latents)
    for latent, back in zip(latents, utils.unpack_latents(packed, shapes), strict=True):
        assert torch.equal(latent, back)


def test_renaming_for_particular_models_is_by_name_only():
    with pytest.raises(NotProvidedError, match=r"comfy\.utils\.flux_to_diffusers"):
        utils.flux_to_diffusers({})
    with pytest.raises(AttributeError, match="no_such_function"):
        utils.no_such_function  # noqa: B018


def test_devices_of_a_sandbox_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert model_management.get_torch_device() == torch.device("cpu")
    assert model_management.intermediate_device() == torch.device("cpu")
    assert model_management.vram_state is model_management.VRAMState.DISABLED
    assert not model_management.should_use_fp16()
    assert issubclass(model_management.OOM_EXCEPTION, Exception)
    model_management.soft_empty_cache()
    model_management.unload_all_models()


def test_memory_figures_are_those_of_the_sandbox():
    total, free = model_management.get_total_memory(), model_management.get_free_memory()
    assert 0 < free <= total
    assert model_management.module_size(torch.nn.Linear(2, 3)) == (2 * 3 + 3) * 4


def test_loading_nothing_is_fine_and_a_model_is_refused():
    model_management.load_models_gpu([])
    with pytest.raises(NotProvidedError, match="load_models_gpu"):
        model_management.load_models_gpu([object()])


def test_noise_is_the_same_for_the_same_seed():
    latent = torch.zeros(3, 4, 8, 8)
    assert torch.equal(sample.prepare_noise(latent, 5), sample.prepare_noise(latent, 5))
    repeated = sample.prepare_noise(latent[:2], 5, [1, 1])
    assert torch.equal(repeated[0], repeated[1])


def test_conditioning_values_are_set_on_copies():
    original = [[torch.ones(1), {"a": 1, "l": [1]}]]
    changed = node_helpers.conditioning_set_values(original, {"b": 2, "l": [2]}, append=True)
    assert changed[0][1] == {"a": 1, "l": [1, 2], "b": 2}
    assert original[0][1] == {"a": 1, "l": [1]}


def test_unknown_options_raise_like_in_comfyui():
    assert args.disable_metadata is False
    with pytest.raises(AttributeError):
        args.no_such_option  # noqa: B018
    assert node_helpers.hasher()(b"x").hexdigest()[:4] == "2d71"
