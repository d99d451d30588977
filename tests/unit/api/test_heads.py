"""HEAD on what answers GET."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx2
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from api.settings import Settings
from tests.unit.api.conftest import client_for

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path", ["/system_stats", "/api/queue", "/history/none", "/view?filename=none.png", "/nothing"]
)
async def test_head_answers_as_get_does_without_a_body(client: httpx2.AsyncClient, path: str) -> None:
    got, head = await client.get(path), await client.head(path)
    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""


async def test_head_on_a_file_says_its_length_and_etag(
    client: httpx2.AsyncClient, settings: Settings
) -> None:
    await client.get("/prompt")  # the first request makes the tenant's directory
    path: Path = settings.data_dir / "tenants" / "local" / "output" / "a.png"
    await anyio.Path(path).write_bytes(b"0123456789")
    head = await client.head("/view", params={"filename": "a.png"})
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
    assert head.headers["etag"]


async def test_head_on_what_has_no_get_is_refused(client: httpx2.AsyncClient) -> None:
    assert (await client.head("/interrupt")).status_code == 405


async def test_head_on_a_stream_without_an_end_ends(app: FastAPI) -> None:
    @app.get("/endless")
    async def endless(request: Request) -> StreamingResponse:
        async def body():
            while not await request.is_disconnected():
                yield b"more"
                await anyio.lowlevel.checkpoint()

        return StreamingResponse(body())

    async with client_for(app) as client:
        with anyio.fail_after(10):
            assert (await client.head("/endless")).status_code == 200


async def test_head_is_guarded_as_get_is(client: httpx2.AsyncClient) -> None:
    answer = await client.head("/system_stats", headers={"Origin": "http://elsewhere.example"})
    assert answer.status_code == 403
