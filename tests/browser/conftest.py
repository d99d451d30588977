"""ComfyUI's web frontend in Debian's Chromium, on the stack; what the page logs and asks for is watched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.frontend import WAIT_MS, Frontend
from tests.e2e.comfy import Comfy
from tests.stack import ROOT, Have, Stack

expect.set_options(timeout=WAIT_MS)
SHOTS = ROOT / "build" / "test" / "screenshots"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    program = os.environ.get("RINGFENCE_CHROMIUM") or shutil.which("chromium")
    if program is None:
        if os.environ.get("RINGFENCE_REQUIRE_DOCKER"):
            pytest.fail("this machine lacks chromium ('.ci/browser.sh' installs it)")
        pytest.skip("this machine lacks chromium ('.ci/browser.sh' installs it)")
    with sync_playwright() as playwright:
        # Chromium refuses its own sandbox when it runs as root; what it opens here is our page alone.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def packs(have: Have, comfy: Comfy) -> None:
    """Every pack and input that a test here uses: a page knows what was there when it was opened."""
    picture = (ROOT / "examples" / "photograph" / "astronaut.jpg").read_bytes()
    assert comfy.upload("astronaut.jpg", picture, overwrite="true").is_success
    have("numpy1", "numpy2", "memory-eater", "slow", "previews")


@pytest.fixture
def frontend(
    browser: Browser, stack: Stack, comfy: Comfy, packs: None, request: pytest.FixtureRequest
) -> Generator[Frontend, None, None]:
    """The page, opened as a user who was here before; at the end nothing may have gone wrong in it."""
    assert stack.ask("POST", "/api/settings/Comfy.TutorialCompleted", body=b"true")[0] == 200
    SHOTS.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    page = Frontend(context.new_page(), stack.url, SHOTS)
    try:
        page.open()
        yield page
        if not getattr(request.node, "failed", False):
            assert page.problems() == []
    finally:
        page.shot(f"end-{request.node.name[:80]}")
        context.close()
        assert comfy.post("/queue", {"clear": True}).is_success
        assert comfy.post("/interrupt", {}).is_success


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test says what the page logged."""
    report = yield
    page = getattr(item, "funcargs", {}).get("frontend")
    if report.when == "call" and report.failed and isinstance(page, Frontend):
        item.failed = True  # type: ignore[attr-defined]
        report.sections.append(("the page's log", "\n".join(page.log)))
    return report
