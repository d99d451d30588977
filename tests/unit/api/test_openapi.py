"""The OpenAPI document: complete, and valid as far as references go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from api.openapi import COMFYUI

pytestmark = pytest.mark.anyio

# What of ComfyUI's API has to be there, whatever else is (its reference server's routes, without twins below /api).
REQUIRED = {
    "/prompt", "/queue", "/interrupt", "/free", "/history", "/history/{prompt_id}", "/api/jobs", "/api/jobs/{job_id}",
    "/api/jobs/{job_id}/cancel", "/api/jobs/cancel", "/view", "/upload/image", "/upload/mask",
    "/view_metadata/{folder}",
    "/embeddings", "/models", "/models/{folder}", "/experiment/models", "/experiment/models/{folder}",
    "/experiment/models/preview/{folder}/{path_index}/{filename}", "/users",
    "/settings", "/settings/{name}", "/userdata", "/v2/userdata", "/object_info", "/object_info/{class_type}",
    "/extensions", "/i18n", "/workflow_templates", "/global_subgraphs", "/global_subgraphs/{subgraph_id}",
    "/node_replacements", "/system_stats", "/features", "/internal/logs", "/internal/logs/raw",
    "/internal/logs/subscribe", "/internal/folder_paths", "/internal/files/{kind}",
    "/api/v2/jobs", "/api/v2/jobs/{job_id}", "/api/v2/jobs/{job_id}/workflow", "/api/v2/jobs/{job_id}/cancel",
    "/api/v2/jobs/{job_id}/events", "/api/v2/assets", "/api/v2/assets/from-hash", "/api/v2/assets/by-hash/{digest}",
    "/api/v2/assets/{asset_id}", "/api/v2/assets/{asset_id}/content",
}  # fmt: skip


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, by_method in document["paths"].items():
        for method, operation in by_method.items():
            yield method, path, operation


async def test_every_route_has_a_summary_a_tag_and_documented_answers(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/ringfence/v1/openapi.json")).json()
    assert document["paths"].keys() >= REQUIRED
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation["tags"], where
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["responses"], where
        assert all(answer["description"] for answer in operation["responses"].values()), where


async def test_the_table_of_comfyuis_routes_is_the_applications(app: FastAPI) -> None:
    described = {
        (method, path)
        for method, path, operation in operations(app.openapi())
        if operation["tags"] == ["ComfyUI"]
    }
    assert described == COMFYUI.keys()


async def test_what_takes_a_body_and_what_answers_json_says_which(app: FastAPI) -> None:
    document = app.openapi()
    for method, path, operation in operations(document):
        takes_body = method in ("post", "patch") and not path.endswith("id}/cancel")
        if operation["tags"] != ["Ringfence"] and takes_body:
            assert operation["requestBody"]["content"], path
        for answer in operation["responses"].values():
            for reference in references(answer):
                assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(document["paths"])


def references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value)
