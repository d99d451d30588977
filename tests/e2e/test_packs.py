"""Packs of every kind, from our own in each API to a stranger's from the package index, unmodified."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.comfy import Comfy, error_of, node, succeeded, until
from tests.stack import ROOT, Have, Stack

PUBLISHED = "comfyui-ib-customnodes==0.2.3"  # MIT; downloaded when the test runs, never kept
LONG = 2000


def test_packs_of_three_apis_serve_one_prompt_each_from_its_own_sandbox(comfy: Comfy, have: Have) -> None:
    have("friendly_v1", "friendly_v3", "draft_v3")
    info = comfy.get("/object_info")
    assert info["RFScale"]["display_name"] == "Scale (tests)"
    prompt = {
        "1": node("RFShout", text="three apis"),
        "2": node("RFReport", text=["1", 0], more=["5", 0]),
        "3": node("RFSolid", width=4, height=2, value=0.5),
        "4": node("RFScale", image=["3", 0], factor=0.5),
        "5": node("RFInvert", image=["4", 0], strength=1.0),
        "6": node("SaveImage", images=["5", 0], filename_prefix="three"),
    }
    outputs = succeeded(comfy.run(prompt))
    assert outputs["2"]["text"] == ["THREE APIS"]
    picture = Image.open(io.BytesIO(comfy.http.get("/view", params=outputs["6"]["images"][0]).content))
    assert (picture.size, picture.getpixel((0, 0))) == ((4, 2), (191, 191, 191))
    containers = comfy.containers()
    assert len({containers[name] for name in ("friendly_v1", "friendly_v3", "draft_v3", "core")}) == 4


def test_a_chain_of_2000_nodes_runs(comfy: Comfy, have: Have) -> None:
    have("odd_v3")
    prompt = {str(n): node("RFTalkativeValidator", n=[str(n + 1), 0]) for n in range(1, LONG)}
    prompt[str(LONG)] = node("RFTalkativeValidator", n=7)
    prompt["out"] = node("PreviewAny", source=["1", 0])
    # Without a client id: each of its 4,000 progress messages would list all of its nodes.
    prompt_id = comfy.queue(prompt)
    until(lambda: comfy.get(f"/history/{prompt_id}"), "the chain has run", 120)
    assert succeeded(comfy.entry(prompt_id))["out"]["text"] == ["7"]


def test_a_live_object_stays_in_its_sandbox_and_the_error_says_what_would_help(
    comfy: Comfy, have: Have
) -> None:
    have("friendly_v1")
    inside = {
        "1": node("RFModel", factor=3.0),
        "2": node("RFModel", factor=1.0, model=["1", 0]),
        "3": node("PreviewAny", source=["2", 1]),
    }
    assert succeeded(comfy.run(inside))["3"]["text"] == ["30.0"]
    outside = {"1": node("RFModel", factor=3.0), "2": node("PreviewAny", source=["1", 0])}
    answer = comfy.post("/prompt", {"prompt": outside})
    said = answer.text if answer.status_code == 400 else error_of(wait_for(comfy, answer.json()["prompt_id"]))
    assert all(words in str(said) for words in ("friendly_v1", "core", "group"))


def wait_for(comfy: Comfy, prompt_id: str) -> dict[str, object]:
    until(lambda: comfy.get(f"/history/{prompt_id}"), "the prompt has ended")
    entry: dict[str, object] = comfy.entry(prompt_id)
    return entry


@pytest.fixture(scope="module")
def published(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pack as its author published it, unpacked and nothing else; never part of this repository."""
    folder = tmp_path_factory.mktemp("published")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), PUBLISHED], capture_output=True, text=True, timeout=180, check=False
    )
    if done.returncode:
        pytest.skip(f"the package index does not give {PUBLISHED}: {done.stderr[-300:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (pack,) = (path.parent for path in folder.glob("*/__init__.py"))
    stack.ringfence("extension", "add", str(pack), "--name", "published")
    return "published"


def test_a_strangers_pack_from_the_package_index_runs_unmodified(
    comfy: Comfy, published: str, tmp_path: Path
) -> None:
    photograph = ROOT / "examples" / "photograph" / "astronaut.jpg"
    assert comfy.upload("published.jpg", photograph.read_bytes(), overwrite="true").status_code == 200
    prompt = {
        "1": node("LoadImageFromPath", image="published.jpg [input]"),
        "2": node("ImageToPIL", images=["1", 0]),
        "3": node("PILToImage", images=["2", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="published"),
    }
    file = succeeded(comfy.run(prompt))["4"]["images"][0]
    made = Image.open(io.BytesIO(comfy.http.get("/view", params=file).content)).convert("RGB")
    # Pictures as PIL objects never leave the pack's sandbox; what comes out is what went in.
    assert made.tobytes() == Image.open(photograph).convert("RGB").tobytes()
    assert published in comfy.containers()


def test_a_strangers_pack_cannot_load_a_file_outside_its_inputs(comfy: Comfy, published: str) -> None:
    prompt = {
        "1": node("LoadImageFromPath", image="/etc/hostname"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="stolen"),
    }
    answer = comfy.post("/prompt", {"prompt": prompt})
    if answer.status_code == 200:
        message = error_of(wait_for(comfy, answer.json()["prompt_id"]))["exception_message"]
        assert "/etc/hostname" in str(message)
    else:
        assert "/etc/hostname" in answer.text


def test_folders_of_other_packs_and_tensors_of_others_cannot_be_seen(comfy: Comfy, have: Have) -> None:
    have("reads_outside", "friendly_v1")
    looked = {}
    for directory in ("/app/custom_nodes", "/dev/shm", "/ringfence", "/ringfence/in"):
        entry = comfy.run({"1": node("RFListDirectory", path=directory)})
        if entry["status"]["status_str"] == "success":
            looked[directory] = entry["outputs"]["1"]["text"]
    assert set(looked["/app/custom_nodes"]) == {"reads_outside"}
    assert looked.get("/dev/shm", []) == []
    assert looked.get("/ringfence/in", []) == []
