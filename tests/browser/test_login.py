"""With tenants configured: the log-in page, the unmodified frontend behind it, and what other pages cannot do."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import SHOTS
from tests.browser.frontend import Frontend
from tests.e2e.comfy import node
from tests.stack import ROOT, Stack, free_port


@pytest.fixture(scope="module")
def shared(stack: Stack) -> Iterator[tuple[str, str]]:
    """Another stack, with one tenant; its URL and the tenant's token."""
    name = f"{stack.settings['RINGFENCE_INSTANCE']}l"
    port = free_port()
    environment = {
        **os.environ,
        "RINGFENCE_PROJECT": f"ringfence-{name}",
        "RINGFENCE_INSTANCE": name,
        "RINGFENCE_PORT": str(port),
        "RINGFENCE_URL": f"http://127.0.0.1:{port}",
        "RINGFENCE_DATA_DIR": f"/var/lib/ringfence-{name}",
        "RINGFENCE_SHM_DIR": f"/dev/shm/ringfence-{name}",
        "RINGFENCE_RUN_DIR": f"/run/ringfence-{name}",
    }
    try:
        make(environment, "up")
        operator = Path(environment["RINGFENCE_DATA_DIR"], "operator.token").read_text().strip()
        there = Stack(environment["RINGFENCE_URL"], stack.compose, stack.settings)
        token = there.ringfence("tenant", "create", "anna", "--token", operator, "--json")["token"]
        pack = str(ROOT / "tests" / "extensions" / "friendly_v1")
        there.ringfence("extension", "add", pack, "--token", token)
        yield there.url, token
    finally:
        make(environment, "down")
        shutil.rmtree(environment["RINGFENCE_DATA_DIR"], ignore_errors=True)


def make(environment: dict[str, str], verb: str) -> None:
    done = subprocess.run(
        ["bash", ".ci/stack.sh", verb],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A page of somebody else's, on another port of this machine: the same site, another origin."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_tenant_logs_in_runs_a_prompt_in_the_frontend_and_logs_out_and_other_pages_gain_nothing(
    browser: Browser, shared: tuple[str, str], elsewhere: str
) -> None:
    url, token = shared
    SHOTS.mkdir(parents=True, exist_ok=True)
    bearer = {"Authorization": f"Bearer {token}"}
    httpx2.post(
        f"{url}/api/settings/Comfy.TutorialCompleted", content=b"true", headers=bearer
    ).raise_for_status()
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()
        page.goto(f"{url}/")
        page.get_by_label("Token").fill("rf_wrong")
        page.screenshot(path=SHOTS / "login.png")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=SHOTS / "login-refused-dark.png")
        page.emulate_media(color_scheme="light")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{url}/")

        frontend = Frontend(page, url, SHOTS)
        frontend.open()
        frontend.load(
            {
                "1": node("RFSolid", width=64, height=32, value=0.5),
                "2": node("PreviewImage", images=["1", 0]),
            },
            "login",
        )
        frontend.run()
        shown = frontend.picture("2")
        assert [shown["width"], shown["height"]] == [64, 32]
        frontend.shot("logged-in")
        assert frontend.problems() == []
        before = set(httpx2.get(f"{url}/history", headers=bearer).json())

        other = context.new_page()
        other.goto(elsewhere)
        opened = other.evaluate(
            """url => new Promise(resolve => {
                const socket = new WebSocket(url)
                socket.onmessage = () => resolve('heard')
                socket.onclose = () => resolve('refused')
            })""",
            url.replace("http", "ws") + "/ws",
        )
        assert opened == "refused"
        seen = other.evaluate(
            """url => new Promise(resolve => {
                const image = new Image()
                image.onload = () => resolve('seen')
                image.onerror = () => resolve('refused')
                image.src = url
            })""",
            f"{url}/favicon.ico",
        )
        assert seen == "refused"
        with other.expect_navigation() as posted:
            other.evaluate(
                """url => {
                    const form = document.createElement('form')
                    form.method = 'post'
                    form.enctype = 'text/plain'
                    form.action = url
                    const prompt = '{"1": {"class_type": "RFReport", "inputs": {"text": "x"}}}'
                    const field = document.createElement('input')
                    field.name = `{"prompt": ${prompt}, "x": "`
                    field.value = '"}'
                    form.append(field)
                    document.body.append(form)
                    form.submit()
                }""",
                f"{url}/prompt",
            )
        assert posted.value is not None
        assert posted.value.status == 403
        assert set(httpx2.get(f"{url}/history", headers=bearer).json()) == before
        assert httpx2.get(f"{url}/queue", headers=bearer).json() == {"queue_running": [], "queue_pending": []}
        other.close()

        page.goto(f"{url}/ringfence/login")
        page.get_by_role("heading", name="Logged in as anna").wait_for()
        page.screenshot(path=SHOTS / "login-session.png")
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token").wait_for()
        assert context.request.get(f"{url}/queue").status == 401
    finally:
        context.close()
