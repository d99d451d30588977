"""A tenant asks for what is another's, on every route that takes a name: the answer is that for what nobody has.

Byte for byte, headers too (but the date); what was asked for is replaced where an answer quotes it. A route that is
added with a parameter and without a line here fails the last test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import anyio.to_thread
import httpx2
import pytest
from fastapi import FastAPI

from api.permissions import NEEDS, Need, routes_of
from api.settings import Settings
from engine import GitSource
from policies import TenantId
from tests.unit.api.conftest import client_for
from tests.unit.api.fakes import PROMPT, FakeEngine

pytestmark = pytest.mark.anyio

#: Method, route, what is asked (``{x}``: what A has or what nobody has), and the body.
Ask = tuple[str, str, str, Any]
_JSON: Final = ("GET", "POST", "DELETE")
ASKS: Final[tuple[Ask, ...]] = (
    ("GET", "/history/{prompt_id}", "/history/{prompt}", None),
    ("POST", "/history", "/history", {"delete": ["{prompt}"]}),
    ("POST", "/queue", "/queue", {"delete": ["{waiting}"]}),
    ("POST", "/interrupt", "/interrupt", {"prompt_id": "{waiting}"}),
    ("GET", "/api/jobs/{job_id}", "/api/jobs/{prompt}", None),
    ("POST", "/api/jobs/{job_id}/cancel", "/api/jobs/{waiting}/cancel", {}),
    ("POST", "/api/jobs/cancel", "/api/jobs/cancel", {"job_ids": ["{waiting}"]}),
    ("GET", "/view", "/view?type=input&filename={file}", None),
    ("HEAD", "/view", "/view?type=input&filename={file}", None),
    ("GET", "/view", "/view?type=input&filename={file}&preview=webp;90", None),
    ("GET", "/settings/{name:path}", "/settings/{setting}", None),
    ("GET", "/userdata/{_file:path}", "/userdata/{userfile}", None),
    ("HEAD", "/userdata/{_file:path}", "/userdata/{userfile}", None),
    ("DELETE", "/userdata/{_file:path}", "/userdata/{userfile}", None),
    ("POST", "/userdata/{_file:path}", "/userdata/{userfile}/move/x", {}),
    ("GET", "/userdata", "/userdata?dir={userdir}", None),
    ("GET", "/v2/userdata", "/v2/userdata?path={userdir}", None),
    ("GET", "/models/{folder}", "/models/{folder}", None),
    ("GET", "/experiment/models/{folder}", "/experiment/models/{folder}", None),
    (
        "GET",
        "/experiment/models/preview/{folder}/{path_index}/{filename:path}",
        "/experiment/models/preview/loras/0/{model}.safetensors",
        None,
    ),
    ("GET", "/view_metadata/{folder}", "/view_metadata/loras?filename={model}.safetensors", None),
    ("GET", "/object_info/{class_type:path}", "/object_info/{class}", None),
    ("GET", "/global_subgraphs/{subgraph_id}", "/global_subgraphs/{pack}", None),
    ("GET", "/extensions/{name}/{path:path}", "/extensions/{pack}/a.js", None),
    ("GET", "/api/workflow_templates/{pack}/{file}", "/api/workflow_templates/{pack}/a.json", None),
    ("GET", "/internal/files/{kind}", "/internal/files/input", None),
    ("PATCH", "/internal/logs/subscribe", "/internal/logs/subscribe", {"clientId": "{client}", "enabled": True}),
    ("GET", "/api/assets/{_rest:path}", "/api/assets/{asset}", None),
    ("GET", "/api/v2/jobs/{job_id}", "/api/v2/jobs/{job}", None),
    ("GET", "/api/v2/jobs/{job_id}/workflow", "/api/v2/jobs/{job}/workflow", None),
    ("GET", "/api/v2/jobs/{job_id}/events", "/api/v2/jobs/{job}/events", None),
    ("POST", "/api/v2/jobs/{job_id}/cancel", "/api/v2/jobs/{job}/cancel", {}),
    ("GET", "/api/v2/assets/{asset_id}", "/api/v2/assets/{asset}", None),
    ("DELETE", "/api/v2/assets/{asset_id}", "/api/v2/assets/{asset}", None),
    ("GET", "/api/v2/assets/{asset_id}/content", "/api/v2/assets/{asset}/content", None),
    ("HEAD", "/api/v2/assets/{asset_id}/content", "/api/v2/assets/{asset}/content", None),
    ("HEAD", "/api/v2/assets/by-hash/{digest}", "/api/v2/assets/by-hash/{hash}", None),
    ("POST", "/api/v2/assets/from-hash", "/api/v2/assets/from-hash", {"hash": "{hash}", "name": "a.png"}),
    ("GET", "/ringfence/v1/prompts/{prompt_id}", "/ringfence/v1/prompts/{prompt}", None),
    ("GET", "/ringfence/v1/policies/{extension}", "/ringfence/v1/policies/{pack}", None),
    ("DELETE", "/ringfence/v1/extensions/{name}", "/ringfence/v1/extensions/{pack}", None),
    ("GET", "/ringfence/v1/extensions/{name}/sbom", "/ringfence/v1/extensions/{pack}/sbom", None),
    ("GET", "/ringfence/v1/extensions/{name}/audit", "/ringfence/v1/extensions/{pack}/audit", None),
    ("POST", "/ringfence/v1/extensions/{name}/verify", "/ringfence/v1/extensions/{pack}/verify", {}),
    ("POST", "/ringfence/v1/extensions/{name}/reload", "/ringfence/v1/extensions/{pack}/reload", None),
    ("POST", "/ringfence/v1/extensions/{name}/update", "/ringfence/v1/extensions/{pack}/update", None),
    ("GET", "/ringfence/v1/extensions/{name}/routes/{path:path}", "/ringfence/v1/extensions/{pack}/routes/x", None),
    ("POST", "/ringfence/v1/extensions/{name}/routes/{path:path}", "/ringfence/v1/extensions/{pack}/routes/x", {}),
    ("GET", "", "/{pack}/hello", None),  # the path that the pack itself asked for
    ("GET", "/ringfence/v1/sandboxes/{sandbox}/logs", "/ringfence/v1/sandboxes/{sandbox}/logs", None),
    ("DELETE", "/ringfence/v1/sandboxes/{sandbox}", "/ringfence/v1/sandboxes/{sandbox}", None),
    ("DELETE", "/ringfence/v1/tokens/{name}", "/ringfence/v1/tokens/{token}", None),
    ("DELETE", "/ringfence/v1/sessions/{session_id}", "/ringfence/v1/sessions/{session}", None),
    ("GET", "/api/v2/jobs", "/api/v2/jobs?label={client}", None),
    ("GET", "/ringfence/v1/tenants/{name}/usage", "/ringfence/v1/tenants/{tenant}/usage", None),
)  # fmt: skip


@pytest.fixture
async def of_a(
    app: FastAPI,
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient],
    engine: FakeEngine,
    settings: Settings,
) -> dict[str, str]:
    """One of everything that belongs to tenant 'a', by the name that asks use."""
    first, _ = studio
    prompt = (await first.post("/prompt", json={"prompt": PROMPT, "client_id": "c-of-a"})).json()["prompt_id"]
    await engine.run_one("a", {"1": {"images": [{"filename": "out.png", "subfolder": "", "type": "output"}]}})  # type: ignore[arg-type]
    job = (await first.post("/api/v2/jobs", json={"workflow": PROMPT})).json()["id"]
    waiting = (await first.post("/prompt", json={"prompt": PROMPT})).json()["prompt_id"]
    await first.post("/upload/image", files={"image": ("secret.png", b"\x89PNG")})
    await first.post("/settings/Secret.Name", json={"a": 1})
    await first.post("/userdata/secretdir%2Fsecret.json", content=b"{}")
    asset = (
        await first.post("/api/v2/assets", files={"file": ("a.png", b"of a")}, data={"name": "a.png"})
    ).json()
    await first.post("/ringfence/v1/tokens", json={"name": "secret-token", "scopes": ["run"]})
    await app.state.services.tenants.create("secret-tenant")
    engine.sandboxes.run("blur-1", "a", "blur-pack")
    engine.extensions.sites.add("blur-pack", "GET", "/blur-pack/hello", tenant="a")
    await engine.extensions.add(
        TenantId("a"), GitSource("https://host.example/blur-pack.git"), name="blur-pack"
    )
    engine.extensions.supply.findings = ()
    session = await app.state.services.sessions.start(
        (await app.state.services.tenants.tokens("a"))[0], "a browser"
    )
    found = await app.state.services.sessions.resolve(session)

    def put_models() -> None:
        folder = settings.data_dir / "tenants" / "a" / "models"
        for name in ("secretfolder", "loras"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        header = b'{"__metadata__": {"a": "1"}}'
        content = len(header).to_bytes(8, "little") + header
        (folder / "loras" / "secretmodel.safetensors").write_bytes(content)

    await anyio.to_thread.run_sync(put_models)
    return {
        "prompt": prompt,
        "tenant": "secret-tenant",
        "job": job,
        "waiting": waiting,
        "file": "secret.png",
        "setting": "Secret.Name",
        "userfile": "secretdir%2Fsecret.json",
        "userdir": "secretdir",
        "folder": "secretfolder",
        "model": "secretmodel",
        "class": "SecretClass",
        "pack": "blur-pack",
        "client": "c-of-a",
        "asset": asset["id"],
        "hash": asset["hash"],
        "sandbox": "blur-1",
        "token": "secret-token",
        "session": found.id,
    }


def nobodys(value: str) -> str:
    """Something of the same form and length that nobody has."""

    def other(found: re.Match[str]) -> str:
        char = found[0]
        if len(char) > 1:
            return char  # an escape of the URL, or the kind of a hash
        return {"9": "8", "e": "d"}.get(char, "9" if char.isdigit() else "e")

    return re.sub(r"%[0-9A-F]{2}|blake3:|[a-zA-Z0-9]", other, value)


def filled(template: Any, names: dict[str, str]) -> Any:
    if isinstance(template, dict):
        return {key: filled(value, names) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, names) for value in template]
    if not isinstance(template, str):
        return template
    return re.sub(r"\{(\w+)\}", lambda m: names[m[1]], template)


async def told(
    client: httpx2.AsyncClient, ask: Ask, names: dict[str, str]
) -> tuple[int, bytes, list[tuple[str, str]]]:
    method, _, path, body = ask
    more = {} if body is None else {"json": filled(body, names)}
    answer = await client.request(method, filled(path, names), **more)  # type: ignore[arg-type]
    text = answer.content
    for name in sorted(names.values(), key=len, reverse=True):
        for form in (name, name.replace("%2F", "/")):
            text = text.replace(form.encode(), b"<asked>")
    headers = [(key, value) for key, value in answer.headers.items() if key not in ("date", "content-length")]
    return answer.status_code, re.sub(rb'"server_time"[^,}]*|\d{4}-\d\d-\d\dT[^"]*', b"", text), headers


async def test_what_another_tenant_has_is_answered_as_what_nobody_has(
    app: FastAPI,
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient],
    of_a: dict[str, str],
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unlimited(*_: object) -> None:
        """The quota of requests is another test's matter."""

    monkeypatch.setattr(app.state.services.quotas, "take_request", unlimited)
    first, second = studio
    before = await everything_of(first)
    missing = {name: nobodys(value) for name, value in of_a.items()}
    for asks in batched(ASKS, 10):  # on one application, since a new one for each costs more than all of them
        for ask in asks:
            assert await told(second, ask, of_a) == await told(second, ask, missing), ask
            assert engine.sandboxes.stopped == [], ask
            assert engine.asked == [], ask
            assert all(tenant != "a" for tenant, _ in engine.interrupts), ask
        assert await everything_of(first) == before, f"one of {asks}"


