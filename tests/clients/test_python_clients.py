"""Clients in Python, unmodified from the package index, against the running stack."""

from __future__ import annotations

from pathlib import Path

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

TOO_DARK = "too dark"


@pytest.mark.parametrize("credentials", [("", ""), ("someone", "a password")], ids=["plain", "basic"])
def test_comfy_api_simplified_uploads_runs_waits_fetches_interrupts_and_sees_errors(
    drive: Drive, red: Path, credentials: tuple[str, str]
) -> None:
    report = drive(
        "comfy-api-simplified",
        picture=str(red), developed=developed("", steps=8, pause=0.2), plain=plain(""),
        sleeping=sleeping(), failing=failing("", TOO_DARK), invalid=invalid(),
        user=credentials[0], password=credentials[1],
    )  # fmt: skip
    assert report["stored"] == {"name": red.name, "subfolder": "simplified", "type": "input"}
    assert are_previews(pictures(report["previews"]))
    for run in ("pictures", "plain", "again"):
        assert [is_cyan(picture) for picture in pictures(report[run])] == [True], run
    assert report["before"][0] == 0
    assert report["before"][1] > 0
    assert report["interrupted"] == ["error"] * 6
    assert report["refused"] == "ComfyApiError: Request failed with status code 400: Bad Request"
    assert report["failed"] == "ComfyApiError: Execution error occurred."
    assert report["unknown"] == "ValueError: prompt_id is not in the queue"
    assert report["os"] == "linux"
    assert report["embeddings"] == []


def test_comfy_script_builds_its_api_runs_shows_progress_and_previews_and_cancels(
    drive: Drive, red: Path
) -> None:
    report = drive("comfy-script", picture=str(red), text=TOO_DARK)
    assert "Failed to load node" not in report["said"]
    assert "Failed to watch" not in report["said"]
    assert [is_cyan(picture) for picture in pictures(report["pictures"])] == [True]
    assert report["progress"][-1] == ["RFDevelop.0", 8, 8]
    assert len(report["progress"]) > 3
    assert {name for name, _ in report["previews"]} == {"RFDevelop.0"}
    assert [is_cyan(picture) for picture in pictures([shown for _, shown in report["previews"]])][-1]
    assert (
        report["cancelled"] == []
    )  # this client knows no more of an interrupted or failed run than that it ended
    assert report["next"] == []
    assert report["queue"] == [1, 0]
    assert report["waiting"] == []
    assert report["failed"] == []
    assert report["refused"]
    assert '"required_input_missing"' in report["said"]
