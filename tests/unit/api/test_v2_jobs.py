"""The Comfy API v2: jobs and their events."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from fastapi import FastAPI

from api.settings import Settings
from api.v2 import events as events_module
from api.v2.jobs import LABELS
from engine import PromptInvalidError, QueueSnapshot
from engine.events import (
    Event,
    NodeExecuted,
    NodeProgress,
    NodesCached,
    ProgressChanged,
    PromptEnded,
    PromptFailed,
    PromptStarted,
)
from policies import LOCAL_TENANT, TenantId
from tests.unit.api.conftest import Start, client_for, make_settings
from tests.unit.api.fakes import PROMPT, FakeEngine
from tests.unit.api.live import serving

pytestmark = pytest.mark.anyio

T = LOCAL_TENANT
GRAPH = {
    "1": {"class_type": "Load", "inputs": {}},
    "2": {"class_type": "Blur", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
    "9": {"class_type": "Unused", "inputs": {}},
}
Frame = tuple[str, Any]


async def submit(client: httpx2.AsyncClient, **more: Any) -> Any:
    answer = await client.post("/api/v2/jobs", json={"workflow": GRAPH, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def code_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_a_job_goes_from_queued_to_succeeded_with_its_outputs(
    client: httpx2.AsyncClient, engine: FakeEngine, settings: Settings
) -> None:
    job = await submit(client, metadata={"client": "acme"})
    assert (job["status"], job["queue_position"], job["metadata"]) == ("queued", 1, {"client": "acme"})
    assert job["urls"]["self"] == f"/api/v2/jobs/{job['id']}"
    (settings.data_dir / "tenants" / "local" / "output" / "a.png").write_bytes(b"12345")
    outputs = {"3": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}], "text": ["hello"]}}
    await engine.run_one(T, outputs)
    done = (await client.get(job["urls"]["self"])).json()
    assert done["status"] == "succeeded"
    assert done["progress"]["value"] == 1.0
    assert done["metrics"]["execution_ms"] == 5
    image, text = done["outputs"]
    assert (image["node_id"], image["name"], image["type"], image["size_bytes"]) == ("3", "a.png", "image", 5)
    assert (image["content_type"], image["job_id"]) == ("image/png", job["id"])
    content = await client.get(image["url"], headers={"Range": "bytes=1-2"})
    assert (content.status_code, content.content) == (206, b"23")
    assert (text["type"], (await client.get(text["url"])).text) == ("text", "hello")
    again = (await client.get(job["urls"]["self"])).json()
    assert [output["id"] for output in again["outputs"]] == [image["id"], text["id"]]


async def test_a_job_is_seen_by_comfyuis_routes_and_theirs_by_it(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    job = await submit(client)
    assert (await client.get(f"/api/jobs/{job['id']}")).json()["status"] == "pending"
    assert engine.requests[0].client_id == job["id"]  # its events are nobody else's
    prompt_id = "11111111-2222-4333-8444-555555555555"
    await client.post("/prompt", json={"prompt": GRAPH, "prompt_id": prompt_id})
    assert (await client.get(f"/api/v2/jobs/{prompt_id}")).json()["status"] == "queued"


async def test_the_workflow_that_ran_can_be_read_back(client: httpx2.AsyncClient) -> None:
    job = await submit(client)
    answer = await client.get(f"/api/v2/jobs/{job['id']}/workflow")
    assert answer.json() == {"workflow": GRAPH, "format": "api"}


async def test_a_failed_job_says_which_node_and_why(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    job = await submit(client)
    error = {
        "node_id": "2",
        "node_type": "Blur",
        "exception_message": "boom\n",
        "traceback": ["line 1\n", "line 2"],
    }
    await engine.run_one(T, end="execution_error", error=error)
    failed = (await client.get(job["urls"]["self"])).json()
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "node_execution_error",
        "message": "boom",
        "node_id": "2",
        "class_type": "Blur",
        "traceback": "line 1\nline 2",
    }


async def test_a_cancelled_job_stays_known_whether_it_waited_or_ran(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    running, waiting = await submit(client), await submit(client)
    await engine.storage.claim_next(T)
    answer = await client.post(waiting["urls"]["cancel"])
    assert answer.json()["status"] == "canceled"
    assert (await client.get(waiting["urls"]["self"])).json()["status"] == "canceled"
    assert (await client.get(f"/api/v2/jobs/{waiting['id']}/workflow")).json()["workflow"] == GRAPH
    assert (await client.post(waiting["urls"]["cancel"])).json()["status"] == "canceled"
    assert (await client.post(running["urls"]["cancel"])).json()["status"] == "canceling"
    assert engine.interrupts == [(T, running["id"])]
    await engine.finish(T, running["id"], end="execution_interrupted")
    assert (await client.post(running["urls"]["cancel"])).json()["status"] == "canceled"


async def test_a_cancelled_job_that_ends_while_it_is_looked_up_is_not_said_to_run(
    client: httpx2.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await submit(client)
    await engine.storage.claim_next(T)
    real, looks = engine.queue, 0

    async def queue(tenant: TenantId) -> QueueSnapshot:
        nonlocal looks
        snapshot = await real(tenant)
        looks += bool(engine.interrupts)
        if looks == 2:  # it was told to stop, and that is known; this look is the answer's
            await engine.finish(T, job["id"], end="execution_interrupted")
            engine.say(PromptEnded(T, None, job["id"], 2000))
            await anyio.wait_all_tasks_blocked()
        return snapshot

    monkeypatch.setattr(engine, "queue", queue)
    assert (await client.post(job["urls"]["cancel"])).json()["status"] == "canceling"
    assert looks == 2
    assert (await client.get(job["urls"]["self"])).json()["status"] == "canceled"


async def test_a_job_whose_history_was_deleted_is_expired(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    job = await submit(client)
    await engine.run_one(T)
    await client.post("/history", json={"clear": True})
    assert (await client.get(job["urls"]["self"])).json()["status"] == "expired"


async def test_a_used_idempotency_key_is_refused_and_one_of_a_refused_job_is_free(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    headers = {"Idempotency-Key": "key-1"}
    engine.invalid = PromptInvalidError({"type": "prompt_no_outputs", "message": "no outputs"})
    body = {"workflow": GRAPH}
    assert await code_of(await client.post("/api/v2/jobs", json=body, headers=headers)) == (
        422,
        "invalid_workflow",
    )
    engine.invalid = None
    assert (await client.post("/api/v2/jobs", json=body, headers=headers)).status_code == 201
    reused = await client.post("/api/v2/jobs", json=body, headers=headers)
    assert await code_of(reused) == (422, "idempotency_key_reuse")
    assert (await engine.queue(T)).remaining == 1
    bad = await client.post("/api/v2/jobs", json=body, headers={"Idempotency-Key": "x" * 256})
    assert await code_of(bad) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "invalid_workflow")),
        ({"workflow": []}, (422, "invalid_workflow")),
        ({"workflow": {"nodes": [], "links": []}}, (422, "workflow_format_ui")),
        ({"workflow": GRAPH, "inputs": {}}, (422, "invalid_workflow")),
        ({"workflow": GRAPH, "extra_data": {"other": 1}}, (400, "invalid_request")),
        ({"workflow": GRAPH, "metadata": 3}, (422, "metadata_invalid")),
        ({"workflow": GRAPH, "metadata": {str(i): "" for i in range(17)}}, (422, "metadata_invalid")),
        ({"workflow": {"1": {"__type": "core/ASSET", "info": {"id": "nope"}}}}, (422, "missing_asset")),
        ({"workflow": {"1": {"__type": "core/ASSET"}}}, (422, "missing_asset")),
    ],
)
async def test_a_request_that_cannot_run_is_refused_with_the_apis_code(
    client: httpx2.AsyncClient, engine: FakeEngine, body: Any, expected: tuple[int, str]
) -> None:
    assert await code_of(await client.post("/api/v2/jobs", json=body)) == expected
    assert not engine.requests


async def test_what_is_no_json_or_no_object_is_a_400(client: httpx2.AsyncClient) -> None:
    for content in (b"{", b"[]", b""):
        assert await code_of(await client.post("/api/v2/jobs", content=content)) == (400, "invalid_request")


async def test_a_full_queue_says_when_to_try_again(tmp_path: Path, start: Start) -> None:
    async with start(make_settings(tmp_path, queue_limit=1)) as app, client_for(app) as client:
        await submit(client)
        answer = await client.post("/api/v2/jobs", json={"workflow": GRAPH})
        assert await code_of(answer) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0


async def test_refused_nodes_are_named_in_message_and_details(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    errors = {"2": {"class_type": "Blur", "errors": [{"message": "Value too big", "details": "radius"}]}}
    engine.invalid = PromptInvalidError({"type": "prompt_outputs_failed_validation", "message": "no"}, errors)
    error = (await client.post("/api/v2/jobs", json={"workflow": GRAPH})).json()["error"]
    assert error["message"] == "Node 2 (Blur): Value too big: radius"
    assert error["details"]["node_errors"] == errors


async def test_the_api_key_of_a_request_is_not_shown_to_anybody(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    job = await submit(client, extra_data={"api_key_comfy_org": "SECRET"})
    assert engine.requests[0].extra_data["api_key_comfy_org"] == "SECRET"
    for path in (job["urls"]["self"], "/queue", f"/api/jobs/{job['id']}"):
        assert "SECRET" not in (await client.get(path)).text


async def test_unknown_jobs_are_404_in_the_apis_shape(client: httpx2.AsyncClient) -> None:
    for job_id in (
        "7f3d2c1b-9a8e-4d6f-b012-3c4d5e6f7a8b",
        "nonsense",
        "7F3D2C1B-9A8E-4D6F-B012-3C4D5E6F7A8B",
    ):
        for path in ("", "/workflow", "/events"):
            assert await code_of(await client.get(f"/api/v2/jobs/{job_id}{path}")) == (404, "not_found")
        assert await code_of(await client.post(f"/api/v2/jobs/{job_id}/cancel")) == (404, "not_found")


async def test_jobs_are_listed_newest_first_page_by_page_and_by_label(client: httpx2.AsyncClient) -> None:
    ids = [(await submit(client, metadata={"run": str(n % 2)}))["id"] for n in range(5)]
    first = (await client.get("/api/v2/jobs", params={"limit": 3})).json()
    assert [job["id"] for job in first["jobs"]] == ids[:1:-1]
    second = (await client.get("/api/v2/jobs", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [job["id"] for job in second["jobs"]] == ids[1::-1]
    assert "next_cursor" not in second
    odd = (await client.get("/api/v2/jobs", params={"metadata[run]": "1"})).json()
    assert [job["id"] for job in odd["jobs"]] == [ids[3], ids[1]]
    assert (await client.get("/api/v2/jobs", params={"status": "succeeded"})).json() == {"jobs": []}
    for params, code in (
        ({"cursor": "x"}, "invalid_cursor"),
        ({"cursor": "YWJj"}, "invalid_cursor"),
        ({"limit": "0"}, "invalid_request"),
        ({"status": "odd"}, "invalid_request"),
    ):
        assert await code_of(await client.get("/api/v2/jobs", params=params)) == (400, code)


async def test_a_tenant_sees_neither_jobs_nor_keys_of_another(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], app: FastAPI
) -> None:
    a, b = studio
    headers = {"Idempotency-Key": "same"}
    job = (await a.post("/api/v2/jobs", json={"workflow": GRAPH}, headers=headers)).json()
    assert (await b.post("/api/v2/jobs", json={"workflow": GRAPH}, headers=headers)).status_code == 201
    assert (await b.get(job["urls"]["self"])).status_code == 404
    assert (await b.post(job["urls"]["cancel"])).status_code == 404
    assert len((await b.get("/api/v2/jobs")).json()["jobs"]) == 1
    async with client_for(app) as nobody:
        assert await code_of(await nobody.get("/api/v2/jobs")) == (401, "unauthorized")


# -- events ----------------------------------------------------------------------------------------------------------


class Reader:
    """Frames of one event stream; comments come as ("", text)."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> Frame | None:
        kind = ""
        with anyio.fail_after(60):
            async for line in self._lines:
                if line.startswith(":"):
                    return "", line[1:].strip()
                if line.startswith("event: "):
                    kind = line[7:]
                if line.startswith("data: "):
                    return kind, json.loads(line[6:])
        return None

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        frames = []
        while (frame := await self.next()) is not None:
            frames.append(frame)
            if wanted(frame):
                break
        return frames