def batched(asks: Sequence[Ask], count: int) -> Iterator[Sequence[Ask]]:
    return (asks[start : start + count] for start in range(0, len(asks), count))


async def everything_of(client: httpx2.AsyncClient) -> list[Any]:
    paths = (
        "/queue", "/history", "/settings", "/userdata?dir=secretdir", "/api/v2/jobs", "/ringfence/v1/sessions",
        "/view?type=input&filename=secret.png", "/ringfence/v1/sandboxes",
    )  # fmt: skip
    found: list[Any] = [(await client.get(path)).text for path in paths]
    tokens = (await client.get("/ringfence/v1/tokens")).json()["tokens"]
    return [*found, [(each["name"], each["scopes"]) for each in tokens]]


async def test_the_owner_gets_what_the_other_did_not(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], of_a: dict[str, str]
) -> None:
    """Else the test above would compare two answers for what is not there."""
    first, _ = studio
    missing = {name: nobodys(value) for name, value in of_a.items()}
    same = []
    for ask in ASKS:
        is_read = ask[0] in ("GET", "HEAD") and not ask[2].endswith("/events")
        if is_read and await told(first, ask, of_a) == await told(first, ask, missing):
            same.append(ask[2])
    # What the stand-in engine does not have, or what is answered by name alone.
    assert set(same) <= {
        "/models/{folder}",
        "/experiment/models/{folder}",
        "/object_info/{class}",
        "/global_subgraphs/{pack}",
        "/extensions/{pack}/a.js",
        "/api/workflow_templates/{pack}/a.json",
        "/internal/files/input",
        "/api/assets/{asset}",
        "/ringfence/v1/policies/{pack}",
        "/api/v2/jobs?label={client}",
        "/experiment/models/preview/loras/0/{model}.safetensors",
        "/ringfence/v1/tenants/{tenant}/usage",  # the tenant itself: test_quotas.py
    }


