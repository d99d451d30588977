"""Names without behaviour: everything that happens while a pack is imported works, a call says what is missing."""

# ruff: noqa: SIM905 - long lists of names read better as text

import inspect

import pytest

from runtime.compat._standins import NotProvidedError, is_stand_in, reason_for, stand_in
from runtime.compat.comfy import samplers, sd, sd1_clip
from runtime.compat.comfy_extras import nodes_mask

MODULES_OF_TIERS_2_TO_4 = """
comfy.samplers comfy.sample comfy.sd comfy.model_patcher latent_preview comfy.sampler_helpers comfy.controlnet
comfy.clip_vision comfy.latent_formats comfy.ops comfy.lora comfy.patcher_extension comfy.model_base comfy.conds
comfy.model_sampling comfy.hooks comfy.k_diffusion.sampling comfy.k_diffusion.utils comfy.sd1_clip comfy.sdxl_clip
comfy.model_detection comfy.supported_models comfy.supported_models_base comfy.nested_tensor comfy_extras.nodes_lt
comfy_extras.nodes_upscale_model comfy_extras.nodes_custom_sampler comfy_extras.chainner_models.model_loading
comfy.ldm.modules.attention comfy.ldm.modules.diffusionmodules.openaimodel comfy.cldm.cldm comfy.taesd.taesd
comfy_api_nodes.apis.client
""".split()

TIER_1 = """
folder_paths nodes server execution node_helpers comfy comfy.utils comfy.model_management comfy.cli_args
comfy.comfy_types comfy.comfy_types.node_typing comfy_execution.graph comfy_execution.graph_utils
comfy_execution.utils comfy_api.latest comfy_api.v0_0_1 comfy_api.v0_0_2 comfy_api.input comfy_api.input_impl
comfy_api.input_impl.video_types comfy_api.util comfy_api.torch_helpers comfy_api.feature_flags
comfy_api.version_list comfy_api.internal comfy_extras comfyui_version protocol
""".split()


def test_every_module_of_the_survey_imports_as_one_object_under_both_names(child):
    printed = child(
        f"""
        import importlib
        for name in {TIER_1 + MODULES_OF_TIERS_2_TO_4!r}:
            module = importlib.import_module(name)
            assert module is importlib.import_module("runtime.compat." + name), name
        print("all")
        """
    )
    assert printed == "all"


def test_light_modules_load_neither_torch_nor_numpy(child):
    printed = child(
        """
        import folder_paths, server, nodes, execution, node_helpers, latent_preview
        import comfy.utils, comfy.model_management, comfy.samplers
        from comfy_api.latest import io, ui
        print([name for name in ("torch", "numpy", "PIL", "aiohttp") if name in sys.modules])
        """
    )
    assert printed == "[]"


def test_import_comfy_alone_reaches_its_modules(child):
    printed = child("import comfy\nprint(comfy.samplers.KSampler.SAMPLERS[0], comfy.sd.VAE)")
    assert printed == "euler <name only: comfy.sd.VAE>"


def test_a_submodule_taken_from_its_package_is_the_module(child):
    code = """
    from comfy.ldm.modules import attention
    import comfy.ldm.modules.attention as again
    print(attention is again)
    """
    assert child(code) == "True"


@pytest.mark.parametrize("name", ["comfy.no_such_module", "comfy_extras.other", "comfy_execution.nothing"])
def test_a_module_that_comfyui_does_not_have_is_an_import_error(child, name):
    code = f"""
    try:
        import {name}
    except ImportError as error:
        print(type(error).__name__)
    """
    assert child(code) == "ModuleNotFoundError"


def test_a_call_names_the_attribute_and_the_reason():
    with pytest.raises(
        NotProvidedError, match=r"^comfy\.sd\.load_checkpoint_guess_config needs a model runtime"
    ):
        sd.load_checkpoint_guess_config("x.safetensors")


def test_a_nested_name_is_named_in_full():
    with pytest.raises(NotProvidedError, match=r"^comfy\.samplers\.KSampler\.sample "):
        samplers.KSampler.sample(1)


def test_a_class_can_be_subclassed_and_refuses_when_it_is_made():
    class Guider(samplers.CFGGuider):
        def __init__(self, model):
            super().__init__(model)

    with pytest.raises(NotProvidedError, match=r"comfy\.samplers\.CFGGuider"):
        Guider(None)


def test_a_subclass_that_does_not_call_up_works():
    class Own(sd.VAE):
        def __init__(self):
            self.value = 1

        def twice(self):
            return 2 * self.value

    assert Own().twice() == 2
    assert not hasattr(Own, "IS_CHANGED")
    assert isinstance(Own(), sd.VAE)
    assert not isinstance(1, sd.VAE)


def test_annotations_unions_and_signatures_work():
    def function(model: sd.VAE | None = None, clip: "sd.CLIP" = None) -> list[sd.CLIP]:
        raise NotImplementedError

    assert "model" in inspect.signature(function).parameters
    assert inspect.signature(sd.VAE)


