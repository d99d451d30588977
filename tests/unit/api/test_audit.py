"""What the host records of requests, and who may read it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2
import pytest
from fastapi import FastAPI

from api.audit_cursors import AuditCursors
from api.auth import Identity
from api.permissions import NEEDS, Need
from api.routes import audit as routes
from policies import TenantId
from tests.unit.api.conftest import Start, client_for, make_settings
from tests.unit.api.fakes import PROMPT

pytestmark = pytest.mark.anyio
Pair = tuple[httpx2.AsyncClient, httpx2.AsyncClient]
AUDIT = "/ringfence/v1/audit"


async def records(app: FastAPI, reader: httpx2.AsyncClient, **wanted: Any) -> list[dict[str, Any]]:
    assert await anyio.to_thread.run_sync(app.state.services.audit.flush)
    answer = await reader.get(AUDIT, params=wanted)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["records"]
    return [record for record in found if record["event"] != "audit-opened"]


async def test_a_prompt_is_recorded_with_who_where_and_what(
    app: FastAPI, studio: Pair, operator: httpx2.AsyncClient
) -> None:
    answer = await studio[0].post("/prompt", json={"prompt": PROMPT})
    (record,) = await records(app, operator, event="prompt-queued")
    assert record["tenant"] == "a"
    assert record["by"].startswith("token ")
    assert record["prompt"] == answer.json()["prompt_id"]
    assert record["details"]["classes"] == ["Blur"]


async def test_changes_are_recorded_and_name_what_was_changed(
    app: FastAPI, studio: Pair, operator: httpx2.AsyncClient
) -> None:
    await studio[0].post("/ringfence/v1/tokens", json={"name": "ci", "scopes": ["run"]})
    await studio[0].delete("/ringfence/v1/tokens/ci")
    await operator.post("/ringfence/v1/tenants", json={"name": "c"})
    found = await records(app, operator, event="changed")
    said = [(each["tenant"], each["by"], each["text"], each["details"]["name"]) for each in found]
    token = found[0]["by"]
    assert said == [
        ("a", token, "token made", "ci"),
        ("a", token, "token revoked", "ci"),
        ("local", "operator", "tenant created", "c"),
    ]


async def test_no_secret_is_in_the_log(app: FastAPI, studio: Pair, operator: httpx2.AsyncClient) -> None:
    made = await studio[0].post("/ringfence/v1/tokens", json={"name": "ci", "scopes": ["run"]})
    secret = made.json()["secret"]
    async with client_for(app, headers={"Authorization": f"Bearer {secret}x"}) as stranger:
        await stranger.get("/queue")
    await records(app, operator)
    directory = app.state.services.settings.data_dir / "audit-host"

    def content() -> bytes:
        return b"".join(path.read_bytes() for path in directory.glob("*.jsonl"))

    written = await anyio.to_thread.run_sync(content)
    assert secret.encode() not in written
    for client in (*studio, operator):
        assert client.headers["authorization"].removeprefix("Bearer ").encode() not in written


async def test_a_wrong_token_is_recorded_and_a_flood_of_them_is_counted(
    app: FastAPI, studio: Pair, operator: httpx2.AsyncClient
) -> None:
    async with client_for(app, headers={"Authorization": "Bearer nobody"}) as stranger:
        for _ in range(60):
            assert (await stranger.get("/queue")).status_code == 401
    found = await records(app, operator, event="login-failed")
    assert 1 <= len(found) < 60
    assert found[0]["outcome"] == "denied"
    assert found[0]["address"]


async def test_a_tenants_admin_reads_its_own_records_and_nobody_elses(
    app: FastAPI, studio: Pair, operator: httpx2.AsyncClient
) -> None:
    for client in studio:
        await client.post("/prompt", json={"prompt": PROMPT})
    assert {each["tenant"] for each in await records(app, studio[0])} == {"a"}
    assert await records(app, studio[0], tenant="b") == await records(app, studio[0], tenant="nobody") == []
    assert {each["tenant"] for each in await records(app, operator)} >= {"a", "b"}
    assert {each["tenant"] for each in await records(app, operator, tenant="b")} == {"b"}


async def test_a_token_without_admin_reads_nothing(app: FastAPI, studio: Pair) -> None:
    made = await studio[0].post("/ringfence/v1/tokens", json={"name": "ci", "scopes": ["run"]})
    async with client_for(app, headers={"Authorization": f"Bearer {made.json()['secret']}"}) as runner:
        assert (await runner.get(AUDIT)).status_code == 403
        assert (await runner.get(f"{AUDIT}/events")).status_code == 403
    assert NEEDS[AUDIT]["GET"] is Need.ADMIN


async def test_what_was_refused_names_the_line_of_the_policy_and_what_would_allow_it(
    start: Start, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path)

    def write() -> None:
        settings.policies_path.mkdir(parents=True)
        text = "quotas:\n  upload: 1MiB\n"
        (settings.policies_path / "default.yaml").write_text(text, encoding="utf-8")

    await anyio.to_thread.run_sync(write)
    async with start(settings) as app, client_for(app) as client:
        answer = await client.post("/upload/image", files={"image": ("a.png", b"x" * 2_000_000)})
        assert answer.status_code == 413
        (record,) = await records(app, client, event="refused")
        assert record["denied_by"].endswith("default.yaml:2")
        assert record["would_allow"]
        assert [each["seq"] for each in await records(app, client, denied=True)] == [record["seq"]]


async def test_a_log_that_is_required_and_cannot_be_kept_refuses_new_work_and_nothing_else(
    start: Start, tmp_path: Path
) -> None:
    async with (
        start(make_settings(tmp_path / "required", audit="required")) as app,
        client_for(app) as client,
    ):
        services = app.state.services
        assert await anyio.to_thread.run_sync(services.audit.flush)
        services.audit._failure = "No space left on device"
        refused = await client.post("/prompt", json={"prompt": PROMPT})
        assert refused.status_code == 503
        assert "No space left" in refused.text
        assert (await client.post("/interrupt", json={})).status_code == 200
        assert (await client.get("/queue")).status_code == 200
        assert (await client.get("/queue")).json()["queue_pending"] == []
        services.audit._failure = ""
        assert (await client.post("/prompt", json={"prompt": PROMPT})).status_code == 200


@pytest.mark.parametrize(
    "query",
    ["after=x", "after=host:1e9", "event=nothing", "since=1e400", "limit=0", "limit=100000", "tenant=../x"],
)
async def test_a_malformed_question_is_refused(client: httpx2.AsyncClient, query: str) -> None:
    answer = await client.get(f"{AUDIT}?{query}")
    assert answer.status_code == 400, answer.text


async def test_pages_join_without_a_gap(app: FastAPI, client: httpx2.AsyncClient) -> None:
    for _ in range(7):
        await client.post("/interrupt", json={})
    await records(app, client)
    seen, cursor, more = [], "", True
    while more:
        answer = (await client.get(AUDIT, params={"limit": 2, "after": cursor})).json()
        seen += [record["seq"] for record in answer["records"]]
        cursor, more = answer["next"], answer["more"]
    assert seen == sorted(set(seen))
    assert len(seen) == 8


async def test_a_tenants_admin_learns_nothing_of_how_busy_the_others_are(
    app: FastAPI, studio: Pair, operator: httpx2.AsyncClient
) -> None:
    first, second = studio
    for client in (first, second, first, second, first):
        await client.post("/prompt", json={"prompt": PROMPT})
    assert await anyio.to_thread.run_sync(app.state.services.audit.flush)
    whole = (await first.get(AUDIT)).json()["records"]
    seen: list[dict[str, object]] = []
    place, more = "", True
    while more:
        answer = (await first.get(AUDIT, params={"after": place, "limit": 1})).json()
        seen += answer["records"]
        place, more = answer["next"], answer["more"]
        assert ":" not in place
    assert seen == whole
    assert len(whole) >= 3
    assert not {"seq", "prev", "hash"} & {key for record in whole for key in record}
    assert (await first.get(AUDIT)).json()["next"] != place  # sealed anew each time
    for other in (second, operator):
        refused = await other.get(AUDIT, params={"after": place})
        assert refused.status_code == 400
    assert {"seq", "prev", "hash"} <= set((await records(app, operator))[0])


async def test_a_place_that_was_changed_is_none() -> None:
    a = AuditCursors("an operator's token", Identity(TenantId("a"), is_operator=False))
    place = a.write({"host": 12, "launcher": 3})
    assert a.read(place) == {"host": 12, "launcher": 3}
    for changed in (
        place[:-4],
        ("B" if place[0] == "A" else "A") + place[1:],
        place[:30] + "AAAA" + place[34:],
        "host:1",
        "\u00e9",
        "=" * 40,
    ):
        with pytest.raises(ValueError, match="no place"):
            a.read(changed)


async def test_a_tenant_that_follows_as_often_as_it_may_keeps_nobody_else_out(
    studio: Pair, operator: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_open", Counter({"a": 2}))
    refused = await studio[0].get(f"{AUDIT}/events")
    assert refused.status_code == 429
    for client, whose in ((studio[1], "b"), (operator, "")):
        async with anyio.create_task_group() as group:
            group.start_soon(client.get, f"{AUDIT}/events")
            with anyio.fail_after(60):
                while not routes._open[whose]:
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert routes._open[whose] == 0
