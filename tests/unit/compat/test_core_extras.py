"""The further core nodes: sigmas, noise, compositing, morphology, edges, lists, logic, arithmetic, resizing."""

import math

import pytest
import torch

from runtime import schema
from runtime.compat.comfy_extras import (
    nodes_align_your_steps,
    nodes_canny,
    nodes_compositing,
    nodes_custom_sampler,
    nodes_flux,
    nodes_hooks,
    nodes_images,
    nodes_latent,
    nodes_logic,
    nodes_lt,
    nodes_math,
    nodes_morphology,
    nodes_number_convert,
    nodes_post_processing,
    nodes_rebatch,
    nodes_resolution,
    nodes_string,
    nodes_toolkit,
    nodes_train,
)
from runtime.compat.comfy_extras._core import MODULES
from runtime.compat.comfy_extras._expressions import evaluate

CONDITIONING = [[torch.zeros(1, 2, 4), {"pooled_output": torch.ones(1, 4)}]]


@pytest.mark.parametrize(
    ("name", "inputs", "shape"),
    [
        ("EmptySD3LatentImage", {"width": 64, "height": 32}, [1, 16, 4, 8]),
        (
            "EmptyHunyuanLatentVideo",
            {"width": 64, "height": 32, "length": 9, "batch_size": 2},
            [2, 16, 3, 4, 8],
        ),
        ("EmptyHunyuanImageLatent", {"width": 64, "height": 128}, [1, 64, 4, 2]),
        ("EmptyMochiLatentVideo", {"width": 64, "height": 32, "length": 13}, [1, 12, 3, 4, 8]),
        ("EmptyCosmosLatentVideo", {"width": 64, "height": 32, "length": 9}, [1, 16, 2, 4, 8]),
        ("EmptyLTXVLatentVideo", {"width": 64, "height": 32, "length": 9}, [1, 128, 2, 1, 2]),
        ("EmptyChromaRadianceLatentImage", {"width": 64, "height": 32}, [1, 3, 32, 64]),
        ("EmptyLatentHunyuan3Dv2", {"resolution": 30}, [1, 64, 30]),
        ("EmptyAceStepLatentAudio", {"seconds": 10.0}, [1, 8, 16, 107]),
        ("EmptyLatentAudio", {"seconds": 10.0}, [1, 64, 216]),
        ("EmptyFlux2LatentImage", {"width": 64, "height": 32}, [1, 128, 2, 4]),
    ],
)
def test_an_empty_latent_has_the_shape_of_its_model(name, inputs, shape):
    classes = {key: made for module in MODULES for key, made in module.NODE_CLASS_MAPPINGS.items()}
    node = classes[name]
    (latent,) = node().generate(**inputs)
    assert list(latent["samples"].shape) == shape
    assert not latent["samples"].any()
    in_order = [inputs[key] for key in node.INPUT_TYPES()["required"] if key in inputs]
    assert list(node().generate(*in_order)[0]["samples"].shape) == shape


def test_schedules_fall_from_the_first_sigma_to_zero():
    (karras,) = nodes_custom_sampler.KarrasScheduler().get_sigmas(5, 10.0, 0.1, 7.0)
    assert karras[0] == pytest.approx(10.0)
    assert karras[-2] == pytest.approx(0.1, rel=1e-4)
    assert karras[-1] == 0
    (exponential,) = nodes_custom_sampler.ExponentialScheduler().get_sigmas(3, 4.0, 1.0)
    assert exponential.tolist() == pytest.approx([4.0, 2.0, 1.0, 0.0])
    (poly,) = nodes_custom_sampler.PolyexponentialScheduler().get_sigmas(3, 4.0, 1.0, 1.0)
    assert poly.tolist() == pytest.approx([4.0, 2.0, 1.0, 0.0])
    (laplace,) = nodes_custom_sampler.LaplaceScheduler().get_sigmas(3, 4.0, 0.1, 0.0, 0.5)
    assert laplace.shape == (3,)
    assert laplace[1] == pytest.approx(1.0, abs=1e-3)
    (vp,) = nodes_custom_sampler.VPScheduler().get_sigmas(2, 19.9, 0.1, 0.001)
    assert vp[0] == pytest.approx(math.sqrt(math.expm1(19.9 / 2 + 0.1)), rel=1e-4)


