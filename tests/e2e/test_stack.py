"""The compose stack as a user meets it: command, workflow through two extensions, limits, and a kill."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.stack import ROOT, Have, Stack

EXAMPLES = ROOT / "examples"
SMOKE = EXAMPLES / "smoke" / "prompt.json"
PHOTOGRAPH = EXAMPLES / "photograph" / "astronaut.jpg"

SLEEPER = """
import time

class Sleep:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 1.0})}}
    RETURN_TYPES = ()
    FUNCTION = "sleep"
    CATEGORY = "test"
    OUTPUT_NODE = True
    def sleep(self, seconds):
        time.sleep(seconds)
        return {"ui": {"text": ["awake"]}}

NODE_CLASS_MAPPINGS = {"E2ESleep": Sleep}
"""


@pytest.fixture(scope="module")
def two_extensions(have: Have) -> None:
    have("numpy1", "numpy2")


def test_the_command_sees_the_stack(stack: Stack) -> None:
    status = stack.ringfence("status", "--json")
    assert (status["mode"], status["instance"]) == ("single-user", stack.settings["RINGFENCE_INSTANCE"])


def test_a_photograph_goes_through_two_extensions(stack: Stack, two_extensions: None, tmp_path: Path) -> None:
    ran = stack.ringfence("run", str(SMOKE), "--upload", str(PHOTOGRAPH), "-o", str(tmp_path), "--json")
    assert ran["state"] == "completed"
    assert Path(ran["outputs"][0]["path"]).read_bytes().startswith(b"\x89PNG")
    sandboxes = stack.ringfence("sandbox", "list", "--json")["sandboxes"]
    assert {name for box in sandboxes for name in box["extensions"]} >= {"core", "numpy1", "numpy2"}
    assert all(len(box["extensions"]) == 1 for box in sandboxes)


def test_where_each_node_ran_is_told(stack: Stack, two_extensions: None) -> None:
    ran = stack.ringfence("run", str(SMOKE), "--upload", str(PHOTOGRAPH), "--json")
    assert {node["class_type"]: node["extension"] for node in ran["nodes"]} == {
        "LoadImage": "core", "Numpy1Equalize": "numpy1", "Numpy2Ink": "numpy2", "SaveImage": "core",
    }  # fmt: skip


def test_rebinding_cross_site_and_huge_bodies_are_refused(stack: Stack) -> None:
    assert stack.ask("GET", "/prompt", headers={"Host": "evil.example"})[0] == 403
    assert stack.ask("GET", "/prompt", headers={"Origin": "http://evil.example"})[0] == 403
    assert stack.ask("POST", "/prompt", body=b" " * 100_000_000)[0] == 413
    assert stack.ask("POST", "/prompt", body=b"{")[0] == 400
    assert stack.ask("GET", "/prompt")[0] == 200


def test_what_was_answered_runs_after_the_host_was_killed(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "sleeper").mkdir()
    (tmp_path / "sleeper" / "__init__.py").write_text(SLEEPER)
    stack.ringfence("extension", "add", str(tmp_path / "sleeper"))
    ids = []
    for seconds in (5.0, 0.1):
        body = {"prompt": {"1": {"class_type": "E2ESleep", "inputs": {"seconds": seconds}}}}
        status, answer = stack.ask("POST", "/prompt", body=json.dumps(body).encode())
        assert status == 200, answer
        ids.append(json.loads(answer)["prompt_id"])
    subprocess.run(
        ["docker", "kill", "--signal", "KILL", stack.host_container],
        check=True,
        capture_output=True,
        timeout=60,
    )
    stack.compose.execute("up --detach --no-build")
    stack.wait_until_ready()
    deadline = time.monotonic() + 120
    waiting = set(ids)
    while waiting and time.monotonic() < deadline:
        jobs = json.loads(stack.ask("GET", "/api/jobs")[1])["jobs"]
        waiting = set(ids) - {job["id"] for job in jobs if job["status"] == "completed"}
        time.sleep(0.25)
    assert not waiting, stack.logs()
