"""Which route needs which scope: no route without an answer, and no way around it."""

from __future__ import annotations

import httpx2
import pytest
from fastapi import FastAPI

from api.auth import Identity
from api.permissions import NEEDS, Need, Permissions, routes_of
from engine import Scope
from policies import TenantId
from tests.unit.api.conftest import client_for
from tests.unit.api.fakes import PROMPT

pytestmark = pytest.mark.anyio


def key_of(path: str) -> str:
    return path if path in NEEDS else path.removeprefix("/api")


async def test_every_route_of_the_application_says_which_scope_it_needs(app: FastAPI) -> None:
    missing = [
        f"{method} {path}"
        for path, methods, _ in routes_of(app)
        for method in methods
        if method not in NEEDS.get(key_of(path), {})
    ]
    assert missing == []


async def test_the_table_names_no_route_that_is_not_there(app: FastAPI) -> None:
    there = {(key_of(path), method) for path, methods, _ in routes_of(app) for method in methods}
    assert [
        (path, method) for path, by in NEEDS.items() for method in by if (path, method) not in there
    ] == []


async def test_a_route_that_the_table_does_not_know_is_closed_to_tenants(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, ...], operator: httpx2.AsyncClient
) -> None:
    @app.get("/ringfence/v1/new")
    async def new() -> dict[str, str]:
        return {"it": "answered"}

    app.state.permissions = Permissions(app)
    refused = await studio[0].get("/ringfence/v1/new")
    assert (refused.status_code, "closed" in refused.text) == (403, True)
    assert (await operator.get("/ringfence/v1/new")).status_code == 200


async def with_scopes(app: FastAPI, *scopes: Scope) -> httpx2.AsyncClient:
    tenants = app.state.services.tenants
    if not await tenants.exists(TenantId("t")):
        await tenants.create("t")
    _, secret = await tenants.create_token(TenantId("t"), "-".join(scopes), frozenset(scopes))
    return client_for(app, headers={"Authorization": f"Bearer {secret}"})


async def test_each_scope_opens_its_routes_and_no_others(app: FastAPI) -> None:
    upload = {"files": {"image": ("a.png", b"x")}}
    asks: list[tuple[Scope, str, str, dict[str, object]]] = [
        (Scope.RUN, "POST", "/prompt", {"json": {"prompt": PROMPT}}),
        (Scope.RUN, "POST", "/api/prompt", {"json": {"prompt": PROMPT}}),
        (Scope.RUN, "GET", "/view?filename=a.png", {}),
        (Scope.RUN, "HEAD", "/history", {}),
        (Scope.RUN, "GET", "/a/path/of/a/pack", {}),
        (Scope.UPLOAD, "POST", "/upload/image", upload),
        (Scope.UPLOAD, "POST", "/api/upload/image", upload),
        (Scope.UPLOAD, "POST", "/settings/x", {"json": 1}),
        (Scope.UPLOAD, "DELETE", "/userdata/x", {}),
        (Scope.UPLOAD, "POST", "/api/v2/assets", upload),
        (Scope.ADMIN, "GET", "/ringfence/v1/tokens", {}),
        (Scope.ADMIN, "DELETE", "/ringfence/v1/extensions/blur", {}),
        (Scope.ADMIN, "DELETE", "/ringfence/v1/sandboxes/blur-1", {}),
    ]
    for scope in Scope:
        async with await with_scopes(app, scope) as client:
            for wanted, method, path, more in asks:
                status = (await client.request(method, path, **more)).status_code  # type: ignore[arg-type]
                assert (status != 403) == (scope == wanted), (scope, method, path, status)


async def test_a_scope_that_is_missing_is_refused_alike_whether_the_thing_is_there_or_not(
    app: FastAPI,
) -> None:
    async with await with_scopes(app, Scope.RUN, Scope.UPLOAD) as client:
        await client.post("/userdata/there", content=b"x")
    async with await with_scopes(app, Scope.ADMIN) as client:
        there, missing = [await client.get(f"/userdata/{name}") for name in ("there", "gone!")]
    assert (there.status_code, there.content) == (missing.status_code, missing.content)
    assert there.status_code == 403
    assert "run" in there.json()["error"]["message"]


