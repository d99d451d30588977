"""Drives ComfyUI's web frontend as a user does: its buttons, its keys, its files; every wait is bounded."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Error, FileChooser, Locator, Page, Request, Response

WAIT_MS = 60_000
_TRIES = 3
_READY = """() => Boolean(
    window.app?.graph && window.app.extensionManager && window.app.api?.clientId
    && document.querySelector('[data-testid="queue-button"]') && !document.querySelector('#splash-loader')
)"""

# What may go wrong in a page that is well. Each is what ComfyUI's own server gives, too, or what we refuse on purpose.
TOLERATED = {
    r"/api/userdata/(user\.css|comfy\.templates\.json|workflows%2F\.index\.json)\b": "nobody has made this file yet",
    r"user\.css.*MIME type": "the same: the answer is a 404, not a style sheet",
    r"//api\.comfy\.org/": "the page asks its makers for news; it may talk to this server only",
    # Somebody's container came or went on this machine, and Chromium drops what it was loading; ``open`` loads again.
    r"ERR_NETWORK_CHANGED": "the machine's network interfaces changed",
}
# What a script says of a request that failed. Where one did, it stands among the problems itself, with its reason.
SAID_OF_FAILED = re.compile(r"AxiosError: Network Error|TypeError: Failed to fetch(?! dynamically)")


class Frontend:
    """One open page."""

    def __init__(self, page: Page, url: str, shots: Path) -> None:
        self.page = page
        self.url = url
        self.log: list[str] = []
        self._shots = shots
        self._problems: list[str] = []
        self._failed_requests = 0
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._problem(f"exception: {error}"))
        page.on("response", self._on_response)
        page.on("requestfailed", self._on_failed)

    # -- what is watched

    def problems(self) -> list[str]:
        """What went wrong in the page and is not tolerated."""
        if not self._failed_requests:
            return self._problems
        return [each for each in self._problems if not SAID_OF_FAILED.search(each)]

    def expect(self, *patterns: str) -> None:
        """Take back problems that the test provoked."""
        self._problems = [
            each for each in self._problems if not any(re.search(pattern, each) for pattern in patterns)
        ]

    def _problem(self, what: str) -> None:
        self.log.append(what)
        if not any(re.search(pattern, what) for pattern in TOLERATED):
            self._problems.append(what)

    def _on_console(self, message: ConsoleMessage) -> None:
        where = message.location.get("url", "") if message.location else ""
        if message.type == "error":
            self._problem(f"console: {message.text[:500]} ({where})")
        else:
            self.log.append(f"{message.type}: {message.text[:300]}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self._problem(f"{response.status} {response.request.method} {response.url}")

    def _on_failed(self, request: Request) -> None:
        # Aborted is what the page gave up itself: it went elsewhere, or nobody reads the body. A server that hangs up
        # or sends half an answer has other names.
        if request.failure != "net::ERR_ABORTED":
            self._failed_requests += 1
            self._problem(f"{request.failure} {request.method} {request.url}")

    # -- what a user does

    def open(self) -> None:
        """Load the page until it can be used."""
        deadline = time.monotonic() + 2 * WAIT_MS / 1000
        while not self._loaded(deadline):
            assert time.monotonic() < deadline, "the page did not get ready"

    def _loaded(self, deadline: float) -> bool:
        """Load the page once; False when the machine's network changed meanwhile, which breaks what is loading."""
        start = len(self.log)
        before = list(self._problems)
        self.page.goto(self.url + "/", wait_until="commit")
        while time.monotonic() < deadline:
            try:
                self.page.wait_for_function(_READY, timeout=1000)
            except Error:
                if any("ERR_NETWORK_CHANGED" in line for line in self.log[start:]):
                    self._problems = before
                    return False
            else:
                return True
        return False

    def reload(self) -> None:
        """Load the page again, as with F5."""
        self.open()

    def load_file(self, path: Path) -> None:
        """Open a workflow file with the page's own dialog."""
        content = json.loads(path.read_text(encoding="utf-8"))
        self._file_dialog().set_files(path)
        self._wait_for_nodes(len(content.get("nodes", content)))  # a workflow, or a prompt
        self.fit_view()

    def _file_dialog(self) -> FileChooser:
        for left in reversed(range(_TRIES)):  # a key pressed while the page still settles goes nowhere
            try:
                with self.page.expect_file_chooser(timeout=WAIT_MS if not left else WAIT_MS / 10) as chooser:
                    self.page.keyboard.press("Control+o")
                return chooser.value
            except Error:
                if not left:
                    raise
        raise AssertionError

    def fit_view(self) -> None:
        """Show the whole graph."""
        self.page.get_by_label("Fit View").click()

    def load(self, prompt: dict[str, Any], name: str) -> None:
        """Put a prompt on the canvas, as dropping its file does."""
        self.page.evaluate("([prompt, name]) => app.loadApiJson(prompt, name)", [prompt, name])
        self._wait_for_nodes(len(prompt))

    def _wait_for_nodes(self, count: int) -> None:
        self.page.wait_for_function("count => app.graph.nodes.length === count", arg=count)

    def run(self) -> str:
        """Press Run; returns the prompt's id."""
        with self.page.expect_response("**/api/prompt") as answer:
            self.button("Run").click()
        assert answer.value.status == 200, answer.value.text()
        return str(answer.value.json()["prompt_id"])

    def press_run(self) -> int:
        """Press Run; returns the answer's status."""
        with self.page.expect_response("**/api/prompt") as answer:
            self.button("Run").click()
        return answer.value.status

    def button(self, name: str) -> Locator:
        """A button by its test id where it has one, else by its name."""
        return (
            self.page.get_by_test_id("queue-button")
            if name == "Run"
            else self.page.get_by_label(name, exact=True)
        )

    def wait_for_idle(self) -> None:
        """Wait until the page says that nothing runs."""
        self.page.get_by_test_id("queue-overlay-toggle").filter(has_text="0 active").wait_for()

    def shot(self, name: str) -> None:
        """Keep a picture of the page as it is."""
        self.page.screenshot(path=self._shots / f"{name}.png")

    # -- what a user sees

    def picture(self, node: str) -> dict[str, Any]:
        """The picture that a node shows, once it shows one: its size, and some of its pixels."""
        handle = self.page.wait_for_function(
            """node => {
                const image = app.graph.getNodeById(node)?.imgs?.[0]
                return image?.complete && image.naturalWidth ? image : null
            }""",
            arg=node,
        )
        found: dict[str, Any] = handle.evaluate(
            """image => {
                const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight)
                const context = canvas.getContext('2d')
                context.drawImage(image, 0, 0)
                const {width, height} = canvas
                const pixels = context.getImageData(0, 0, width, height).data
                const colours = new Set()
                for (let i = 0; i < pixels.length; i += 4)
                    colours.add((pixels[i] << 16) | (pixels[i + 1] << 8) | pixels[i + 2])
                const at = (x, y) => [...pixels.slice(4 * (y * width + x), 4 * (y * width + x) + 3)]
                window.pixelAt = at
                return {source: image.src, width, height, colours: colours.size}
            }"""
        )
        return found

    def pixel(self, x: int, y: int) -> list[int]:
        """A pixel of the last picture that was asked for."""
        found: list[int] = self.page.evaluate("([x, y]) => window.pixelAt(x, y)", [x, y])
        return found

    def marked_nodes(self) -> list[str]:
        """The nodes that the page marks as faulty."""
        found: list[str] = self.page.evaluate(
            "app.graph.nodes.filter(n => n.has_errors).map(n => String(n.id))"
        )
        return found
