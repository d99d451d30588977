"""The V3 API: declarations, running, what is shown."""

# ruff: noqa: SIM905 - long lists of names read better as text

import asyncio
import dataclasses
import enum
import importlib.util
import json
from itertools import pairwise

import pytest
import torch
from PIL import Image

from runtime.blocker import ExecutionBlocker
from runtime.compat.comfy_api import feature_flags, version_list
from runtime.compat.comfy_api.internal import _ComfyNodeInternal, first_real_override
from runtime.compat.comfy_api.latest import IO, UI, ComfyExtension, Input, InputImpl, Types, io, ui
from runtime.compat.comfy_api.latest._input_impl.video_types import VideoFromComponents
from runtime.compat.comfy_api.v0_0_2 import IO as IO_0_0_2


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Sample(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Sample",
            display_name="A sample",
            category="tests",
            description="d",
            inputs=[
                io.Image.Input("image", tooltip="t"),
                io.Int.Input("count", default=1, min=0, max=5, display_mode=io.NumberDisplay.slider),
                io.Float.Input("share", default=0.5, step=0.1, round=0.01, optional=True),
                io.String.Input("text", multiline=True, lazy=True, optional=True),
                io.Boolean.Input("flag", label_on="yes", label_off="no", optional=True),
                io.Combo.Input("colour", options=Colour, default=Colour.blue),
                io.Combo.Input(
                    "file", options=["a"], upload=io.UploadType.image, image_folder=io.FolderType.output
                ),
                io.MultiCombo.Input("several", options=["a", "b"], default=["a"], chip=True),
                io.Custom("MINE").Input("mine", optional=True, extra_dict={"x": 1}, raw_link=True),
                io.MultiType.Input(
                    io.Int.Input("either", default=3, optional=True), types=[io.Int, io.Float]
                ),
            ],
            outputs=[
                io.Image.Output(),
                io.Int.Output("n", is_output_list=True),
                io.AnyType.Output(display_name="any"),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, **inputs):
        return io.NodeOutput(cls.hidden.unique_id, [1], inputs)


def test_the_inputs_serialise_as_in_comfyui():
    declared = Sample.INPUT_TYPES()
    assert declared["required"]["image"] == ("IMAGE", {"tooltip": "t"})
    assert declared["required"]["count"] == ("INT", {"default": 1, "min": 0, "max": 5, "display": "slider"})
    assert declared["optional"]["share"] == ("FLOAT", {"default": 0.5, "step": 0.1, "round": 0.01})
    assert declared["optional"]["text"] == ("STRING", {"lazy": True, "multiline": True})
    assert declared["optional"]["flag"] == ("BOOLEAN", {"label_on": "yes", "label_off": "no"})
    assert declared["required"]["colour"] == (
        "COMBO",
        {"default": "blue", "multiselect": False, "options": ["red", "blue"]},
    )
    assert declared["required"]["file"][1] == {
        "multiselect": False,
        "options": ["a"],
        "image_upload": True,
        "image_folder": "output",
    }
    assert declared["required"]["several"][1] == {
        "default": ["a"],
        "multiselect": True,
        "options": ["a", "b"],
        "multi_select": {"chip": True},
    }
    assert declared["optional"]["mine"] == ("MINE", {"rawLink": True, "x": 1})
    assert declared["optional"]["either"] == ("INT,FLOAT", {"default": 3, "widgetType": "INT"})
    assert declared["hidden"] == {
        "unique_id": ("UNIQUE_ID",),
        "prompt": ("PROMPT",),
        "extra_pnginfo": ("EXTRA_PNGINFO",),
    }


def test_the_node_info_has_exactly_the_keys_of_object_info():
    info = Sample.GET_NODE_INFO_V1()
    assert set(info) == set(
        """input input_order is_input_list output output_is_list output_name output_tooltips output_matchtypes name
        display_name description python_module category output_node deprecated experimental dev_only api_node
        price_badge search_aliases essentials_category has_intermediate_output""".split()
    )
    assert info["output"] == ["IMAGE", "INT", "*"]
    assert info["output_name"] == ["IMAGE", "n", "any"]
    assert info["output_is_list"] == [False, True, False]
    assert info["search_aliases"] is None
    assert info["input_order"]["required"][:2] == ["image", "count"]


def test_the_attributes_of_v1_are_there():
    assert Sample.RETURN_TYPES == ["IMAGE", "INT", "*"]
    assert Sample.FUNCTION == "EXECUTE_NORMALIZED"
    assert Sample.OUTPUT_NODE is True
    assert Sample.OUTPUT_IS_LIST == [False, True, False]
    assert Sample.CATEGORY == "tests"
    assert Sample.ACCEPT_ALL_INPUTS is False
    assert issubclass(Sample, _ComfyNodeInternal)


def test_a_call_runs_on_a_locked_clone_that_holds_the_hidden_values():
    clone = Sample.PREPARE_CLASS_CLONE({"UNIQUE_ID": "7", "PROMPT": {"a": 1}})
    output = getattr(clone, clone.FUNCTION)(image=1)
    assert output.result == ("7", [1], {"image": 1})
    assert clone.hidden.prompt == {"a": 1}
    assert clone.hidden.no_such_thing is None
    assert issubclass(clone, Sample)
    assert Sample.hidden is None
    with pytest.raises(AttributeError, match=r"Clone\.counter cannot be changed"):
        clone.counter = 1


class Asynchronous(Sample):
    @classmethod
    async def execute(cls, **inputs):
        await asyncio.sleep(0)
        return (cls.hidden.unique_id,)


def test_coroutine_functions_run_as_such():
    assert Asynchronous.FUNCTION == "EXECUTE_NORMALIZED_ASYNC"
    clone = Asynchronous.PREPARE_CLASS_CLONE({io.Hidden.unique_id: "3"})
    assert asyncio.run(clone.EXECUTE_NORMALIZED_ASYNC()).result == ("3",)


@pytest.mark.parametrize(
    ("returned", "result", "block"),
    [
        (None, None, None),
        ((1, 2), (1, 2), None),
        ({"result": (1,), "ui": {"a": [1]}}, (1,), None),
        (ExecutionBlocker("no"), None, "no"),
    ],
)
def test_whatever_a_node_may_return_is_normalised(returned, result, block):
    class Node(Sample):
        @classmethod
        def execute(cls):
            return returned

    output = Node.EXECUTE_NORMALIZED()
    assert (output.result, output.block_execution) == (result, block)


@pytest.mark.parametrize("returned", [[1], 5, "text"])
def test_other_results_are_refused(returned):
    class Node(Sample):
        @classmethod
        def execute(cls):
            return returned

    with pytest.raises(TypeError, match=r"Node\.execute returned"):
        Node.EXECUTE_NORMALIZED()


def test_expanding_must_be_announced():
    class Node(Sample):
        @classmethod
        def execute(cls):
            return io.NodeOutput(expand={})

    with pytest.raises(ValueError, match="enable_expand"):
        Node.EXECUTE_NORMALIZED()


def test_a_class_without_what_it_needs_is_refused():
    class NoExecute(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("x")

    class NoSchema(io.ComfyNode):
        @classmethod
        def execute(cls):
            return None

    with pytest.raises(NotImplementedError, match="execute"):
        NoExecute.GET_SCHEMA()
    with pytest.raises(NotImplementedError, match="define_schema"):
        NoSchema.GET_SCHEMA()


def test_the_drafts_spelling_is_understood():
    class Draft(io.ComfyNode):
        @classmethod
        def DEFINE_SCHEMA(cls):
            return io.Schema("Draft", outputs=[io.Int.Output()])

        @classmethod
        def execute(cls):
            return io.NodeOutput(1)

    assert Draft.GET_SCHEMA().node_id == "Draft"
    assert Draft.PREPARE_CLASS_CLONE({}).RETURN_TYPES == ["INT"]


def test_ids_must_be_unique_among_inputs_and_among_outputs_only():
    io.Schema("x", inputs=[io.Int.Input("a")], outputs=[io.Int.Output("a")]).validate()
    with pytest.raises(ValueError, match="input ids must be unique, but a"):
        io.Schema("x", inputs=[io.Int.Input("a"), io.Image.Input("a")]).validate()
    with pytest.raises(ValueError, match="output ids"):
        io.Schema("x", outputs=[io.Int.Output("a"), io.Int.Output("a")]).validate()


def test_overrides_are_told_from_the_defaults():
    class Mixin:
        @classmethod
        def check_lazy_status(cls, **inputs):
            return []

    class Lazy(Mixin, Sample):
        pass

    base = Sample.GET_BASE_CLASS()
    assert first_real_override(Lazy, "check_lazy_status", base=base)
    assert first_real_override(Sample, "check_lazy_status", base=base) is None
    assert first_real_override(Sample, "execute", base=base)


def test_dynamic_inputs_serialise_as_in_the_checked_example():
    template = io.MatchType.Template("T")
    schema = io.Schema(
        "D",
        inputs=[
            io.DynamicCombo.Input(
                "dc",
                options=[
                    io.DynamicCombo.Option("one", [io.Int.Input("x", default=1, min=0, max=5)]),
                    io.DynamicCombo.Option(
                        "two", [io.String.Input("y"), io.Image.Input("im", optional=True)]
                    ),
                ],
            ),
            io.Autogrow.Input(
                "ag", template=io.Autogrow.TemplatePrefix(io.AnyType.Input("v"), "v", min=1, max=3)
            ),
            io.Autogrow.Input(
                "an",
                template=io.Autogrow.TemplateNames(io.Float.Input("f", optional=True), ["a", "b"], min=0),
            ),
            io.MatchType.Input("mt", template, optional=True),
        ],
        outputs=[io.MatchType.Output(template), io.Int.Output(display_name="n")],
        is_output_node=True,
    )
    schema.finalize()
    schema.validate()
    info = json.loads(json.dumps(schema.get_v1_info(Sample).input))
    assert info == json.loads("""
    {"required": {
       "dc": ["COMFY_DYNAMICCOMBO_V3", {"options": [
           {"key": "one", "inputs": {"required": {"x": ["INT", {"default": 1, "min": 0, "max": 5}]}}},
           {"key": "two", "inputs": {"required": {"y": ["STRING", {"multiline": false}]},
                                     "optional": {"im": ["IMAGE", {}]}}}]}],
       "ag": ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": {"v": ["*", {}]}},
                                                 "prefix": "v", "min": 1, "max": 3}}],
       "an": ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": {}, "optional":
                                       {"f": ["FLOAT", {"forceInput": true}]}}, "names": ["a","b"], "min": 0}}]},
     "optional": {"mt": ["COMFY_MATCHTYPE_V3", {"template": {"template_id": "T", "allowed_types": "*"}}]},
     "hidden": {"prompt": ["PROMPT"], "extra_pnginfo": ["EXTRA_PNGINFO"]}}""")
    described = schema.get_v1_info(Sample)
    assert described.output == ["COMFY_MATCHTYPE_V3", "INT"]
    assert described.output_name == ["MATCHTYPE", "n"]
    assert described.output_matchtypes == ["T", None]


def test_bad_templates_are_refused():
    with pytest.raises(ValueError, match="dynamic"):
        io.Autogrow.TemplatePrefix(io.DynamicCombo.Input("x", []), "p")
    with pytest.raises(ValueError, match="max 1 to 100"):
        io.Autogrow.TemplatePrefix(io.Int.Input("x"), "p", max=101)
    with pytest.raises(ValueError, match="not an io type"):
        io.MatchType.Template("T", [int])


def test_types_of_a_pack_s_own_know_themselves():
    @io.comfytype(io_type="MY_TYPE")
    class Mine:
        Type = dict

    assert Mine.Input("a").get_io_type() == "MY_TYPE"
    assert Mine.Output().io_type == "MY_TYPE"
    assert io.Custom("X").Output("o").io_type == "X"
    assert io.Image.Output().io_type == "IMAGE"  # untouched by the others
    assert io.Float.Input("f", force_input=True).as_dict() == {"forceInput": True}
    assert io.Int.Input("i", control_after_generate=io.ControlAfterGenerate.fixed).as_dict() == {
        "control_after_generate": "fixed"
    }


def test_every_type_of_the_facts_is_there_in_all_spellings():
    names = """Image Mask Latent Conditioning Sampler Sigmas Noise Guider Clip ControlNet Vae Model ClipVision
    ClipVisionOutput StyleModel Gligen UpscaleModel Audio Video SVG LoraModel LossMap Voxel Mesh Hooks HookKeyframes
    TimestepsRange LatentOperation FlowControl Accumulation Load3DCamera Load3D Load3DAnimation Photomaker Point
    FaceAnalysis BBOX SEGS AnyType AudioEncoder AudioEncoderOutput MODEL_PATCH ModelPatch BackgroundRemoval
    LatentUpscaleModel Splat File3DAny File3DGLB Tracks Histogram Color BoundingBox Curve Range ImageCompare Webcam
    Boolean Int Float String Combo MultiCombo MultiType MatchType Autogrow DynamicCombo Custom ComfyNode NodeOutput
    Schema Hidden FolderType UploadType NumberDisplay ControlAfterGenerate RemoteOptions NodeReplace PriceBadge
    PriceBadgeDepends HiddenHolder NodeInfoV1 comfytype ComfyTypeIO ComfyTypeI Input WidgetInput Output""".split()
    assert [name for name in names if not hasattr(io, name)] == []
    assert IO is io is IO_0_0_2
    assert UI is ui
    assert len(version_list.supported_versions) == 3


def test_widgets_without_sockets():
    assert io.Color.Input("c").as_dict() == {"default": "#ffffff", "socketless": True}
    assert io.BoundingBox.Input("b", component="c").as_dict()["component"] == "c"
    assert io.Range.Input("r", value_min=0).as_dict()["value_min"] == 0
    with pytest.raises(TypeError, match="no such parameter"):
        io.Color.Input("c", nonsense=1)


def test_an_extension_lists_its_nodes():
    class Pack(ComfyExtension):
        async def get_node_list(self):
            return [Sample]

    async def entered():
        pack = Pack()
        await pack.on_load()
        return await pack.get_node_list()

    assert asyncio.run(entered()) == [Sample]


def test_previews_write_their_files_when_they_are_made(places):
    shown = ui.PreviewImage(torch.zeros(2, 4, 4, 3), cls=None).as_dict()
    assert shown["animated"] == (False,)
    assert [item["type"] for item in shown["images"]] == ["temp", "temp"]
    assert (places / "temp" / shown["images"][1]["filename"]).is_file()
    assert len(ui.PreviewMask(torch.zeros(3, 4, 4)).as_dict()["images"]) == 3
    assert ui.PreviewText("x").as_dict() == {"text": ("x",)}
    assert ui.PreviewUI3D("m.glb", {"c": 1}).as_dict() == {"result": ["m.glb", {"c": 1}, None]}


def test_saved_pictures_hold_the_workflow_of_the_node_s_class(places):
    clone = Sample.PREPARE_CLASS_CLONE({"PROMPT": {"1": {}}, "EXTRA_PNGINFO": {"workflow": {"n": 1}}})
    shown = ui.ImageSaveHelper.get_save_images_ui(torch.zeros(1, 2, 2, 3), "v3", clone).as_dict()
    assert shown["images"] == [{"filename": "v3_00001_.png", "subfolder": "", "type": "output"}]
    with Image.open(places / "output/v3_00001_.png") as saved:
        assert json.loads(saved.text["workflow"]) == {"n": 1}
    frames = torch.zeros(2, 2, 2, 3)
    frames[1] = 1.0
    assert ui.ImageSaveHelper.get_save_animated_webp_ui(frames, "w", clone, 5.0, True, 80, 4).as_dict()[
        "animated"
    ]
    assert ui.ImageSaveHelper.get_save_animated_png_ui(frames, "a", clone, 5.0, 4).as_dict()["animated"]


def test_results_are_plain_dicts_with_attributes():
    result = ui.SavedResult("a.png", "s", io.FolderType.temp)
    assert json.dumps(result) == '{"filename": "a.png", "subfolder": "s", "type": "temp"}'
    assert result.type is io.FolderType.temp


def test_videos_of_frames_answer_without_a_media_library():
    frames = torch.zeros(10, 4, 6, 3)
    video = VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=5))
    assert isinstance(video, Input.Video)
    assert video.get_dimensions() == (6, 4)
    assert video.get_duration() == 2.0
    assert video.as_trimmed(0.4, 1.0).get_frame_count() == 5
    assert video.as_trimmed(1.5, 1.0, strict_duration=True) is None
    assert Types.VideoContainer.as_input() == ["auto", "mp4"]
    assert Types.VideoContainer.get_extension("auto") == "mp4"


