"""What the whole stack keeps for nodes: state across sandboxes and hosts, shared weights, successors of old nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.contract.test_kept import safetensors
from tests.e2e.comfy import Comfy, error_of, node, succeeded
from tests.e2e.conftest import ROOT, Stack


@pytest.fixture(scope="module", autouse=True)
def keeper(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The pack, with a policy that shows it the models."""
    policy: Path = tmp_path_factory.mktemp("policy") / "keeper.yaml"
    policy.write_text("paths: [{tenant: models}]\n")
    stack.ringfence("extension", "add", str(ROOT / "tests/extensions/keeper"), "--policy", str(policy))


def shown(comfy: Comfy, class_type: str, **inputs: object) -> str:
    """What a node gives, as text."""
    prompt = {"kept": node(class_type, **inputs), "out": node("PreviewAny", source=["kept", 0])}
    text: str = succeeded(comfy.run(prompt))["out"]["text"][0]
    return text


def test_a_nodes_state_survives_its_sandbox_and_the_host(comfy: Comfy, stack: Stack) -> None:
    assert shown(comfy, "RFCount") == "1"
    sandbox = next(
        box for box in comfy.get("/ringfence/v1/sandboxes")["sandboxes"] if "keeper" in box["extensions"]
    )
    stack.ringfence("sandbox", "stop", sandbox["id"])
    assert shown(comfy, "RFCount") == "2"
    stack.compose.execute("restart --timeout 30 host")
    stack.wait_until_ready()
    assert shown(comfy, "RFCount") == "3"


def test_a_file_of_weights_reaches_a_node_and_one_that_is_missing_is_named(
    comfy: Comfy, stack: Stack
) -> None:
    folder = stack.data_dir / "tenants/local/models/loras"
    safetensors(folder / "kept.safetensors", {"w": np.arange(3, dtype="float32")})
    assert shown(comfy, "RFSpoil", folder="loras", file="kept.safetensors") == "[0.0, 1.0, 2.0]"
    entry = comfy.run({"1": node("RFWeights", folder="loras", file="none.safetensors")})
    said = error_of(entry)
    assert said["exception_type"] == "FileNotFoundError"
    assert "no file 'none.safetensors' in the model folder 'loras'" in said["exception_message"]


def test_a_node_of_an_old_class_runs_as_its_successor(comfy: Comfy) -> None:
    (declared,) = comfy.get("/node_replacements")["RFOldRemember"]
    assert declared["new_node_id"] == "RFRemember"
    assert shown(comfy, "RFOldRemember", thing="from an old workflow").split('"')[1] == "from an old workflow"
