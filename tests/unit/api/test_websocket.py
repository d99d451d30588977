"""The event stream, over a real socket."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api import logs
from api.loop_share import LoopShare, of_tenant
from api.settings import Settings
from engine.events import (
    NodeBlocked,
    NodeExecuted,
    NodeProgress,
    NodesCached,
    NodeStarted,
    PackMessage,
    ProgressChanged,
    PromptEnded,
    PromptFailed,
    PromptInterrupted,
    PromptStarted,
    PromptSucceeded,
    QueueChanged,
)
from policies import LOCAL_TENANT, TenantId
from tests.unit.api.conftest import Start, make_settings
from tests.unit.api.fakes import FakeEngine
from tests.unit.api.live import serving

pytestmark = pytest.mark.anyio

T, P, NOW = LOCAL_TENANT, "prompt-1", 1795309102266


@pytest.fixture
async def url(app: FastAPI, settings: Settings) -> AsyncIterator[str]:
    async with serving(app, settings) as url:
        yield url.replace("http", "ws")


async def receive(socket: ClientConnection) -> Any:
    with anyio.fail_after(60):
        frame = await socket.recv()
    return json.loads(frame) if isinstance(frame, str) else frame


async def kinds(socket: ClientConnection, count: int) -> list[str]:
    return [(await receive(socket))["type"] for _ in range(count)]


async def until_closed(socket: ClientConnection) -> None:
    with anyio.fail_after(60):
        while True:
            await socket.recv()


def node(state: str, value: float = 0.0) -> NodeProgress:
    return NodeProgress("1", value, 1.0, state, "1", None, "1")


def progress(client: str | None, **more: Any) -> ProgressChanged:
    return ProgressChanged(T, client, P, NOW, {"1": node("running", 0.5)}, "1", **more)


async def test_the_first_frame_is_status_with_the_session_id(url: str) -> None:
    async with connect(f"{url}/ws?clientId=me") as socket:
        first = await receive(socket)
        assert first == {
            "type": "status",
            "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"},
        }
    for path in ("/ws", "/api/ws", "/ws?clientId="):
        async with connect(f"{url}{path}") as socket:
            sid = (await receive(socket))["data"]["sid"]
            assert len(sid) == 32


async def test_a_client_that_comes_back_hears_which_node_runs(url: str, engine: FakeEngine) -> None:
    engine.running_nodes[T, "me"] = "7"
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        assert await receive(socket) == {"type": "executing", "data": {"node": "7"}}


async def test_a_prompt_is_told_in_comfyuis_words_and_order(url: str, engine: FakeEngine) -> None:
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        for event in (
            QueueChanged(T, None, 1),
            PromptStarted(T, "me", P, NOW),
            NodesCached(T, "me", P, NOW, ["2"]),
            ProgressChanged(T, "me", P, NOW, {"1": node("running")}, "1"),
            NodeStarted(T, "me", P, NOW, "1", "1"),
            NodeExecuted(T, "me", P, NOW, "1", "1", {"images": []}),
            PromptSucceeded(T, "me", P, NOW),
            QueueChanged(T, None, 0),
            PromptEnded(T, "me", P, NOW),
        ):
            engine.say(event)
        told = [await receive(socket) for _ in range(9)]
    assert told == [
        {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}},
        {"type": "execution_start", "data": {"prompt_id": P, "timestamp": NOW}},
        {"type": "execution_cached", "data": {"nodes": ["2"], "prompt_id": P, "timestamp": NOW}},
        {
            "type": "progress_state",
            "data": {
                "prompt_id": P,
                "nodes": {
                    "1": {
                        "value": 0.0, "max": 1.0, "state": "running", "node_id": "1", "prompt_id": P,
                        "display_node_id": "1", "parent_node_id": None, "real_node_id": "1",
                    }
                },
            },
        },
        {"type": "executing", "data": {"node": "1", "display_node": "1", "prompt_id": P}},
        {"type": "executed", "data": {"node": "1", "display_node": "1", "output": {"images": []}, "prompt_id": P}},
        {"type": "execution_success", "data": {"prompt_id": P, "timestamp": NOW}},
        {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}},
        {"type": "executing", "data": {"node": None, "prompt_id": P}},
    ]  # fmt: skip


async def test_errors_interrupts_and_blockers_have_their_shapes(url: str, engine: FakeEngine) -> None:
    details = {"node_id": "1", "node_type": "X", "exception_message": "boom\n"}
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        engine.say(PromptFailed(T, "me", P, NOW, details))
        engine.say(PromptInterrupted(T, "me", P, NOW, "1", "X", ["2"]))
        engine.say(NodeBlocked(T, "me", P, NOW, "3", "Y", "no", ["2"]))
        failed, interrupted, blocked = [await receive(socket) for _ in range(3)]
    assert failed == {"type": "execution_error", "data": {**details, "prompt_id": P, "timestamp": NOW}}
    assert interrupted == {
        "type": "execution_interrupted",
        "data": {"node_id": "1", "node_type": "X", "executed": ["2"], "prompt_id": P, "timestamp": NOW},
    }
    assert blocked["type"] == "execution_error"
    assert blocked["data"] == {
        "prompt_id": P, "node_id": "3", "node_type": "Y", "executed": ["2"], "traceback": [], "current_inputs": [],
        "current_outputs": [], "exception_type": "ExecutionBlocked", "exception_message": "Execution Blocked: no",
    }  # fmt: skip


async def test_only_the_addressee_hears_a_prompt_and_everybody_the_queue(
    url: str, engine: FakeEngine
) -> None:
    async with connect(f"{url}/ws?clientId=me") as mine, connect(f"{url}/ws?clientId=other") as other:
        await receive(mine), await receive(other)
        engine.say(PromptStarted(T, "me", P, NOW))
        engine.say(QueueChanged(T, None, 3))
        assert await kinds(mine, 2) == ["execution_start", "status"]
        assert await kinds(other, 1) == ["status"]


async def test_a_prompt_without_a_client_is_mostly_silent(url: str, engine: FakeEngine) -> None:
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        for event in (
            PromptStarted(T, None, P, NOW),
            NodesCached(T, None, P, NOW, []),
            NodeStarted(T, None, P, NOW, "1", "1"),
            NodeExecuted(T, None, P, NOW, "1", "1", None),
            PromptFailed(T, None, P, NOW, {}),
            PromptSucceeded(T, None, P, NOW),
            PromptEnded(T, None, P, NOW),
            progress(None),
            NodeBlocked(T, None, P, NOW, "3", "Y", "no", []),
            PromptInterrupted(T, None, P, NOW, "1", "X", []),
            PackMessage(T, None, "my.event", {"x": 1}),
        ):
            engine.say(event)
        assert await kinds(socket, 4) == [
            "progress_state",
            "execution_error",
            "execution_interrupted",
            "my.event",
        ]


async def test_previews_take_the_form_that_the_client_announced(url: str, engine: FakeEngine) -> None:
    event = progress("me", legacy=True, preview=("JPEG", b"\xff\xd8jpeg"))
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        engine.say(event)
        assert (await kinds(socket, 2)) == ["progress_state", "progress"]
        assert await receive(socket) == struct.pack(">II", 1, 1) + b"\xff\xd8jpeg"
        await socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        flags = await receive(socket)
        assert flags["type"] == "feature_flags"
        assert flags["data"]["supports_preview_metadata"] is True
        assert flags["data"]["max_upload_size"] == 100 * 2**20
        engine.say(event)
        assert (await receive(socket))["type"] == "progress_state"
        frame = await receive(socket)
        kind, length = struct.unpack(">II", frame[:8])
        assert kind == 4
        assert json.loads(frame[8 : 8 + length]) == {
            "node_id": "1", "prompt_id": P, "display_node_id": "1", "parent_node_id": None, "real_node_id": "1",
            "image_type": "image/jpeg",
        }  # fmt: skip
        assert frame[8 + length :] == b"\xff\xd8jpeg"
        assert (await receive(socket))["type"] == "progress"


async def test_whole_steps_are_written_as_integers(url: str, engine: FakeEngine) -> None:
    steps = NodeProgress("1", 3.0, 4.0, "running", "1", None, "1")
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        engine.say(ProgressChanged(T, "me", P, NOW, {"1": steps}, "1", legacy=True))
        state, told = await receive(socket), await receive(socket)
    for data in (state["data"]["nodes"]["1"], told["data"]):
        assert [type(data[name]) for name in ("value", "max")] == [int, int]


async def test_flags_count_only_in_the_first_json_frame(url: str, engine: FakeEngine) -> None:
    flags = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
    async with connect(f"{url}/ws?clientId=a") as socket:
        await receive(socket)
        for frame in ("not json", "[]", "1", "null"):  # no messages; ComfyUI goes on waiting for one, too
            await socket.send(frame)
        await socket.send(flags)
        assert (await receive(socket))["type"] == "feature_flags"
    async with connect(f"{url}/ws?clientId=b") as socket:
        await receive(socket)
        for frame in ('{"type": "other"}', flags, b"\x00", "{" * 100_0):
            await socket.send(frame)
        engine.say(QueueChanged(T, None, 1))
        assert (await receive(socket))["type"] == "status"


async def test_what_happens_as_soon_as_a_client_is_connected_is_told_after_the_first_frame(
    url: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_while_connecting = []

    async def remaining(tenant: TenantId) -> int:
        engine.say(QueueChanged(tenant, None, 7))
        told_while_connecting.append(tenant)
        return 0

    monkeypatch.setattr(engine, "remaining", remaining)
    async with connect(f"{url}/ws?clientId=me") as socket:
        first, second = await receive(socket), await receive(socket)
    assert told_while_connecting == [T]
    assert first["data"] == {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"}
    assert second["data"] == {"status": {"exec_info": {"queue_remaining": 7}}}


async def test_progress_text_is_a_binary_frame(url: str, engine: FakeEngine) -> None:
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        engine.say(PackMessage(T, "me", "progress_text", "héllo", "1"))
        assert await receive(socket) == bytes.fromhex("00000003000000013168c3a96c6c6f")


async def test_a_pack_cannot_speak_for_the_server(url: str, engine: FakeEngine) -> None:
    async with connect(f"{url}/ws?clientId=me") as socket:
        await receive(socket)
        for name in ("status", "execution_success", "executing", "feature_flags"):
            engine.say(PackMessage(T, "me", name, {"sid": "x", "node": None, "prompt_id": P}))
        engine.say(PackMessage(T, "me", "impact-node-feedback", {"x": float("nan")}))
        assert await receive(socket) == {"type": "impact-node-feedback", "data": {"x": None}}


async def test_a_second_socket_of_a_client_replaces_the_first_for_good(url: str, engine: FakeEngine) -> None:
    async with connect(f"{url}/ws?clientId=me") as second_to_last:
        await receive(second_to_last)
        async with connect(f"{url}/ws?clientId=me") as last:
            await receive(last)
            engine.say(QueueChanged(T, None, 1))
            assert (await receive(last))["type"] == "status"
            # The trap: the old socket's end must not unregister the new one.
            await second_to_last.close()
            engine.say(PromptStarted(T, "me", P, NOW))
            assert (await receive(last))["type"] == "execution_start"
        with pytest.raises(ConnectionClosed):
            await second_to_last.recv()


async def test_a_slow_client_is_dropped_and_others_go_on(url: str, engine: FakeEngine) -> None:
    big = {"x": "y" * 2**20}
    async with (
        connect(f"{url}/ws?clientId=slow", max_queue=1) as slow,
        connect(f"{url}/ws?clientId=quick", max_size=None) as quick,
    ):
        await receive(slow), await receive(quick)
        for _ in range(20):
            for _ in range(10):
                engine.say(PackMessage(T, "slow", "big", big))
            engine.say(PackMessage(T, "quick", "small", {}))
            assert (await receive(quick))["type"] == "small"
        with pytest.raises(ConnectionClosed):
            await until_closed(slow)


async def test_too_many_sockets_and_long_ids_are_refused(tmp_path: Any, start: Start) -> None:
    settings = make_settings(tmp_path, max_websockets=2)
    async with start(settings) as app, serving(app, settings) as http:
        url = http.replace("http", "ws")
        async with connect(f"{url}/ws") as one, connect(f"{url}/ws") as two:
            await receive(one), await receive(two)
            with pytest.raises(InvalidStatus):
                await connect(f"{url}/ws")
        with pytest.raises(InvalidStatus):
            await connect(f"{url}/ws?clientId={'x' * 1000}")
        with anyio.fail_after(60):
            while True:
                try:
                    async with connect(f"{url}/ws"):
                        break
                except InvalidStatus:
                    await anyio.sleep(0.05)  # the two are still being closed


async def test_other_sites_and_strangers_get_no_socket(url: str, app: FastAPI) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{url}/ws", additional_headers=headers)
        assert caught.value.response.status_code == 403
    _, token = await app.state.services.tenants.create("a")
    with pytest.raises(InvalidStatus):
        await connect(f"{url}/ws")
    async with connect(f"{url}/ws", additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        assert (await receive(socket))["type"] == "status"


async def test_a_client_id_means_nothing_to_another_tenant(
    url: str, app: FastAPI, engine: FakeEngine
) -> None:
    tokens = [(await app.state.services.tenants.create(name))[1] for name in ("a", "b")]
    headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
    async with (
        connect(f"{url}/ws?clientId=me", additional_headers=headers[0]) as first,
        connect(f"{url}/ws?clientId=me", additional_headers=headers[1]) as second,
    ):
        await receive(first), await receive(second)
        engine.say(PromptStarted(TenantId("a"), "me", P, NOW))
        engine.say(QueueChanged(TenantId("b"), None, 5))
        assert (await receive(first))["type"] == "execution_start"
        assert (await receive(second))["data"]["status"]["exec_info"]["queue_remaining"] == 5


async def test_a_socket_waits_for_its_turn_to_open_and_takes_none_while_it_is_open(
    url: str, app: FastAPI, engine: FakeEngine
) -> None:
    services = app.state.services
    token = (await services.tenants.create("a"))[1]
    share: LoopShare = services.share
    now = 1000.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await anyio.lowlevel.checkpoint()

    share.clock, share.sleep = lambda: now, sleep
    heavy = share.part(of_tenant(TenantId("a")))
    heavy.charge(5.0, share.clock())
    share.part(of_tenant(TenantId("b")))
    async with connect(f"{url}/ws?clientId=me", additional_headers={"Authorization": f"Bearer {token}"}) as s:
        await receive(s)
        assert now > 1000
        assert (heavy.under_way, heavy.held, heavy.holder) == (0, 0, None)
        engine.say(PromptStarted(TenantId("a"), "me", P, NOW))
        assert (await receive(s))["type"] == "execution_start"
    assert heavy.under_way == 0


async def test_who_subscribes_to_logs_hears_what_the_tenants_packs_print(
    url: str, client: httpx2.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "INTERVAL_S", 0.01)
    engine.sandboxes.run("blur-1", T, "blur")
    engine.sandboxes.run("other-1", "other", "other")
    async with connect(f"{url}/ws?clientId=me") as socket, connect(f"{url}/ws?clientId=else") as silent:
        await receive(socket)
        await receive(silent)
        body = {"clientId": "me", "enabled": True}
        assert (await client.patch("/internal/logs/subscribe", json=body)).status_code == 200
        message = await receive(socket)
        assert message["type"] == "logs"
        assert message["data"]["size"] is None
        assert message["data"]["entries"][0]["m"] == "[blur] hello from blur-1 of local\n"
        assert "other" not in json.dumps(message)
        await client.patch("/internal/logs/subscribe", json={**body, "enabled": False})
        await engine.queue_changed(T)
        with anyio.fail_after(60):
            while (await receive(socket))["type"] == "logs":
                pass  # one that was on its way
        assert (await receive(silent))["type"] == "status"
    assert "hello from blur-1" in (await client.get("/internal/logs")).json()
    raw = (await client.get("/internal/logs/raw")).json()
    assert raw["size"] == {"cols": 80, "rows": 24}
    assert raw["entries"][0]["m"].startswith("[blur]")
    for odd in ({}, {"clientId": 1, "enabled": True}, {"clientId": "me", "enabled": 1}):
        assert (await client.patch("/internal/logs/subscribe", json=odd)).status_code == 400