def test_curves_go_through_their_points_and_never_overshoot():
    curve = Input.Curve.from_raw([(0.0, 0.0), (0.5, 0.9), (1.0, 1.0)])
    values = curve.to_lut(101)
    assert values[50] == pytest.approx(0.9)
    assert all(a <= b + 1e-9 for a, b in pairwise(values))
    assert Input.Curve.from_raw({"points": [(0, 0), (1, 1)], "interpolation": "linear"}).interp(0.3) == 0.3


def test_features_of_a_client_nobody_knows_are_absent():
    assert feature_flags.supports_feature({}, "x", "supports_preview_metadata") is False
    assert feature_flags.get_server_features()["max_upload_size"] > 0


def test_names_that_packs_write_into_annotations_are_there():
    for kind, name in [
        (io.Latent, "LatentDict"),
        (io.Conditioning, "CondList"),
        (io.Conditioning, "PooledDict"),
        (io.Audio, "AudioDict"),
        (io.Load3DCamera, "CameraInfo"),
        (io.LossMap, "LossMapDict"),
    ]:
        assert getattr(kind, name) in (dict, list)


def test_the_private_modules_that_packs_import_are_there(child):
    code = """
    from comfy_api.internal import as_pruned_dict, get_all_versions, ComfyAPIWithVersion
    from comfy_api.internal.api_registry import parse_version, register_versions
    from comfy_api.internal.async_to_sync import create_sync_class, AsyncToSyncConverter
    from comfy_api.internal.singleton import ProxiedSingleton
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_api.latest import ComfyAPISync, VideoFromFile, VideoInput
    from comfy_api.latest._resources import TorchDictFolderFilename
    from comfy_api.latest._io import first_real_override
    from comfy_api.version_list import supported_versions

    class One(ProxiedSingleton):
        pass

    async def answer():
        return 42

    assert One() is One() and ProxiedSingleton() is not One()
    assert [known.version for known in get_all_versions()] == ["latest", "0.0.2", "0.0.1"]
    assert parse_version("latest") > parse_version("0.0.10") > parse_version("0.0.2")
    assert issubclass(create_sync_class(supported_versions[0]), ComfyAPISync)
    print(AsyncToSyncConverter.run_async_in_thread(answer))
    """
    assert child(code) == "42"


