"""POST /prompt, the queue, interrupting."""

from __future__ import annotations

import json
import uuid

import httpx2
import pytest

from engine import PromptInvalidError
from policies import LOCAL_TENANT
from tests.unit.api.fakes import PROMPT, FakeEngine

pytestmark = pytest.mark.anyio


async def test_a_prompt_is_answered_with_id_number_and_node_errors(client: httpx2.AsyncClient) -> None:
    prompt_id = str(uuid.uuid4())
    for number, path in enumerate(("/prompt", "/api/prompt")):
        body = {"prompt": PROMPT, "prompt_id": prompt_id if not number else None}
        answer = await client.post(path, json=body)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.json()["number"] == number
        assert answer.json()["node_errors"] == {}
    assert (await client.get("/prompt")).json() == {"exec_info": {"queue_remaining": 2}}


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_json_is_read_whatever_its_content_type(
    client: httpx2.AsyncClient, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await client.post("/prompt", content=json.dumps({"prompt": PROMPT}).encode(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"prompt": NaN}',
        b"\xff\xfe",
        b'{"a": 1} x',
        b'"\\ud800"',
        b'{"prompt": {}}' + b"}",
    ],
)
async def test_what_is_not_json_is_a_400_in_comfyuis_shape(client: httpx2.AsyncClient, body: bytes) -> None:
    answer = await client.post("/prompt", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] in ("invalid_json", "no_prompt")
    assert answer.json()["node_errors"] == {}


