"""Clients from npm, unmodified, in Node against the running stack."""

from __future__ import annotations

from pathlib import Path

from tests.clients.conftest import (
    Drive,
    are_previews,
    developed,
    failing,
    invalid,
    is_cyan,
    pictures,
    sleeping,
)

TOO_DARK = "too dark"


def test_saintno_comfyui_sdk_uploads_runs_shows_progress_and_previews_fetches_cancels_and_sees_errors(
    drive: Drive, red: Path
) -> None:
    report = drive(
        "saintno-comfyui-sdk",
        picture=str(red), developed=developed("", steps=8, pause=0.2), sleeping=sleeping(),
        failing=failing("", TOO_DARK), invalid=invalid(),
    )  # fmt: skip
    assert report["os"] == "linux"
    assert report["extensions"] == [False, False]  # ComfyUI-Manager and Crystools: answered with a clean 404
    assert report["stored"] == {
        "name": "saintno.png", "filename": "saintno.png", "subfolder": "", "type": "input",
    }  # fmt: skip
    run = report["run"]
    assert run["pending"]
    assert run["started"]
    assert run["progress"][-1] == ["2", 8, 8]
    assert are_previews(pictures(run["previews"]))
    assert [name for name, _ in run["outputs"]] == ["saved"]
    assert [is_cyan(picture) for picture in pictures(report["pictures"])] == [True]

    cancelled = report["cancelled"]["failed"]
    assert cancelled["message"] == "The execution was interrupted!"
    assert cancelled["cause"]["node_id"] == "1"
    failed = report["failed"]["failed"]
    assert failed["message"] == "ValueError"
    assert failed["cause"]["exception_message"].strip() == TOO_DARK
    assert failed["cause"]["node_type"] == "RFDevelop"
    refused = report["refused"]["failed"]
    assert refused["message"] == "Failed to queue prompt"
    assert refused["cause"]["node_errors"]["1"]["errors"][0]["type"] == "required_input_missing"

    assert report["histories"] == 2
    assert report["loader"]
    assert report["unknown"] is None
    assert report["setting"] == {"value": 1}
    assert report["userdata"] == {"text": "kept"}
    assert report["listed"] == ["notes.json"]
    assert report["deleted"] == 404
    assert report["features"]["supports_preview_metadata"] is True
    assert "checkpoints" in report["models"][0]
    assert report["models"][1:] == [[], [], []]
    assert report["freed"]
    assert report["logs"]
    assert report["stats"] == 1
    assert report["users"]["storage"] == "server"
    assert report["cleared"] == 0


def test_stable_canvas_comfyui_client_runs_by_socket_and_polling_shows_previews_cancels_and_sees_errors(
    drive: Drive, red: Path
) -> None:
    report = drive("stable-canvas-comfyui-client", picture=str(red), text=TOO_DARK)
    assert report["stored"] == {"name": "stable.png", "subfolder": "", "type": "input"}
    assert report["progress"][-1] == ["2", 8, 8]
    assert {mime for mime, _ in report["previews"]} == {
        "image/png"
    }  # this client reads the type at a wrong offset
    assert are_previews(pictures([shown for _, shown in report["previews"]]))
    for run in ("pictures", "polled"):
        assert [is_cyan(picture) for picture in pictures(report[run])] == [True], run
    assert report["running"] == {"running": True, "pending": False, "done": False}
    assert report["interrupted"]["message"] == "Execution has been interrupted"
    assert report["before"] == {"running": False, "pending": True, "done": False}
    running, pending, is_last = report["queue"]
    assert running > 0
    assert pending > 0
    assert is_last
    assert report["after"]["pending"] is False
    assert TOO_DARK in report["failed"]["message"]
    assert "400 Bad Request" in report["refused"]["message"]
    assert report["histories"] == [2, 1]
    assert report["loader"]
    assert report["stats"] == "linux"
    assert all(path.startswith("/extensions/core/") for path in report["extensions"])  # the web page's own
    assert report["setting"] == [1, 2]
    assert report["userdata"] == {"text": "kept"}
    assert "404" in report["missing"]["message"]
    assert report["models"] == [[], []]
    assert set(report["events"]) >= {
        "status", "execution_start", "execution_cached", "executing", "executed", "progress", "progress_state",
        "execution_success", "execution_error", "execution_interrupted",
    }  # fmt: skip
