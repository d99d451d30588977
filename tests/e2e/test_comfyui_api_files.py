"""Pictures that a sandbox makes for the API, packs' web files, and the Comfy API v2, over the real stack."""

from __future__ import annotations

import base64
import io
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from PIL import Image, PngImagePlugin

from tests.e2e.comfy import Comfy, node
from tests.stack import ROOT, Have, Stack


def png(picture: Image.Image, **texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def test_previews_and_channels_are_the_same_picture_in_another_form(comfy: Comfy) -> None:
    source = Image.new("RGBA", (40, 30), (10, 200, 30, 128))
    name = comfy.upload(f"{uuid.uuid4().hex}.png", png(source)).json()["name"]
    for query, kind, mode in (
        ({"preview": "webp;70"}, "WEBP", "RGBA"),
        ({"preview": "jpeg;70"}, "JPEG", "RGB"),
        ({"channel": "rgb"}, "PNG", "RGB"),
        ({"channel": "a"}, "PNG", "RGBA"),
    ):
        answer = comfy.http.get("/api/view", params={"filename": name, "type": "input", **query})
        assert answer.status_code == 200, answer.text
        picture = opened(answer.content)
        assert (picture.format, picture.mode, picture.size) == (kind, mode, (40, 30))
        assert answer.headers["content-type"] == f"image/{kind.lower()}"
        if query.get("channel") == "a":
            assert picture.getpixel((5, 5)) == (0, 0, 0, 128)
    comfy.upload("no-picture.png", b"no picture", overwrite="true")
    bad = comfy.http.get("/view", params={"filename": "no-picture.png", "type": "input", "preview": "webp"})
    assert (bad.status_code, bad.json()["error"]["type"]) == (400, "media_refused")


def test_a_mask_becomes_the_alpha_of_its_picture_which_keeps_its_texts(comfy: Comfy) -> None:
    original = png(Image.new("RGB", (40, 30), (10, 200, 30)), workflow="{}")
    name = comfy.upload(f"{uuid.uuid4().hex}.png", original).json()["name"]
    answer = comfy.http.post(
        "/upload/mask",
        files={"image": (f"masked-{name}", png(Image.new("RGBA", (40, 30), (0, 0, 0, 77))))},
        data={
            "original_ref": json.dumps({"filename": name, "type": "input"}),
            "subfolder": "clipspace",
            "type": "input",
        },
    )
    assert answer.status_code == 200, answer.text
    stored = answer.json()
    assert (stored["subfolder"], stored["type"]) == ("clipspace", "input")
    merged = opened(comfy.http.get("/view", params={**stored, "filename": stored["name"]}).content)
    assert merged.getpixel((3, 3)) == (10, 200, 30, 77)
    assert merged.info["workflow"] == "{}"


def test_web_files_of_a_pack_are_there_when_its_policy_says_so_and_not_otherwise(
    comfy: Comfy, stack: Stack, have: Have, tmp_path: Path
) -> None:
    have("friendly_v1")
    assert not [path for path in comfy.get("/extensions") if path.startswith("/extensions/friendly")]
    assert comfy.http.get("/extensions/friendly_v1/friendly.js").status_code == 404
    policy = tmp_path / "webby.yaml"
    policy.write_text("web_files: true\n")
    pack = ROOT / "tests" / "extensions" / "friendly_v1"
    stack.ringfence("extension", "add", str(pack), "--name", "webby", "--policy", str(policy))
    try:
        (script,) = [path for path in comfy.get("/api/extensions") if path.startswith("/extensions/webby/")]
        answer = comfy.http.get(script)
        assert answer.content == (pack / "js" / "friendly.js").read_bytes()
        assert answer.headers["content-type"].startswith("text/javascript")
        assert comfy.http.get("/extensions/webby/..%2f__init__.py").status_code == 404
    finally:
        stack.ringfence("extension", "remove", "webby")
    assert comfy.http.get(script).status_code == 404


def test_a_job_of_the_comfy_api_v2_runs_on_an_uploaded_asset_and_tells_how_it_fares(comfy: Comfy) -> None:
    data = png(Image.new("RGB", (32, 24), (255, 0, 255)))
    form = {"expected_hash": f"blake3:{blake3(data).hexdigest()}", "file_path": "red.png"}
    asset = comfy.http.post("/api/v2/assets", files={"file": ("red.png", data)}, data=form).json()
    reference = {"__type": "core/ASSET", "info": {"id": asset["id"]}}
    graph = {
        "1": node("LoadImage", image=reference),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("SaveImage", images=["2", 0], filename_prefix=f"v2-{uuid.uuid4().hex}"),
    }
    created = comfy.post("/api/v2/jobs", {"workflow": graph, "metadata": {"test": "e2e"}})
    assert created.status_code == 201, created.text
    job = created.json()
    kinds: list[str] = []
    outputs: list[Any] = []
    with comfy.http.stream("GET", job["urls"]["events"]) as events:
        kind = ""
        for line in events.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
                kinds.append(kind)
            elif line.startswith("data: ") and kind == "output":
                outputs.append(json.loads(line.removeprefix("data: ")))
    assert kinds[-1] == "status"
    assert kinds[0] == "status" or kinds.count("status") == 1  # one: it was over already
    assert "progress" in kinds
    done = comfy.get(job["urls"]["self"])
    assert (done["status"], done["metadata"]) == ("succeeded", {"test": "e2e"})
    assert [output["id"] for output in done["outputs"]] == [output["id"] for output in outputs]
    content = comfy.http.get(outputs[0]["url"])
    assert len(content.content) == outputs[0]["size_bytes"]
    assert opened(content.content).getpixel((0, 0)) == (0, 255, 0)
    assert comfy.http.head(f"/api/v2/assets/by-hash/{asset['hash']}").status_code == 200
    with comfy.events() as told:
        empty = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
        prompt_id = comfy.queue({"1": empty, "2": node("PreviewImage", images=["1", 0])}, told)
        told.until_ended(prompt_id)
    listed = [(one["id"], one["status"]) for one in comfy.get("/api/v2/jobs")["jobs"]]
    assert [one for one in listed if one[0] in (prompt_id, job["id"])] == [
        (prompt_id, "succeeded"), (job["id"], "succeeded"),
    ]  # fmt: skip


def test_a_running_job_of_the_comfy_api_v2_shows_progress_and_can_be_cancelled(
    comfy: Comfy, have: Have
) -> None:
    have("slow")
    job = comfy.post("/api/v2/jobs", {"workflow": {"1": node("RFSleep", seconds=60.0)}}).json()
    status = ""
    with comfy.http.stream("GET", job["urls"]["events"]) as events:
        kind = ""
        for line in events.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                said = json.loads(line.removeprefix("data: "))
                if kind == "progress" and (said.get("step") or 0) > 0 and not status:
                    shown = comfy.get(job["urls"]["self"])
                    assert shown["progress"]["current_node_class"] == "RFSleep"
                    status = comfy.post(job["urls"]["cancel"], {}).json()["status"]
                    assert status in ("canceling", "canceled")
                final = said["status"] if kind == "status" else ""
    assert final == "canceled"
    assert comfy.get(job["urls"]["self"])["status"] == "canceled"


def test_a_workflow_that_cannot_run_is_refused_with_the_node_that_is_wrong(comfy: Comfy) -> None:
    graph = {"7": node("ImageInvert"), "8": node("PreviewImage", images=["7", 0])}
    answer = comfy.post("/api/v2/jobs", {"workflow": graph})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_workflow")
    assert "7" in answer.json()["error"]["details"]["node_errors"]
    assert answer.json()["error"]["message"].startswith("Node 7 (ImageInvert)")


@pytest.mark.parametrize("path", ["/api/v2/jobs/" + base64.b64encode(b"x").decode(), "/api/v2/assets/none"])
def test_unknown_ids_are_404_with_the_apis_error(comfy: Comfy, path: str) -> None:
    answer = comfy.http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