async def test_nobodys_identity_opens_nothing(app: FastAPI) -> None:
    nobody = Identity(TenantId("local"), is_operator=False)
    for path, by_method in NEEDS.items():
        for method, need in by_method.items():
            assert bool(nobody.scopes & need.value) is False, (path, method)
    assert {path for path, by in NEEDS.items() if Need.OPEN in by.values()} == {
        "/healthz",
        "/readyz",
        "/ringfence/login",
        "/ringfence/logout",
    }


async def test_an_admin_makes_lists_and_revokes_tokens_of_its_own_tenant_only(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient]
) -> None:
    first, second = studio
    made = await first.post("/ringfence/v1/tokens", json={"name": "ci", "scopes": ["run"], "expires_s": 3600})
    assert made.status_code == 201
    assert made.json()["token"]["scopes"] == ["run"]
    async with client_for(app, headers={"Authorization": f"Bearer {made.json()['secret']}"}) as ci:
        assert (await ci.get("/queue")).status_code == 200
        assert (
            await ci.post("/ringfence/v1/tokens", json={"name": "x", "scopes": ["run"]})
        ).status_code == 403
        listed = (await first.get("/ringfence/v1/tokens")).json()["tokens"]
        assert [(each["name"], each["used_ms"] is not None) for each in listed] == [
            ("ci", True),
            ("main", True),
        ]
        assert made.json()["secret"] not in str(listed)
        assert [each["name"] for each in (await second.get("/ringfence/v1/tokens")).json()["tokens"]] == [
            "main"
        ]
        assert (await second.delete("/ringfence/v1/tokens/ci")).status_code == 404
        assert (await first.delete("/ringfence/v1/tokens/ci")).status_code == 200
        assert (await ci.get("/queue")).status_code == 401


async def test_a_token_cannot_give_what_it_has_not(app: FastAPI) -> None:
    async with await with_scopes(app, Scope.ADMIN) as admin:
        more = await admin.post("/ringfence/v1/tokens", json={"name": "x", "scopes": ["admin", "run"]})
        assert (more.status_code, "lacks the scope run" in more.text) == (403, True)
        for wrong in (
            {"name": "A", "scopes": ["admin"]},
            {"name": "x", "scopes": ["root"]},
            {"name": "x", "scopes": []},
            {"name": "x"},
            {"name": "x", "scopes": ["admin"], "expires_s": 0},
            {"name": "x", "scopes": ["admin"], "expires_s": True},
        ):
            assert (await admin.post("/ringfence/v1/tokens", json=wrong)).status_code == 400, wrong
        assert (
            await admin.post("/ringfence/v1/tokens", json={"name": "admin", "scopes": ["admin"]})
        ).status_code == 409


async def test_a_removed_tenant_is_gone_and_single_user_mode_does_not_come_back(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], operator: httpx2.AsyncClient
) -> None:
    first, second = studio
    await first.post("/prompt", json={"prompt": PROMPT})
    await first.post("/upload/image", files={"image": ("a.png", b"xyz")})
    await second.post("/upload/image", files={"image": ("b.png", b"x")})
    app.state.services.engine.sandboxes.run("blur-1", "a", "blur")
    assert (await first.delete("/ringfence/v1/tenants/b")).status_code == 403
    gone = (await operator.delete("/ringfence/v1/tenants/a")).json()["removed"]
    assert (gone["prompts"], gone["sandboxes"], gone["files"], gone["nbytes"]) == (1, 1, 1, 3)
    assert (gone["kept"], gone["problems"]) == ([], [])
    assert app.state.services.engine.sandboxes.stopped == ["blur-1"]
    assert app.state.services.engine.sandboxes.forgotten == ["a"]
    assert (await first.get("/queue")).status_code == 401
    assert (await second.get("/view?type=input&filename=b.png")).status_code == 200
    assert (await operator.delete("/ringfence/v1/tenants/a")).status_code == 404
    kept = (await operator.delete("/ringfence/v1/tenants/b?keep_files=true")).json()["removed"]
    assert kept["kept"] == ["tenants/b"]
    async with client_for(app) as nobody:
        assert (await nobody.get("/queue")).status_code == 401
    again = await operator.post("/ringfence/v1/tenants", json={"name": "a"})
    async with client_for(app, headers={"Authorization": f"Bearer {again.json()['token']}"}) as fresh:
        assert (await fresh.get("/queue")).json() == {"queue_running": [], "queue_pending": []}
        assert (await fresh.get("/view?type=input&filename=a.png")).status_code == 404
        upload = {"image": ("c.png", b"x")}
        assert (await fresh.post("/upload/image", files=upload)).status_code == 200
