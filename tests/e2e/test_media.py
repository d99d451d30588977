"""Sound and video of a V3 pack that brings PyAV: real files, with the workflow in them, from a real sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.comfy import Comfy, node, succeeded
from tests.e2e.conftest import ROOT, Stack

WORKFLOW = {"extra_data": {"extra_pnginfo": {"workflow": {"n": 1}}}}


@pytest.fixture(scope="module", autouse=True)
def media(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The pack, with a policy that lets it save where ComfyUI's packs do."""
    policy: Path = tmp_path_factory.mktemp("policy") / "media_v3.yaml"
    areas = [f"{{tenant: {area}, access: rw, scope: tenant}}" for area in ("output", "temp")]
    policy.write_text(f"paths: [{', '.join(areas)}]\n")
    stack.ringfence("extension", "add", str(ROOT / "tests/extensions/media_v3"), "--policy", str(policy))


def test_sound_is_saved_in_every_format_with_the_workflow_in_it(comfy: Comfy) -> None:
    prompt = {"1": node("RFSound", rate=44100), "2": node("PreviewAny", source=["1", 0])}
    outputs = succeeded(comfy.run(prompt, **WORKFLOW))
    assert json.loads(outputs["2"]["text"][0]) == {
        "flac": ["flac", 44100, 44100, {"n": 1}],
        "mp3": ["mp3float", 44100, 44100, {"n": 1}],
        "opus": ["opus", 48000, 48000, {"n": 1}],
    }
    (preview,) = outputs["1"]["audio"]
    assert preview["type"] == "temp"
    assert comfy.http.get("/view", params=preview).content[:4] == b"fLaC"


def test_a_video_is_saved_and_taken_apart_again(comfy: Comfy) -> None:
    prompt = {"1": node("RFFilm"), "2": node("PreviewAny", source=["1", 0])}
    outputs = succeeded(comfy.run(prompt))
    assert json.loads(outputs["2"]["text"][0]) == {
        "size": [64, 48],
        "seconds": [1.0, 0.5],
        "frames": [12, 6],
        "rate": "12",
        "sound": [44100, 2],
        "workflow": {"n": 2},
    }
    (shown,) = outputs["1"]["images"]
    assert outputs["1"]["animated"] == [True]
    assert comfy.http.get("/view", params=shown).content[4:8] == b"ftyp"
