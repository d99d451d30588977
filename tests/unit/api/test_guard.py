"""What is refused before any route is reached."""

from __future__ import annotations

import resource
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
import pytest
from fastapi import FastAPI

from api.open_files import OpenFilesError, raise_open_files
from api.settings import Settings
from tests.unit.api.conftest import OPERATOR_TOKEN, Start, client_for, make_settings
from tests.unit.api.fakes import PROMPT, FakeEngine
from tests.unit.api.live import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8188", "localhost:8188", "LOCALHOST", "[::1]:8188", "127.1.2.3", "x.localhost"]
)
async def test_loopback_names_are_ours(client: httpx2.AsyncClient, host: str) -> None:
    assert (await client.get("/prompt", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8188",
        "0.0.0.0",
        "10.0.0.1",
        "",
        "[::1",
        "localhost@evil",
    ],
)
async def test_other_names_are_refused_so_dns_rebinding_gains_nothing(
    client: httpx2.AsyncClient, host: str
) -> None:
    answer = await client.get("/prompt", headers={"Host": host})
    assert answer.status_code == 403
    assert "RINGFENCE_ALLOWED_HOSTS" in answer.text


async def test_an_allowed_name_is_ours_too(tmp_path: Path, start: Start) -> None:
    settings = make_settings(tmp_path, allowed_hosts=("Studio.lan",))
    async with start(settings) as app, client_for(app) as client:
        assert (await client.get("/prompt", headers={"Host": "studio.lan:8188"})).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://localhost:8188",
        "file://",
        "http://127.0.0.1:8188.evil.example",
        "http://127.0.0.1:x",
    ],
)
async def test_another_origin_is_refused(client: httpx2.AsyncClient, origin: str) -> None:
    assert (
        await client.post("/prompt", json={"prompt": PROMPT}, headers={"Origin": origin})
    ).status_code == 403