def test_sigmas_are_split_turned_and_extended():
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0])
    high, low = nodes_custom_sampler.SplitSigmas().get_sigmas(sigmas, 1)
    assert (high.tolist(), low.tolist()) == ([4, 2], [2, 1, 0])
    high, low = nodes_custom_sampler.SplitSigmasDenoise().get_sigmas(sigmas, 1 / 3)
    assert (high.tolist(), low.tolist()) == ([4, 2, 1], [1, 0])
    (turned,) = nodes_custom_sampler.FlipSigmas().get_sigmas(sigmas)
    assert turned.tolist() == pytest.approx([0.0001, 1, 2, 4])
    (changed,) = nodes_custom_sampler.SetFirstSigma().set_first_sigma(sigmas, 9.0)
    assert changed[0] == 9
    assert sigmas[0] == 4
    (longer,) = nodes_custom_sampler.ExtendIntermediateSigmas().extend(sigmas, 2, -1.0, 2.0, "linear")
    assert longer.tolist() == [4, 3, 2, 1.5, 1, 0]
    (manual,) = nodes_custom_sampler.ManualSigmas().get_sigmas("3, 2.5 and -.5")
    assert manual.tolist() == [3, 2.5, -0.5]


def test_published_schedules_are_kept_or_stretched():
    node = nodes_align_your_steps.AlignYourStepsScheduler()
    (ten,) = node.get_sigmas("SD1", 10, 1.0)
    assert ten[0] == pytest.approx(14.6146412293)
    assert ten[-1] == 0
    assert len(node.get_sigmas("SDXL", 25, 1.0)[0]) == 26
    assert len(node.get_sigmas("SDXL", 10, 0.5)[0]) == 6
    assert len(node.get_sigmas("SDXL", 10, 0.0)[0]) == 0


