"""The web frontend, unmodified, as its users know it: open, load, run, look, cancel, save, come back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.frontend import Frontend
from tests.e2e.comfy import Comfy, node, until
from tests.stack import ROOT, Stack

PHOTOGRAPH = ROOT / "examples" / "photograph"


def test_the_page_knows_every_node_and_nothing_fails_in_it(frontend: Frontend, comfy: Comfy) -> None:
    served = set(comfy.get("/object_info"))
    known = set(frontend.page.evaluate("Object.keys(LiteGraph.registered_node_types)"))
    assert served
    assert served <= known
    assert frontend.page.title()


def test_the_page_can_talk_to_this_server_only(frontend: Frontend) -> None:
    refused = frontend.page.evaluate(
        """() => new Promise(resolve => {
            document.addEventListener('securitypolicyviolation', event => {
                if (event.blockedURI.includes('example.org')) resolve(event.effectiveDirective)
            })
            fetch('https://example.org/?secret').catch(() => {})
        })"""
    )
    assert refused == "connect-src"
    frontend.expect(r"example\.org")


def test_a_photograph_goes_through_two_packs_and_comes_out_on_the_canvas(frontend: Frontend) -> None:
    expected = json.loads((PHOTOGRAPH / "expected.json").read_text(encoding="utf-8"))["prompts"][
        "prompt.json"
    ]
    frontend.load_file(PHOTOGRAPH / "workflow.json")
    frontend.page.evaluate(
        """window.heard = []; for (const kind of ['execution_start', 'executing', 'executed', 'execution_success'])
            app.api.addEventListener(kind, () => heard.push(kind))"""
    )
    frontend.run()
    for item in expected:
        if item["type"] == "image":
            shown = frontend.picture(item["node"])
            assert [shown["width"], shown["height"]] == item["size"]
            assert shown["colours"] > 1000
            for pixel in item["pixels"]:
                got = frontend.pixel(*pixel["xy"])
                assert all(abs(a - b) <= item["tol"] for a, b in zip(got, pixel["rgb"], strict=True)), pixel
        else:
            texts = frontend.page.wait_for_function(
                "node => app.nodeOutputs[node]?.text", arg=item["node"]
            ).json_value()
            assert all(text.startswith(start) for text, start in zip(texts, item["starts_with"], strict=True))
    frontend.wait_for_idle()
    heard = frontend.page.evaluate("heard")
    assert heard[0] == "execution_start"
    assert {"executing", "executed", "execution_success"} <= set(heard)
    assert frontend.marked_nodes() == []
    frontend.shot("photograph")


def test_progress_moves_and_the_cancel_button_ends_a_running_node(frontend: Frontend, comfy: Comfy) -> None:
    frontend.load({"1": node("RFSleep", seconds=60.0)}, "slow")
    prompt_id = frontend.run()
    overlay = frontend.page.get_by_test_id("queue-progress-overlay")
    expect(overlay).to_contain_text(re.compile(r"RFSleep\s*[1-9]\d?%"))
    frontend.shot("running")
    frontend.button("Cancel current run").click()
    frontend.wait_for_idle()
    entry = until(
        lambda: comfy.get(f"/history/{prompt_id}").get(prompt_id), "the cancelled prompt is in the history"
    )
    assert [name for name, _ in entry["status"]["messages"]][-1] == "execution_interrupted"


def test_a_waiting_run_can_be_taken_out_of_the_queue(frontend: Frontend, comfy: Comfy) -> None:
    frontend.load({"1": node("RFSleep", seconds=60.0)}, "slow")
    running = frontend.run()
    waiting = frontend.run()
    until(lambda: comfy.get("/queue")["queue_pending"], "the second waits for the first")
    frontend.button("Clear queued").click()
    until(lambda: not comfy.get("/queue")["queue_pending"], "nothing waits")
    frontend.shot("cleared")
    frontend.button("Interrupt all running jobs").click()
    frontend.wait_for_idle()
    ended = comfy.get("/history")
    assert running in ended
    assert waiting not in ended


def test_a_validation_error_marks_the_node_that_has_it(frontend: Frontend) -> None:
    bad: dict[str, Any] = {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "2": node("SaveImage", images=["1", 0], filename_prefix="fine"),
        "3": node("ImageInvert"),
        "4": node("SaveImage", images=["3", 0], filename_prefix="bad"),
    }
    frontend.load(bad, "bad")
    assert frontend.press_run() == 200  # node 2 can run
    overlay = frontend.page.get_by_test_id("error-overlay")
    expect(overlay).to_be_visible()
    assert frontend.marked_nodes() == ["3"]
    frontend.picture("2")
    frontend.page.get_by_test_id("error-overlay-see-errors").click()
    expect(frontend.page.get_by_text("Invert Image").first).to_be_visible()
    frontend.shot("validation")
    frontend.load({key: bad[key] for key in ("3", "4")}, "worse")
    assert frontend.press_run() == 400
    expect(overlay).to_contain_text("Invert Image")
    assert frontend.marked_nodes() == ["3"]
    frontend.expect(r"400 POST .*/api/prompt", r"status of 400", "PromptExecutionError")


def test_a_node_killed_for_its_memory_says_so_on_the_canvas(frontend: Frontend) -> None:
    frontend.load_file(ROOT / "examples" / "memory-eater" / "prompt.json")
    frontend.run()
    overlay = frontend.page.get_by_test_id("error-overlay")
    expect(overlay).to_be_visible()
    frontend.shot("killed")
    overlay.get_by_test_id("error-overlay-see-errors").click()
    expect(frontend.page.get_by_text(re.compile("memory cap")).first).to_be_visible()
    frontend.shot("killed-details")


def test_previews_appear_while_the_node_sends_them(frontend: Frontend) -> None:
    frontend.load(
        {"1": node("RFPreviews", steps=2000), "2": node("PreviewImage", images=["1", 0])}, "previews"
    )
    frontend.run()
    shown = frontend.picture("1")
    assert shown["source"].startswith("blob:")
    assert (shown["width"], shown["height"]) == (64, 48)
    red, _green, blue = frontend.pixel(30, 20)
    assert red > 230
    assert blue < 40
    frontend.shot("preview")
    frontend.button("Cancel current run").click()
    frontend.wait_for_idle()


def test_a_saved_workflow_and_a_changed_setting_are_there_after_a_reload(
    frontend: Frontend, comfy: Comfy
) -> None:
    frontend.load({"1": node("EmptyImage", width=640, height=64, batch_size=1, color=0)}, "kept")
    frontend.page.keyboard.press("Control+s")
    dialog = frontend.page.get_by_role("dialog")
    dialog.get_by_label("Enter the filename").fill("mine/kept")
    with frontend.page.expect_response(
        lambda answer: "/api/userdata/" in answer.url and answer.request.method == "POST"
    ):
        frontend.page.keyboard.press("Enter")
    minimap = frontend.page.get_by_test_id("minimap-container")
    expect(minimap).to_be_visible()
    with frontend.page.expect_response("**/api/settings/Comfy.Minimap.Visible"):
        frontend.page.get_by_test_id("toggle-minimap-button").click()
    frontend.page.evaluate(
        "localStorage.clear(); sessionStorage.clear()"
    )  # what the browser keeps must not help
    frontend.reload()
    expect(minimap).to_be_hidden()
    frontend.page.get_by_test_id("workflows-tab-button").click()
    frontend.page.get_by_test_id("tree-node-root/mine").click()
    frontend.page.get_by_test_id("tree-node-root/mine/kept.json").click()
    frontend.page.wait_for_function(
        "app.graph.nodes.length === 1 && app.graph.nodes[0].type === 'EmptyImage'"
    )
    assert frontend.page.evaluate("app.graph.nodes[0].widgets.find(w => w.name === 'width').value") == 640
    frontend.shot("saved")
    assert comfy.http.post("/api/settings/Comfy.Minimap.Visible", content=b"true").is_success


def test_a_picture_dropped_on_the_canvas_is_uploaded_and_can_be_used(
    frontend: Frontend, comfy: Comfy
) -> None:
    picture = (PHOTOGRAPH / "astronaut.jpg").read_bytes()
    with frontend.page.expect_response("**/api/upload/image") as answer:
        frontend.page.evaluate(
            """async bytes => {
                const data = new DataTransfer()
                data.items.add(new File([new Uint8Array(bytes)], 'dropped.jpg', {type: 'image/jpeg'}))
                const canvas = document.querySelector('#graph-canvas')
                const how = {dataTransfer: data, bubbles: true, cancelable: true, clientX: 700, clientY: 400}
                for (const kind of ['dragover', 'drop']) canvas.dispatchEvent(new DragEvent(kind, how))
            }""",
            list(picture),
        )
    assert answer.value.json() == {"name": "dropped.jpg", "subfolder": "", "type": "input"}
    frontend.page.wait_for_function("app.graph.nodes.some(n => n.type === 'LoadImage')")
    loaded = str(frontend.page.evaluate("app.graph.nodes.find(n => n.type === 'LoadImage').id"))
    assert frontend.picture(loaded)["width"] == 512


def test_results_stand_in_the_list_of_assets(frontend: Frontend) -> None:
    frontend.load(
        {
            "1": node("EmptyImage", width=96, height=64, batch_size=1, color=0x33AA55),
            "2": node("SaveImage", images=["1", 0], filename_prefix="listed"),
        },
        "listed",
    )
    frontend.run()
    frontend.picture("2")
    frontend.wait_for_idle()
    frontend.page.get_by_test_id("assets-tab-button").click()
    picture = frontend.page.locator("img[src*='listed_']").first
    expect(picture).to_be_visible()
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => image.naturalWidth > 0")
    frontend.shot("assets")


def test_nothing_fails_in_the_page_wherever_a_user_looks(frontend: Frontend, comfy: Comfy) -> None:
    """Each panel and dialog once; what the server may answer with an error stands in ``TOLERATED``."""
    page = frontend.page
    frontend.load(
        {
            "1": node("EmptyImage", width=48, height=32, batch_size=1, color=0x8855AA),
            "2": node("SaveImage", images=["1", 0], filename_prefix="looked"),
        },
        "looked",
    )
    frontend.run()
    frontend.picture("2")
    frontend.wait_for_idle()
    for panel in ("node-library", "model-library", "workflows", "apps"):
        page.get_by_test_id(f"{panel}-tab-button").click()
        expect(page.get_by_test_id("error-boundary")).to_have_count(0)
    page.get_by_test_id("assets-tab-button").click()
    page.locator("img[src*='looked_']").first.click(button="right")
    expect(page.get_by_role("menuitem", name="Inspect asset")).to_be_visible()
    page.keyboard.press("Escape")
    for tab in ("Imported", "Generated"):
        page.get_by_role("tab", name=tab).click()
    page.get_by_label("Close sidebar").click()
    page.get_by_test_id("queue-overlay-toggle").click()
    expect(page.get_by_label("Filter jobs")).to_be_visible()
    page.get_by_test_id("queue-overlay-toggle").click()
    with page.expect_response("**/internal/logs/raw"):
        page.get_by_label("Toggle Bottom Panel").click()
    page.get_by_label("Toggle Bottom Panel").click()
    with page.expect_response("**/templates/index.json"):
        page.get_by_role("button", name="Templates").first.click()
    page.get_by_role("button", name="Close dialog").click()
    page.keyboard.press("Control+,")
    settings = page.get_by_test_id("settings-dialog")
    sections = ("Lite Graph", "Appearance", "Mask Editor", "Keybinding", "Extension", "About")
    for section in sections:
        settings.locator("nav").get_by_text(section, exact=True).click()
    page.keyboard.press("Escape")
    expect(settings).to_be_hidden()
    # A workflow is saved, renamed and thrown away.
    page.keyboard.press("Control+s")
    page.get_by_role("dialog").get_by_label("Enter the filename").fill("before")
    with page.expect_response(lambda answer: "/api/userdata/workflows%2Fbefore" in answer.url):
        page.keyboard.press("Enter")
    page.get_by_test_id("workflows-tab-button").click()
    page.get_by_test_id("tree-node-root/before.json").click(button="right")
    page.get_by_text("Rename", exact=True).first.click()
    with page.expect_response(lambda answer: "/move/" in answer.url) as moved:
        page.keyboard.type("after")
        page.keyboard.press("Enter")
    assert moved.value.status == 200
    page.get_by_test_id("tree-node-root/after.json").click(button="right")
    page.get_by_text("Delete", exact=True).first.click()
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as gone:
        page.get_by_role("dialog").get_by_text("Delete", exact=True).last.click()
    assert gone.value.status == 204
    assert "after.json" not in comfy.get("/api/userdata", dir="workflows", recurse="true")


def test_the_users_own_style_sheet_is_applied(frontend: Frontend, comfy: Comfy) -> None:
    comfy.http.post("/api/userdata/user.css", content=b":root { --of-the-user: 42px }")
    try:
        frontend.reload()
        style = frontend.page.evaluate(
            "getComputedStyle(document.documentElement).getPropertyValue('--of-the-user')"
        )
        assert style == "42px"
    finally:
        comfy.http.delete("/api/userdata/user.css")


def test_a_packs_script_runs_in_the_page_when_its_policy_allows_it_and_not_otherwise(
    frontend: Frontend, comfy: Comfy, stack: Stack, tmp_path: Path
) -> None:
    pack = ROOT / "tests" / "extensions" / "web_page"
    policy = tmp_path / "web_page.yaml"
    policy.write_text("web_files: true\n")
    graph = {"1": node("RFWebPage", text="heard")}
    buttons = "app.graph.nodes[0].widgets.filter(w => w.name === 'from the pack').length"
    stack.ringfence("extension", "add", str(pack))
    try:
        frontend.reload()
        frontend.load(graph, "without")
        assert frontend.page.evaluate(buttons) == 0
        stack.ringfence("extension", "remove", "web_page")
        stack.ringfence("extension", "add", str(pack), "--policy", str(policy))
        frontend.reload()
        frontend.load(graph, "with")
        assert frontend.page.evaluate(buttons) == 1
        frontend.run()
        frontend.page.wait_for_function("window.webPageHeard?.[0] === 'heard'")
        frontend.page.wait_for_function("window.webPageCalledOut")
        frontend.expect(
            r"example\.org"
        )  # the page may talk to this server only, and so may the pack's script
    finally:
        stack.ringfence("extension", "remove", "web_page")


def test_the_page_connects_again_after_the_host_restarts(frontend: Frontend, stack: Stack) -> None:
    stack.compose.execute("restart --timeout 30 host")
    stack.wait_until_ready()
    frontend.page.wait_for_function("app.api.socket?.readyState === WebSocket.OPEN")
    frontend.load(
        {
            "1": node("EmptyImage", width=80, height=64, batch_size=1, color=0x3355AA),
            "2": node("PreviewImage", images=["1", 0]),
        },
        "again",
    )
    frontend.run()
    assert frontend.picture("2")["width"] == 80
    frontend.wait_for_idle()
    frontend.expect(r"ERR_", r"WebSocket")


@pytest.mark.parametrize("path", ["/api/object_info", "/queue", "/ringfence/v1/status"])
def test_the_api_still_answers_at_its_paths(comfy: Comfy, path: str) -> None:
    assert isinstance(comfy.get(path), dict)
