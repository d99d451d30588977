"""What the core extension does with picture files for the host, in a real worker."""

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.contract.worker.workerhost import ROOT, WorkerError, WorkerHost

CORE = ROOT / "extensions" / "core"


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    host = WorkerHost(tmp_path_factory.mktemp("core"))
    try:
        host.hello()
        host.described = host.load("core", CORE, core=True)
        for name in ("input", "output", "temp"):
            (host.root / "app" / name).mkdir(parents=True, exist_ok=True)
        yield host
    finally:
        host.close()


@pytest.fixture
def picture(core):
    """A PNG with transparency and texts in the output directory."""
    image = Image.new("RGBA", (6, 4), (200, 100, 50, 255))
    image.putpixel((0, 0), (10, 20, 30, 0))
    texts = PngInfo()
    texts.add_text("prompt", '{"1": {}}')
    place = core.root / "app/output/sub"
    place.mkdir(exist_ok=True)
    image.save(place / "a.png", pnginfo=texts)
    return {"filename": "a.png", "subfolder": "sub", "type": "output"}


def content(core, value):
    core.files.adopt(value)
    file = value["$bytes"]
    data = (core.files.inbox / file["file"]).read_bytes()
    assert len(data) == file["nbytes"]
    return data


def preview(core, place, *, form="", quality=90, channel=""):
    asked = {**place, "format": form, "quality": quality, "channel": channel}
    (data,), (content_type,) = core.execute("RingfencePreview", asked)["slots"]
    return Image.open(io.BytesIO(content(core, data))), content_type


def mask(core, place, image):
    buffer = io.BytesIO()
    image.save(buffer, "png")
    uploaded = {
        "$bytes": {"file": core.files.put(buffer.getvalue()), "nbytes": buffer.tell(), "mutable": False}
    }
    (slot,) = core.execute("RingfenceMask", {**place, "mask": uploaded})["slots"]
    return Image.open(io.BytesIO(content(core, slot[0])))


def test_the_helpers_can_be_called_and_are_in_no_catalogue(core):
    assert len(core.described["nodes"]) > 50
    assert not [node for node in core.described["nodes"] if node["class_type"].startswith("Ringfence")]
    assert core.described["skipped"] == []


@pytest.mark.parametrize(
    ("asked", "form", "mode", "content_type"),
    [
        ({"form": "webp"}, "WEBP", "RGBA", "image/webp"),
        ({"form": "webp", "channel": "rgb"}, "WEBP", "RGB", "image/webp"),
        ({"form": "jpeg"}, "JPEG", "RGB", "image/jpeg"),
        ({"channel": "rgb"}, "PNG", "RGB", "image/png"),
        ({"channel": "a"}, "PNG", "RGBA", "image/png"),
    ],
)
def test_a_preview_is_the_same_picture_in_the_form_that_was_asked_for(
    core, picture, asked, form, mode, content_type
):
    image, said = preview(core, picture, **asked)
    assert (image.format, image.mode, image.size, said) == (form, mode, (6, 4), content_type)
    if form == "PNG":
        assert image.getpixel((0, 0)) == ((10, 20, 30) if mode == "RGB" else (0, 0, 0, 0))
        assert image.getpixel((5, 3)) == ((200, 100, 50) if mode == "RGB" else (0, 0, 0, 255))


def test_a_lower_quality_makes_a_smaller_file(core):
    Image.effect_noise((200, 200), 90).save(core.root / "app/input/noise.png")
    place = {"filename": "noise.png", "subfolder": "", "type": "input"}
    sizes = []
    for quality in (90, 10):
        answer = core.execute(
            "RingfencePreview", {**place, "format": "jpeg", "quality": quality, "channel": ""}
        )
        sizes.append(answer["slots"][0][0]["$bytes"]["nbytes"])
        core.files.adopt(answer)
    assert sizes[1] < sizes[0] / 2


def test_a_mask_gives_the_original_its_alpha_and_leaves_colours_and_texts(core, picture):
    alpha = Image.new("RGBA", (6, 4), (0, 0, 0, 77))
    merged = mask(core, picture, alpha)
    assert merged.mode == "RGBA"
    assert merged.getpixel((5, 3)) == (200, 100, 50, 77)
    assert merged.getpixel((0, 0)) == (10, 20, 30, 77)
    assert merged.text == {"prompt": '{"1": {}}'}


def cover(core, data):
    lent = {"$bytes": {"file": core.files.put(data), "nbytes": len(data), "mutable": False}}
    (slot,) = core.execute("RingfenceCover", {"picture": lent})["slots"]
    return Image.open(io.BytesIO(content(core, slot[0])))


@pytest.mark.parametrize(("mode", "form"), [("RGB", "jpeg"), ("P", "gif"), ("RGBA", "png"), ("L", "bmp")])
def test_a_models_picture_of_any_form_becomes_webp(core, mode, form):
    buffer = io.BytesIO()
    Image.new(mode, (6, 4), 3).save(buffer, form)
    image = cover(core, buffer.getvalue())
    assert (image.format, image.size) == ("WEBP", (6, 4))


def test_a_models_picture_that_is_none_is_refused(core):
    with pytest.raises(WorkerError, match=r"the model's picture.* cannot be read as a picture"):
        cover(core, b"no picture")


def test_a_mask_of_another_size_is_refused_with_both_sizes(core, picture):
    with pytest.raises(WorkerError, match=r"the mask has 5 by 4 pixels, 'a\.png' has 6 by 4"):
        mask(core, picture, Image.new("RGBA", (5, 4)))


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ({"filename": "../../secret", "subfolder": "", "type": "output"}, "outside of the output directory"),
        ({"filename": "x.png", "subfolder": "/etc", "type": "temp"}, "outside of the temp directory"),
        ({"filename": "none.png", "subfolder": "", "type": "input"}, "there is no file 'none.png'"),
        ({"filename": "none.png", "subfolder": "", "type": "models"}, "type must be input, output or temp"),
    ],
)
def test_only_files_of_the_three_directories_are_opened(core, place, says):
    with pytest.raises(WorkerError, match=says):
        preview(core, place, form="webp")


def test_a_link_out_of_the_directory_is_not_followed(core, tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (core.root / "app/output/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(WorkerError, match="outside of the output directory"):
        preview(core, {"filename": "link.png", "subfolder": "", "type": "output"}, form="webp")


def test_what_is_no_picture_is_named(core):
    (core.root / "app/output/text.png").write_text("hello")
    with pytest.raises(WorkerError, match=r"'text\.png' cannot be read as a picture"):
        preview(core, {"filename": "text.png", "subfolder": "", "type": "output"}, form="jpeg")


@pytest.mark.parametrize(
    ("side", "says"), [(10_000, "10000 by 10000 pixels"), (14_000, "over 178956970 pixels")]
)
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(core, side, says):
    Image.new("1", (side, side)).save(core.root / "app/output/bomb.png")
    with pytest.raises(WorkerError, match=f"{says}; at most 89478485 are decoded"):
        preview(core, {"filename": "bomb.png", "subfolder": "", "type": "output"}, form="webp")