@asynccontextmanager
async def listening(url: str, job_id: str) -> AsyncIterator[Reader]:
    async with (
        httpx2.AsyncClient(base_url=url, trust_env=False, verify=False) as client,
        client.stream("GET", f"/api/v2/jobs/{job_id}/events") as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Reader(answer.aiter_lines())


@pytest.fixture
async def url(app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    async with serving(app, settings) as url:
        yield url


def node(node_id: str, value: float, state: str = "running", most: float = 10) -> NodeProgress:
    return NodeProgress(node_id, value, most, state, node_id, None, node_id)


def said(engine: FakeEngine, kind: Callable[..., Event], job_id: str, **more: Any) -> None:
    engine.say(kind(tenant=T, client_id=job_id, prompt_id=job_id, timestamp=1, **more))


async def test_events_tell_a_job_from_where_it_stands_to_its_end(
    client: httpx2.AsyncClient, engine: FakeEngine, url: str, settings: Settings
) -> None:
    engine.outputs = ["3"]
    job_id = (await submit(client))["id"]
    (settings.data_dir / "tenants" / "local" / "output" / "a.png").write_bytes(b"12345")
    ui = {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}
    async with listening(url, job_id) as events:
        assert await events.next() == ("status", {"status": "queued", "queue_position": 1})
        await engine.storage.claim_next(T)
        said(engine, PromptStarted, job_id)
        assert await events.next() == ("status", {"status": "running"})
        said(engine, NodesCached, job_id, nodes=["1", "9"])
        frame = await events.next()
        assert frame is not None
        assert (frame[0], frame[1]["nodes_done"], frame[1]["nodes_total"]) == ("progress", 1, 3)
        preview = ("JPEG", b"\xff\xd8picture")
        said(
            engine,
            ProgressChanged,
            job_id,
            nodes={"2": node("2", 5)},
            changed="2",
            legacy=True,
            preview=preview,
        )
        seen = await events.until(lambda frame: frame[0] == "preview")
        assert seen[-1][1] == {
            "node_id": "2",
            "content_type": "image/jpeg",
            "data_base64": base64.b64encode(b"\xff\xd8picture").decode(),
        }
        said(engine, NodeExecuted, job_id, node_id="3", display_id="3", output=ui)
        seen = await events.until(lambda frame: frame[0] == "output")
        assert (seen[-1][1]["name"], seen[-1][1]["size_bytes"]) == ("a.png", 5)
        await engine.finish(T, job_id, {"3": ui})
        said(engine, PromptEnded, job_id)
        rest = await events.until(lambda _frame: False)
    assert rest[-1] == ("status", {"status": "succeeded"})
    assert rest[-2][1]["value"] == 1.0
    assert not [frame for frame in rest if frame[0] == "output"]  # told once


async def test_who_comes_late_hears_everything_that_still_matters(
    client: httpx2.AsyncClient, engine: FakeEngine, url: str
) -> None:
    job_id = (await submit(client))["id"]
    await engine.storage.claim_next(T)
    said(engine, PromptStarted, job_id)
    said(engine, NodesCached, job_id, nodes=["1"])
    nodes = {"2": node("2", 5)}
    said(engine, ProgressChanged, job_id, nodes=nodes, changed="2", preview=("PNG", b"p"))
    said(engine, NodeExecuted, job_id, node_id="3", display_id="3", output={"text": ["hi"]})
    async with listening(url, job_id) as events:
        frames = await events.until(lambda frame: frame[0] == "output")
        assert [frame[0] for frame in frames] == ["status", "progress", "preview", "output"]
        assert (frames[1][1]["current_node"], frames[1][1]["step"], frames[1][1]["steps"]) == ("2", 5, 10)
    shown = (await client.get(f"/api/v2/jobs/{job_id}")).json()
    assert shown["progress"]["current_node_class"] == "Blur"
    assert len(shown["outputs"]) == 1


async def test_an_ended_job_tells_its_outputs_before_its_status(
    client: httpx2.AsyncClient, engine: FakeEngine, url: str
) -> None:
    job_id = (await submit(client))["id"]
    await engine.run_one(T, {"3": {"text": ["hi"]}})
    async with listening(url, job_id) as events:
        frames = await events.until(lambda _frame: False)
    assert [frame[0] for frame in frames] == ["progress", "output", "status"]


async def test_a_failure_is_logged_with_its_text(
    client: httpx2.AsyncClient, engine: FakeEngine, url: str
) -> None:
    job_id = (await submit(client))["id"]
    await engine.storage.claim_next(T)
    async with listening(url, job_id) as events:
        await events.next()
        details = {"exception_type": "ValueError", "exception_message": "boom\x1b[2J\n"}
        said(engine, PromptFailed, job_id, details=details)
        assert await events.next() == ("log", {"level": "error", "message": "ValueError: boom\\x1b[2J"})
        await engine.finish(T, job_id, end="execution_error", error={"exception_message": "boom"})
        said(engine, PromptEnded, job_id)
        frames = await events.until(lambda _frame: False)
    assert frames[-1] == ("status", {"status": "failed"})


async def test_the_position_in_the_queue_and_a_cancellation_are_told(
    client: httpx2.AsyncClient, engine: FakeEngine, url: str
) -> None:
    first, second = await submit(client), await submit(client)
    async with listening(url, second["id"]) as events:
        assert await events.next() == ("status", {"status": "queued", "queue_position": 2})
        await client.post(first["urls"]["cancel"])
        await engine.queue_changed(T)
        assert await events.next() == ("status", {"status": "queued", "queue_position": 1})
        await client.post(second["urls"]["cancel"])
        await engine.queue_changed(T)
        assert await events.until(lambda _frame: False) == [("status", {"status": "canceled"})]


async def test_silence_is_filled_with_comments(
    client: httpx2.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "KEEP_ALIVE_S", 0.05)
    job_id = (await submit(client))["id"]
    async with listening(url, job_id) as events:
        await events.next()
        assert await events.next() == ("", "keep-alive")


async def test_open_event_streams_are_counted(tmp_path: Path, start: Start) -> None:
    settings = make_settings(tmp_path, max_event_streams=1)
    async with start(settings) as app, client_for(app) as client, serving(app, settings) as url:
        job_id = (await submit(client))["id"]
        async with listening(url, job_id) as events:
            await events.next()
            answer = await client.get(f"/api/v2/jobs/{job_id}/events")
            assert await code_of(answer) == (429, "too_many_streams")
            assert "retry-after" in answer.headers


async def test_many_streams_that_are_asked_for_at_once_are_counted_too(tmp_path: Path, start: Start) -> None:
    settings = make_settings(tmp_path, max_event_streams=3)
    async with start(settings) as app, client_for(app) as client, serving(app, settings) as url:
        job_id = (await submit(client))["id"]
        statuses: list[int] = []
        asked = anyio.Event()

        async def listen(other: httpx2.AsyncClient) -> None:
            async with other.stream("GET", f"{url}/api/v2/jobs/{job_id}/events") as answer:
                statuses.append(answer.status_code)
                if len(statuses) == 20:
                    asked.set()
                await asked.wait()

        async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None)) as other:
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(listen, other)
        assert sorted(statuses) == [200] * 3 + [429] * 17


