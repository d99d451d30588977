"""Nodes that eat, hang, die or reach out: the error says which limit, and everybody else goes on."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.e2e.comfy import Comfy, error_of, node, succeeded, until
from tests.stack import ROOT, Have, Stack

HOSTILE = ROOT / "tests" / "extensions"

IMPATIENT = """
import time

class Endless:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "tests"
    OUTPUT_NODE = True
    def run(self):
        while True:
            time.sleep(60)

NODE_CLASS_MAPPINGS = {"E2EEndless": Endless}
"""


@pytest.fixture(scope="module")
def memory_eater(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Adds the pack with a cap of its own; returns the cap as errors write it."""
    policy = tmp_path_factory.mktemp("policies") / "memory_eater.yaml"
    policy.write_text("memory: 256MiB\n")
    stack.ringfence("extension", "add", str(HOSTILE / "memory_eater"), "--policy", str(policy))
    return "256 MiB"


def test_a_pack_that_eats_memory_fails_alone_and_the_error_names_it_and_its_cap(
    stack: Stack, comfy: Comfy, have: Have, memory_eater: str
) -> None:
    have("gates")
    gate = uuid.uuid4().hex
    with comfy.events() as events:
        waiting = comfy.queue({"1": node("RFGateWaitAsync", name=gate)}, events)
        events.until_progress(waiting)
        others = comfy.containers()
        others.pop("memory_eater")

        error = error_of(comfy.run({"1": node("RFMemoryEater", megabytes=100_000)}))
        assert error["node_id"] == "1"
        for words in ("memory_eater", f"memory cap {memory_eater}", "memory_eater.yaml:1"):
            assert words in error["exception_message"]

        assert comfy.http.get("/readyz").status_code == 200
        assert others.items() <= comfy.containers().items()
        succeeded(comfy.run({"1": node("RFGateOpenAsync", name=gate)}))
        events.until_ended(waiting)
    succeeded(comfy.entry(waiting))


def test_a_pack_whose_sandbox_was_killed_works_on_its_next_call(comfy: Comfy, memory_eater: str) -> None:
    error_of(comfy.run({"1": node("RFMemoryEater", megabytes=100_001)}))
    succeeded(comfy.run({"1": node("RFMemoryEater", megabytes=8)}))


def test_a_node_that_never_returns_is_interrupted_by_ending_its_sandbox_only(
    stack: Stack, comfy: Comfy, have: Have
) -> None:
    have("never_returns", "gates", "friendly_v1")
    succeeded(comfy.run({"1": node("RFReport", text="warm")}))
    with comfy.events() as events:
        prompt_id = comfy.queue({"1": node("RFNeverReturns")}, events)
        events.until_started("1", prompt_id)
        until(lambda: "busy" in states_of(comfy, "never_returns"), "the sandbox is busy")
        before = comfy.containers()
        assert comfy.post("/interrupt", {"prompt_id": prompt_id}).status_code == 200
        events.until_ended(prompt_id)
    assert prompt_id in [
        event["data"]["prompt_id"] for event in events.seen if event["type"] == "execution_interrupted"
    ]
    ended = before.pop("never_returns")
    assert before.items() <= comfy.containers().items()

    succeeded(comfy.run({"1": node("RFAnswers")}))
    assert comfy.containers()["never_returns"] != ended


def states_of(comfy: Comfy, extension: str) -> set[str]:
    sandboxes = comfy.get("/ringfence/v1/sandboxes")["sandboxes"]
    return {box["state"] for box in sandboxes if extension in box["extensions"]}


def test_a_node_that_outlives_its_timeout_is_ended_and_the_error_names_the_timeout(
    stack: Stack, comfy: Comfy, tmp_path: Path
) -> None:
    (tmp_path / "impatient").mkdir()
    (tmp_path / "impatient" / "__init__.py").write_text(IMPATIENT)
    policy = tmp_path / "impatient.yaml"
    policy.write_text("timeouts: {call: 1s}\n")
    stack.ringfence("extension", "add", str(tmp_path / "impatient"), "--policy", str(policy))
    message = error_of(comfy.run({"1": node("E2EEndless")}))["exception_message"]
    assert all(words in message for words in ("impatient", "timeouts.call 1 s", "impatient.yaml:1"))
    stack.ringfence("extension", "remove", "impatient")


def test_the_network_is_refused_however_a_pack_asks_for_it(comfy: Comfy, have: Have) -> None:
    have("network_probe")
    lines = succeeded(comfy.run({"1": node("RFNetworkProbe", host="1.1.1.1", port=80)}))["1"]["text"]
    said = dict(line.split(": ", 1) for line in lines)
    assert "reached" not in {said["tcp"], said["dns"], said["gateway"]}
    assert said["interfaces"] in ("", "lo") or "PermissionError" in said["interfaces"]
    error = error_of(comfy.run({"1": node("RFDownload", host="1.1.1.1", port=80)}))
    assert (error["node_type"], error["exception_type"]) == ("RFDownload", "PermissionError")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/var/run/docker.sock",
        "/app/input/../../../../root/.bashrc",
        "/var/lib/ringfence/ringfence.db",
    ],
)
def test_a_path_outside_the_policy_is_not_read_and_the_error_names_it(
    comfy: Comfy, have: Have, path: str
) -> None:
    have("reads_outside")
    error = error_of(comfy.run({"1": node("RFReadFile", path=path)}))
    assert error["exception_type"] in ("PermissionError", "FileNotFoundError", "OSError")
    assert path in error["exception_message"]


def test_a_pack_cannot_plant_a_file_among_a_tenants_inputs(stack: Stack, comfy: Comfy, have: Have) -> None:
    have("reads_outside")
    error = error_of(comfy.run({"1": node("RFWriteFile", path="/app/input/planted.txt")}))
    assert "/app/input/planted.txt" in error["exception_message"]
    assert not list(stack.data_dir.rglob("planted.txt"))


def test_a_pack_that_forks_without_end_meets_its_cap_and_others_do_not_notice(
    comfy: Comfy, have: Have
) -> None:
    have("fork_bomb", "friendly_v1")
    forked = succeeded(comfy.run({"1": node("RFForkBomb", limit=10_000)}))["1"]["forked"][0]
    boxes = comfy.get("/ringfence/v1/sandboxes")["sandboxes"]
    cap = next(box["pids_limit"] for box in boxes if "fork_bomb" in box["extensions"])
    assert 0 < forked < cap
    succeeded(comfy.run({"1": node("RFReport", text="still here")}))


def test_what_a_pack_prints_reaches_its_log_and_not_the_protocol(
    stack: Stack, comfy: Comfy, have: Have
) -> None:
    have("hostile_print")
    prompt = {"1": node("RFPrintFrames"), "2": node("PreviewAny", source=["1", 0])}
    assert succeeded(comfy.run(prompt))["2"]["text"] == ["done"]
    boxes = comfy.get("/ringfence/v1/sandboxes")["sandboxes"]
    sandbox = next(box["id"] for box in boxes if "hostile_print" in box["extensions"])
    assert "forged" in until(
        lambda: (log := stack.ringfence("sandbox", "logs", sandbox)) and "forged" in log and log,
        "the sandbox's log holds what was printed",
    )
