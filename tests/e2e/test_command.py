"""The command: exit statuses that mean something, and what it prints."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.comfy import Comfy, node, succeeded, until
from tests.stack import ROOT, Have, Stack


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    return tmp_path / "prompt.json"


def write(file: Path, prompt: dict[str, Any]) -> str:
    file.write_text(json.dumps(prompt))
    return str(file)


def test_run_ends_with_0_only_on_success(stack: Stack, have: Have, prompt_file: Path) -> None:
    have("friendly_v1")
    good = write(prompt_file, {"1": node("RFReport", text="all well")})
    assert "all well" in stack.ringfence("run", good)
    said = stack.ringfence("run", write(prompt_file, {"1": node("RFRaises", text="bang")}), status=1)
    assert "node 1 (RFRaises) failed: ValueError: bang" in said


def test_run_ends_with_2_for_a_file_that_cannot_be_used(stack: Stack, prompt_file: Path) -> None:
    stack.ringfence("run", str(prompt_file), status=2)
    prompt_file.write_text("{")
    assert "not JSON" in stack.ringfence("run", str(prompt_file), status=2)
    stack.ringfence("run", status=2)


def test_run_ends_with_3_when_no_server_answers(stack: Stack, prompt_file: Path) -> None:
    prompt = write(prompt_file, {"1": node("RFReport", text="x")})
    assert "no server" in stack.ringfence("run", prompt, "--url", "http://127.0.0.1:1", status=3)


def test_run_ends_with_4_for_a_prompt_that_is_refused(stack: Stack, prompt_file: Path) -> None:
    said = stack.ringfence("run", write(prompt_file, {"1": node("NobodyHasThis")}), status=4)
    assert "NobodyHasThis" in said


def test_run_that_is_interrupted_ends_with_130_and_takes_its_prompt_along(
    stack: Stack, comfy: Comfy, have: Have, prompt_file: Path
) -> None:
    have("gates")
    prompt = write(prompt_file, {"1": node("RFGateWaitAsync", name=uuid.uuid4().hex)})
    command = [sys.executable, "-c", "from api.cli import main; main()", "run", prompt, "--url", stack.url]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        try:
            until(lambda: comfy.get("/queue")["queue_running"], "the prompt runs")
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 130, said
    assert "cancelled" in said
    until(lambda: not comfy.get("/queue")["queue_running"], "the prompt is gone")


def test_sandboxes_can_be_listed_and_stopped_and_the_next_call_has_a_new_one(
    stack: Stack, comfy: Comfy, have: Have
) -> None:
    have("friendly_v1")
    succeeded(comfy.run({"1": node("RFReport", text=uuid.uuid4().hex)}))
    boxes = stack.ringfence("sandbox", "list", "--json")["sandboxes"]
    box = next(box for box in boxes if box["extensions"] == ["friendly_v1"])
    assert box["memory_limit"] > 0
    assert box["pids_limit"] > 0
    stack.ringfence("sandbox", "stop", box["id"])
    succeeded(comfy.run({"1": node("RFReport", text=uuid.uuid4().hex)}))
    assert comfy.containers()["friendly_v1"] != box["container"]
    stack.ringfence("sandbox", "stop", "nobody-1", status=1)


def test_an_extension_can_be_changed_reloaded_and_removed(stack: Stack, comfy: Comfy, tmp_path: Path) -> None:
    pack = tmp_path / "changing"
    pack.mkdir()
    code = "class Node:\n    INPUT_TYPES = classmethod(lambda cls: {{'required': {{}}}})\n"
    code += "    RETURN_TYPES = ()\n    OUTPUT_NODE = True\n    FUNCTION = 'run'\n    CATEGORY = 'tests'\n"
    code += "    def run(self):\n        return {{'ui': {{'text': ['{0}']}}}}\n"
    code += "NODE_CLASS_MAPPINGS = {{'E2EChanging': Node}}\n"
    (pack / "__init__.py").write_text(code.format("first"))
    stack.ringfence("extension", "add", str(pack))
    assert succeeded(comfy.run({"1": node("E2EChanging")}))["1"]["text"] == ["first"]
    stack.ringfence("extension", "add", str(pack), status=1)

    (pack / "__init__.py").write_text(code.format("second"))
    stack.ringfence("extension", "reload", "changing")
    assert succeeded(comfy.run({"1": node("E2EChanging")}))["1"]["text"] == ["second"]

    (pack / "__init__.py").write_text("raise RuntimeError('half an edit')\n")
    assert "half an edit" in stack.ringfence("extension", "reload", "changing", status=1)
    assert "half an edit" in stack.ringfence("extension", "list")
    assert succeeded(comfy.run({"1": node("E2EChanging")}))["1"]["text"] == ["second"]

    stack.ringfence("extension", "remove", "changing")
    assert "E2EChanging" not in comfy.get("/object_info")
    assert comfy.post("/prompt", {"prompt": {"1": node("E2EChanging")}}).status_code == 400
    assert "changing" not in comfy.containers()


def test_the_effective_policy_names_the_source_of_each_value(stack: Stack, tmp_path: Path) -> None:
    policy = tmp_path / "sourced.yaml"
    policy.write_text("# two lines\nmemory: 300MiB\n")
    stack.ringfence(
        "extension",
        "add",
        str(ROOT / "tests/extensions/draft_v3"),
        "--name",
        "sourced",
        "--policy",
        str(policy),
    )
    rows = stack.ringfence("policy", "show", "sourced", "--json")["policy"]
    (memory,) = (row for row in rows if row["key"] == "memory")
    assert memory["value"] == "300MiB"
    assert memory["file"].endswith("sourced.yaml")
    assert memory["line"] == 2
    stack.ringfence("extension", "remove", "sourced")


def test_the_doctor_finds_this_machine_well(stack: Stack) -> None:
    report = stack.ringfence("doctor", "--json")
    assert report