def test_noise_belongs_to_its_seed():
    latent = {"samples": torch.zeros(1, 4, 3, 5)}
    one, same, other = (
        nodes_custom_sampler.RandomNoise().get_noise(seed)[0].generate_noise(latent) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not nodes_custom_sampler.DisableNoise().get_noise()[0].generate_noise(latent).any()


def test_a_longer_video_gets_higher_sigmas():
    small = {"samples": torch.zeros(1, 128, 2, 4, 4)}
    large = {"samples": torch.zeros(1, 128, 8, 30, 30)}
    a, b = (
        nodes_lt.LTXVScheduler().get_sigmas(10, 2.05, 0.95, True, 0.1, latent)[0] for latent in (small, large)
    )
    assert (a[0], a[-1]) == (1, 0)
    assert a[-2] == pytest.approx(0.1)
    assert b[5] > a[5]


@pytest.mark.parametrize(
    ("mode", "colour", "clear"),
    [
        ("SRC", 0.8, 0.5),
        ("DST", 0.2, 0.0),
        ("SRC_OVER", 0.5, 0.0),
        ("CLEAR", 0.0, 1.0),
        ("DST_OUT", 0.2, 0.5),
    ],
)
def test_porter_and_duff(mode, colour, clear):
    source, below = torch.full((1, 2, 2, 3), 0.8), torch.full((1, 2, 2, 3), 0.2)
    half, none = torch.full((1, 2, 2), 0.5), torch.zeros(1, 2, 2)
    image, mask = nodes_compositing.PorterDuffImageComposite().composite(source, half, below, none, mode)
    assert image[0, 0, 0, 0] == pytest.approx(colour)
    assert mask[0, 0, 0] == pytest.approx(clear)


def test_alpha_is_split_off_and_joined_again():
    image = torch.rand(2, 3, 4, 4)
    colours, mask = nodes_compositing.SplitImageWithAlpha().split_image_with_alpha(image)
    assert torch.equal(colours, image[..., :3])
    (again,) = nodes_compositing.JoinImageWithAlpha().join_image_with_alpha(colours, mask)
    assert torch.allclose(again, image)
    _, opaque = nodes_compositing.SplitImageWithAlpha().split_image_with_alpha(colours)
    assert not opaque.any()


def test_morphology_grows_and_shrinks_a_dot():
    image = torch.zeros(1, 7, 7, 3)
    image[:, 3, 3] = 1.0
    node = nodes_morphology.Morphology()
    assert node.process(image, "dilate", 3)[0][..., 0].sum() == 9
    assert node.process(image, "erode", 3)[0].sum() == 0
    assert node.process(image, "open", 3)[0].sum() == 0
    assert torch.equal(node.process(image, "close", 3)[0], image)
    assert node.process(image, "gradient", 3)[0][..., 0].sum() == 9
    assert torch.equal(node.process(image, "top_hat", 3)[0], image)
    assert node.process(image, "bottom_hat", 3)[0].sum() == 0


def test_yuv_and_back():
    image = torch.rand(1, 4, 5, 3)
    y, u, v = nodes_morphology.ImageRGBToYUV().convert(image)
    assert y.shape == image.shape
    assert torch.allclose(nodes_morphology.ImageYUVToRGB().convert(y, u, v)[0], image, atol=1e-5)
    with pytest.raises(ValueError, match="4 channels"):
        nodes_morphology.ImageRGBToYUV().convert(torch.rand(1, 2, 2, 4))


def test_a_step_has_one_edge():
    image = torch.zeros(1, 16, 16, 3)
    image[:, :, 8:] = 1.0
    (found,) = nodes_canny.Canny().detect_edge(image, 0.4, 0.8)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert (found[0, 8, :, 0] == 1).sum() == 1
    assert not nodes_canny.Canny().detect_edge(torch.full((1, 9, 9, 3), 0.5), 0.4, 0.8)[0].any()
    with pytest.raises(ValueError, match="is above high_threshold"):
        nodes_canny.Canny().detect_edge(image, 0.9, 0.1)


def test_latents_are_rebatched_across_the_batches_they_came_in():
    one, two = {"samples": torch.zeros(3, 4, 2, 2)}, {"samples": torch.ones(2, 4, 2, 2)}
    (batches,) = nodes_rebatch.LatentRebatch().rebatch([one, two], [2])
    assert [len(batch["samples"]) for batch in batches] == [2, 2, 1]
    assert [batch["batch_index"] for batch in batches] == [[0, 1], [2, 3], [4]]
    assert "noise_mask" not in batches[0]
    other = {"samples": torch.zeros(1, 4, 3, 3), "noise_mask": torch.zeros(1, 1, 24, 24)}
    (batches,) = nodes_rebatch.LatentRebatch().rebatch([one, other], [4])
    assert [len(batch["samples"]) for batch in batches] == [3, 1]
    assert "noise_mask" in batches[1]


def test_pictures_are_rebatched():
    (batches,) = nodes_rebatch.ImageRebatch().rebatch([torch.zeros(3, 2, 2, 3), torch.zeros(2, 2, 2, 3)], [4])
    assert [len(batch) for batch in batches] == [4, 1]


def test_latents_are_joined_and_cut():
    one, two = {"samples": torch.zeros(1, 4, 2, 3)}, {"samples": torch.ones(1, 4, 2, 3)}
    (joined,) = nodes_latent.LatentConcat().op(one, two, "-x")
    assert joined["samples"].shape == (1, 4, 2, 6)
    assert joined["samples"][0, 0, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert nodes_latent.LatentCut().op(joined, "x", -2, 5)[0]["samples"].shape == (1, 4, 2, 2)
    assert nodes_latent.LatentCut().op(joined, "x", 4, 1)[0]["samples"].shape == (1, 4, 2, 1)
    video = {"samples": torch.arange(10.0).reshape(1, 1, 5, 2, 1)}
    assert nodes_latent.LatentCutToBatch().op(video, "t", 2)[0]["samples"].shape == (2, 1, 2, 2, 1)
    (replaced,) = nodes_latent.ReplaceVideoLatentFrames().op(
        video, -1, {"samples": torch.zeros(1, 1, 1, 2, 1)}
    )
    assert replaced["samples"][0, 0, 4].sum() == 0
    assert (
        nodes_latent.ReplaceVideoLatentFrames().op(video, 5, one | {"samples": video["samples"]})[0] is video
    )


def test_operations_act_on_latents():
    latent = {"samples": torch.randn(1, 4, 40, 40)}
    for make, given in (
        (nodes_latent.LatentOperationTonemapReinhard(), (1.0,)),
        (nodes_latent.LatentOperationSharpen(), (3, 1.0, 0.1)),
    ):
        (operation,) = make.op(*given)
        (result,) = nodes_latent.LatentApplyOperation().op(latent, operation)
        assert result["samples"].shape == latent["samples"].shape
        assert not torch.equal(result["samples"], latent["samples"])


def test_conditionings_get_guidance_masks_and_times():
    (guided,) = nodes_flux.FluxGuidance().append(CONDITIONING, 2.0)
    assert guided[0][1]["guidance"] == 2.0
    assert "guidance" not in CONDITIONING[0][1]
    inside, before, after = nodes_hooks.ConditioningTimestepsRange().create_range(0.2, 0.6)
    assert (inside, before, after) == ((0.2, 0.6), (0.0, 0.2), (0.6, 1.0))
    (both,) = nodes_hooks.ConditioningSetPropertiesAndCombine().set_properties(
        CONDITIONING, CONDITIONING, 0.5, "mask bounds", torch.ones(4, 4), None, inside
    )
    assert len(both) == 2
    assert both[1][1]["mask"].shape == (1, 4, 4)
    assert (both[1][1]["mask_strength"], both[1][1]["start_percent"]) == (0.5, 0.2)
    with pytest.raises(NotImplementedError, match=r"comfy\.hooks needs a model runtime"):
        nodes_hooks.ConditioningSetProperties().set_properties(CONDITIONING, 1.0, "default", hooks=object())


def test_a_picture_for_kontext_has_one_of_its_sizes():
    (scaled,) = nodes_flux.FluxKontextImageScale().scale(torch.rand(1, 30, 40, 3))
    assert tuple(scaled.shape[1:3]) == (880, 1184)


@pytest.mark.parametrize(
    ("way", "size"),
    [
        ({"resize_type": "scale dimensions", "width": 20, "height": 0, "crop": "center"}, (10, 20)),
        ({"resize_type": "scale by multiplier", "multiplier": 0.5}, (10, 20)),
        ({"resize_type": "scale longer dimension", "longer_size": 80}, (40, 80)),
        ({"resize_type": "scale shorter dimension", "shorter_size": 5}, (5, 10)),
        ({"resize_type": "scale height", "height": 10}, (10, 20)),
        ({"resize_type": "match size", "match": torch.zeros(1, 7, 9), "crop": "center"}, (7, 9)),
        ({"resize_type": "scale to multiple", "multiple": 16}, (16, 32)),
        ({"resize_type": "scale to multiple", "multiple": 64}, (20, 40)),
    ],
)
def test_pictures_and_masks_are_resized(way, size):
    node = nodes_post_processing.ResizeImageMaskNode
    assert node.execute(torch.rand(1, 20, 40, 3), "bilinear", way).args[0].shape[1:3] == size
    assert node.execute(torch.rand(2, 20, 40), "area", way).args[0].shape == (2, *size)


def test_batches_take_the_size_of_the_first():
    images = {"image0": torch.zeros(1, 4, 6, 3), "image1": torch.zeros(2, 8, 8, 4)}
    assert nodes_post_processing.BatchImagesNode.execute(images).args[0].shape == (3, 4, 6, 4)
    masks = {"mask0": torch.zeros(1, 4, 6), "mask1": torch.zeros(2, 8, 8)}
    assert nodes_post_processing.BatchMasksNode.execute(masks).args[0].shape == (3, 4, 6)
    latents = {
        "latent0": {"samples": torch.zeros(1, 4, 2, 2)},
        "latent1": {"samples": torch.zeros(2, 4, 3, 3)},
    }
    batch = nodes_post_processing.BatchLatentsNode.execute(latents).args[0]
    assert batch["samples"].shape == (3, 4, 2, 2)
    assert batch["batch_index"] == [0, 0, 1]


def test_tiles_cover_a_picture_and_make_it_again():
    image = torch.rand(1, 150, 100, 3)
    (tiles,) = nodes_images.SplitImageToTileList.execute(image, 64, 64, 16).args
    assert [tuple(tile.shape[1:3]) for tile in tiles] == [(64, 64)] * 6
    (merged,) = nodes_images.ImageMergeTileList.execute(tiles, [100], [150], [16]).args
    assert torch.allclose(merged, image, atol=1e-5)


def test_svg_files_get_the_workflow(places):
    from io import BytesIO
    from types import SimpleNamespace

    svg = SimpleNamespace(data=[BytesIO(b'<svg width="1"></svg>')])
    answer = nodes_images.SaveSVGNode().save_svg(svg, "drawing", {"1": {}}, {"workflow": {"n": "]]>"}})
    (saved,) = answer["ui"]["images"]
    text = (places / "output" / saved["filename"]).read_text()
    assert text.startswith('<svg width="1">\n<metadata>')
    assert '"workflow"' in text
    assert text.count("]]>") == 2


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a + b * 2", 7),
        ("a ** b", 9),
        ("max(values) - min(a, b)", 1),
        ("a if a > b else 0", 3),
        ("1 < b < a and not 0", True),
        ("values[1]", 2),
        ("round(a / b, 1)", 1.5),
    ],
)
def test_expressions(expression, value):
    assert evaluate(expression, {"a": 3, "b": 2, "values": [3, 2]}) == value


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("__import__('os')", "can call sum, min"),
        ("a.real", "cannot use Attribute"),
        ("(lambda: 1)()", "can call sum, min"),
        ("2 ** 99999", "over the limit of 4000"),
        ("c", "there is no value 'c'"),
        ("a +", "is not an expression"),
        ("'x' * 9", "is not a number"),
        ("1" * 20_000, "at most 10000"),
    ],
)
def test_expressions_offer_arithmetic_and_nothing_else(expression, says):
    with pytest.raises((ValueError, TypeError), match=says):
        evaluate(expression, {"a": 1})


