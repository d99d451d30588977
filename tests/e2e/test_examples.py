"""Every example does what its expected.json says, and the photograph's workflow is looked at from all sides."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image, ImageChops

from tests.e2e.comfy import Comfy, error_of, succeeded
from tests.stack import ROOT, Have

EXAMPLES = ROOT / "examples"
PHOTOGRAPH = EXAMPLES / "photograph" / "astronaut.jpg"
CASES = [
    (file.parent, prompt)
    for file in sorted(EXAMPLES.glob("*/expected.json"))
    for prompt in json.loads(file.read_text(encoding="utf-8"))["prompts"]
]


@pytest.fixture(scope="module")
def extensions(comfy: Comfy, have: Have) -> None:
    """Everything that the examples ask for, added as their READMEs say."""
    for folder, _ in CASES:
        expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        have(*expected["extensions"])
        for file in expected["input_files"]:
            assert comfy.upload(Path(file).name, (EXAMPLES / file).read_bytes(), overwrite="true").is_success


def picture(comfy: Comfy, file: dict[str, Any]) -> Image.Image:
    answer = comfy.http.get("/view", params=file)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize(("folder", "prompt"), CASES, ids=lambda part: getattr(part, "name", part))
def test_an_example_gives_what_it_promises(comfy: Comfy, extensions: None, folder: Path, prompt: str) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["prompts"][prompt]
    entry = comfy.run(json.loads((folder / prompt).read_text(encoding="utf-8")))
    for item in expected:
        if item["type"] == "error":
            error = error_of(entry)
            assert error["node_id"] == item["node"]
            assert all(text in error["exception_message"] for text in item["contains"]), error
        elif item["type"] == "ui":
            shown = succeeded(entry)[item["node"]][item["key"]]
            assert all(text.startswith(start) for text, start in zip(shown, item["starts_with"], strict=True))
        else:
            files = succeeded(entry)[item["node"]]["images"]
            assert len(files) == item["count"]
            image = picture(comfy, files[item["index"]])
            assert list(image.size) == item["size"]
            for pixel in item["pixels"]:
                got = cast("tuple[int, ...]", image.convert("RGB").getpixel(tuple(pixel["xy"])))
                off = max(abs(a - b) for a, b in zip(got, pixel["rgb"], strict=True))
                assert off <= item["tol"], f"{pixel}: {got}"


def test_a_photograph_goes_through_a_numpy_1_and_a_numpy_2_extension_each_in_its_own_sandbox(
    comfy: Comfy, extensions: None
) -> None:
    prompt = json.loads((EXAMPLES / "photograph" / "prompt.json").read_text(encoding="utf-8"))
    prompt["2"]["inputs"]["strength"] = 0.7  # nothing of it may be cached
    workflow = {"nodes": [], "version": 0.4}
    entry = comfy.run(prompt, extra_data={"extra_pnginfo": {"workflow": workflow}})
    outputs = succeeded(entry)

    image = picture(comfy, outputs["4"]["images"][0])
    original = Image.open(PHOTOGRAPH).convert("RGB")
    assert (image.format, image.size) == ("PNG", original.size)
    assert ImageChops.difference(image.convert("RGB"), original).getbbox() is not None
    assert json.loads(image.info["prompt"]).keys() == prompt.keys()
    assert json.loads(image.info["workflow"]) == workflow

    versions = [outputs[node]["text"][0] for node in ("5", "6")]
    assert versions[0].startswith("numpy 1.")
    assert versions[1].startswith("numpy 2.")
    ran = comfy.where(entry["prompt"][1])
    assert {ran[node]["extension"] for node in ("2", "3", "4")} == {"numpy1", "numpy2", "core"}
    assert len({ran[node]["sandbox"] for node in ("2", "3", "4")}) == 3
    live = {box["id"]: box["extensions"] for box in comfy.get("/ringfence/v1/sandboxes")["sandboxes"]}
    assert all(live[ran[node]["sandbox"]] == [ran[node]["extension"]] for node in ("2", "3", "4"))
