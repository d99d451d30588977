"""The core nodes: sizes, values, and that each declares itself properly."""

# ruff: noqa: SIM905 - long lists of names read better as text

import pytest
import torch

from runtime.compat import nodes
from runtime.compat._standins import NotProvidedError
from runtime.compat.comfy_extras import nodes_images as images
from runtime.compat.comfy_extras import nodes_latent, nodes_mask, nodes_post_processing
from runtime.compat.comfy_extras.nodes_preview_any import PreviewAny
from runtime.compat.comfy_extras.nodes_primitive import NODE_CLASS_MAPPINGS as PRIMITIVES

NAMES = """
LoadImage LoadImageMask LoadImageOutput SaveImage PreviewImage PreviewAny EmptyImage ImageScale ImageScaleBy
ImageInvert ImageBatch ImageCrop ImagePadForOutpaint ImageCompositeMasked MaskToImage ImageToMask SolidMask
InvertMask CropMask MaskComposite FeatherMask GrowMask ThresholdMask ImageColorToMask EmptyLatentImage
LatentUpscale LatentUpscaleBy LatentFromBatch RepeatLatentBatch LatentRotate LatentFlip LatentCrop LatentComposite
LatentBlend SetLatentNoiseMask RepeatImageBatch ImageFromBatch ImageBlend ImageBlur ImageQuantize ImageSharpen
PrimitiveInt PrimitiveFloat PrimitiveString PrimitiveStringMultiline PrimitiveBoolean StringConcatenate
SaveAnimatedWEBP SaveAnimatedPNG ImageRotate ImageFlip GetImageSize ImageScaleToTotalPixels
""".split()


def test_the_core_extension_offers_what_it_promises(child):
    printed = child(
        f"""
        import importlib.util
        spec = importlib.util.spec_from_file_location("core", "extensions/core/__init__.py")
        core = sys.modules["core"] = importlib.util.module_from_spec(spec); spec.loader.exec_module(core)
        missing = [name for name in {NAMES!r} if name not in core.NODE_CLASS_MAPPINGS]
        assert not missing, missing
        assert "KSampler" not in core.NODE_CLASS_MAPPINGS
        assert set(core.NODE_DISPLAY_NAME_MAPPINGS) <= set(core.NODE_CLASS_MAPPINGS)
        for name, cls in core.NODE_CLASS_MAPPINGS.items():
            declared = cls.INPUT_TYPES()
            assert set(declared) <= {{"required", "optional", "hidden"}}, name
            assert isinstance(cls.RETURN_TYPES, (tuple, list)), name
            assert callable(getattr(cls(), cls.FUNCTION)), name
            assert isinstance(cls.CATEGORY, str), name
        print(len(core.NODE_CLASS_MAPPINGS), "torch" in sys.modules)
        """
    )
    count, has_torch = printed.split()
    assert int(count) >= len(NAMES)
    assert has_torch == "False"


def test_model_nodes_can_be_shown_and_subclassed_but_not_run():
    class Loader(nodes.LoraLoader):
        @classmethod
        def INPUT_TYPES(cls):
            declared = super().INPUT_TYPES()
            declared["optional"] = {"note": ("STRING", {"default": "[none]"})}
            return declared

    assert list(Loader.INPUT_TYPES()["required"])[:3] == ["model", "clip", "lora_name"]
    with pytest.raises(NotProvidedError, match=r"^nodes\.LoraLoader needs a model runtime"):
        Loader().load_lora(None, None, "x", 1.0, 1.0)
    with pytest.raises(NotProvidedError, match=r"nodes\.common_ksampler"):
        nodes.common_ksampler()
    with pytest.raises(AttributeError, match="NoSuchNode"):
        nodes.NoSuchNode  # noqa: B018


def test_an_empty_image_has_its_colour():
    (image,) = nodes.EmptyImage().generate(4, 2, 3, 0x3366CC)
    assert image.shape == (3, 2, 4, 3)
    assert torch.allclose(image[0, 0, 0], torch.tensor([0.2, 0.4, 0.8]))


def test_scaling_to_one_side_keeps_the_aspect():
    image = torch.rand(1, 10, 20, 3)
    scale = nodes.ImageScale().upscale
    assert scale(image, "bilinear", 40, 0, "disabled")[0].shape == (1, 20, 40, 3)
    assert scale(image, "lanczos", 0, 5, "disabled")[0].shape == (1, 5, 10, 3)
    assert scale(image, "area", 0, 0, "disabled")[0] is image
    assert nodes.ImageScaleBy().upscale(image, "bicubic", 0.5)[0].shape == (1, 5, 10, 3)
    assert images.ImageScaleToMaxDimension().upscale(image, "area", 10)[0].shape == (1, 5, 10, 3)
    assert nodes_post_processing.ImageScaleToTotalPixels().upscale(image, "area", 0.01)[0].shape == (
        1,
        72,
        145,
        3,
    )


