"""Routes of packs: who may be asked, what goes to the pack, and what of its answer leaves in our name."""

from __future__ import annotations

import httpx2
import pytest

from policies import ExtensionName
from sandbox import NodeRaisedError, RouteBusyError, RouteTimeoutError, StartError
from tests.unit.api.conftest import Start, client_for, make_settings
from tests.unit.api.fakes import PROMPT, FakeEngine

pytestmark = pytest.mark.anyio
OWN = "/ringfence/v1/extensions/blur/routes"


@pytest.fixture
def blur(engine: FakeEngine) -> FakeEngine:
    for method, path in (
        ("GET", "/blur/{name}"),
        ("POST", "/blur/run"),
        ("GET", "/api/blur"),
        ("GET", "/queue"),
    ):
        engine.extensions.sites.add("blur", method, path)
    return engine


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/blur/soft?radius=2&x=%26", "/blur/soft?radius=2&x=%26"),
        ("/api/blur/soft", "/blur/soft"),
        ("/blur/a%2520b", "/blur/a%2520b"),
        ("/api/blur", "/api/blur"),
        (f"{OWN}/blur/soft?radius=2", "/blur/soft?radius=2"),
        (f"{OWN}/anything/a%2Fb", "/anything/a%2Fb"),
        (f"{OWN}/", "/"),
    ],
)
async def test_a_route_is_asked_by_the_path_that_the_pack_registered(
    client: httpx2.AsyncClient, blur: FakeEngine, asked: str, target: str
) -> None:
    answer = await client.get(asked)
    assert (answer.status_code, answer.json()) == (200, {})
    ((tenant, extension, request, body),) = blur.asked
    assert (tenant, extension, request.method, request.target, body) == ("local", "blur", "GET", target, b"")
    assert answer.headers["x-ringfence-extension"] == "blur"


@pytest.mark.parametrize("path", ["/queue", "/api/queue"])
async def test_routes_of_this_server_always_win(
    client: httpx2.AsyncClient, blur: FakeEngine, path: str
) -> None:
    assert "queue_running" in (await client.get(path)).json()
    assert (await client.delete("/queue")).status_code == 405
    assert blur.asked == []


@pytest.mark.parametrize("path", ["/blur", "/blur/", "/blur/a/b", "/other", "/ringfence/v1/blur/soft"])
async def test_what_nobody_registered_is_404_as_before(
    client: httpx2.AsyncClient, blur: FakeEngine, path: str
) -> None:
    assert (await client.get(path)).status_code == 404
    assert (await client.put("/blur/soft")).status_code == 404
    assert blur.asked == []


async def test_an_extension_that_is_unknown_or_may_not_is_refused(
    client: httpx2.AsyncClient, blur: FakeEngine
) -> None:
    assert (await client.get("/ringfence/v1/extensions/other/routes/x")).status_code == 404
    blur.extensions.sites.off.add(ExtensionName("blur"))
    refused = await client.get(f"{OWN}/blur/soft")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "routes-off")
    assert blur.asked == []


async def test_a_tenants_routes_are_nobody_elses(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], engine: FakeEngine, app: object
) -> None:
    engine.extensions.sites.add("blur", "GET", "/blur/x", tenant="a")
    mine, other = studio
    assert (await mine.get("/blur/x")).status_code == 200
    assert (await other.get("/blur/x")).status_code == 404
    assert (await other.get(f"{OWN}/blur/x")).status_code == 404
    async with client_for(app) as nobody:  # type: ignore[arg-type]
        assert (await nobody.get("/blur/x")).status_code == 401
    assert [tenant for tenant, *_ in engine.asked] == ["a"]


async def test_nothing_that_proves_who_asks_reaches_the_pack(
    client: httpx2.AsyncClient, blur: FakeEngine
) -> None:
    secret = {
        "Authorization": "Bearer t",
        "Cookie": "s=1",
        "X-Ringfence-Tenant": "local",
        "Referer": "http://x/",
    }
    told = {"Accept": "text/plain", "Content-Type": "text/x", "Range": "bytes=0-1", "Comfy-User": "default"}
    await client.post("/blur/run", headers=secret | told, content=b"pixels")
    ((_, _, request, body),) = blur.asked
    sent = dict(request.headers)
    assert body == b"pixels"
    assert {name.title(): sent[name] for name in ("accept", "content-type", "range", "comfy-user")} == told
    assert not sent.keys() & {
        "authorization",
        "cookie",
        "x-ringfence-tenant",
        "referer",
        "host",
        "connection",
    }