async def test_our_own_origin_is_taken(client: httpx2.AsyncClient) -> None:
    answer = await client.post(
        "/prompt", json={"prompt": PROMPT}, headers={"Origin": "http://127.0.0.1:8188"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/view?filename=a.png", "/prompt", "/ringfence/v1/status", "/metrics"])
async def test_cross_site_requests_are_refused(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert (await client.get("/prompt", headers={"Sec-Fetch-Site": "same-origin"})).status_code == 200


async def test_a_large_json_body_is_a_413_by_its_length_and_by_its_bytes(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    async def chunks() -> object:
        for _ in range(40):
            yield b" " * 2**20

    announced = await client.post("/prompt", content=b" " * (100 * 10**6))
    assert (announced.status_code, announced.json()["error"]["type"]) == (413, "too_large")
    streamed = await client.post("/prompt", content=chunks())  # type: ignore[arg-type]
    assert streamed.status_code == 413
    assert engine.requests == []
    assert (await client.get("/prompt")).status_code == 200


async def test_every_route_has_a_body_limit(tmp_path: Path, start: Start) -> None:
    settings = make_settings(tmp_path, max_json_bytes=2048, max_upload_bytes=4096)
    async with start(settings) as app, client_for(app) as client:
        for path in ("/queue", "/interrupt", "/settings", "/free", "/nowhere", "/ringfence/v1/tenants"):
            refused = await client.post(path, content=b" " * 3000)
            assert refused.status_code == 413, path
            assert "raise RINGFENCE_MAX_JSON_BYTES" in refused.text
        for path in ("/upload/image", "/api/upload/mask", "/userdata/x", "/ringfence/v1/extensions"):
            assert (await client.post(path, content=b" " * 3000)).status_code != 413, path
            refused = await client.post(path, content=b" " * 5000)
            assert refused.status_code == 413, path
            assert "raise RINGFENCE_MAX_UPLOAD_BYTES" in refused.text
        assert "add it by its git URL" in refused.text  # a pack with its example pictures


async def test_a_file_upload_may_be_larger_than_a_prompt(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/upload/image", files={"image": ("a.bin", b"x" * (33 * 2**20))})
    assert answer.status_code == 200


async def test_long_urls_and_headers_are_refused(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/view?filename=" + "a" * 20_000)).status_code == 414
    assert (await client.get("/prompt", headers={"X-Long": "a" * 40_000})).status_code == 431
    assert (await client.get("/prompt%00")).status_code == 400


async def test_every_answer_forbids_sniffing(client: httpx2.AsyncClient) -> None:
    for path in ("/prompt", "/nowhere", "/healthz", "/view"):
        assert (await client.get(path)).headers["x-content-type-options"] == "nosniff"


async def test_unknown_paths_are_404_and_options_is_200(client: httpx2.AsyncClient) -> None:
    for path in (
        "/nowhere",
        "/api/nowhere",
        "/api/api/prompt",
        "/manager/x",
        "/customnode/getlist",
        "/api/assets/import",
    ):
        assert (await client.get(path)).status_code == 404, path
    assert (await client.options("/api/anything")).status_code == 200


async def test_health_is_open_to_everybody(app: FastAPI, studio: object) -> None:
    async with client_for(app) as nobody:
        for path in ("/healthz", "/readyz"):
            assert (await nobody.get(path, headers={"Host": "probe"})).status_code == 200
        assert (await nobody.get("/prompt")).status_code == 401


async def test_with_tenants_every_request_needs_a_token(
    app: FastAPI, studio: tuple[httpx2.AsyncClient, ...]
) -> None:
    first, _ = studio
    assert (await first.get("/prompt")).status_code == 200
    async with client_for(app) as nobody:
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": "Basic x"},
            {"Authorization": "Bearer"},
        ):
            answer = await nobody.get("/api/prompt", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in (
            "/object_info",
            "/metrics",
            "/ringfence/v1/status",
            "/nowhere",
            "/ringfence/v1/openapi.json",
        ):
            assert (await nobody.get(path)).status_code == 401, path


async def test_tenants_see_nothing_of_each_other(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], engine: FakeEngine
) -> None:
    first, second = studio
    prompt_id = (await first.post("/prompt", json={"prompt": PROMPT})).json()["prompt_id"]
    await first.post("/upload/image", files={"image": ("a.png", b"x")})
    await first.post("/settings/x", json=1)
    await first.post("/userdata/workflows%2Fa.json", content=b"{}")
    engine.sandboxes.run("blur-1", "a", "blur")
    assert (await second.get("/queue")).json() == {"queue_running": [], "queue_pending": []}
    await second.post("/queue", json={"delete": [prompt_id], "clear": True})
    assert (await second.post(f"/api/jobs/{prompt_id}/cancel")).json() == {"cancelled": False}
    assert len((await first.get("/queue")).json()["queue_pending"]) == 1
    assert (await second.get("/view?type=input&filename=a.png")).status_code == 404
    assert (await second.get("/settings/x")).json() is None
    assert (await second.get("/userdata/workflows%2Fa.json")).status_code == 404
    assert (await second.get("/ringfence/v1/sandboxes")).json() == {"sandboxes": []}
    assert (await second.get("/ringfence/v1/sandboxes/blur-1/logs")).status_code == 404
    assert (await second.delete("/ringfence/v1/sandboxes/blur-1")).status_code == 404
    assert (await second.get(f"/ringfence/v1/prompts/{prompt_id}")).status_code == 404
    assert engine.sandboxes.stopped == []


async def test_a_tenant_cannot_act_for_another_or_as_the_operator(
    studio: tuple[httpx2.AsyncClient, ...],
) -> None:
    first, _ = studio
    assert (await first.get("/prompt", headers={"X-Ringfence-Tenant": "b"})).status_code == 403
    assert (await first.get("/prompt", headers={"X-Ringfence-Tenant": "../b"})).status_code == 400
    assert (await first.get("/prompt", headers={"X-Ringfence-Tenant": "a"})).status_code == 200
    for method, path in (
        ("GET", "/ringfence/v1/tenants"),
        ("POST", "/ringfence/v1/tenants"),
        ("POST", "/ringfence/v1/tenants/b/rotate-token"),
        ("GET", "/ringfence/v1/doctor"),
        ("GET", "/metrics"),
        ("GET", "/ringfence/v1/sandboxes?all_tenants=true"),
        ("POST", "/ringfence/v1/policies/check"),
    ):
        assert (await first.request(method, path)).status_code == 403, path


async def test_the_operator_acts_for_a_tenant_by_header(
    studio: tuple[httpx2.AsyncClient, ...], operator: httpx2.AsyncClient
) -> None:
    await studio[0].post("/prompt", json={"prompt": PROMPT})
    for tenant, remaining in (("a", 1), ("b", 0)):
        answer = await operator.get("/prompt", headers={"X-Ringfence-Tenant": tenant})
        assert answer.json()["exec_info"]["queue_remaining"] == remaining
    assert (await operator.get("/prompt", headers={"X-Ringfence-Tenant": "nobody"})).status_code == 403


async def test_single_user_mode_has_one_tenant(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/prompt", headers={"X-Ringfence-Tenant": "local"})).status_code == 200
    answer = await client.get("/prompt", headers={"X-Ringfence-Tenant": "other"})
    assert answer.status_code == 403
    assert "tenant create" in answer.text


async def test_tenants_are_created_listed_and_their_tokens_rotated(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    created = await client.post("/ringfence/v1/tenants", json={"name": "studio"})
    assert created.status_code == 201
    assert created.json()["operator_token"] == OPERATOR_TOKEN
    token = created.json()["token"]
    assert (await client.get("/ringfence/v1/tenants")).status_code == 401
    async with client_for(app, headers={"Authorization": f"Bearer {OPERATOR_TOKEN}"}) as operator:
        assert [t["name"] for t in (await operator.get("/ringfence/v1/tenants")).json()["tenants"]] == [
            "studio"
        ]
        assert (await operator.post("/ringfence/v1/tenants", json={"name": "studio"})).status_code == 409
        assert (await operator.post("/ringfence/v1/tenants", json={"name": "../x"})).status_code == 400
        assert (
            "operator_token"
            not in (await operator.post("/ringfence/v1/tenants", json={"name": "two"})).json()
        )
        fresh = (await operator.post("/ringfence/v1/tenants/studio/rotate-token")).json()["token"]
        assert (await operator.post("/ringfence/v1/tenants/none/rotate-token")).status_code == 404
    for value, status in ((token, 401), (fresh, 200)):
        assert (
            await client.get("/prompt", headers={"Authorization": f"Bearer {value}"})
        ).status_code == status


async def test_an_unforeseen_error_shows_no_traceback_and_no_path(
    client: httpx2.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def explode(*_: object, **__: object) -> None:
        raise ValueError("/var/lib/ringfence/secret")

    monkeypatch.setattr(engine, "object_info", explode)
    answer = await client.get("/object_info/KSampler")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_metrics_count_requests_by_route_not_by_path(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    engine.sandboxes.run("blur-1", "local", "blur")
    await client.get("/history/some-prompt")
    text = (await client.get("/metrics")).text
    assert 'route="/history/{prompt_id}"' in text
    assert "some-prompt" not in text
    assert 'ringfence_sandboxes{state="warm"} 1.0' in text
    assert 'ringfence_queue_remaining{tenant="local"} 0.0' in text


async def test_the_nesting_limit_is_exact(client: httpx2.AsyncClient) -> None:
    for depth, kind in ((128, "no_prompt"), (129, "invalid_json")):
        answer = await client.post("/prompt", content=b"[" * depth + b"]" * depth)
        assert answer.json()["error"]["type"] == kind


async def test_a_body_without_announced_length_is_hung_up_on(app: FastAPI, settings: Settings) -> None:
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"

    def send(port: int) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            head = f"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode())
            sent = 0
            try:
                while sent < 200:
                    connection.sendall(piece)
                    sent += 1
            except OSError:
                pass
            return sent, connection.recv(4096)

    async with serving(app, settings) as url:
        sent, answer = await anyio.to_thread.run_sync(send, int(url.rsplit(":", 1)[1]))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 100


async def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(client: httpx2.AsyncClient) -> None:
    for piece in (b"{}", b"[]", b"0.5"):
        answer = await client.post("/prompt", content=b"[" + b",".join([piece] * 1_000_001) + b"]")
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_json"
        assert "values" in str(answer.json())


async def test_a_chain_of_many_nodes_is_accepted(client: httpx2.AsyncClient) -> None:
    chain = {
        str(n): {
            "class_type": "Blur",
            "inputs": {"image": [str(n - 1), 0], "radius": 1, "mode": "a, b"},
            "_meta": {"title": "Blur it"},
        }
        for n in range(50_000)
    }
    answer = await client.post("/prompt", json={"prompt": chain, "client_id": "c"})
    assert answer.status_code == 200


async def test_connections_beyond_the_limit_are_answered_503(tmp_path: Path, start: Start) -> None:
    settings = make_settings(tmp_path, max_connections=16, max_address_connections=16)
    async with start(settings) as app, serving(app, settings) as url, AsyncExitStack() as stack:
        port = int(url.rsplit(":", 1)[1])
        for _ in range(16):
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
        with anyio.fail_after(60):
            one = await anyio.connect_tcp("127.0.0.1", port)
            async with one:
                await one.send(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                assert (await one.receive()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(
    ("limits", "raised"),
    [((1024, 20_000), (20_000, 20_000)), ((256, resource.RLIM_INFINITY), (1 << 20, resource.RLIM_INFINITY))],
)
def test_the_limit_of_open_files_is_raised(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: tuple[int, int]
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, both: made.append(both))
    raise_open_files()
    assert made == [raised]


def test_too_few_open_files_refuse_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (512, 512))
    with pytest.raises(OpenFilesError, match="only 512 files") as caught:
        raise_open_files()
    assert "ulimit" in caught.value.hint


async def test_comfyuis_assets_are_said_to_be_off(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/features")).json()["assets"] is False
    for method, path in (
        ("GET", "assets"),
        ("POST", "assets/from-hash"),
        ("GET", "tags"),
        ("DELETE", "assets/x"),
    ):
        answer = await client.request(method, f"/api/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SERVICE_DISABLED")


async def test_a_token_may_come_as_the_password_of_http_basic(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], app: FastAPI
) -> None:
    token = studio[0].headers["authorization"].removeprefix("Bearer ")
    async with client_for(app) as client:
        assert (await client.get("/prompt", auth=("anybody", token))).status_code == 200
        assert (await client.get("/prompt", auth=("anybody", "wrong"))).status_code == 401
        for odd in ("Basic", "Basic !!!", "Basic YWJj", "Digest x"):
            assert (await client.get("/prompt", headers={"Authorization": odd})).status_code == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9000", "null"])
async def test_another_page_cannot_use_the_basic_credentials_that_a_browser_keeps(
    studio: tuple[httpx2.AsyncClient, httpx2.AsyncClient], app: FastAPI, origin: str
) -> None:
    token = studio[0].headers["authorization"].removeprefix("Bearer ")
    async with client_for(app) as client:
        # To a plain http:// name browsers send no Sec-Fetch-Site, and another port is the same site.
        for told in ({}, {"Sec-Fetch-Site": "same-site"}):
            answer = await client.post("/interrupt", auth=("x", token), headers={**told, "Origin": origin})
            assert (answer.status_code, "other web sites" in answer.text) == (403, True)
        own = {"Origin": "http://127.0.0.1:8188", "Sec-Fetch-Site": "same-origin"}
        assert (await client.post("/interrupt", auth=("x", token), headers=own)).status_code == 200
    assert (
        await studio[0].post("/interrupt", headers={"Origin": origin})
    ).status_code == 200  # no browser's doing


async def test_credentials_of_any_kind_do_not_matter_in_single_user_mode(client: httpx2.AsyncClient) -> None:
    for header in ("Basic dXNlcjpwYXNz", "Bearer nonsense", "Other x"):
        assert (await client.get("/prompt", headers={"Authorization": header})).status_code == 200


async def test_a_websockets_path_without_an_upgrade_is_a_400(client: httpx2.AsyncClient) -> None:
    for path in ("/ws", "/api/ws"):
        assert (await client.get(path)).status_code == 400


async def test_where_there_is_a_get_there_is_a_head(client: httpx2.AsyncClient) -> None:
    for path in ("/prompt", "/api/system_stats", "/object_info", "/api/jobs"):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) == len((await client.get(path)).content)
    assert (await client.head("/nowhere")).status_code == 404
    assert (await client.head("/upload/image")).status_code == 405
    assert (await client.head("/api/v2/jobs/none/events")).status_code == 405


async def test_a_page_of_an_allowed_origin_may_use_the_api_and_no_other(tmp_path: Path, start: Start) -> None:
    friend = "https://studio.example"
    settings = make_settings(tmp_path, allowed_origins=(friend,))
    async with start(settings) as app, client_for(app) as client:
        cross = {"Sec-Fetch-Site": "cross-site"}
        preflight = await client.options("/prompt", headers={**cross, "Origin": friend})
        answer = await client.post("/prompt", headers={**cross, "Origin": friend}, json={"prompt": PROMPT})
        missing = await client.get("/nowhere", headers={**cross, "Origin": friend})
        for each, status in ((preflight, 200), (answer, 200), (missing, 404)):
            assert each.status_code == status
            assert each.headers["access-control-allow-origin"] == friend
            assert "POST" in each.headers["access-control-allow-methods"]
            assert each.headers["vary"] == "Origin"
        for origin in (
            "https://evil.example",
            "https://studio.example.evil",
            "null",
            "http://studio.example",
        ):
            refused = await client.get("/prompt", headers={**cross, "Origin": origin})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
        named = await client.get("/prompt", headers={"Host": "evil.example", "Origin": friend})
        assert named.status_code == 403  # the name in Host is another matter


@pytest.mark.parametrize("origin", ["*", "studio.example", "https://studio.example/", "https://x/path", ""])
def test_an_origin_that_is_none_is_refused_at_start(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        make_settings(tmp_path, allowed_origins=(origin,))