def test_batches_of_different_sizes_and_channels_are_joined():
    (joined,) = nodes.ImageBatch().batch(torch.zeros(1, 4, 4, 4), torch.ones(2, 8, 8, 3))
    assert joined.shape == (3, 4, 4, 4)
    assert joined[1].min() == 1.0


def test_padding_makes_grey_borders_and_a_soft_mask():
    image = torch.zeros(1, 100, 100, 3)
    padded, mask = nodes.ImagePadForOutpaint().expand_image(image, 8, 0, 0, 16, 20)
    assert padded.shape == (1, 116, 108, 3)
    assert mask.shape == (1, 116, 108)
    assert padded[0, 0, 0, 0] == 0.5
    assert mask[0, 0, 0] == 1.0
    assert mask[0, 0, 8] == 1.0  # the edge of the picture, next to the border
    assert mask[0, 0, 107] == 0.0  # no border on the right: no fading
    assert 0 < mask[0, 50, 18] < 1
    assert mask[0, 50, 60] == 0.0


def test_cropping_turning_and_mirroring():
    image = torch.arange(12.0).reshape(1, 3, 4, 1)
    assert images.ImageCrop().crop(image, 2, 2, 1, 1)[0].flatten().tolist() == [5, 6, 9, 10]
    assert images.ImageRotate().rotate(image, "90 degrees")[0][0, 0, :, 0].tolist() == [8, 4, 0]
    assert images.ImageFlip().flip(image, "y-axis: horizontally")[0][0, 0, :, 0].tolist() == [3, 2, 1, 0]
    assert images.ImageFlip.execute(image, "x-axis: vertically")[0][0, :, 0, 0].tolist() == [8, 4, 0]
    assert images.ImageFromBatch().frombatch(torch.arange(5.0).reshape(5, 1, 1, 1), 3, 9)[
        0
    ].flatten().tolist() == [3, 4]
    assert images.RepeatImageBatch().repeat(image, 3)[0].shape == (3, 3, 4, 1)
    assert images.GetImageSize().get_size(image) == (4, 3, 1)


@pytest.mark.parametrize(
    ("direction", "size"), [("right", (8, 22)), ("left", (8, 22)), ("down", (18, 10)), ("up", (18, 10))]
)
def test_stitching(direction, size):
    one, two = torch.zeros(1, 8, 10, 3), torch.ones(1, 8, 10, 3)
    (joined,) = images.ImageStitch().stitch(one, direction, True, 2, "red", two)
    assert joined.shape == (1, *size, 3)
    assert joined[0, 0, 0, 0] == (0.0 if direction in ("right", "down") else 1.0)


def test_padding_to_a_size_centres_the_picture():
    (padded,) = images.ResizeAndPadImage().resize_and_pad(torch.zeros(1, 4, 8, 3), 8, 8, "white", "area")
    assert padded.shape == (1, 8, 8, 3)
    assert padded[0, 0, 0, 0] == 1.0
    assert padded[0, 4, 4, 0] == 0.0


def test_composites_are_cut_off_at_the_edges():
    under, over = torch.zeros(1, 4, 4, 3), torch.ones(1, 3, 3, 3)
    (result,) = nodes_mask.ImageCompositeMasked().composite(under, over, 2, 2, False)
    assert result.sum() == 3 * 4
    assert under.sum() == 0
    mask = torch.full((3, 3), 0.5)
    (half,) = nodes_mask.ImageCompositeMasked().composite(under, over, 0, 0, False, mask)
    assert half.max() == 0.5
    (whole,) = nodes_mask.ImageCompositeMasked().composite(under, over, 0, 0, True)
    assert whole.min() == 1.0
    assert nodes_mask.composite(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), -2, -3, None, 1).sum() == 2


def test_masks_are_combined():
    one, two = torch.full((1, 2, 2), 0.75), torch.full((1, 2, 2), 0.5)
    combine = nodes_mask.MaskComposite().combine
    results = {
        op: combine(one, two, 1, 0, op)[0] for op in ("multiply", "add", "subtract", "and", "or", "xor")
    }
    assert all(result[0, 0, 0] == 0.75 for result in results.values())
    values = {op: float(result[0, 0, 1]) for op, result in results.items()}
    assert values == {"multiply": 0.375, "add": 1.0, "subtract": 0.25, "and": 0.0, "or": 1.0, "xor": 1.0}
    assert torch.equal(combine(one, two, 5, 5, "add")[0], one)


