"""What a policy allows of the internet and of gVisor, over the whole stack: compose, host, launcher, sandbox."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.comfy import Comfy, error_of, node, succeeded, until
from tests.e2e.far import ADDRESS, Far, far_away
from tests.e2e.test_audit import records
from tests.stack import ROOT, Stack

PACK = """
import ssl, urllib.request

class {name}:
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{"url": ("STRING", {{}})}}}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests"
    def run(self, url):
        # The server's certificate is of the tests' own making.
        anyone = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(url, timeout=60, context=anyone) as answer:
                said = answer.read().decode()
        except OSError as error:
            said = f"refused: {{error}}"
        with open("/proc/net/dev") as table:
            interfaces = [line.partition(":")[0].strip() for line in table if ":" in line]
        return (said + "; interfaces: " + ",".join(interfaces),)

NODE_CLASS_MAPPINGS = {{"{name}": {name}}}
"""
ALLOWED = f'network: {{{{allow: ["{ADDRESS}:443"]}}}}\nisolation: {{isolation}}\n'


@pytest.fixture(params=["runc", "gvisor"])
def isolation(request: pytest.FixtureRequest) -> str:
    if request.param == "gvisor" and "runsc" not in engine_knows():
        pytest.skip("the engine has no runsc")
    return str(request.param)


def engine_knows() -> dict[str, Any]:
    done = subprocess.run(
        ["docker", "info", "--format", "{{json .Runtimes}}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


@pytest.fixture
def far(stack: Stack) -> Iterator[Far]:
    parts = urlsplit(stack.settings["RINGFENCE_EGRESS_PROXY"])
    assert parts.hostname is not None
    assert parts.port is not None
    with far_away(parts.hostname, parts.port) as found:
        yield found


@pytest.fixture
def operator(stack: Stack) -> Iterator[Path]:
    """The operator's directory of policies; what a test writes there goes again."""
    place = stack.data_dir / "policies"
    place.mkdir(exist_ok=True)
    before = {file: file.read_bytes() for file in place.glob("*.yaml")}
    yield place
    for file in place.glob("*.yaml"):
        if file not in before:
            file.unlink()
    for file, content in before.items():
        file.write_bytes(content)


def test_a_pack_reaches_what_its_policy_allows_and_nothing_else_and_each_attempt_is_recorded(
    stack: Stack, comfy: Comfy, far: Far, operator: Path, tmp_path: Path, isolation: str
) -> None:
    name, kind = f"online_{isolation}", f"E2EOnline{isolation.capitalize()}"
    (operator / "default.yaml").write_text("ceilings: {network: any}\n")
    (operator / f"{name}.yaml").write_text(ALLOWED.format(isolation=isolation))
    pack = tmp_path / name
    pack.mkdir()
    (pack / "__init__.py").write_text(PACK.format(name=kind))
    stack.ringfence("extension", "add", str(pack))
    try:
        prompt = {
            "1": node(kind, url=f"https://{ADDRESS}/allowed"),
            "2": node("PreviewAny", source=["1", 0]),
            "3": node(kind, url="https://93.184.216.35/other"),
            "4": node("PreviewAny", source=["3", 0]),
            "5": node(kind, url="https://169.254.169.254/latest"),
            "6": node("PreviewAny", source=["5", 0]),
        }
        outputs = succeeded(comfy.run(prompt))
        said = {key: outputs[key]["text"][0] for key in ("2", "4", "6")}
        assert said["2"].startswith("it said: GET /allowed HTTP/1.1")
        assert said["4"].startswith("refused: ")
        assert said["6"].startswith("refused: ")
        assert all(text.endswith("interfaces: lo") for text in said.values())
        assert far.connected == [f"{ADDRESS}:443"]
        assert far.requests == ["GET /allowed HTTP/1.1"]

        container = comfy.containers()[name]
        form = "{{.HostConfig.Runtime}} {{.HostConfig.NetworkMode}}"
        shown = subprocess.run(
            ["docker", "inspect", "--format", form, container],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout.split()  # fmt: skip
        assert shown == [{"runc": "runc", "gvisor": "runsc"}[isolation], "none"]

        def recorded() -> list[dict[str, Any]]:
            return records(stack, "--extension", name, "--event", "egress")

        until(lambda: len(recorded()) >= 3, "all are recorded")
        tried = recorded()
        told = json.dumps(tried)
        assert all(f"{place}:443" in told for place in (ADDRESS, "93.184.216.35", "169.254.169.254"))
        assert len([each for each in tried if each["outcome"] == "denied"]) == 2
    finally:
        stack.ringfence("extension", "remove", name)


def test_a_death_by_memory_in_gvisor_is_told_to_the_user_and_to_the_audit_log(
    stack: Stack, comfy: Comfy, operator: Path, tmp_path: Path
) -> None:
    if "runsc" not in engine_knows():
        pytest.skip("the engine has no runsc")
    name = "eats_in_gvisor"
    (operator / f"{name}.yaml").write_text("isolation: gvisor\nmemory: 300MiB\n")
    pack = tmp_path / name
    pack.mkdir()
    code = (ROOT / "tests" / "extensions" / "memory_eater" / "__init__.py").read_text()
    (pack / "__init__.py").write_text(code.replace("RFMemoryEater", "E2EEatsInGvisor"))
    stack.ringfence("extension", "add", str(pack))
    try:
        error = error_of(comfy.run({"1": node("E2EEatsInGvisor", megabytes=100_000)}))
        assert "memory cap 300 MiB" in error["exception_message"]
        mine = ("--extension", name, "--event", "sandbox-lost")
        found = until(lambda: records(stack, *mine), "its death is recorded")
        assert any("memory cap 300 MiB" in json.dumps(each) for each in found), found
    finally:
        stack.ringfence("extension", "remove", name)
