"""comfy-sdk, unmodified: against this server's own Comfy API v2, and through comfy-api-proxy in front of its V1."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import (
    Drive,
    are_previews,
    developed,
    failing,
    invalid,
    is_cyan,
    pictures,
    plain,
    sleeping,
)
from tests.clients.environments import python_client
from tests.stack import Stack, free_port

TOO_DARK = "too dark"


@pytest.fixture
def proxy(stack: Stack, quiet_environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """comfy-api-proxy in front of the stack; yields its address."""
    port = free_port()
    log = tmp_path / "proxy.log"
    command = [
        str(python_client("comfy-api-proxy") / "comfy-api-proxy"), "run", "--comfyui", stack.url,
        "--port", str(port), "--state-dir", str(tmp_path / "state"),
    ]  # fmt: skip
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=quiet_environment, stdout=subprocess.PIPE, stderr=said, text=True, cwd=tmp_path
        )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()  # it speaks when it listens, and the stream ends if it dies
        assert "Running on" in first, f"comfy-api-proxy did not start: {first}\n{log.read_text()}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def check(report: dict[str, Any], red: Path) -> None:
    """What the SDK must have seen, whoever speaks v2 to it."""
    asset_id, digest, is_new = report["asset"]
    assert digest.startswith("blake3:")
    assert is_new
    assert report["again"] == [asset_id, False]

    watched = report["watched"]
    assert watched["status"][-1] == "succeeded"
    done = [share for share, *_ in watched["progress"]]
    assert done
    assert done == sorted(done)
    assert {(node, kind) for node, kind, _ in watched["previews"]} == {("2", "image/jpeg")}
    assert are_previews(pictures([shown for *_, shown in watched["previews"]]))

    assert report["status"] == "succeeded"
    assert report["output"][1:3] == ["image", "image/png"]
    assert report["part"] == [True, True]
    assert report["workflow"] == ["api", ["1", "2", "3"]]
    for run in ("pictures", "plain", "asynchronous"):
        assert [is_cyan(picture) for picture in pictures(report[run])] == [True], run

    assert report["cancelled"] == "canceled"
    assert report["cancelled_error"]["name"] == "JobFailed"
    failed = report["failed"]
    assert (failed["name"], failed["code"]) == ("JobFailed", "node_execution_error")
    assert failed["error"]["node_id"] == "2"
    assert failed["error"]["message"].strip() == TOO_DARK
    assert report["refused"]["name"] == "InvalidWorkflow"
    assert report["ui_format"]["name"] == "WorkflowFormatUi"
    assert report["unknown"]["name"] == "NotFound"
    assert report["reused"]["name"] == "IdempotencyKeyReuse"
    assert report["jobs"] == 1


def facts(red: Path) -> dict[str, Any]:
    return {
        "picture": str(red),
        "developed": developed("", steps=10, pause=0.2),
        "plain": plain(""),
        "sleeping": sleeping(),
        "failing": failing("", TOO_DARK),
        "invalid": invalid(),
    }


def test_comfy_sdk_uploads_by_hash_runs_follows_fetches_cancels_and_sees_errors(
    drive: Drive, red: Path
) -> None:
    report = drive("comfy-sdk", **facts(red))
    check(report, red)
    assert report["watched"]["outputs"] == [["3", report["output"][0]]]
    assert report["output"][3] == report["left"]
    assert "RFReport" in report["refused"]["message"]
    assert "text" in report["refused"]["message"]


def test_comfy_sdk_does_the_same_through_comfy_api_proxy(drive: Drive, red: Path, proxy: str) -> None:
    check(drive("comfy-sdk", **{**facts(red), "url": proxy}), red)
