"""The host killed at any moment, and the stack taken down: nothing is lost, and nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.comfy import WAIT_S, Comfy, node, succeeded, until
from tests.stack import ROOT, Have, Stack, free_port

RUNNING = 4  # RINGFENCE_CONCURRENCY as shipped


def docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=120, check=True
    ).stdout


def ids(queue: dict[str, list[list[str]]]) -> tuple[set[str], list[str]]:
    return {item[1] for item in queue["queue_running"]}, [item[1] for item in queue["queue_pending"]]


def test_prompts_that_were_answered_run_after_the_hosts_process_was_killed(
    stack: Stack, comfy: Comfy, have: Have
) -> None:
    have("gates", "friendly_v1")
    gate = uuid.uuid4().hex
    with comfy.events() as events:
        first = comfy.queue({"1": node("RFGateWaitAsync", name=gate)}, events)
        events.until_progress(first)
        queued = [first] + [
            comfy.queue({"1": node("RFGateWaitAsync", name=gate)}) for _ in range(RUNNING - 1)
        ]
        until(lambda: len(comfy.get("/queue")["queue_running"]) == RUNNING, "all that may run, run")
        queued += [comfy.queue({"1": node("RFReport", text=f"{gate} {n}")}) for n in range(3)]
        assert ids(comfy.get("/queue")) == (set(queued[:RUNNING]), queued[RUNNING:])

        sandboxes = set(comfy.containers().values())
        # Not 'docker kill': the engine must see a crash, and start it again by itself.
        os.kill(int(docker("inspect", "--format", "{{.State.Pid}}", stack.host_container)), signal.SIGKILL)
        until(lambda: restarts(stack) >= 1, "the engine starts the host again")
    stack.wait_until_ready()

    again = Comfy(stack.url)
    running, pending = until(
        lambda: (now := ids(again.get("/queue")))[0] == set(queued[:RUNNING]) and now, "the queue is back"
    )
    assert (running, pending) == (set(queued[:RUNNING]), queued[RUNNING:])
    # Its validator opens the gate, so it does not have to wait for a place.
    opener = again.queue({"1": node("RFGateOpenByValidation", name=gate)})
    queued.append(opener)
    until(lambda: set(queued) <= again.get("/history").keys(), "all of them have ended")
    for prompt_id in queued:
        succeeded(again.entry(prompt_id))
    assert not sandboxes & set(docker("ps", "--all", "--quiet", "--no-trunc").split())
    again.http.close()
    assert tensors_in(Path(stack.settings["RINGFENCE_SHM_DIR"])) == []


def restarts(stack: Stack) -> int:
    return int(docker("inspect", "--format", "{{.RestartCount}}", stack.host_container))


def tensors_in(place: Path) -> list[Path]:
    """Tensors; the gates and reports of this test have none."""
    return [path for path in place.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture
def second_stack(stack: Stack) -> Iterator[dict[str, str]]:
    """Another stack beside the first, started and stopped as 'make' does it."""
    name = f"{stack.settings['RINGFENCE_INSTANCE']}b"
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
        yield environment
    finally:
        make(environment, "down")
        shutil.rmtree(environment["RINGFENCE_DATA_DIR"], ignore_errors=True)


def make(environment: dict[str, str], verb: str) -> None:
    done = subprocess.run(
        ["bash", ".ci/stack.sh", verb],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stack_that_is_taken_down_while_it_works_leaves_nothing_and_its_prompts_run_when_it_is_up_again(
    second_stack: dict[str, str], stack: Stack
) -> None:
    there = Stack(second_stack["RINGFENCE_URL"], stack.compose, stack.settings)
    for pack in ("never_returns", "friendly_v1"):
        there.ringfence("extension", "add", str(ROOT / "tests" / "extensions" / pack))
    prompt = {
        "1": node("RFNeverReturns"),
        "2": node("RFSolid", width=512, height=512, value=0.5),
        "3": node("PreviewImage", images=["2", 0]),
    }
    with Comfy(there.url) as comfy, comfy.events() as events:
        prompt_id = comfy.queue(prompt, events)
        events.until(
            lambda event: event["type"] == "executed" and event["data"]["node"] == "3", timeout_s=2 * WAIT_S
        )
        assert [item[1] for item in comfy.get("/queue")["queue_running"]] == [prompt_id]
    assert left_of(second_stack)["containers"] != []

    make(second_stack, "down")
    assert left_of(second_stack) == {"containers": [], "networks": [], "volumes": [], "files": []}

    make(second_stack, "up")
    with Comfy(there.url) as again:
        until(
            lambda: again.get("/queue")["queue_running"] or again.get("/history"),
            "what was running runs again",
        )
        assert again.get("/history") == {}
        assert again.get("/queue")["queue_running"][0][1] == prompt_id
        assert again.post("/interrupt", {"prompt_id": prompt_id}).status_code == 200
        until(lambda: again.get(f"/history/{prompt_id}"), "it was interrupted")


def left_of(environment: dict[str, str]) -> dict[str, list[str]]:
    project, instance = environment["RINGFENCE_PROJECT"], environment["RINGFENCE_INSTANCE"]
    ours = f"label=com.docker.compose.project={project}"
    sandboxes = f"label=ringfence.instance={instance}"
    places = (Path("/dev/shm"), Path("/run"))
    return {
        "containers": docker("ps", "-aq", "--filter", ours).split()
        + docker("ps", "-aq", "--filter", sandboxes).split(),
        "networks": docker("network", "ls", "-q", "--filter", ours).split(),
        "volumes": docker("volume", "ls", "-q", "--filter", ours).split(),
        "files": [str(path) for place in places for path in place.glob(f"*{instance}*")],
    }


def test_tenants_share_a_stack_without_seeing_each_other(
    second_stack: dict[str, str], stack: Stack, tmp_path: Path
) -> None:
    there = Stack(second_stack["RINGFENCE_URL"], stack.compose, stack.settings)
    tokens = {}
    for tenant in ("anna", "bert"):
        operator = (Path(second_stack["RINGFENCE_DATA_DIR"]) / "operator.token").read_text().strip()
        made = there.ringfence("tenant", "create", tenant, "--token", operator, "--json")
        tokens[tenant] = str(made["token"])
    (tmp_path / "p.json").write_text('{"1": {"class_type": "RFReport", "inputs": {"text": "of anna"}}}')
    prompt = str(tmp_path / "p.json")
    pack = str(ROOT / "tests" / "extensions" / "friendly_v1")

    there.ringfence("run", prompt, status=5)
    there.ringfence("run", prompt, "--token", "wrong", status=5)
    there.ringfence("extension", "add", pack, "--token", tokens["anna"])
    ran = there.ringfence("run", prompt, "--token", tokens["anna"], "--json")
    assert ran["state"] == "completed"
    there.ringfence("run", prompt, "--token", tokens["bert"], status=4)
    there.ringfence("tenant", "list", "--token", tokens["bert"], status=5)

    bert = Comfy(there.url)
    assert bert.http.get("/history").status_code == 401
    bert.http.headers["Authorization"] = f"Bearer {tokens['bert']}"
    assert bert.get("/history") == {}
    assert bert.get(f"/history/{ran['prompt_id']}") == {}
    assert "friendly_v1" not in {x["name"] for x in bert.get("/ringfence/v1/extensions")["extensions"]}
    sandboxes = bert.get("/ringfence/v1/sandboxes")["sandboxes"]
    assert {box["tenant"] for box in sandboxes} <= {"bert"}
    bert.http.close()

    removed = there.ringfence("tenant", "remove", "anna", "--yes", "--token", operator, "--json")["removed"]
    assert removed["extensions"] == ["friendly_v1"]
    assert removed["sandboxes"] >= 1
    assert (removed["kept"], removed["problems"]) == ([], [])
    there.ringfence("status", "--token", tokens["anna"], status=5)
    there.ringfence("status", "--token", tokens["bert"])
    data_dir = Path(second_stack["RINGFENCE_DATA_DIR"])
    assert not (data_dir / "tenants" / "anna").exists()
    everybodys = ("sandbox", "list", "--token", operator, "--json")
    assert "anna" not in {box["tenant"] for box in there.ringfence(*everybodys)["sandboxes"]}
