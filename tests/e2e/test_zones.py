"""The three zones as they run: what the containers of launcher and host hold, and what happens when one dies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.comfy import until
from tests.stack import ROOT, Stack


def prompt_of(value: int) -> str:
    nodes = {
        "1": {"class_type": "PrimitiveInt", "inputs": {"value": value}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    return json.dumps(nodes)


def inspected(stack: Stack, service: str) -> dict[str, Any]:
    container = stack.compose.execute(f"ps --all --quiet {service}").decode().strip()
    done = subprocess.run(["docker", "inspect", container], capture_output=True, timeout=60, check=True)
    return json.loads(done.stdout)[0]  # type: ignore[no-any-return]


def inside(stack: Stack, service: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a service's container, as whoever has taken over its process could."""
    command = ["docker", "exec", stack.compose.execute(f"ps --quiet {service}").decode().strip()]
    return subprocess.run(
        [*command, "/opt/venv/bin/python", "-I", "-c", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def capabilities(mask: str) -> int:
    return int(mask, 16)


@pytest.mark.parametrize(
    ("service", "held"), [("host", ["DAC_OVERRIDE"]), ("launcher", ["CHOWN", "DAC_OVERRIDE"])]
)
def test_a_service_holds_what_it_needs_and_no_more(stack: Stack, service: str, held: list[str]) -> None:
    found = inspected(stack, service)["HostConfig"]
    assert found["CapDrop"] == ["ALL"]
    assert sorted(name.removeprefix("CAP_") for name in found["CapAdd"]) == held
    assert found["ReadonlyRootfs"]
    assert not found["Privileged"]
    assert not found["Devices"]
    assert found["PidsLimit"] > 0
    assert found["PidMode"] == found["UTSMode"] == ""
    assert found["IpcMode"] in ("private", "shareable")
    assert "no-new-privileges:true" in found["SecurityOpt"]
    (profile,) = [item for item in found["SecurityOpt"] if item.startswith("seccomp=")]
    sent = json.loads(profile.removeprefix("seccomp="))
    assert sent == json.loads((ROOT / "policies" / f"seccomp-{service}.json").read_text())
    # The kernel's word: capabilities, no-new-privileges, a filter.
    done = inside(stack, service, "print(open('/proc/1/status').read())")
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    bits = {"CHOWN": 0, "DAC_OVERRIDE": 1}
    assert capabilities(status["CapBnd"]) == sum(1 << bits[name] for name in held)
    assert capabilities(status["CapEff"]) == sum(1 << bits[name] for name in held)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_the_host_has_no_way_to_the_engine(stack: Stack) -> None:
    found = inspected(stack, "host")
    mounted = {mount["Source"] for mount in found["Mounts"]} | {
        mount["Destination"] for mount in found["Mounts"]
    }
    assert not [place for place in mounted if "docker" in place or "containerd" in place or place == "/run"]
    assert not [entry for entry in found["Config"]["Env"] if entry.startswith("DOCKER_HOST")]
    script = "import os; print([os.path.exists(p) for p in ('/var/run/docker.sock', '/run/docker.sock')])"
    assert inside(stack, "host", script).stdout.strip() == "[False, False]"


def test_the_launcher_has_no_network_and_no_family_to_reach_one(stack: Stack) -> None:
    assert inspected(stack, "launcher")["HostConfig"]["NetworkMode"] == "none"
    done = inside(stack, "launcher", "import socket; socket.socket(socket.AF_INET)")
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize(
    "what", ["policies/pack.yaml", "policies/default.yaml", "core/evil.py", "launcher/uids.json"]
)
def test_the_host_cannot_write_what_the_launcher_goes_by(stack: Stack, what: str) -> None:
    place = stack.data_dir / what
    done = inside(stack, "host", f"open({str(place)!r}, 'w').write('x')")
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr or "No such file" in done.stderr or "denied" in done.stderr
    assert not place.exists() or place.read_text() != "x"


def test_the_host_can_neither_move_nor_unmount_what_it_may_only_read(stack: Stack) -> None:
    for name in ("policies", "core", "launcher"):
        place = stack.data_dir / name
        done = inside(stack, "host", f"import os; os.rename({str(place)!r}, {str(place) + '.old'!r})")
        assert "Device or resource busy" in done.stderr
    script = (
        "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.umount2(b'%s', 2), ctypes.get_errno())"
    )
    done = inside(stack, "host", script % (stack.data_dir / "policies"))
    assert done.stdout.split() == ["-1", "1"]


def test_the_host_does_not_see_what_is_the_launchers_alone(stack: Stack) -> None:
    own = stack.data_dir / "launcher"
    assert own.is_dir()
    assert inside(stack, "host", f"import os; print(os.listdir({str(own)!r}))").stdout.strip() == "[]"


def test_the_operators_own_file_on_disk_overrules_one_that_came_with_an_extension(
    stack: Stack, tmp_path: Path
) -> None:
    given = tmp_path / "answering.yaml"
    given.write_text("memory: 1GiB\n")
    pack = ROOT / "tests" / "extensions" / "friendly_v1"
    stack.ringfence("extension", "add", str(pack), "--name", "answering", "--policy", str(given))
    try:
        shown = stack.ringfence("policy", "show", "answering", "--json")
        rows = {row["key"]: row for row in shown["policy"]}
        assert (rows["memory"]["value"], rows["memory"]["file"]) == ("1GiB", "adopted/answering.yaml")
        own = stack.data_dir / "policies" / "answering.yaml"
        own.write_text("memory: 900MiB\n")
        try:
            shown = stack.ringfence("policy", "show", "answering", "--json")
            rows = {row["key"]: row for row in shown["policy"]}
            assert (rows["memory"]["value"], rows["memory"]["file"]) == ("900MiB", "policies/answering.yaml")
        finally:
            own.unlink()
    finally:
        stack.ringfence("extension", "remove", "answering")
    assert not (stack.data_dir / "adopted" / "answering.yaml").exists()


def sandboxes(stack: Stack) -> set[str]:
    label = f"label=ringfence.instance={stack.settings['RINGFENCE_INSTANCE']}"
    command = [
        "docker",
        "ps",
        "--all",
        "--quiet",
        "--filter",
        label,
        "--filter",
        "label=ringfence.purpose=sandbox",
    ]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())


# -- one of them dies ------------------------------------------------------------------------------------------------


def test_a_launcher_that_is_killed_comes_back_and_the_next_prompt_runs(stack: Stack, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.json"
    prompt.write_text(prompt_of(7))
    stack.ringfence("run", str(prompt))
    before = sandboxes(stack)
    host = inspected(stack, "host")["State"]["Pid"]
    subprocess.run(["kill", "-9", str(inspected(stack, "launcher")["State"]["Pid"])], check=True, timeout=30)
    # The new one ends what the one before left; a node that ran in there just then would fail for it.
    until(lambda: not before & sandboxes(stack), "the launcher is back, and has put the old sandboxes away")
    prompt.write_text(prompt_of(8))
    stack.ringfence("run", str(prompt), timeout=120)
    assert inspected(stack, "host")["State"]["Pid"] == host
    assert stack.ask("GET", "/readyz")[0] == 200
