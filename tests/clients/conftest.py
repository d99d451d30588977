"""What the tests with real client packages share: their environments, packs, pictures, and how a program is driven."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tests.clients.environments import node_client, node_path, python_client
from tests.e2e.comfy import Prompt, node
from tests.stack import Have, Stack

DRIVERS = Path(__file__).parent / "drivers"
DRIVE_S = 90

Report = dict[str, Any]
Drive = Callable[..., Report]


@pytest.fixture(scope="session", autouse=True)
def packs(have: Have) -> None:
    """The packs that this level's workflows are made of."""
    have("darkroom", "friendly_v1", "slow", "gates")


@pytest.fixture
def quiet_environment(tmp_path: Path, stack: Stack) -> dict[str, str]:
    """An environment in which a client finds no settings of this machine's user, and no proxy towards the stack."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    home = tmp_path / "home"
    home.mkdir()
    return {
        **kept,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def drive(stack: Stack, quiet_environment: dict[str, str], tmp_path: Path) -> Drive:
    """``drive("comfy-script", **facts)``: runs ``drivers/comfy_script.py`` (or ``.mjs``) in that client's environment.

    A driver gets its facts as one JSON argument and prints its report as its last line; a failing one shows all that
    it printed.
    """

    def run(client: str, driver: str | None = None, **facts: Any) -> Report:
        name = driver or client.replace("-", "_")
        if (DRIVERS / f"{name}.mjs").is_file():
            place = node_client(client)
            # Node looks for packages beside the program.
            program = shutil.copy(DRIVERS / f"{name}.mjs", place / f"{name}-{uuid.uuid4().hex[:8]}.mjs")
            command = ["env", f"PATH={node_path()}", "node", program]
        else:
            program = ""
            command = [str(python_client(client) / "python"), "-P", str(DRIVERS / f"{name}.py")]
        try:
            done = run_client(
                [*command, json.dumps({"url": stack.url, **facts})], quiet_environment, tmp_path
            )
        finally:
            if program:
                Path(program).unlink()
        lines = done.stdout.strip().splitlines()
        assert done.returncode == 0, f"{client}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert lines, f"{client} printed no report\n{done.stderr}"
        report: Report = json.loads(lines[-1])
        return report

    return run


def run_client(
    command: list[str], environment: dict[str, str], where: Path, timeout_s: float = DRIVE_S
) -> subprocess.CompletedProcess[str]:
    """Run a client's program to its end; one that does not end fails with what it printed."""
    try:
        return subprocess.run(
            command,
            env=environment,
            cwd=where,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = "\n".join(
            stream.decode(errors="replace") if isinstance(stream, bytes) else stream or ""
            for stream in (error.stdout, error.stderr)
        )
        pytest.fail(f"{command[0]} {command[1]} did not end within {timeout_s:g} s\n{said}")


@pytest.fixture
def red(tmp_path: Path) -> Path:
    """A red picture under a name, and of a content, of its own."""
    path = tmp_path / f"red-{uuid.uuid4().hex}.png"
    unique = PngImagePlugin.PngInfo()
    unique.add_text("name", path.name)
    Image.new("RGB", (16, 16), (255, 0, 0)).save(path, pnginfo=unique)
    return path


def developed(image: str, steps: int = 4, pause: float = 0.0) -> Prompt:
    """A workflow: an uploaded picture, inverted in steps with previews, saved."""
    return {
        "1": {**node("LoadImage", image=image), "_meta": {"title": "Load"}},
        "2": {**node("RFDevelop", image=["1", 0], steps=steps, pause=pause), "_meta": {"title": "Develop"}},
        "3": {**node("SaveImage", images=["2", 0], filename_prefix="developed"), "_meta": {"title": "Save"}},
    }


def plain(image: str) -> Prompt:
    """The same picture without previews."""
    return {
        "1": {**node("LoadImage", image=image), "_meta": {"title": "Load"}},
        "2": {**node("RFInvert", image=["1", 0], strength=1.0), "_meta": {"title": "Invert"}},
        "3": {**node("SaveImage", images=["2", 0], filename_prefix="plain"), "_meta": {"title": "Save"}},
    }


def sleeping(seconds: float = 60.0) -> Prompt:
    """A workflow that runs until it is cancelled, with progress all along."""
    return {"1": {**node("RFSleep", seconds=seconds), "_meta": {"title": "Sleep"}}}


def failing(image: str, text: str) -> Prompt:
    """A workflow whose node raises after a while: some clients miss an error that comes before they listen."""
    prompt = developed(image, steps=4, pause=0.3)
    prompt["2"]["inputs"]["spoiled"] = text
    return prompt


def invalid() -> Prompt:
    """A workflow that is refused: a required input is missing."""
    return {"1": {**node("RFReport"), "_meta": {"title": "Report"}}}


def pictures(encoded: list[str]) -> list[Image.Image]:
    """The pictures of a report."""
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in encoded]


def is_cyan(picture: Image.Image) -> bool:
    """Whether a picture is what the red one becomes."""
    image = picture.convert("RGB")
    red, green, blue = image.getpixel((8, 8))
    return image.size == (16, 16) and red < 16 and green > 239 and blue > 239


def are_previews(shown: list[Image.Image]) -> bool:
    """Whether these are previews of the developing picture, at least one, on its way from red to cyan."""
    reds = [image.convert("RGB").getpixel((8, 8))[0] for image in shown]
    return (
        bool(shown) and {image.format for image in shown} == {"JPEG"} and reds == sorted(reds, reverse=True)
    )