async def test_a_body_over_the_limit_is_refused(start: Start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with start(make_settings(tmp_path, max_json_bytes=2048)) as app, client_for(app) as client:
        engine = app.state.services.engine
        engine.extensions.sites.add("blur", "POST", "/blur/run")

        async def pieces():  # type: ignore[no-untyped-def]
            for _ in range(5):
                yield b"x" * 1000

        assert (await client.post("/blur/run", content=b"x" * 3000)).status_code == 413
        assert (await client.post("/blur/run", content=pieces())).status_code == 413
        assert engine.asked == []


async def test_only_harmless_headers_of_an_answer_leave(client: httpx2.AsyncClient, blur: FakeEngine) -> None:
    given = (
        ("content-type", "image/png"), ("etag", '"1"'), ("last-modified", "x"), ("content-disposition", "inline"),
        ("set-cookie", "a=1"), ("service-worker-allowed", "/"), ("access-control-allow-origin", "*"),
        ("clear-site-data", "*"), ("content-length", "99"), ("transfer-encoding", "chunked"),
        ("content-security-policy", "script-src *"), ("x-frame-options", "x"), ("link", "</x>; rel=preload"),
        ("refresh", "0; url=http://elsewhere"), ("connection", "keep-alive"), ("server", "nginx"),
    )  # fmt: skip
    blur.route_answer = (200, given, [b"\x89PNG", b"..."])
    answer = await client.get("/blur/soft")
    assert answer.content == b"\x89PNG..."
    assert dict(answer.headers) == {
        "content-type": "image/png",
        "etag": '"1"',
        "last-modified": "x",
        "content-disposition": "inline",
        "cache-control": "private, no-cache",
        "content-security-policy": answer.headers["content-security-policy"],
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-ringfence-extension": "blur",
    }
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("text/html", "text/html"),
        ("image/svg+xml", "image/svg+xml"),
        ("text/javascript", "text/plain; charset=utf-8"),
        ("application/ECMAScript; v=1", "text/plain; charset=utf-8"),
        ("text/css", "text/plain; charset=utf-8"),
        (None, "application/octet-stream"),
    ],
)
async def test_no_answer_can_be_run_as_a_script_and_every_page_is_sandboxed(
    client: httpx2.AsyncClient, blur: FakeEngine, given: str | None, sent: str
) -> None:
    blur.route_answer = (200, (("content-type", given),) if given else (), [b"alert(1)"])
    answer = await client.get("/blur/soft")
    assert answer.headers["content-type"] == sent
    assert answer.headers["content-security-policy"].startswith("sandbox;")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/blur/done?x=1", "/blur/done?x=1"),
        ("//elsewhere/", None),
        ("/\\elsewhere", None),
        ("https://elsewhere/", None),
        ("javascript:alert(1)", None),
        ("/\t/elsewhere/", None),
        ("/\t\\elsewhere/", None),
        ("/a\\b", None),
    ],
)
async def test_a_redirect_stays_on_this_server(
    client: httpx2.AsyncClient, blur: FakeEngine, given: str, sent: str | None
) -> None:
    blur.route_answer = (302, (("location", given),), [])
    assert (await client.get("/blur/soft")).headers.get("location") == sent


@pytest.mark.parametrize(
    ("status", "sent", "place"),
    [(302, 303, "/free"), (301, 303, "/free"), (303, 303, "/free"), (307, 307, None), (308, 308, None)],
)
async def test_a_redirect_never_sends_what_a_client_posted_to_another_route(
    client: httpx2.AsyncClient, blur: FakeEngine, status: int, sent: int, place: str | None
) -> None:
    blur.route_answer = (status, (("location", "/free"),), [])
    answer = await client.post("/blur/run", content=b"{}")
    assert (answer.status_code, answer.headers.get("location")) == (sent, place)
    read = await client.get("/blur/soft")
    assert (read.status_code, read.headers.get("location")) == (status, "/free")


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_gets_none(
    client: httpx2.AsyncClient, blur: FakeEngine, status: int
) -> None:
    blur.route_answer = (status, (("content-type", "text/plain"),), [b"smuggled"])
    answer = await client.get("/blur/soft")
    assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("public, max-age=60, s-maxage=900", "private, max-age=60"),
        ("no-store", "private, no-store"),
        ("immutable", "private"),
    ],
)
async def test_an_answer_is_kept_by_no_shared_cache(
    client: httpx2.AsyncClient, blur: FakeEngine, given: str, sent: str
) -> None:
    blur.route_answer = (200, (("cache-control", given),), [])
    assert (await client.get("/blur/soft")).headers["cache-control"] == sent


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (RouteTimeoutError("too slow", "wait"), 504),
        (RouteBusyError("too many"), 503),
        (StartError("does not start"), 502),
        (NodeRaisedError("broke off", exception_type="ClientError"), 502),
    ],
)
async def test_a_route_that_fails_is_an_error_that_says_so(
    client: httpx2.AsyncClient, blur: FakeEngine, failure: Exception, status: int
) -> None:
    blur.route_answer = failure
    plain, own = await client.get("/blur/soft"), await client.get(f"{OWN}/blur/soft")
    assert (plain.status_code, plain.json()["error"]["message"]) == (status, failure.message)  # type: ignore[attr-defined]
    assert (own.status_code, own.json()["error"]["code"]) == (status, failure.code)  # type: ignore[attr-defined]


async def test_head_has_the_headers_and_no_body(client: httpx2.AsyncClient, blur: FakeEngine) -> None:
    answer = await client.head("/blur/soft")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_prompt_handlers_see_the_body_first_and_what_they_give_back_is_checked_as_any(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    engine.on_prompt = lambda body: {**body, "prompt": PROMPT, "extra_data": {"by": "pack"}}
    answer = await client.post("/prompt", json={"prompt": {"9": {}}})
    assert answer.status_code == 200
    assert engine.requests[0].prompt == PROMPT
    assert engine.requests[0].extra_data == {"by": "pack"}
    engine.on_prompt = lambda body: {**body, "prompt_id": "no uuid"}
    assert (await client.post("/prompt", json={"prompt": PROMPT})).status_code == 400