async def test_every_route_that_takes_a_name_is_asked(app: FastAPI) -> None:
    asked = {(method, route) for method, route, _, _ in ASKS}
    asked_routes = {route for _, route in asked}
    missing = []
    for path, methods, _ in routes_of(app):
        key = path if path in NEEDS else path.removeprefix("/api")
        for method in methods:
            if "{" in key and NEEDS[key][method] not in (Need.OPERATOR, Need.OPEN) and key != "/{frontend}":
                is_variant = key in asked_routes and method not in _JSON
                if (method, key) not in asked and not is_variant and key not in _WRITTEN_TO:
                    missing.append(f"{method} {key}")
    assert missing == []


# Writing to a name makes it the writer's own; what is switched off has one handler for all methods.
_WRITTEN_TO: Final = (
    "/settings/{name:path}",
    "/api/assets/{_rest:path}",
    "/ringfence/v1/extensions/{name}/routes/{path:path}",
)


async def test_the_name_of_a_tenant_is_not_told_by_the_header_that_names_one(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient],
) -> None:
    there, missing = [
        await studio[1].get("/queue", headers={"X-Ringfence-Tenant": name}) for name in ("a", "nobody")
    ]
    assert (there.status_code, there.content) == (missing.status_code, missing.content)
    assert there.status_code == 403


async def test_an_answer_without_a_token_is_one_whatever_is_asked_for(
    app: FastAPI, of_a: dict[str, str]
) -> None:
    async with client_for(app) as nobody:
        for ask in ASKS:
            status, body, _ = await told(nobody, ask, of_a)
            assert status == 401, ask
            assert body == (await told(nobody, ask, {n: nobodys(v) for n, v in of_a.items()}))[1]