async def test_a_queue_that_keeps_moving_is_looked_at_now_and_then(
    client: httpx2.AsyncClient, engine: FakeEngine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(client)
    second = await submit(client)
    async with listening(url, second["id"]) as events:
        assert await events.next() == ("status", {"status": "queued", "queue_position": 2})
        looks = 0
        queue = engine.queue

        async def counted(tenant: TenantId) -> Any:
            nonlocal looks
            looks += 1
            return await queue(tenant)

        monkeypatch.setattr(engine, "queue", counted)
        for _ in range(500):
            await engine.queue_changed(T)
            await (
                anyio.lowlevel.checkpoint()
            )  # it waits for nothing, and whoever listens has a small buffer here
        await client.post(second["urls"]["cancel"])
        await engine.queue_changed(T)
        assert await events.until(lambda _frame: False) == [("status", {"status": "canceled"})]
    assert looks < 25


async def test_an_open_event_stream_does_not_hold_up_the_end_of_the_server(
    tmp_path: Path, start: Start
) -> None:
    settings = make_settings(tmp_path, shutdown_s=240)
    async with start(settings) as app, client_for(app) as client:
        job_id = (await submit(client))["id"]
        async with contextlib.AsyncExitStack() as stack:
            with anyio.fail_after(30):  # the server itself would wait a minute
                async with serving(app, settings) as url:
                    events = await stack.enter_async_context(listening(url, job_id))
                    await events.next()
            assert await events.next() is None


@pytest.mark.parametrize("labels", [5, ["a"], {"a": 5}, "x" * 5000, {"a": "b"}])
async def test_a_job_that_comfyuis_api_queued_is_shown_whatever_its_extra_data_hold(
    client: httpx2.AsyncClient, engine: FakeEngine, labels: Any
) -> None:
    job_id = "00000000-0000-4000-8000-000000000001"
    body = {"prompt": PROMPT, "prompt_id": job_id, "extra_data": {"ringfence_metadata": labels}}
    assert (await client.post("/prompt", json=body)).status_code == 200
    shown = await client.get(f"/api/v2/jobs/{job_id}")
    assert shown.status_code == 200
    is_right = isinstance(labels, str) or labels == {"a": "b"}
    assert shown.json()["metadata"] == (labels if is_right else None)


async def test_a_job_passes_through_the_prompt_handlers_of_packs_which_do_not_change_its_labels(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    seen: list[Any] = []

    def handle(body: Any) -> Any:
        seen.append(body)
        prompt = {**body["prompt"], "3": {**body["prompt"]["3"], "inputs": {"images": ["1", 0]}}}
        return {"prompt": prompt, "extra_data": {LABELS: {"client": "forged"}, "pack": "x"}}

    engine.on_prompt = handle
    job = await submit(client, metadata={"client": "acme"})
    assert seen[0]["prompt"] == GRAPH
    assert job["metadata"] == {"client": "acme"}
    read_back = (await client.get(f"{job['urls']['self']}/workflow")).json()
    assert read_back["workflow"]["3"]["inputs"] == {"images": ["1", 0]}
    assert (await submit(client))["metadata"] in (None, {})
