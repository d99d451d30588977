"""LoadImage and SaveImage: decoding, masks, names, what is written into the files."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from runtime.compat import nodes
from runtime.compat.comfy.cli_args import args
from runtime.compat.comfy_extras import nodes_images, nodes_mask

WORKFLOW = {"workflow": {"nodes": [1]}, "note": "ä"}


def ramp(mode="RGB", size=(6, 4)):
    high, wide = size[1], size[0]
    values = np.arange(high * wide * len(mode)).reshape(high, wide, len(mode)).astype(np.uint8)
    return Image.fromarray(values[..., 0] if mode == "L" else values)


def test_a_picture_becomes_floats_and_an_empty_mask(places):
    ramp().save(places / "input/a.png")
    image, mask = nodes.LoadImage().load_image("a.png")
    assert image.shape == (1, 4, 6, 3)
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round().to(torch.uint8)[0], torch.from_numpy(np.array(ramp())))
    assert mask.shape == (1, 64, 64)
    assert mask.sum() == 0


def test_transparency_becomes_the_mask_turned_around(places):
    picture = ramp("RGBA")
    picture.putalpha(Image.new("L", picture.size, 51))
    picture.save(places / "input/a.png")
    image, mask = nodes.LoadImage().load_image("a.png")
    assert image.shape[-1] == 3
    assert mask.shape == (1, 4, 6)
    assert torch.allclose(mask, torch.tensor(0.8), atol=1e-6)


def test_a_palette_with_a_transparent_entry_has_a_mask(places):
    picture = Image.new("P", (3, 2), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((0, 0), 0)
    picture.save(places / "input/a.png", transparency=0)
    image, mask = nodes.LoadImage().load_image("a.png")
    assert mask.shape == (1, 2, 3)
    assert mask[0, 0, 0] == 1.0
    assert mask.sum() == 1.0
    assert image[0, 0, 1, 0] == 1.0


def test_the_camera_s_orientation_is_applied(places):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    ramp(size=(6, 4)).save(places / "input/a.jpg", exif=exif)
    image, _ = nodes.LoadImage().load_image("a.jpg")
    assert image.shape == (1, 6, 4, 3)


def test_sixteen_bits_of_grey_are_scaled_not_clipped(places):
    levels = np.array([[0, 12850, 25700, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(places / "input/a.png")
    image, _ = nodes.LoadImage().load_image("a.png")
    assert torch.allclose(image[0, 0, :, 0], torch.tensor([0.0, 50 / 255, 100 / 255, 1.0]), atol=1.01 / 255)


def test_all_frames_of_an_animation_of_one_size_are_loaded(places):
    frames = [Image.new("RGB", (5, 4), (value, 0, 0)) for value in (0, 100, 200)]
    frames[0].save(
        places / "input/a.webp", save_all=True, append_images=frames[1:], lossless=True, duration=50
    )
    image, mask = nodes.LoadImage().load_image("a.webp")
    assert image.shape == (3, 4, 5, 3)
    assert [round(float(v) * 255) for v in image[:, 0, 0, 0]] == [0, 100, 200]
    assert mask.shape == (3, 64, 64)


def test_a_cut_off_file_is_loaded_as_far_as_it_goes(places):
    Image.effect_noise((64, 64), 50).convert("RGB").save(places / "input/whole.jpg")
    data = (places / "input/whole.jpg").read_bytes()
    (places / "input/cut.jpg").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(OSError, match="truncated"), Image.open(places / "input/cut.jpg") as cut:
        cut.load()
    image, _ = nodes.LoadImage().load_image("cut.jpg")
    assert image.shape == (1, 64, 64, 3)


def test_one_channel_is_loaded_as_a_mask(places):
    picture = Image.new("RGBA", (3, 2), (51, 102, 0, 204))
    picture.save(places / "input/a.png")
    load = nodes.LoadImageMask().load_image
    assert torch.allclose(load("a.png", "red")[0], torch.tensor(0.2), atol=1e-6)
    assert torch.allclose(load("a.png", "alpha")[0], torch.tensor(0.2), atol=1e-6)
    ramp("L").save(places / "input/l.png")
    assert load("l.png", "green")[0].shape == (1, 4, 6)
    assert load("l.png", "alpha")[0].sum() == 0


def test_the_menu_lists_pictures_only_and_is_live(places):
    assert nodes.LoadImage.INPUT_TYPES()["required"]["image"] == ([], {"image_upload": True})
    for name in ("b.png", "a.JPG", "notes.txt", "film.mp4"):
        (places / "input" / name).touch()
    assert nodes.LoadImage.INPUT_TYPES()["required"]["image"][0] == ["a.JPG", "b.png"]


def test_a_changed_file_changes_the_fingerprint_and_a_missing_one_is_refused(places):
    (places / "output/a.png").write_bytes(b"x")
    assert nodes.LoadImage.IS_CHANGED("a.png [output]") == hashlib.sha256(b"x").hexdigest()
    assert nodes.LoadImage.VALIDATE_INPUTS("a.png [output]") is True
    assert nodes.LoadImage.VALIDATE_INPUTS("a.png") == "Invalid image file: a.png"
    assert nodes.LoadImageOutput.VALIDATE_INPUTS("../a.png") == "Invalid image file: ../a.png"


def test_saved_pictures_hold_the_workflow_and_are_numbered(places):
    images = torch.stack([torch.zeros(4, 6, 3), torch.ones(4, 6, 3)])
    prompt = {"1": {"class_type": "X"}}
    saver = nodes.SaveImage()
    first = saver.save_images(images, "sub/pic", prompt, WORKFLOW)["ui"]["images"]
    second = saver.save_images(images[:1], "sub/pic")["ui"]["images"]
    assert first[0] == {"filename": "pic_00001_.png", "subfolder": "sub", "type": "output"}
    assert [item["filename"] for item in first + second] == [
        "pic_00001_.png",
        "pic_00002_.png",
        "pic_00003_.png",
    ]
    with Image.open(places / "output/sub/pic_00002_.png") as saved:
        assert saved.size == (6, 4)
        assert saved.getpixel((0, 0)) == (255, 255, 255)
        assert json.loads(saved.text["prompt"]) == prompt
        assert {key: json.loads(saved.text[key]) for key in WORKFLOW} == WORKFLOW


def test_nothing_is_written_into_the_file_when_that_is_switched_off(places, monkeypatch):
    monkeypatch.setattr(args, "disable_metadata", True)
    nodes.SaveImage().save_images(torch.zeros(1, 2, 2, 3), "x", {"a": 1}, WORKFLOW)
    with Image.open(places / "output/x_00001_.png") as saved:
        assert saved.text == {}


def test_values_outside_0_to_1_are_clipped_and_one_channel_is_grey(places):
    nodes.SaveImage().save_images(torch.tensor([[[[-1.0]], [[2.0]]]]), "%batch_num%")
    with Image.open(places / "output/0_00001_.png") as saved:
        assert saved.mode == "L"
        assert [saved.getpixel((0, 0)), saved.getpixel((0, 1))] == [0, 255]


def test_previews_go_to_the_temporary_directory(places):
    shown = nodes.PreviewImage().save_images(torch.zeros(1, 2, 2, 4))["ui"]["images"]
    assert shown[0]["type"] == "temp"
    assert shown[0]["filename"].startswith("ComfyUI_temp_")
    assert len(shown[0]["filename"]) == len("ComfyUI_temp_abcde_00001_.png")
    assert (places / "temp" / shown[0]["filename"]).is_file()
    mask = nodes_mask.MaskPreview().execute(torch.ones(3, 5))["ui"]["images"]
    assert (places / "temp" / mask[0]["filename"]).is_file()


def test_a_pack_s_subclass_saves_where_it_says(places):
    class Elsewhere(nodes.SaveImage):
        def __init__(self):
            super().__init__()
            self.output_dir = str(places / "temp")
            self.type = "temp"

    result = Elsewhere().save_images(torch.zeros(1, 2, 2, 3))
    assert (places / "temp" / result["ui"]["images"][0]["filename"]).is_file()


def test_animated_files_hold_all_frames_and_the_workflow(places):
    images = torch.stack([torch.full((4, 4, 3), value) for value in (0.0, 0.5, 1.0)])
    webp = nodes_images.SaveAnimatedWEBP().save_images(
        images, 10.0, "w", True, 80, "default", 0, {"p": 1}, WORKFLOW
    )
    png = nodes_images.SaveAnimatedPNG().save_images(images, 10.0, 4, "p", {"p": 1}, WORKFLOW)
    assert webp["ui"]["animated"] == png["ui"]["animated"] == (True,)
    with Image.open(places / "output/w_00001_.webp") as saved:
        assert sum(1 for _ in ImageSequence.Iterator(saved)) == 3
        exif = saved.getexif()
        assert exif[0x0110] == 'prompt:{"p": 1}'
        assert exif[0x010F] == 'workflow:{"nodes": [1]}'
    with Image.open(places / "output/p_00001_.png") as saved:
        assert saved.n_frames == 3
    assert b'comfprompt\x00{"p": 1}' in (places / "output/p_00001_.png").read_bytes()