def test_a_formula_gives_all_three_kinds():
    node = nodes_math.MathExpressionNode
    assert node.execute("a / b", {"a": 3, "b": 2}).args == (1.5, 1, True)
    with pytest.raises(ValueError, match="not finite"):
        node.execute("a * 1e308 * 10", {"a": 1.0})


@pytest.mark.parametrize(
    ("value", "numbers"), [("3", (3.0, 3)), (" 2.9", (2.9, 2)), (True, (1.0, 1)), (-2.7, (-2.7, -2))]
)
def test_numbers_are_converted(value, numbers):
    assert nodes_number_convert.as_numbers(value) == numbers


def test_what_is_no_number_is_said():
    for value, says in (("", "'' is not a number"), ("inf", "not finite"), ([1], "type list")):
        with pytest.raises((ValueError, TypeError), match=says):
            nodes_number_convert.as_numbers(value)


def test_logic():
    assert nodes_logic.AndNode.execute({"a": 1, "b": ""}).args == (False,)
    assert nodes_logic.OrNode.execute({"a": 0, "b": "x"}).args == (True,)
    assert nodes_logic.NotNode.execute([]).args == (True,)
    assert nodes_logic.SwitchNode.check_lazy_status(switch=True) == ["on_true"]
    assert nodes_logic.SwitchNode.check_lazy_status(switch=False, on_false=0) == []
    assert nodes_logic.SwitchNode.execute(False, 1, 2).args == (2,)
    assert nodes_toolkit.CreateList.execute({"input0": [1, 2], "input1": [3]}).args == ([1, 2, 3],)


