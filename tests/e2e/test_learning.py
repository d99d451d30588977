"""Learning a policy and taking an update, over the whole stack and with the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.e2e.comfy import Comfy, node, succeeded
from tests.stack import ROOT, Have, Stack

PACKS = ROOT / "tests" / "extensions"


def test_a_policy_is_learned_written_and_suffices(
    stack: Stack, comfy: Comfy, have: Have, tmp_path: Path
) -> None:
    have("friendly_v1")
    prompt = {"1": node("RFSolid", width=64, height=64, value=0.5), "2": node("RFInPlace", image=["1", 0])}
    prompt["3"] = node("PreviewAny", source=["2", 0])
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps(prompt))
    learn = ("policy", "learn", "friendly_v1", "--prompt", str(file), "--policies", str(tmp_path))
    said = stack.ringfence(*learn, "--write")
    assert "learned of 1 ok" in said
    learned = tmp_path / "friendly_v1.yaml"
    assert "# measured: " in learned.read_text()
    assert "good" in stack.ringfence("policy", "check", str(learned))
    assert (
        "more" not in stack.ringfence("policy", "diff", str(empty(tmp_path)), str(learned)).split("FROM")[-1]
    )

    target = stack.data_dir / "policies" / learned.name
    target.write_text(learned.read_text())
    try:
        succeeded(comfy.run(prompt))
        assert "memory" in stack.ringfence("policy", "show", "friendly_v1")
    finally:
        target.unlink()


def empty(directory: Path) -> Path:
    file = directory / "nothing.yaml"
    file.write_text("{}\n")
    return file


def test_an_update_that_asks_for_more_needs_a_yes(stack: Stack, tmp_path: Path) -> None:
    pack = tmp_path / "updated_pack"
    shutil.copytree(PACKS / "friendly_v1", pack)
    stack.ringfence("extension", "add", str(pack))
    try:
        (pack / "ringfence.yaml").write_text("memory: 4GiB\n")
        said = stack.ringfence("extension", "update", "updated_pack", status=4)
        assert "policy suggestion: memory: 4GiB" in said
        assert "--yes" in said
        denied = stack.ringfence("audit", "--denied", "--extension", "updated_pack", "--since", "5m")
        assert "asks for more" in denied
        assert "updated updated_pack" in stack.ringfence("extension", "update", "updated_pack", "--yes")
        (pack / "added.txt").write_text("nothing that anybody asks for")
        assert "updated updated_pack" in stack.ringfence("extension", "update", "updated_pack")
    finally:
        stack.ringfence("extension", "remove", "updated_pack")