def test_masks_grow_shrink_fade_and_turn():
    dot = torch.zeros(1, 5, 5)
    dot[0, 2, 2] = 1.0
    grow = nodes_mask.GrowMask().expand_mask
    assert grow(dot, 1, True)[0].sum() == 5
    assert grow(dot, 1, False)[0].sum() == 9
    assert grow(grow(dot, 1, False)[0], -1, False)[0].sum() == 1
    assert nodes_mask.InvertMask().invert(dot)[0].sum() == 24
    (faded,) = nodes_mask.FeatherMask().feather(torch.ones(1, 4, 4), 2, 0, 0, 0)
    assert faded[0, 0].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert nodes_mask.ThresholdMask().image_to_mask(faded, 0.6)[0].sum() == 12
    assert nodes_mask.CropMask().crop(dot[0], 2, 2, 2, 2)[0].shape == (1, 2, 2)
    assert nodes_mask.MaskToImage().mask_to_image(dot)[0].shape == (1, 5, 5, 3)
    assert nodes_mask.SolidMask().solid(0.3, 4, 2)[0].shape == (1, 2, 4)


def test_a_colour_becomes_a_mask():
    (image,) = nodes.EmptyImage().generate(2, 2, 1, 0x102030)
    assert nodes_mask.ImageColorToMask().image_to_mask(image, 0x102030)[0].sum() == 4
    assert nodes_mask.ImageToMask().image_to_mask(image, "blue")[0][0, 0, 0] == pytest.approx(0x30 / 255)


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("normal", 0.5),
        ("multiply", 0.2),
        ("screen", 0.7),
        ("overlay", 0.4),
        ("soft_light", 0.4),
        ("difference", 0.0),
    ],
)
def test_blending(mode, value):
    one, two = torch.full((1, 4, 4, 3), 0.4), torch.full((1, 2, 2, 3), 0.5)
    (mixed,) = nodes_post_processing.Blend().blend_images(one, two, 1.0, mode)
    assert mixed.shape == one.shape
    assert torch.allclose(mixed, torch.tensor(value), atol=1e-5)


def test_blurring_and_sharpening_leave_flat_pictures_alone():
    flat = torch.full((1, 16, 16, 3), 0.3)
    assert torch.allclose(nodes_post_processing.Blur().blur(flat, 3, 1.0)[0], flat, atol=1e-5)
    assert torch.allclose(nodes_post_processing.Sharpen().sharpen(flat, 2, 1.0, 1.0)[0], flat, atol=1e-5)
    edge = torch.zeros(1, 16, 16, 3)
    edge[:, :, 8:] = 1.0
    assert 0 < nodes_post_processing.Blur().blur(edge, 2, 1.0)[0][0, 8, 7, 0] < 1


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer-2", "bayer-16"])
def test_quantising_leaves_so_many_colours(dither):
    image = torch.rand(1, 24, 24, 3, generator=torch.manual_seed(1))
    (reduced,) = nodes_post_processing.Quantize().quantize(image, 8, dither)
    assert len(torch.unique((reduced * 255).round().reshape(-1, 3), dim=0)) <= 8


def test_quantising_leaves_the_alpha_alone():
    image = torch.rand(1, 8, 8, 4)
    (reduced,) = nodes_post_processing.Quantize().quantize(image, 4, "bayer-4")
    assert torch.equal(reduced[..., 3], image[..., 3])


def test_latents():
    (latent,) = nodes.EmptyLatentImage().generate(64, 32, 2)
    assert latent["samples"].shape == (2, 4, 4, 8)
    assert nodes.LatentUpscaleBy().upscale(latent, "bislerp", 2.0)[0]["samples"].shape == (2, 4, 8, 16)
    assert nodes.LatentUpscale().upscale(latent, "area", 128, 0, "disabled")[0]["samples"].shape == (
        2,
        4,
        8,
        16,
    )
    (three,) = nodes.RepeatLatentBatch().repeat({**latent, "batch_index": [0, 1]}, 3)
    assert three["batch_index"] == [0, 1, 2, 3, 4, 5]
    assert nodes.LatentFromBatch().frombatch(three, 4, 9)[0]["batch_index"] == [4, 5]
    masked = nodes.SetLatentNoiseMask().set_mask(latent, torch.ones(32, 64))[0]
    assert masked["noise_mask"].shape == (1, 1, 32, 64)
    assert "noise_mask" not in latent
    (both,) = nodes_latent.LatentBatch().batch(latent, latent)
    assert both["samples"].shape[0] == 4
    ones = {"samples": torch.ones(1, 4, 4, 4)}
    assert nodes.LatentComposite().composite(latent, ones, 0, 0)[0]["samples"].sum() == 2 * 64
    assert nodes_latent.LatentAdd().op(ones, ones)[0]["samples"].max() == 2


