"""More clients that people use, unmodified; each has a way of its own to find out that a prompt has ended."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Drive, developed, failing, invalid, is_cyan, pictures, plain, sleeping
from tests.e2e.comfy import Comfy

TOO_DARK = "too dark"


@pytest.fixture
def stored(comfy: Comfy, red: Path) -> str:
    """The red picture's name on the server."""
    return str(comfy.upload(red.name, red.read_bytes()).json()["name"])


def all_cyan(encoded: list[str]) -> bool:
    shown = pictures(encoded)
    return bool(shown) and all(is_cyan(picture) for picture in shown)


def test_comfy_catapult_reads_every_answer_through_its_strict_models(drive: Drive, red: Path) -> None:
    report = drive("comfy-catapult", picture=str(red), plain=plain(""), sleeping=sleeping())
    assert report["stats"] == "linux"
    assert {"LoadImage", "SaveImage", "RFDevelop", "RFInvert", "RFSleep"} <= set(report["nodes"])
    assert report["stored"] == red.name
    assert report["ticket"]
    assert report["status"] == "success"
    assert all_cyan(report["pictures"])
    assert report["remaining"] == 1
    assert report["interrupted"] == "error"
    assert report["history"]


def test_comfykit_fills_in_parameters_and_finds_results_by_name(
    drive: Drive, red: Path, comfy: Comfy
) -> None:
    report = drive("comfykit", picture=str(red), plain=plain(""), failing=failing("", TOO_DARK))
    for kind in ("http", "websocket"):
        status, images, message = report[kind]
        assert (status, message, list(images)) == ("completed", None, ["saved"]), kind
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(images["saved"][0]).query))
        assert comfy.http.get("/view", params=query).status_code == 200
        status, message = report[f"{kind} failed"]
        assert (status, message.strip()) == ("error", TOO_DARK)


def test_comfy_toolkit_follows_every_step_and_sees_errors(drive: Drive, stored: str) -> None:
    report = drive(
        "comfy-toolkit", plain=plain(stored), developed=developed(stored, 8, 0.2), invalid=invalid(),
        failing=failing(stored, TOO_DARK),
    )  # fmt: skip
    assert report["online"]
    assert report["steps"][-1] == [8, 8]
    assert report["nodes"][-2:] == ["2", "3"]
    assert all_cyan(report["pictures"])
    assert all_cyan(report["polled"])
    assert report["failed"][0] == "ComfyExecutionError"
    assert report["refused"][0] == "ComfySubmitError"
    assert "Required input is missing: text" in report["refused"][1]
    assert report["memory"] == "cpu"


def test_comfyui_workflow_client_finds_results_by_the_titles_of_nodes(drive: Drive, red: Path) -> None:
    report: dict[str, Any] = drive("comfyui-workflow-client", picture=str(red), plain=plain(""))
    assert all_cyan(report["pictures"])
    assert all_cyan(report["asynchronous"])


def test_comfyui_utils_finds_its_prompt_in_queue_and_history(drive: Drive, stored: str) -> None:
    report = drive("comfyui-utils", plain=plain(stored), invalid=invalid())
    assert len(report["completed"]) == 2
    assert all_cyan(report["pictures"])
    assert set(report["queue"]) <= {0}
    assert report["refused"] == "Node 1, text: Required input is missing"


def test_comfy_ui_client_runs_and_fetches(drive: Drive, red: Path) -> None:
    report = drive("comfy-ui-client", picture=str(red), plain=plain(""), invalid=invalid())
    assert report["stored"]["name"] == "ui-client.png"
    assert all_cyan(report["pictures"])
    assert report["refused"]
    assert report["stats"] == "linux"
    assert report["nodes"] == ["RFInvert"]
    embeddings, scripts = report["lists"]
    assert embeddings == []
    assert all(path.startswith("/extensions/core/") for path in scripts)  # the web page's own
    assert report["history"]
