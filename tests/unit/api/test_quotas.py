"""Quotas over HTTP: which status, which words, and that nobody else notices."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from api.settings import Settings
from tests.unit.api.conftest import OPERATOR_TOKEN, client_for
from tests.unit.api.fakes import PROMPT

pytestmark = pytest.mark.anyio


def quotas(settings: Settings, text: str) -> None:
    settings.policies_path.mkdir(parents=True, exist_ok=True)
    (settings.policies_path / "default.yaml").write_text(text)


async def tenant(app: FastAPI, name: str) -> httpx2.AsyncClient:
    _, token = await app.state.services.tenants.create(name)
    client = client_for(app)
    client.headers["Authorization"] = f"Bearer {token}"
    return client


async def test_a_flood_of_requests_is_answered_429_and_the_other_tenant_is_served(
    app: FastAPI, settings: Settings
) -> None:
    quotas(settings, "tenants: {a: {quotas: {requests: 1, burst: 5}}}\n")
    a, b = await tenant(app, "a"), await tenant(app, "b")
    statuses = [(await a.get("/prompt")).status_code for _ in range(8)]
    assert statuses[:5] == [200] * 5
    assert 429 in statuses[5:]
    refused = next(
        answer for answer in [await a.get("/prompt") for _ in range(3)] if answer.status_code == 429
    )
    assert refused.headers["Retry-After"] == "1"
    assert "quota 'requests'" in refused.json()["error"]["message"]
    assert (await b.get("/prompt")).status_code == 200
    operator = client_for(app)
    operator.headers |= {"Authorization": f"Bearer {OPERATOR_TOKEN}", "X-Ringfence-Tenant": "a"}
    assert (await operator.get("/prompt")).status_code == 200


async def test_an_upload_over_the_tenants_own_quota_is_413_and_names_it(
    app: FastAPI, settings: Settings
) -> None:
    quotas(settings, "tenants: {a: {quotas: {upload: 64KiB}}}\n")
    a, b = await tenant(app, "a"), await tenant(app, "b")
    image = {"image": ("x.png", b"x" * 100_000)}
    refused = await a.post("/upload/image", files=image)
    assert refused.status_code == 413
    assert "quota 'upload'" in refused.text
    assert (await a.post("/upload/image", files={"image": ("y.png", b"x" * 1000)})).status_code == 200
    assert (await b.post("/upload/image", files=image)).status_code == 200


async def test_an_upload_of_unknown_length_ends_at_the_quota_too(app: FastAPI, settings: Settings) -> None:
    quotas(settings, "quotas: {upload: 64KiB}\n")
    a = await tenant(app, "a")

    async def chunks() -> object:
        for _ in range(100):
            yield b"x" * 10_000

    refused = await a.post("/userdata/big.bin", content=chunks())
    assert refused.status_code == 413
    assert "quota 'upload'" in refused.text


async def test_an_upload_that_does_not_fit_on_the_disk_quota_is_507(app: FastAPI, settings: Settings) -> None:
    quotas(settings, "quotas: {disk: 1MiB}\n")
    a = await tenant(app, "a")
    first = await a.post("/upload/image", files={"image": ("x.png", b"x" * 700_000)})
    assert first.status_code == 200
    refused = await a.post("/upload/image", files={"image": ("y.png", b"y" * 700_000)})
    assert refused.status_code == 507
    for word in ("quota 'disk'", "at most 1MiB", "default.yaml:1"):
        assert word in refused.text
    folder = Path(settings.data_dir) / "tenants" / "a" / "input"
    assert not (folder / "y.png").exists()


async def test_usage_shows_limit_use_and_source_to_the_tenant_itself_and_the_operator(
    app: FastAPI, settings: Settings
) -> None:
    quotas(settings, "quotas: {queued: 7}\n")
    a, b = await tenant(app, "a"), await tenant(app, "b")
    await a.post("/prompt", json={"prompt": PROMPT})
    shown = (await a.get("/ringfence/v1/tenants/a/usage")).json()
    assert shown["quotas"]["queued"] == {"limit": 7, "used": 1, "source": "policies/default.yaml:1"}
    assert shown["quotas"]["disk"]["limit"] == 100 * 2**30
    others = await b.get("/ringfence/v1/tenants/a/usage")
    nobodys = await b.get("/ringfence/v1/tenants/nobody/usage")
    assert others.status_code == nobodys.status_code == 403
    assert others.json() == nobodys.json()
    operator = client_for(app)
    operator.headers["Authorization"] = f"Bearer {OPERATOR_TOKEN}"
    assert (await operator.get("/ringfence/v1/tenants/a/usage")).json()["quotas"]["queued"]["used"] == 1
    assert (await operator.get("/ringfence/v1/tenants/nobody/usage")).status_code == 404
    metrics = (await operator.get("/metrics")).text
    assert 'ringfence_quota_limit{quota="queued",tenant="a"} 7.0' in metrics
    assert 'ringfence_quota_used{quota="queued",tenant="a"} 1.0' in metrics