def test_a_mixture_with_other_classes_works():
    torch = pytest.importorskip("torch")
    layer = stand_in("comfy.ops.disable_weight_init.Linear")

    class Mixed(torch.nn.Module, layer):
        pass

    assert issubclass(Mixed, layer)


def test_patching_is_allowed_and_local():
    sd.patched_by_a_pack = 5
    assert sd.patched_by_a_pack == 5
    del sd.patched_by_a_pack


def test_sampler_lists_are_lists():
    assert "euler" in samplers.KSampler.SAMPLERS
    assert [*samplers.KSampler.SCHEDULERS, "mine"]
    assert samplers.KSampler.SCHEDULERS is samplers.SCHEDULER_NAMES


def test_iterating_over_a_name_says_what_it_is():
    with pytest.raises(NotProvidedError, match=r"comfy\.sd\.StyleModel"):
        list(sd.StyleModel)


def test_unknown_names_of_half_real_modules_are_names_only():
    assert is_stand_in(nodes_mask.SomethingNewer)


def test_dunder_names_are_attribute_errors():
    assert not hasattr(sd, "__all__")
    assert not hasattr(sd.VAE, "__wrapped__")


def test_the_table_goes_by_name_parts():
    assert reason_for("comfy.ldm.anything.below")
    assert reason_for("comfy.ldmx") is None
    assert reason_for("comfy.utils") is None


def test_the_runtime_may_have_any_name(child):
    code = """
    import importlib.util, pathlib
    for name in [name for name in sys.modules if name.split(".")[0] == "runtime"]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "runtime.aliases"]
    place = pathlib.Path("runtime").resolve()
    init = place / "__init__.py"
    spec = importlib.util.spec_from_file_location("boxed", init, submodule_search_locations=[str(place)])
    sys.modules["boxed"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import boxed.aliases
    boxed.aliases.install()
    import comfy.ldm.modules.attention, nodes, comfy_api.latest
    print(nodes.SaveImage.__module__, comfy.ldm.modules.attention.__name__, nodes.LoraLoader)
    """
    saver, attention, *_ = child(code).split()
    assert saver == "boxed.compat._nodes.saving"
    assert attention == "boxed.compat.comfy.ldm.modules.attention"


def test_comfyuis_server_folders_are_names_and_a_packs_own_module_of_that_name_wins(child, tmp_path):
    code = """
    import runtime.compat
    import utils.json_util
    try:
        utils.json_util.merge_json_recursive({}, {})
    except NotImplementedError as error:
        print(error)
    """
    assert child(code).startswith("utils.json_util.merge_json_recursive belongs to the server process")
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").write_text("mine = 7")
    assert (
        child(f"sys.path.insert(0, {str(tmp_path)!r})\nimport runtime.compat, utils\nprint(utils.mine)")
        == "7"
    )


def test_the_weights_of_a_text_are_read_without_any_model():
    text = sd1_clip.escape_important("a (b (c:0.5) d) (e:x) \\(f\\) (g) )h(")
    assert [
        (sd1_clip.unescape_important(part), round(weight, 4))
        for part, weight in sd1_clip.token_weights(text, 1.0)
    ] == [
        ("a ", 1.0),
        ("b ", 1.1),
        ("c", 0.5),
        (" d", 1.1),
        (" ", 1.0),
        ("e:x", 1.1),
        (" (f) ", 1.0),
        ("g", 1.1),
        (" )h(", 1.0),
    ]
    with pytest.raises(NotProvidedError, match="SDTokenizer"):
        sd1_clip.SDTokenizer()


def test_the_object_of_a_node_that_is_a_name_only_can_be_made_and_refuses_what_it_is_for():
    from runtime.compat.comfy_extras import nodes_freelunch

    made = nodes_freelunch.FreeU()
    with pytest.raises(
        NotProvidedError, match=r"comfy_extras\.nodes_freelunch\.FreeU\.patch needs a model runtime"
    ):
        made.patch(None, 1.0)
    with pytest.raises(NotProvidedError, match=r"comfy_extras\.nodes_freelunch\.FreeU needs a model runtime"):
        nodes_freelunch.FreeU("an argument")
    with pytest.raises(NotProvidedError, match=r"nodes_freelunch\.Fourier_filter needs"):
        nodes_freelunch.Fourier_filter(None, 1, 1.0)