async def test_a_prompt_out_of_a_picture_may_have_nan_which_is_null(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    body = (
        b'{"prompt": {"1": {"class_type": "X", "inputs": {"text": "NaN, \\"NaN\\" and -Infinity"}, '
        b'"is_changed": [NaN, Infinity, -Infinity, 1.5]}}}'
    )
    assert (await client.post("/prompt", content=body)).status_code == 200
    (request,) = engine.requests
    assert request.prompt["1"]["inputs"]["text"] == 'NaN, "NaN" and -Infinity'
    assert request.prompt["1"]["is_changed"] == [None, None, None, 1.5]


async def test_a_client_id_may_be_a_number(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.post("/prompt", json={"prompt": PROMPT, "client_id": 7})).status_code == 200
    assert engine.requests[0].client_id == "7"


@pytest.mark.parametrize("depth", [128, 200, 100_000])
async def test_deep_json_is_refused(client: httpx2.AsyncClient, depth: int) -> None:
    answer = await client.post("/prompt", content=b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}")
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ([], "no_prompt"),
        ("text", "no_prompt"),
        ({}, "no_prompt"),
        ({"prompt": None}, "no_prompt"),
        ({"prompt": []}, "invalid_prompt"),
        ({"prompt": PROMPT, "prompt_id": "x"}, "invalid_prompt_id"),
        ({"prompt": PROMPT, "prompt_id": 7}, "invalid_prompt_id"),
        ({"prompt": PROMPT, "prompt_id": "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}, "invalid_prompt_id"),
        ({"prompt": PROMPT, "prompt_id": "a0eebc999c0b4ef8bb6d6bb9bd380a11"}, "invalid_prompt_id"),
        ({"prompt": PROMPT, "prompt_id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\n"}, "invalid_prompt_id"),
        ({"prompt": PROMPT, "client_id": True}, "invalid_client_id"),
        ({"prompt": PROMPT, "client_id": [7]}, "invalid_client_id"),
        ({"prompt": PROMPT, "client_id": "x" * 1000}, "invalid_client_id"),
        ({"prompt": PROMPT, "extra_data": []}, "invalid_prompt"),
        ({"prompt": PROMPT, "number": "1"}, "invalid_prompt"),
        ({"prompt": PROMPT, "number": True}, "invalid_prompt"),
        ({"prompt": PROMPT, "number": 1e305}, "invalid_prompt"),
        ({"prompt": PROMPT, "partial_execution_targets": "1"}, "invalid_prompt"),
        ({"prompt": PROMPT, "partial_execution_targets": [1]}, "invalid_prompt"),
    ],
)
async def test_wrong_fields_are_refused_by_type(client: httpx2.AsyncClient, body: object, kind: str) -> None:
    answer = await client.post("/prompt", content=json.dumps(body).encode())
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == kind


async def test_the_engines_refusal_is_passed_on_as_it_is(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    error = {"type": "prompt_no_outputs", "message": "m", "details": "", "extra_info": {}}
    engine.invalid = PromptInvalidError(error, {"1": {"errors": []}})
    answer = await client.post("/prompt", json={"prompt": PROMPT})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": error, "node_errors": {"1": {"errors": []}}},
    )


async def test_a_repeated_id_is_a_409_and_a_full_queue_a_429(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    body = {"prompt": PROMPT, "prompt_id": str(uuid.uuid4())}
    await client.post("/prompt", json=body)
    again = await client.post("/prompt", json=body)
    assert (again.status_code, again.json()["error"]["type"]) == (409, "prompt_duplicate")
    engine.settings = engine.settings.model_copy(update={"queue_limit": 1})
    full = await client.post("/prompt", json={"prompt": PROMPT})
    assert (full.status_code, full.json()["error"]["type"]) == (429, "queue_full")
    assert "retry-after" in full.headers


async def test_client_id_priority_and_usage_reach_the_engine(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    body = {
        "prompt": PROMPT, "client_id": "me", "front": True, "partial_execution_targets": ["1"],
        "extra_data": {"extra_pnginfo": {"workflow": {}}},
    }  # fmt: skip
    await client.post("/prompt", json=body, headers={"Comfy-Usage-Source": "test"})
    request = engine.requests[0]
    assert (request.client_id, request.front, request.number, request.targets) == ("me", True, None, ("1",))
    assert request.extra_data["comfy_usage_source"] == "test"
    await client.post("/prompt", json={"prompt": PROMPT, "number": 3, "extra_data": {"client_id": "other"}})
    assert (engine.requests[1].client_id, engine.requests[1].number) == ("other", 3.0)


async def test_secrets_are_not_in_the_queue_or_the_history(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    secret = "sk-secret"
    extra = {"api_key_comfy_org": secret, "auth_token_comfy_org": secret, "kept": 1}
    await client.post("/prompt", json={"prompt": PROMPT, "extra_data": extra})
    assert secret not in (await client.get("/queue")).text
    await engine.run_one(LOCAL_TENANT)
    for path in ("/history", "/api/jobs"):
        assert secret not in (await client.get(path)).text


async def test_the_queue_shows_rows_and_can_be_cleared(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    for _ in range(3):
        await client.post("/prompt", json={"prompt": PROMPT, "client_id": "c"})
    await engine.storage.claim_next(LOCAL_TENANT)
    queue = (await client.get("/api/queue")).json()
    assert [row[1] for row in queue["queue_running"]] == ["p1"]
    number, prompt_id, prompt, extra, outputs = queue["queue_pending"][0]
    assert (number, prompt_id, prompt, extra["client_id"], outputs) == (1, "p2", PROMPT, "c", ["1"])
    assert (await client.post("/queue", json={"delete": ["p2", "unknown"]})).content == b""
    assert [row[1] for row in (await client.get("/queue")).json()["queue_pending"]] == ["p3"]
    assert (await client.post("/queue", json={"clear": True})).status_code == 200
    assert (await client.get("/prompt")).json()["exec_info"]["queue_remaining"] == 1


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"prompt_id": null}'])
async def test_interrupt_takes_any_body(client: httpx2.AsyncClient, engine: FakeEngine, body: bytes) -> None:
    answer = await client.post("/interrupt", content=body)
    assert (answer.status_code, answer.content) == (200, b"")
    assert engine.interrupts == [(LOCAL_TENANT, None)]


async def test_interrupt_can_name_its_prompt(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    await client.post("/interrupt", json={"prompt_id": "p1"})
    assert engine.interrupts == [(LOCAL_TENANT, "p1")]


@pytest.mark.parametrize(
    ("body", "freed"),
    [
        ({"unload_models": True}, (True, False)),
        ({"free_memory": True}, (True, True)),
        ({"unload_models": False, "free_memory": True}, (False, True)),
        ({}, (False, False)),
    ],
)
async def test_freeing_memory_implies_unloading_unless_said(
    client: httpx2.AsyncClient, engine: FakeEngine, body: dict[str, bool], freed: tuple[bool, bool]
) -> None:
    await client.post("/free", json=body)
    assert engine.freed == [freed]


async def test_history_pages_and_forgets(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    for number in range(3):
        await engine.finish(LOCAL_TENANT, f"p{number}")
    assert list((await client.get("/history")).json()) == ["p0", "p1", "p2"]
    assert list((await client.get("/history?max_items=1")).json()) == ["p2"]
    assert list((await client.get("/api/history?offset=1&max_items=1")).json()) == ["p1"]
    assert (await client.get("/history?max_items=x")).status_code == 400
    assert (await client.get("/history?max_items=99999999999999999999")).status_code == 400
    assert list((await client.get("/history/p1")).json()) == ["p1"]
    assert (await client.get("/history/unknown")).json() == {}
    assert (await client.post("/history", json={"delete": ["p1"]})).content == b""
    assert list((await client.get("/history")).json()) == ["p0", "p2"]
    await client.post("/history", json={"clear": True})
    assert (await client.get("/history")).json() == {}


async def test_jobs_show_queue_and_history_as_one_list(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await engine.finish(
        LOCAL_TENANT, "done", {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}
    )
    await engine.finish(LOCAL_TENANT, "stopped", end="execution_interrupted")
    await engine.finish(LOCAL_TENANT, "bad", end="execution_error", error={"exception_message": "boom"})
    for _ in range(2):
        await client.post(
            "/prompt", json={"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": {"id": "w"}}}}
        )
    await engine.storage.claim_next(LOCAL_TENANT)
    answer = (await client.get("/api/jobs?limit=200&offset=0")).json()
    assert {job["id"]: job["status"] for job in answer["jobs"]} == {
        "p1": "in_progress", "p2": "pending", "done": "completed", "stopped": "cancelled", "bad": "failed",
    }  # fmt: skip
    assert answer["pagination"] == {"offset": 0, "limit": 200, "total": 5, "has_more": False}
    jobs = {job["id"]: job for job in answer["jobs"]}
    assert jobs["done"]["preview_output"]["nodeId"] == "9"
    assert jobs["done"]["outputs_count"] == 1
    assert jobs["bad"]["execution_error"]["exception_message"] == "boom"
    assert jobs["p1"]["workflow_id"] == "w"
    assert all(isinstance(job["create_time"], int) for job in answer["jobs"])
    only = (await client.get("/api/jobs?status=pending,in_progress&limit=1")).json()
    assert [only["pagination"]["total"], only["pagination"]["has_more"], len(only["jobs"])] == [2, True, 1]
    assert (await client.get("/jobs")).status_code == 404


@pytest.mark.parametrize(
    "query", ["status=odd", "limit=0", "limit=x", "offset=x", "sort_by=x", "sort_order=x"]
)
async def test_wrong_job_queries_are_refused(client: httpx2.AsyncClient, query: str) -> None:
    answer = await client.get(f"/api/jobs?{query}")
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


async def test_one_job_has_its_workflow_and_outputs(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    await engine.finish(LOCAL_TENANT, "done", {"9": {"result": ["x/y.glb", None]}})
    job = (await client.get("/api/jobs/done")).json()
    assert job["workflow"]["prompt"] == PROMPT
    assert job["outputs"]["9"]["result"] == [
        {"filename": "x/y.glb", "type": "output", "subfolder": "", "mediaType": "3d"}
    ]
    assert job["execution_status"]["completed"] is True
    assert (await client.get("/api/jobs/unknown")).status_code == 404


async def test_jobs_are_cancelled_one_or_many(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for prompt_id in ids:
        await client.post("/prompt", json={"prompt": PROMPT, "prompt_id": prompt_id})
    assert (await client.post(f"/api/jobs/{ids[0]}/cancel")).json() == {"cancelled": True}
    assert (await client.post(f"/api/jobs/{ids[0]}/cancel")).json() == {"cancelled": False}
    assert (await client.post("/api/jobs/cancel", json={"job_ids": ids})).json() == {"cancelled": True}
    assert (await client.post("/api/jobs/cancel", json={"job_ids": "x"})).status_code == 400
    wrong = await client.post("/api/jobs/cancel", json={"job_ids": ["x", ids[0]]})
    assert (wrong.status_code, wrong.json()["invalid_ids"]) == (400, ["x"])
    assert (await client.post("/api/jobs/cancel", content=b"x")).status_code == 400


async def test_object_info_is_valid_json_for_browsers(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/api/object_info")
    assert answer.json()["Blur"]["input"]["required"]["x"] == ["FLOAT", {"max": None}]
    assert list((await client.get("/object_info/Blur")).json()) == ["Blur"]
    assert (await client.get("/object_info/Unknown")).json() == {}