def test_a_schema_can_be_copied_with_changes_and_its_lists_are_its_own():
    shared = [io.Int.Input("a")]
    schema = io.Schema("x", inputs=shared, outputs=None, hidden=None)
    changed = dataclasses.replace(schema, category="other", is_output_node=True)
    changed.finalize()
    changed.inputs.append(io.Int.Input("b"))
    assert (changed.category, [item.id for item in changed.inputs]) == ("other", ["a", "b"])
    assert shared == schema.inputs
    assert schema.hidden == []


def test_sound_and_video_without_the_media_library_say_what_to_add(places):
    if importlib.util.find_spec("av") is not None:
        pytest.skip("this environment has PyAV")
    sound = {"waveform": torch.zeros(1, 1, 8), "sample_rate": 8000}
    with pytest.raises(
        ImportError, match=r"audio needs the package 'av' .* add 'av' to the requirements.txt"
    ) as caught:
        ui.PreviewAudio(sound)
    assert type(caught.value).__name__ == "MediaLibraryMissingError"
    with pytest.raises(ImportError, match="video needs the package 'av'"):
        InputImpl.VideoFromFile("a.mp4").get_dimensions()


def test_state_and_resources_work_without_a_host(places):
    """Unit tests of packs have none: state lasts as long as the call, files are read here."""
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, places / "models" / "a.safetensors")
    found = Sample.resources.get(io.TorchDictFolderFilename("loras", "a.safetensors"))
    assert found["w"].tolist() == [1, 1]
    assert Sample.resources.get(io.TorchDictFolderFilename("loras", "b.safetensors"), None) is None
    with pytest.raises(FileNotFoundError, match=r"no file .b.safetensors. in"):
        Sample.resources.get(io.TorchDictFolderFilename("loras", "b.safetensors"))
    with pytest.raises(TypeError, match=r"a resource key must be an io\.TorchDictFolderFilename, not a str"):
        Sample.resources.get("a.safetensors")
    assert io.TorchDictFolderFilename("a", "b") == io.TorchDictFolderFilename("a", "b")
    with pytest.raises(RuntimeError, match="node state can be used while a node runs"):
        Sample.state.count = 1


def test_state_of_a_call_without_a_host_lasts_as_long_as_the_call(call):
    from runtime.sdk import state

    Sample.state.count = 1
    Sample.state["list"] = [1]
    Sample.state.list.append(2)
    assert (Sample.state.count, Sample.state.list, "count" in Sample.state) == (1, [1, 2], True)
    assert Sample.state.pop("count") == 1
    assert Sample.state.count is None
    del Sample.state.never
    with pytest.raises(TypeError, match=r"state attribute list\[0\] has the key 1"):
        Sample.state.list = [{1: 2}]
    with pytest.raises(ValueError, match="printable"):
        Sample.state[""] = 1
    state.flush(call.call)
    assert Sample.state.list is None
    state.flush(call.call)


def test_a_cache_provider_is_refused_by_name_since_nobody_would_ask_it(call):
    from runtime.compat.comfy_api.latest import ComfyAPI

    api = ComfyAPI()
    with pytest.raises(
        NotImplementedError, match=r"ComfyAPI\.caching\.register_provider .*RINGFENCE_CACHE_MODE"
    ):
        asyncio.run(api.caching.register_provider(object()))
    asyncio.run(api.caching.unregister_provider(object()))