def test_sizes_of_an_aspect_ratio():
    assert nodes_resolution.ResolutionSelector.execute("16:9 (Widescreen)", 1.0, 8).args == (1368, 768)


def test_a_picture_is_cropped_to_a_box_and_shown(places):
    (box,) = nodes_images.BoundingBox.execute(2, 1, 3, 100).args
    output = nodes_images.ImageCropV2.execute(torch.rand(1, 8, 9, 3), box)
    assert output.args[0].shape == (1, 7, 3, 3)
    assert output.ui["images"][0]["type"] == "temp"


def test_values_in_a_text():
    assert nodes_string.StringFormat.execute({"a": 1.5, "b": "x"}, "{a:.2f} {b}").args == ("1.50 x",)


def test_a_latent_cannot_be_scaled_to_nothing():
    from runtime.compat.nodes import LatentUpscaleBy

    with pytest.raises(ValueError, match=r"scaling 5 by 9 cells by 0\.01 leaves nothing"):
        LatentUpscaleBy().upscale({"samples": torch.zeros(1, 4, 9, 5)}, "bislerp", 0.01)


def test_json_texts():
    assert nodes_string.JsonExtractString().execute('{"a": [1]}', "a") == ("[1]",)
    assert nodes_string.JsonExtractString().execute("{", "a") == ("",)
    assert nodes_string.ConvertArrayToString().execute(array=["ä"], indent=0) == ('["ä"]',)


def test_a_folder_of_pictures_is_one_batch(places):
    from PIL import Image

    (places / "input" / "set").mkdir()
    for side in (4, 5):
        Image.new("RGB", (side, 4), "red").save(places / "input" / "set" / f"{side}.png")
    node = nodes_train.LoadImageSetFromFolderNode()
    assert node.load_images("set", "Stretch")[0].shape[0] == 2
    with pytest.raises(ValueError, match="choose a resize_method"):
        node.load_images("set", "None")


def test_the_engine_hears_what_core_nodes_of_the_v3_api_define_themselves():
    switch = schema.describe("ComfySwitchNode", nodes_logic.SwitchNode, None)
    assert switch["has_lazy"]
    assert switch["lazy"] == ["on_false", "on_true"]
    assert schema.describe("CustomCombo", nodes_logic.CustomComboNode, None)["validator"] is not None
    assert not schema.describe("ComfyNotNode", nodes_logic.NotNode, None)["has_lazy"]
