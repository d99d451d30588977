"""The audit log over the whole stack: what was denied, who ended, and whether it is still what was written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.e2e.comfy import Comfy, error_of, node, until
from tests.stack import ROOT, Have, Stack


def records(stack: Stack, *options: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", "from api.cli import main; main()", "audit", "--json", *options],
        cwd=ROOT, env={**os.environ, "RINGFENCE_URL": stack.url},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_a_sandbox_met_is_in_the_log_with_both_lines_and_its_end_by_both_writers(
    stack: Stack, comfy: Comfy, have: Have
) -> None:
    have("reads_outside")
    entry = comfy.run({"1": node("RFReadFile", path="/var/lib/secret")})
    error_of(entry)
    mine = ("--extension", "reads_outside")
    met = until(lambda: records(stack, *mine, "--event", "wall-met", "--denied"), "the wall is recorded")[-1]
    assert "/var/lib/secret" in met["text"]
    assert met["denied_by"]
    assert "paths: [{host: /var/lib/secret" in met["would_allow"]

    queued = records(stack, *mine, "--event", "prompt-queued")[-1]
    assert queued["by"] == "operator"
    assert queued["address"]
    assert queued["details"]["classes"] == ["RFReadFile"]
    started = records(stack, *mine, "--event", "sandbox-started")[-1]
    assert started["writer"] == "launcher"
    assert started["policy"] == queued["details"]["policies"]["reads_outside"] == met["policy"]

    stack.ringfence("sandbox", "stop", started["sandbox"])

    def ends() -> set[str]:
        found = records(stack, *mine, "--event", "sandbox-ended", "--event", "sandbox-lost")
        return {each["writer"] for each in found if each["sandbox"] == started["sandbox"]}

    until(lambda: ends() == {"host", "launcher"}, "both say that it ended")
    assert any(each["event"] == "changed" for each in records(stack, "--event", "changed"))


def test_verify_finds_a_changed_byte_in_a_copy_of_the_log(stack: Stack, comfy: Comfy, tmp_path: Path) -> None:
    assert comfy.get("/queue") is not None
    for writer in ("host", "launcher"):
        shutil.copytree(stack.data_dir / f"audit-{writer}", tmp_path / f"audit-{writer}")
    assert "launcher" in stack.ringfence("audit", "verify", "--data-dir", str(tmp_path))
    (file, *_) = sorted((tmp_path / "audit-launcher").glob("*.jsonl"))
    content = bytearray(file.read_bytes())
    content[content.index(b'"event":"') + 10] ^= 1
    file.write_bytes(content)
    said = stack.ringfence("audit", "verify", "--data-dir", str(tmp_path), status=1)
    assert f"{file}:1" in said


def test_the_host_reads_the_launchers_log_and_cannot_change_it(stack: Stack) -> None:
    place = f"{stack.data_dir}/audit-launcher"
    tried = subprocess.run(
        ["docker", "exec", stack.host_container, "python", "-c",
         f"import os; print(len(os.listdir({place!r}))); open({place!r} + '/planted', 'w')"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert int(tried.stdout) >= 1
    assert "Read-only file system" in tried.stderr
    moved = subprocess.run(
        ["docker", "exec", stack.host_container, "python", "-c",
         f"import os; os.rename({place!r}, {place!r} + '.away')"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "busy" in moved.stderr


def test_who_follows_hears_of_a_change_as_it_comes(stack: Stack, comfy: Comfy) -> None:
    command = [sys.executable, "-c", "from api.cli import main; main()"]
    options = ["audit", "--follow", "--json", "--event", "changed", "--since", "7d"]
    comfy.http.post("/interrupt", json={})
    with subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env={**os.environ, "RINGFENCE_URL": stack.url},
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        watch = threading.Timer(60, follower.kill)
        watch.start()
        try:
            assert follower.stdout is not None
            first = json.loads(follower.stdout.readline())  # what there was: from here on it follows
            comfy.http.post("/ringfence/v1/tokens", json={"name": "followed", "scopes": ["run"]})
            comfy.http.post("/interrupt", json={})
            newest = first["seq"]
            for line in follower.stdout:
                record = json.loads(line)
                assert record["seq"] > newest
                newest = record["seq"]
                if record["text"].startswith("token made"):
                    break
            else:
                raise AssertionError("the follower ended")
        finally:
            watch.cancel()
            follower.kill()
