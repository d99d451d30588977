"""Pictures of models: which one is taken, that a sandbox decodes it, and that no path leads out of the models."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from api.settings import Settings
from engine import tenant_directory
from policies import LOCAL_TENANT
from tests.unit.api.fakes import FakeMedia

pytestmark = pytest.mark.anyio

ROUTE = "/api/experiment/models/preview/loras/0/"


@pytest.fixture
def loras(app: FastAPI, settings: Settings) -> Path:
    folder = tenant_directory(settings.data_dir, LOCAL_TENANT) / "models" / "loras"
    (folder / "sub").mkdir(parents=True)
    return folder


def write_model(path: Path, **texts: Any) -> None:
    header = json.dumps({"__metadata__": texts}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


async def test_the_picture_beside_a_model_is_shown(
    client: httpx2.AsyncClient, loras: Path, media: FakeMedia
) -> None:
    write_model(loras / "sub/a.safetensors")
    (loras / "sub/a.preview.PNG").write_bytes(b"beside")
    (loras / "sub/ab.png").write_bytes(b"another model's")
    for name in ("sub/a.safetensors", "sub%2Fa.safetensors", "sub/a"):
        answer = await client.get(ROUTE + name)
        assert (answer.status_code, answer.content) == (200, b"cover beside"), name
        assert answer.headers["content-type"] == "image/webp"
    assert media.covers == [(LOCAL_TENANT, b"beside")]  # made once

    (loras / "sub/a.preview.PNG").write_bytes(b"a new one")
    assert (await client.get(ROUTE + "sub/a.safetensors")).content == b"cover a new one"


async def test_the_picture_in_a_models_header_is_shown_where_none_lies_beside_it(
    client: httpx2.AsyncClient, loras: Path
) -> None:
    covers = json.dumps([base64.b64encode(b"embedded").decode(), "second"])
    write_model(loras / "a.safetensors", ssmd_cover_images=covers)
    assert (await client.get(ROUTE + "a.safetensors")).content == b"cover embedded"
    (loras / "a.jpg").write_bytes(b"beside")
    assert (await client.get(ROUTE + "a.safetensors")).content == b"cover beside"


@pytest.mark.parametrize("covers", ["", "{", "{}", "[]", "[1]", '["%%%"]', '["é"]', 7, None])
async def test_a_header_that_holds_no_picture_is_404(
    client: httpx2.AsyncClient, loras: Path, covers: Any
) -> None:
    write_model(loras / "a.safetensors", ssmd_cover_images=covers)
    assert (await client.get(ROUTE + "a.safetensors")).status_code == 404


async def test_what_is_not_there_or_no_picture_is_404(client: httpx2.AsyncClient, loras: Path) -> None:
    (loras / "b.safetensors").write_bytes(b"\xff" * 20)
    (loras / "c.png").write_bytes(b"no picture")
    (loras / "d.png").mkdir()
    for name in (
        "none.safetensors",
        "b.safetensors",
        "c.safetensors",
        "d.safetensors",
        "no/folder.safetensors",
    ):
        assert (await client.get(ROUTE + name)).status_code == 404, name
    (loras / "e.png").write_bytes(b"beside")
    for place in ("loras/1", "loras/-1", "loras/x", "nothing/0"):
        answer = await client.get(f"/api/experiment/models/preview/{place}/e.safetensors")
        assert answer.status_code == 404, place


async def test_no_picture_is_read_from_outside_of_the_models(
    client: httpx2.AsyncClient, loras: Path, media: FakeMedia
) -> None:
    secret = loras.parents[1] / "secret"
    secret.mkdir()
    (secret / "x.png").write_bytes(b"secret")
    (loras / "link.png").symlink_to(secret / "x.png")
    (loras / "linked").symlink_to(secret)
    os.mkfifo(loras / "pipe.png")
    names = (
        "../../secret/x",
        "..%2F..%2Fsecret%2Fx",
        "link",
        "linked/x",
        "pipe",
        f"{secret}/x",
        "x%00",
        "..",
        "",
    )
    for name in names:
        answer = await client.get(ROUTE + name)
        assert answer.status_code in (400, 403, 404), name
    assert media.covers == []
