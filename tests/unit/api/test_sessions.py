"""Browsers log in on a page; their cookie is good for requests of that page's own server only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.attempts import FAILURES, WINDOW_S, Attempts, TooManyAttemptsError
from api.login_page import login_page
from api.peers import peer_of
from api.sessions import local_path
from api.settings import Settings
from policies import TenantId
from tests.unit.api.conftest import OPERATOR_TOKEN, Start, client_for, make_settings
from tests.unit.api.fakes import PROMPT
from tests.unit.api.live import serving

pytestmark = pytest.mark.anyio

OWN = "http://127.0.0.1:8188"
PAGE = {
    "Accept": "text/html",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Site": "none",
}
FETCH = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}


@pytest.fixture
async def token(app: FastAPI) -> str:
    _, token = await app.state.services.tenants.create("studio")
    return str(token)


@pytest.fixture
async def browser(app: FastAPI, token: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        assert (await log_in(client, token)).status_code == 303
        yield client


async def log_in(client: httpx2.AsyncClient, token: str, **more: Any) -> httpx2.Response:
    form = {"token": token, "next": more.pop("next", "/")}
    return await client.post("/ringfence/login", data=form, headers={"Origin": OWN, **more})


async def until_closed(socket: ClientConnection) -> tuple[int, str]:
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as closed:
        told = closed.rcvd
    return (told.code, told.reason) if told is not None else (0, "no word")


async def test_a_browser_that_is_not_logged_in_gets_the_page_and_a_program_gets_json(
    app: FastAPI, token: str
) -> None:
    async with client_for(app) as client:
        for path in ("/", "/view?filename=a.png", "/nowhere"):
            page = await client.get(path, headers=PAGE)
            assert page.status_code == 401
            assert page.headers["content-type"].startswith("text/html")
            assert "<form" in page.text
            assert "<script" not in page.text
            assert page.headers["cache-control"] == "no-store"
            assert "default-src 'none'" in page.headers["content-security-policy"]
        assert 'value="/view?filename=a.png"' in (await client.get("/view?filename=a.png", headers=PAGE)).text
        for headers in ({}, FETCH, {"Authorization": "Bearer x", **PAGE}):
            assert (
                (await client.get("/", headers=headers))
                .headers["content-type"]
                .startswith("application/json")
            )


async def test_the_token_becomes_a_cookie_that_scripts_cannot_read(app: FastAPI, token: str) -> None:
    async with client_for(app) as client:
        answer = await log_in(client, token, next="/?a=1")
        assert (answer.status_code, answer.headers["location"]) == (303, "/?a=1")
        cookie = answer.headers["set-cookie"].lower()
        assert cookie.startswith("ringfence=rfs_")
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=/" in cookie
        assert "secure" not in cookie
        assert token.lower() not in cookie
        assert (await client.get("/queue", headers=FETCH)).status_code == 200
        status = (await client.get("/ringfence/v1/status")).json()
        assert (status["tenant"], status["operator"]) == ("studio", False)


async def test_only_the_hash_of_a_session_is_on_disk(
    app: FastAPI, browser: httpx2.AsyncClient, settings: Settings
) -> None:
    secret = browser.cookies["ringfence"]

    def is_on_disk() -> bool:
        return any(
            secret.encode() in path.read_bytes() for path in settings.data_dir.iterdir() if path.is_file()
        )

    assert not await anyio.to_thread.run_sync(is_on_disk)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999", "Sec-Fetch-Site": "same-site"},
        {"Origin": "https://127.0.0.1:8188"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_what_another_page_makes_the_browser_send_is_refused(
    browser: httpx2.AsyncClient, told: dict[str, str]
) -> None:
    for method, path in (
        ("POST", "/prompt"),
        ("POST", "/queue"),
        ("DELETE", "/userdata/x"),
        ("POST", "/ringfence/logout"),
    ):
        answer = await browser.request(method, path, headers=told)
        assert answer.status_code == 403, (method, path)
    assert (await browser.get("/queue")).json() == {"queue_running": [], "queue_pending": []}


async def test_our_own_page_may_do_everything(browser: httpx2.AsyncClient) -> None:
    for told in ({"Origin": OWN, **FETCH}, {"Origin": OWN}, FETCH):
        assert (await browser.post("/prompt", json={"prompt": PROMPT}, headers=told)).status_code == 200


async def test_another_port_of_this_machine_reads_nothing_with_the_cookie(
    browser: httpx2.AsyncClient,
) -> None:
    same_site = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert (await browser.get("/view?filename=a.png", headers=same_site)).status_code == 403
    assert (await browser.get("/queue", headers={"Origin": "http://127.0.0.1:9999"})).status_code == 403
    frame = {**PAGE, "Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"}
    assert (await browser.get("/", headers=frame)).status_code == 403
    assert (await browser.get("/", headers={**PAGE, "Sec-Fetch-Site": "same-site"})).status_code == 200


async def test_nobody_is_logged_in_by_another_page(app: FastAPI, token: str) -> None:
    async with client_for(app) as client:
        for told in ({}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = await client.post("/ringfence/login", data={"token": token}, headers=told)
            assert answer.status_code == 403
            assert "set-cookie" not in answer.headers


async def test_wrong_expired_and_revoked_tokens_get_one_answer(app: FastAPI, token: str) -> None:
    tenants = app.state.services.tenants
    _, revoked = await tenants.create_token(TenantId("studio"), "x", frozenset(("run",)))
    await tenants.revoke_token(TenantId("studio"), "x")
    async with client_for(app) as client:
        answers = [await log_in(client, each) for each in ("", "rf_nonsense", revoked, token[:-1])]
        assert {(each.status_code, each.content) for each in answers} == {(401, answers[0].content)}


async def test_too_many_failures_of_one_address_are_told_to_wait(app: FastAPI, token: str) -> None:
    async with client_for(app) as client:
        for _ in range(FAILURES):
            assert (await log_in(client, "wrong")).status_code == 401
        answer = await log_in(client, token)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= WINDOW_S
        assert "set-cookie" not in answer.headers
        assert (await client.get("/queue", headers={"Authorization": f"Bearer {token}"})).status_code == 200
    other = httpx2.ASGITransport(app=app, client=("10.0.0.9", 1))
    async with httpx2.AsyncClient(transport=other, base_url=OWN) as client:
        assert (await log_in(client, token)).status_code == 303


async def test_failures_are_forgotten_in_time_and_take_bounded_memory() -> None:
    clock = [0.0]
    attempts = Attempts(now=lambda: clock[0])
    for _ in range(3 * FAILURES):
        attempts.failed("a")
    with pytest.raises(TooManyAttemptsError):
        attempts.check("a")
    attempts.check("b")
    clock[0] = WINDOW_S
    attempts.check("a")
    for number in range(10_000):
        attempts.failed(str(number))
    assert attempts.addresses <= 4096


async def test_logging_out_ends_the_session_and_not_only_the_cookie(browser: httpx2.AsyncClient) -> None:
    secret = browser.cookies["ringfence"]
    shown = await browser.get("/ringfence/login", headers=PAGE)
    assert "Logged in as studio" in shown.text
    answer = await browser.post("/ringfence/logout", headers={"Origin": OWN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert (await browser.get("/queue", headers={"Cookie": f"ringfence={secret}"})).status_code == 401


async def test_what_runs_in_the_page_makes_no_token_that_outlives_the_log_in(
    app: FastAPI, browser: httpx2.AsyncClient
) -> None:
    own = {"Origin": OWN, **FETCH}
    body = {"name": "x", "scopes": ["run"]}
    assert (await browser.get("/ringfence/v1/tokens")).status_code == 200
    assert (await browser.post("/ringfence/v1/tokens", json=body, headers=own)).status_code == 403
    assert (await browser.delete("/ringfence/v1/tokens/main", headers=own)).status_code == 403
    async with client_for(app) as client:
        await log_in(client, OPERATOR_TOKEN)
        for method, path in (
            ("POST", "/ringfence/v1/tenants"),
            ("DELETE", "/ringfence/v1/tenants/studio"),
            ("POST", "/ringfence/v1/tenants/studio/rotate-token"),
        ):
            answer = await client.request(method, path, json={"name": "more"}, headers=own)
            assert answer.status_code == 403, path
    assert [each.name for each in await app.state.services.tenants.list()] == ["studio"]


async def test_a_session_ends_with_its_token(app: FastAPI, browser: httpx2.AsyncClient) -> None:
    assert (await browser.get("/queue")).status_code == 200
    await app.state.services.tenants.rotate_token("studio")
    assert (await browser.get("/queue")).status_code == 401


async def test_a_new_log_in_ends_the_one_before(
    app: FastAPI, browser: httpx2.AsyncClient, token: str
) -> None:
    before = browser.cookies["ringfence"]
    assert (await log_in(browser, token)).status_code == 303
    assert browser.cookies["ringfence"] != before
    async with client_for(app) as client:
        assert (await client.get("/queue", headers={"Cookie": f"ringfence={before}"})).status_code == 401


async def test_sessions_are_listed_and_ended_by_the_tenant_they_belong_to(
    app: FastAPI, browser: httpx2.AsyncClient, token: str
) -> None:
    _, other = await app.state.services.tenants.create("other")
    mine, (found,) = (
        {"Authorization": f"Bearer {token}"},
        (await browser.get("/ringfence/v1/sessions")).json()["sessions"],
    )
    assert (found["current"], found["token"]) == (True, "main")
    async with client_for(app) as client:
        theirs = {"Authorization": f"Bearer {other}"}
        assert (await client.get("/ringfence/v1/sessions", headers=theirs)).json() == {"sessions": []}
        refused = await client.delete(f"/ringfence/v1/sessions/{found['id']}", headers=theirs)
        unknown = await client.delete("/ringfence/v1/sessions/0123456789abcdef", headers=theirs)
        assert (refused.status_code, refused.content) == (404, unknown.content)
        assert (await client.delete(f"/ringfence/v1/sessions/{found['id']}", headers=mine)).status_code == 200
    assert (await browser.get("/queue")).status_code == 401


async def test_the_operator_logs_in_as_local_and_tenants_do_not_see_that(app: FastAPI, token: str) -> None:
    async with client_for(app) as client:
        assert (await log_in(client, OPERATOR_TOKEN)).status_code == 303
        status = (await client.get("/ringfence/v1/status")).json()
        assert (status["tenant"], status["operator"]) == ("local", True)
        assert len((await client.get("/ringfence/v1/sessions")).json()["sessions"]) == 1
        tenant = {"Authorization": f"Bearer {token}"}
        client.cookies.clear()
        assert (await client.get("/ringfence/v1/sessions", headers=tenant)).json() == {"sessions": []}


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:x",
        "",
        "/\n",
        "/ringfence/logout",
        "\\/x",
    ],
)
async def test_after_a_log_in_nobody_is_sent_elsewhere(wanted: str, app: FastAPI, token: str) -> None:
    assert local_path(wanted) == "/"
    async with client_for(app) as client:
        assert (await log_in(client, token, next=wanted)).headers["location"] == "/"


async def test_what_is_shown_on_the_page_is_escaped() -> None:
    page = bytes(login_page('/"><script>x</script>', problem="<b>").body)
    assert b"<script" not in page
    assert b"<b>" not in page


async def test_over_tls_the_cookie_is_bound_to_the_host_and_headers_of_strangers_are_not_believed(
    tmp_path: Path, start: Start
) -> None:
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.5", "Host": "studio.example"}
    for proxies, name in ((("127.0.0.1",), "__Host-ringfence"), ((), "ringfence")):
        settings = make_settings(tmp_path / name, trusted_proxies=proxies, allowed_hosts=("studio.example",))
        async with start(settings) as app, client_for(app) as client:
            _, token = await app.state.services.tenants.create("studio")
            origin = "https://studio.example" if proxies else "http://studio.example"
            answer = await log_in(client, token, **{**told, "Origin": origin})
            cookie = answer.headers["set-cookie"]
            assert cookie.startswith(f"{name}=")
            assert ("Secure" in cookie) == bool(proxies)
            secret = cookie.partition("=")[2].partition(";")[0]
            client.cookies.clear()
            for sent, status in ((name, 200), ("ringfence" if proxies else "__Host-ringfence", 401)):
                headers = {**told, "Cookie": f"{sent}={secret}"}
                assert (await client.get("/queue", headers=headers)).status_code == status


def test_the_peer_is_whom_the_nearest_trusted_proxy_saw() -> None:
    def group(client: str, forwarded: str, *trusted: str) -> str:
        scope = {"type": "http", "client": (client, 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}
        return peer_of(scope, trusted).group

    assert group("10.0.0.1", "1.2.3.4") == "10.0.0.1"
    assert group("10.0.0.1", "1.2.3.4", "10.0.0.0/8") == "1.2.3.4"
    assert group("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "10.0.0.0/8") == "1.2.3.4"
    assert group("10.0.0.1", "6.6.6.6, nonsense", "10.0.0.0/8") == "10.0.0.1"
    assert group("2001:db8:1:2:3::4", "") == "2001:db8:1:2::/64"
    assert group("::ffff:10.0.0.1", "1.2.3.4", "10.0.0.1") == "1.2.3.4"


@pytest.mark.parametrize(("idle", "longest"), [(60, 10_000), (10_000, 60)])
async def test_a_session_ends_when_it_was_idle_or_is_old(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, idle: int, longest: int
) -> None:
    settings = make_settings(tmp_path, session_idle_s=idle, session_max_s=longest)
    clock = [1_000_000_000_000]
    monkeypatch.setattr("engine.sessions._now_ms", lambda: clock[0])
    async with start(settings) as app, client_for(app) as client:
        _, token = await app.state.services.tenants.create("studio")
        assert (await log_in(client, token)).status_code == 303
        clock[0] += 59_000
        assert (await client.get("/queue")).status_code == 200  # which is a use
        clock[0] += 59_000
        assert (await client.get("/queue")).status_code == (200 if longest > idle else 401)
        clock[0] += 61_000
        assert (await client.get("/queue")).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8188", "127.0.0.1.evil.example"])
async def test_with_tenants_a_rebound_name_gets_nothing_but_what_a_token_proves(
    app: FastAPI, browser: httpx2.AsyncClient, token: str, host: str
) -> None:
    assert (await browser.get("/queue", headers={"Host": host})).status_code == 403
    assert (await browser.get("/", headers={"Host": host, **PAGE})).status_code == 403
    assert (
        await browser.post("/ringfence/login", headers={"Host": host, "Origin": f"http://{host}"})
    ).status_code == 403
    async with client_for(app, headers={"Authorization": f"Bearer {token}"}) as program:
        assert (await program.get("/queue", headers={"Host": host})).status_code == 200
    async with client_for(app) as client:
        assert (await client.get("/queue", headers={"Host": "10.1.2.3:8188"})).status_code == 401


async def test_a_websocket_with_a_cookie_opens_from_our_own_page_only_and_ends_with_the_log_in(
    app: FastAPI, settings: Settings, token: str
) -> None:
    async with serving(app, settings) as url, httpx2.AsyncClient(base_url=url, verify=False) as client:
        form = {"token": token, "next": "/"}
        assert (await client.post("/ringfence/login", data=form, headers={"Origin": url})).status_code == 303
        cookie = {"Cookie": f"ringfence={client.cookies['ringfence']}"}
        address = "ws" + url.removeprefix("http") + "/ws?clientId=c"
        for origin in ("http://evil.example", "http://127.0.0.1:9", "null", None):
            with pytest.raises(InvalidStatus):
                async with connect(address, additional_headers=cookie, origin=origin):  # type: ignore[arg-type]
                    pass
        with anyio.fail_after(60):
            async with connect(address, additional_headers=cookie, origin=url) as socket:  # type: ignore[arg-type]
                await socket.recv()
                assert (await client.post("/ringfence/logout", headers={"Origin": url})).status_code == 303
                assert await until_closed(socket) == (1008, "the log-in has ended")


async def test_a_socket_of_a_revoked_token_and_one_of_single_user_mode_are_hung_up_on(
    app: FastAPI, settings: Settings
) -> None:
    tenants = app.state.services.tenants
    async with serving(app, settings) as url:
        address = "ws" + url.removeprefix("http") + "/ws"
        with anyio.fail_after(60):
            async with connect(address) as socket:
                await socket.recv()
                _, token = await tenants.create("studio")
                assert await until_closed(socket) == (1008, "the log-in has ended")
            async with connect(address, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
                await socket.recv()
                await tenants.revoke_token(TenantId("studio"), "main")
                assert await until_closed(socket) == (1008, "the log-in has ended")