def test_objects_that_a_pack_makes_while_it_is_imported_refuse_when_they_are_used(monkeypatch):
    from runtime.compat.comfy_extras import nodes_lt
    from runtime.sdk import registry

    class Own(nodes_lt.SymmetricPatchifier):
        def __init__(self, size):
            super().__init__(size, start_end=True)
            self.size = size

    monkeypatch.setattr(registry, "loading", "pack")
    made, own = nodes_lt.SymmetricPatchifier(1, start_end=True), Own(3)
    with pytest.raises(NotProvidedError, match=r"nodes_lt\.get_noise_mask needs"):
        nodes_lt.get_noise_mask({})
    monkeypatch.setattr(registry, "loading", None)
    with pytest.raises(
        NotProvidedError, match=r"nodes_lt\.SymmetricPatchifier\.patchify needs a model runtime"
    ):
        made.patchify(None)
    assert own.size == 3
    with pytest.raises(
        AttributeError,
        match=r"'Own' object has no attribute 'unpatchify': its base class comfy_extras\.nodes_lt\.",
    ):
        own.unpatchify(None)
    for use in (nodes_lt.SymmetricPatchifier, Own):
        with pytest.raises(NotProvidedError, match=r"nodes_lt\.SymmetricPatchifier needs a model runtime"):
            use(1)


def test_a_module_of_torch_that_is_mixed_with_a_name_still_finds_its_layers():
    torch = pytest.importorskip("torch")

    class Mixed(sd.VAE, torch.nn.Module):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.layer = torch.nn.Identity()

    assert isinstance(Mixed().layer, torch.nn.Identity)
    with pytest.raises(AttributeError, match="'Mixed' object has no attribute 'other'"):
        _ = Mixed().other


def test_what_comfyuis_files_import_can_be_taken_from_them_and_loaded_again(child):
    code = """
    import importlib
    from comfy.samplers import KSAMPLER, k_diffusion_sampling, math
    from comfy.ldm.modules.attention import logging, optimized_attention
    import comfy.k_diffusion.sampling
    print(importlib.reload(k_diffusion_sampling) is comfy.k_diffusion.sampling, math.sqrt(4), logging.__name__)
    try:
        k_diffusion_sampling.sample_euler(None)
    except NotImplementedError as error:
        print(error)
    """
    assert child(code).startswith(
        "True 2.0 logging\ncomfy.k_diffusion.sampling.sample_euler needs a model runtime"
    )


def test_kinds_and_names_of_hooks_are_values(child):
    code = """
    import comfy.sd, comfy.context_windows, comfy.hooks, comfy.model_base, latent_preview, execution, nodes
    from comfy.patcher_extension import WrappersMP, CallbacksMP
    print([kind.name.lower() for kind in comfy.sd.CLIPType][:2], comfy.sd.CLIPType.FLUX.value)
    print(WrappersMP.DIFFUSION_MODEL, CallbacksMP.ON_LOAD, comfy.context_windows.ContextSchedules.BATCHED)
    print(comfy.hooks.EnumHookScope("hooked_only").name, comfy.model_base.ModelType.FLOW.value)
    print(latent_preview.LatentPreviewMethod.NoPreviews.value, execution.nodes is nodes)
    import server
    print(len(str(server.uuid.uuid4())), "torch" in sys.modules)
    """
    assert child(code).splitlines() == [
        "['stable_diffusion', 'stable_cascade'] 6",
        "diffusion_model on_load_after batched",
        "HookedOnly 6",
        "none True",
        "36 False",
    ]


def test_a_node_that_saves_checkpoints_can_be_derived_from_and_says_what_it_lacks():
    from runtime.compat.comfy_extras import nodes_model_merging

    class Save(nodes_model_merging.CheckpointSave):
        @classmethod
        def INPUT_TYPES(cls):
            return {**super().INPUT_TYPES(), "optional": {"dtype": (["float16"],)}}

    assert list(Save.INPUT_TYPES()) == ["required", "hidden", "optional"]
    with pytest.raises(NotProvidedError, match=r"nodes_model_merging\.CheckpointSave needs a model runtime"):
        Save().save(None, None, None, "x")
    assert is_stand_in(nodes_model_merging.ModelMergeBlocks)


def test_an_attention_of_a_pack_is_replaced_where_a_models_options_say_so():
    from runtime.compat.comfy.ldm.modules.attention import wrap_attn

    @wrap_attn
    def own(q, **kwargs):
        return q, "inside" if kwargs.get("_inside_attn_wrapper") else "plain"

    def other(func, q, **kwargs):
        return "other", func(q, **kwargs), own(q, **kwargs)

    assert (own.__name__, own(1)) == ("own", (1, "plain"))
    options = {"optimized_attention_override": other}
    assert own(2, transformer_options=options) == ("other", (2, "inside"), (2, "inside"))


def test_a_pack_may_take_all_names_of_a_module_at_once(child):
    code = """
    from comfy.model_sampling import *
    class Own(ModelSamplingDiscrete, CONST):
        pass
    print(Own.__mro__[1], math.pi > 3)
    """
    assert child(code) == "<name only: comfy.model_sampling.ModelSamplingDiscrete> True"


def test_the_previewers_of_a_model_are_names_that_can_be_imported():
    import runtime.compat.latent_preview as latent_preview

    assert is_stand_in(latent_preview.TAESD)
