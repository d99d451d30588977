"""The Comfy API v2: assets by id over contents by hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from blake3 import blake3

from api.settings import Settings
from tests.unit.api.conftest import Start, client_for, make_settings
from tests.unit.api.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def hash_of(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


async def upload(
    client: httpx2.AsyncClient, data: bytes, name: str = "a.png", key: str | None = None, **form: Any
) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await client.post(
        "/api/v2/assets",
        files={"file": (name, data, "image/png")},
        data={"file_path": name, **form},
        headers=headers,
    )


async def test_an_upload_is_kept_by_content_and_served_by_id(client: httpx2.AsyncClient) -> None:
    answer = await upload(client, b"picture", expected_hash=hash_of(b"picture"), tags="input")
    asset = answer.json()
    assert (answer.status_code, asset["created_new"], asset["hash"]) == (201, True, hash_of(b"picture"))
    assert (asset["size_bytes"], asset["content_type"], asset["file_path"]) == (7, "image/png", "a.png")
    assert asset["url"] == f"http://127.0.0.1:8188/api/v2/assets/{asset['id']}/content"
    content = await client.get(asset["url"], headers={"Range": "bytes=0-2"})
    assert (content.status_code, content.content, content.headers["content-type"]) == (
        206,
        b"pic",
        "image/png",
    )
    assert (await client.get(f"/api/v2/assets/{asset['id']}")).json()["hash"] == asset["hash"]
    by_hash = await client.get("/view", params={"filename": asset["hash"]})
    assert by_hash.content == b"picture"


async def test_the_same_content_is_stored_once(client: httpx2.AsyncClient, settings: Settings) -> None:
    first = (await upload(client, b"picture")).json()
    same = await upload(client, b"picture")
    assert (same.status_code, same.json()["created_new"], same.json()["id"]) == (200, False, first["id"])
    other = (await upload(client, b"picture", "b.png")).json()
    assert (other["created_new"], other["id"] == first["id"]) == (False, False)
    blobs = settings.data_dir / "tenants" / "local" / "assets"
    assert len([path for path in blobs.rglob("*") if path.is_file()]) == 1


async def test_content_that_is_there_can_be_had_by_its_hash(client: httpx2.AsyncClient) -> None:
    digest = hash_of(b"picture")
    assert (await client.head(f"/api/v2/assets/by-hash/{digest}")).status_code == 404
    missing = await client.post("/api/v2/assets/from-hash", json={"hash": digest})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "blob_not_found")
    first = (await upload(client, b"picture")).json()
    assert (await client.head(f"/api/v2/assets/by-hash/{digest}")).status_code == 200
    again = await client.post("/api/v2/assets/from-hash", json={"hash": digest, "file_path": "a.png"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    named = await client.post("/api/v2/assets/from-hash", json={"hash": digest, "file_path": "b.png"})
    assert (named.status_code, named.json()["file_path"], named.json()["created_new"]) == (
        201,
        "b.png",
        False,
    )
    for odd in ("x", "sha256:00", None):
        answer = await client.post("/api/v2/assets/from-hash", json={"hash": odd})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_other_bytes_than_announced_are_refused_and_not_kept(client: httpx2.AsyncClient) -> None:
    answer = await upload(client, b"damaged", expected_hash=hash_of(b"picture"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "hash_mismatch")
    assert (await client.head(f"/api/v2/assets/by-hash/{hash_of(b'damaged')}")).status_code == 404


async def test_an_idempotency_key_gives_the_same_asset_for_the_same_content_only(
    client: httpx2.AsyncClient,
) -> None:
    first = await upload(client, b"picture", key="k")
    again = await upload(client, b"picture", key="k")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = await upload(client, b"other", key="k")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reuse")


async def test_content_goes_with_its_last_asset(client: httpx2.AsyncClient, settings: Settings) -> None:
    first, second = (await upload(client, b"p")).json(), (await upload(client, b"p", "b.png")).json()
    assert (await client.delete(f"/api/v2/assets/{first['id']}")).status_code == 204
    assert (await client.get(second["url"])).content == b"p"
    assert (await client.delete(f"/api/v2/assets/{second['id']}")).status_code == 204
    for path in (f"/api/v2/assets/{second['id']}", f"/api/v2/assets/{second['id']}/content"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    blobs = settings.data_dir / "tenants" / "local" / "assets"
    assert not [path for path in blobs.rglob("*") if path.is_file()]


async def test_a_reference_in_a_workflow_becomes_an_input_file_with_the_content(
    client: httpx2.AsyncClient, engine: FakeEngine, settings: Settings
) -> None:
    inputs = settings.data_dir / "tenants" / "local" / "input"
    asset = (await upload(client, b"picture")).json()
    (inputs / "a.png").write_bytes(b"somebody else's")
    reference = {"__type": "core/ASSET", "info": {"id": asset["id"], "hash": "x", "file_path": "y"}}
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": reference, "list": [reference]}}}
    for _ in range(2):
        assert (await client.post("/api/v2/jobs", json={"workflow": graph})).status_code == 201
        used = engine.requests[-1].prompt["1"]["inputs"]
        assert used == {"image": "a (1).png", "list": ["a (1).png"]}
    assert (inputs / "a (1).png").read_bytes() == b"picture"
    assert sorted(path.name for path in inputs.iterdir()) == ["a (1).png", "a.png"]


@pytest.mark.parametrize("name", ["../a.png", "/etc/a", "a//b", ".", "x" * 600, "a\nb"])
async def test_names_that_lead_out_or_cannot_be_are_refused(client: httpx2.AsyncClient, name: str) -> None:
    answer = await upload(client, b"p", "ok.png", file_path=name)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_active_content_is_a_download_whatever_type_was_announced(client: httpx2.AsyncClient) -> None:
    asset = (await upload(client, b"<script>", "a.html", content_type="text/html")).json()
    answer = await client.get(asset["url"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


async def test_assets_have_a_quota(tmp_path: Path, start: Start) -> None:
    async with start(make_settings(tmp_path, max_asset_bytes=1024)) as app, client_for(app) as client:
        assert (await upload(client, b"x" * 1000)).status_code == 201
        assert (await upload(client, b"x" * 1000, "again.png")).status_code == 200
        answer = await upload(client, b"y" * 100)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
        assert "RINGFENCE_MAX_ASSET_BYTES" in answer.text


async def test_a_tenant_gets_nothing_of_another_by_id_or_hash(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient],
) -> None:
    a, b = studio
    asset = (await upload(a, b"picture")).json()
    assert (await b.get(f"/api/v2/assets/{asset['id']}")).status_code == 404
    assert (await b.get(f"/api/v2/assets/{asset['id']}/content")).status_code == 404
    assert (await b.delete(f"/api/v2/assets/{asset['id']}")).status_code == 404
    assert (await b.head(f"/api/v2/assets/by-hash/{asset['hash']}")).status_code == 404
    assert (await b.post("/api/v2/assets/from-hash", json={"hash": asset["hash"]})).status_code == 404


async def test_an_upload_that_is_refused_leaves_no_bytes_that_no_quota_counts(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    assert (await upload(client, b"first", key="one")).status_code == 201
    for number in range(3):
        refused = await upload(client, b"other %d" % number, f"{number}.png", key="one")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reuse")
    blobs = settings.data_dir / "tenants" / "local" / "assets"
    assert len([path for path in blobs.rglob("*") if path.is_file()]) == 1
    assert (await upload(client, b"other 0", "0.png", key="two")).status_code == 201


async def test_many_names_of_one_content_are_one_copy_of_it_in_a_job(
    client: httpx2.AsyncClient, engine: FakeEngine, settings: Settings
) -> None:
    first = (await upload(client, b"picture")).json()
    body = {"hash": first["hash"]}
    names = [f"n{number}.png" for number in range(20)]
    more = [
        (await client.post("/api/v2/assets/from-hash", json={**body, "file_path": name})).json()
        for name in names
    ]
    inputs = {
        asset["file_path"]: {"__type": "core/ASSET", "info": {"id": asset["id"]}} for asset in (first, *more)
    }
    workflow = {"1": {"class_type": "Blur", "inputs": inputs}}
    assert (await client.post("/api/v2/jobs", json={"workflow": workflow})).status_code == 201
    ((_, node),) = engine.requests[0].prompt.items()
    (used,) = set(node["inputs"].values())
    inputs_of_tenant = settings.data_dir / "tenants" / "local" / "input"
    assert [path.name for path in inputs_of_tenant.iterdir()] == [used]
