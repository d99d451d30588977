"""ComfyUI's API as its clients use it: the order of events, the twins under /api, files, and what is never echoed."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx2
import pytest

from tests.e2e.comfy import Comfy, Event, node, succeeded, until
from tests.stack import ROOT, Have, Stack

PNG = (ROOT / "examples" / "photograph" / "astronaut.jpg").read_bytes()


def in_short(event: Event) -> str:
    """``progress_state {1: finished}`` and the like."""
    kind, data = event["type"], event["data"]
    match kind:
        case "status":
            return f"status {data['status']['exec_info']['queue_remaining']}"
        case "progress_state":
            return f"progress_state { {n: state['state'] for n, state in data['nodes'].items()} }"
        case "executing":
            return f"executing {data['node']}"
        case "executed":
            return f"executed {data['node']}"
        case "execution_cached":
            return f"execution_cached {data['nodes']}"
        case _:
            return str(kind)


def events_of(comfy: Comfy, prompt: dict[str, Any]) -> list[str]:
    with comfy.events() as events:
        first = events.until(lambda event: event["type"] == "status")
        assert first["data"]["sid"] == events.client_id
        events.seen.clear()
        prompt_id = comfy.queue(prompt, events)
        events.until_ended(prompt_id)
    return [in_short(event) for event in events.seen]


def test_events_come_in_comfyuis_order_when_all_goes_well(comfy: Comfy, have: Have) -> None:
    have("friendly_v1", "draft_v3")
    text = uuid.uuid4().hex
    prompt = {"1": node("RFShout", text=text), "2": node("RFReport", text=["1", 0])}
    assert events_of(comfy, prompt) == [
        "status 1",
        "status 1",
        "execution_start",
        "execution_cached []",
        "progress_state {'1': 'running'}",
        "executing 1",
        "progress_state {'1': 'finished'}",
        "progress_state {'1': 'finished', '2': 'running'}",
        "executing 2",
        "executed 2",
        "progress_state {'1': 'finished', '2': 'finished'}",
        "execution_success",
        "status 0",
        "executing None",
    ]
    # Again: nothing runs, but the cached output is told again.
    assert events_of(comfy, prompt) == [
        "status 1",
        "status 1",
        "execution_start",
        "execution_cached ['1', '2']",
        "executed 2",
        "progress_state {'2': 'finished'}",
        "execution_success",
        "status 0",
        "executing None",
    ]


def test_events_come_in_comfyuis_order_when_a_node_fails(comfy: Comfy, have: Have) -> None:
    have("friendly_v1")
    assert events_of(comfy, {"1": node("RFRaises", text="boom")})[-4:] == [
        "executing 1",
        "execution_error",
        "status 0",
        "executing None",
    ]


def test_events_come_in_comfyuis_order_when_a_prompt_is_interrupted(comfy: Comfy, have: Have) -> None:
    have("gates")
    with comfy.events() as events:
        prompt_id = comfy.queue({"1": node("RFGateWait", name=uuid.uuid4().hex)}, events)
        events.until_progress(prompt_id)
        assert [in_short(event) for event in events.seen[-3:]] == [
            "executing 1",
            "progress_state {'1': 'running'}",
            "progress",
        ]
        events.seen.clear()
        assert comfy.post("/interrupt", {}).status_code == 200
        events.until_ended(prompt_id)
    assert [in_short(event) for event in events.seen] == [
        "execution_interrupted",
        "status 0",
        "executing None",
    ]


def test_feature_flags_are_answered_and_other_clients_hear_of_nothing_but_the_queue(
    comfy: Comfy, have: Have
) -> None:
    have("friendly_v1")
    with comfy.events() as events, comfy.events() as other:
        events.send({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        flags = events.until(lambda event: event["type"] == "feature_flags")["data"]
        assert flags["supports_preview_metadata"] is True
        assert flags["max_upload_size"] > 0
        prompt_id = comfy.queue({"1": node("RFReport", text=uuid.uuid4().hex)}, events)
        events.until_ended(prompt_id)
        other.until(lambda event: in_short(event) == "status 0" and "sid" not in event["data"])
    assert {event["type"] for event in other.seen} == {"status"}


def test_prompts_in_different_sandboxes_run_at_the_same_time(comfy: Comfy, have: Have) -> None:
    have("gates", "friendly_v1")
    gate = uuid.uuid4().hex
    with comfy.events() as long, comfy.events() as short:
        outer = comfy.queue({"1": node("RFGateWaitAsync", name=gate)}, long)
        long.until_progress(outer)
        inner = comfy.queue({"1": node("RFReport", text=gate)}, short)
        short.until_ended(inner)
        running = [item[1] for item in comfy.get("/queue")["queue_running"]]
        assert running == [outer]
        succeeded(comfy.run({"1": node("RFGateOpenAsync", name=gate)}))
        long.until_ended(outer)
    succeeded(comfy.entry(inner))
    succeeded(comfy.entry(outer))


def test_independent_nodes_of_one_prompt_run_at_the_same_time(comfy: Comfy, have: Have) -> None:
    have("gates", "friendly_v1")
    gate = uuid.uuid4().hex
    prompt = {"1": node("RFGateWaitAsync", name=gate), "2": node("RFReport", text=gate)}
    with comfy.events() as events:
        prompt_id = comfy.queue(prompt, events)
        events.until(lambda event: in_short(event) == "executed 2")
        assert not [event for event in events.seen if "'1': 'finished'" in in_short(event)]
        succeeded(comfy.run({"1": node("RFGateOpenAsync", name=gate)}))
        events.until_ended(prompt_id)
    succeeded(comfy.entry(prompt_id))


@pytest.mark.parametrize(
    "path",
    [
        "/prompt",
        "/queue",
        "/history",
        "/object_info",
        "/object_info/LoadImage",
        "/system_stats",
        "/features",
        "/extensions",
        "/embeddings",
        "/models",
        "/users",
        "/settings",
    ],
)
def test_every_route_has_a_twin_under_api(comfy: Comfy, path: str) -> None:
    root, twin = comfy.http.get(path), comfy.http.get(f"/api{path}")
    assert root.status_code == twin.status_code == 200
    if path != "/system_stats":  # memory figures move
        assert root.json() == twin.json()


def test_a_prompt_runs_through_the_twins(comfy: Comfy, have: Have) -> None:
    have("friendly_v1")
    text = uuid.uuid4().hex
    answer = comfy.post("/api/prompt", {"prompt": {"1": node("RFReport", text=text)}})
    prompt_id = answer.json()["prompt_id"]
    until(lambda: comfy.get(f"/api/history/{prompt_id}"), "it has run")
    assert succeeded(comfy.get(f"/api/history/{prompt_id}")[prompt_id])["1"]["text"] == [text]


def test_an_upload_comes_back_and_a_second_one_gets_a_name_of_its_own(comfy: Comfy) -> None:
    name = f"{uuid.uuid4().hex}.jpg"
    assert comfy.upload(name, PNG, subfolder="mine").json() == {
        "name": name,
        "subfolder": "mine",
        "type": "input",
    }
    again = comfy.upload(name, PNG + b"other", subfolder="mine").json()["name"]
    assert again != name
    for stored, data in ((name, PNG), (again, PNG + b"other")):
        answer = comfy.http.get(
            "/api/view", params={"filename": stored, "type": "input", "subfolder": "mine"}
        )
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_upload_can_be_chosen_in_load_image_at_once(comfy: Comfy) -> None:
    name = f"{uuid.uuid4().hex}.jpg"
    assert comfy.upload(name, PNG).status_code == 200
    assert name in comfy.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"][0]


def test_a_catalogue_that_a_client_has_is_not_sent_again_until_a_file_is_added(comfy: Comfy) -> None:
    def ask(**headers: str) -> httpx2.Response:
        return comfy.http.get("/object_info", headers={"accept-encoding": "gzip", **headers})

    first = ask()
    assert first.headers["content-encoding"] == "gzip"
    known = first.headers["etag"]
    assert ask(**{"if-none-match": known}).status_code == 304
    name = f"{uuid.uuid4().hex}.jpg"
    assert comfy.upload(name, PNG).status_code == 200
    changed = ask(**{"if-none-match": known})
    assert changed.status_code == 200
    assert name in changed.json()["LoadImage"]["input"]["required"]["image"][0]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../../escape.png", {}),
        ("/tmp/escape.png", {}),
        ("escape.png", {"subfolder": "../.."}),
        ("escape.png", {"subfolder": "/etc"}),
        ("escape.png", {"subfolder": "a/../../.."}),
        ("escape.png", {"type": "user"}),
        ("escape.png", {"type": "../x"}),
        ("..", {}),
    ],
)
def test_an_upload_stays_in_its_tree(stack: Stack, comfy: Comfy, name: str, fields: dict[str, str]) -> None:
    answer = comfy.upload(name, b"x", **fields)
    tree = stack.data_dir / "tenants" / "local" / "input"
    assert answer.status_code in (200, 400, 403), answer.text
    strays = [path for path in stack.data_dir.rglob("escape*") if not path.is_relative_to(tree)]
    assert strays == []
    assert answer.status_code != 200 or ".." not in answer.json()["name"]


@pytest.mark.parametrize(
    "query",
    [
        {"filename": "../../ringfence.db"},
        {"filename": "ringfence.db", "subfolder": "../../.."},
        {"filename": "/etc/passwd"},
        {"filename": "passwd", "subfolder": "/etc"},
        {"filename": "operator.token", "subfolder": "../../.."},
        {"filename": "x.png", "type": "user"},
    ],
)
@pytest.mark.parametrize("path", ["/view", "/api/view"])
def test_view_leaves_no_tree(stack: Stack, comfy: Comfy, path: str, query: dict[str, str]) -> None:
    answer = comfy.http.get(path, params=query)
    assert answer.status_code in (400, 403, 404)
    assert str(stack.data_dir) not in answer.text


def test_secrets_of_a_prompt_are_shown_nowhere_and_erased_when_it_has_ended(
    stack: Stack, comfy: Comfy, have: Have
) -> None:
    have("gates")
    gate, secret = uuid.uuid4().hex, f"secret-{uuid.uuid4().hex}"
    extra = {"auth_token_comfy_org": secret, "api_key_comfy_org": secret, "shown": "yes"}
    with comfy.events() as events:
        prompt_id = comfy.queue({"1": node("RFGateWaitAsync", name=gate)}, events, extra_data=extra)
        events.until_progress(prompt_id)
        for path in ("/queue", "/api/jobs", f"/api/jobs/{prompt_id}", f"/ringfence/v1/prompts/{prompt_id}"):
            assert secret not in comfy.http.get(path).text, path
        succeeded(comfy.run({"1": node("RFGateOpenAsync", name=gate)}))
        events.until_ended(prompt_id)
    entry = comfy.entry(prompt_id)
    assert entry["prompt"][3]["shown"] == "yes"
    for path in ("/history", f"/history/{prompt_id}", "/api/jobs", f"/api/jobs/{prompt_id}"):
        assert secret not in comfy.http.get(path).text, path
    assert secret not in json.dumps(events.seen)
    held = [p for p in stack.data_dir.glob("ringfence.db*") if secret.encode() in p.read_bytes()]
    assert held == []
    assert secret not in stack.logs()