def test_latents_are_saved_and_loaded(places):
    samples = torch.rand(1, 4, 2, 2)
    shown = nodes.SaveLatent().save({"samples": samples}, "lat", {"p": 1})["ui"]["latents"]
    assert shown[0]["filename"] == "lat_00001_.latent"
    (places / "output/lat_00001_.latent").rename(places / "input/x.latent")
    assert nodes.LoadLatent.INPUT_TYPES()["required"]["latent"] == (["x.latent"],)
    assert torch.equal(nodes.LoadLatent().load("x.latent")[0]["samples"], samples)


def test_conditionings():
    one = [[torch.ones(1, 2, 3), {"pooled_output": torch.ones(1, 3)}]]
    two = [[torch.zeros(1, 1, 3), {}]]
    assert len(nodes.ConditioningCombine().combine(one, two)[0]) == 2
    assert nodes.ConditioningConcat().concat(one, two)[0][0][0].shape == (1, 3, 3)
    assert nodes.ConditioningAverage().addWeighted(one, two, 0.25)[0][0][0].max() == 0.25
    assert nodes.ConditioningZeroOut().zero_out(one)[0][0][1]["pooled_output"].sum() == 0
    assert nodes.ConditioningSetTimestepRange().set_range(one, 0.1, 0.9)[0][0][1]["end_percent"] == 0.9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (42, "42"),
        (1.5, "1.5"),
        (False, "False"),
        (None, "None"),
        ({"a": [1]}, '{"a": [1]}'),
        ({1}, "{1}"),
    ],
)
def test_any_value_is_shown_as_text(value, text):
    assert PreviewAny().main(value)["ui"] == {"text": (text,)}


def test_a_value_that_cannot_be_shown_says_so():
    class Mute:
        def __str__(self):
            raise RuntimeError

    assert "could not be serialized" in PreviewAny().main(Mute())["ui"]["text"][0]


def test_primitives_pass_their_value_on():
    for name, cls in PRIMITIVES.items():
        assert getattr(cls(), cls.FUNCTION)(value=name) == (name,)
        assert cls.INPUT_TYPES()["required"]["value"][0] == cls.RETURN_TYPES[0]


@pytest.mark.parametrize(
    ("class_type", "inputs", "result"),
    [
        ("StringConcatenate", {"string_a": "a", "string_b": "b", "delimiter": "-"}, "a-b"),
        ("StringSubstring", {"string": "abcdef", "start": 1, "end": 3}, "bc"),
        ("StringLength", {"string": "abc"}, 3),
        ("CaseConverter", {"string": "aB c", "mode": "Title Case"}, "Ab C"),
        ("StringTrim", {"string": " a ", "mode": "Left"}, "a "),
        ("StringReplace", {"string": "aXa", "find": "a", "replace": "b"}, "bXb"),
        ("StringContains", {"string": "Abc", "substring": "aB", "case_sensitive": False}, True),
        (
            "StringCompare",
            {"string_a": "abc", "string_b": "bc", "mode": "Ends With", "case_sensitive": True},
            True,
        ),
        (
            "RegexMatch",
            {
                "string": "x1",
                "regex_pattern": r"\d",
                "case_insensitive": True,
                "multiline": False,
                "dotall": False,
            },
            True,
        ),
        (
            "RegexExtract",
            {
                "string": "a1 b2",
                "regex_pattern": r"([a-z])(\d)",
                "mode": "All Groups",
                "case_insensitive": True,
                "multiline": False,
                "dotall": False,
                "group_index": 2,
            },
            "1\n2",
        ),
        ("RegexReplace", {"string": "a1b2", "regex_pattern": r"\d", "replace": "#", "count": 1}, "a#b2"),
    ],
)
def test_texts(class_type, inputs, result):
    cls = nodes.CORE_CLASSES[class_type]
    assert getattr(cls(), cls.FUNCTION)(**inputs) == (result,)


def test_interruption_reaches_the_running_call(call):
    nodes.interrupt_processing()
    with pytest.raises(Exception) as caught:
        nodes.before_node_execution()
    assert type(caught.value).__name__ == "InterruptProcessingException"
