"""comfy-cli, unmodified, as a command: upload, run, watch, download, cancel, errors, and a workflow of the editor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.clients.conftest import developed, failing, invalid, is_cyan, run_client, sleeping
from tests.clients.environments import python_client
from tests.e2e.comfy import Comfy, Prompt, until
from tests.stack import Stack

Said = list[dict[str, Any]]
Cli = Callable[..., tuple[int, Said]]


@pytest.fixture
def cli(stack: Stack, quiet_environment: dict[str, str], tmp_path: Path) -> Cli:
    """``cli("jobs", "ls")``: exit status and the JSON objects that it printed, the last of which sums up."""
    environment = {
        **quiet_environment,
        "COMFY_LOCAL_URL": stack.url,
        "COMFY_NO_WATCH": "1",
        "COMFY_CLI_NO_REMOTE_REFRESH": "1",
    }

    def run(*arguments: str) -> tuple[int, Said]:
        command = [str(python_client("comfy-cli") / "comfy"), "--skip-prompt", "--where", "local", "--json"]
        done = run_client([*command, *arguments], environment, tmp_path)
        try:
            said = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
        except ValueError:
            pytest.fail(f"comfy {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        assert said, f"comfy {' '.join(arguments)} said nothing: {done.returncode}\n{done.stderr}"
        return done.returncode, said

    return run


def written(prompt: Any, where: Path) -> str:
    path = where / "workflow.json"
    path.write_text(json.dumps(prompt), encoding="utf-8")
    return str(path)


def types(said: Said) -> list[str]:
    return [one["type"] for one in said]


def test_comfy_cli_uploads_runs_with_progress_and_downloads(cli: Cli, red: Path, tmp_path: Path) -> None:
    status, said = cli("upload", str(red))
    assert status == 0, said
    assert said[-1]["data"]["uploads"][0]["cloud_name"] == red.name

    status, said = cli(
        "run", "--wait", "--json", "--workflow", written(developed(red.name, 8, 0.2), tmp_path)
    )
    assert status == 0, said
    assert [one["node"] for one in said if one["type"] == "executing"] == ["1", "2", "3"]
    progress = [one for one in said if one["type"] == "progress"]
    assert progress
    assert {(one["node"], one["total"]) for one in progress} == {("2", 8)}
    assert [one["node"] for one in said if one["type"] == "executed"] == ["3"]
    end = said[-1]["data"]
    assert (end["status"], end["executed_node_ids"]) == ("completed", ["1", "2", "3"])

    status, said = cli("download", end["prompt_id"], "-o", "fetched")
    assert status == 0, said
    (file,) = said[-1]["data"]["files"]
    assert is_cyan(Image.open(file["path"]))
    status, said = cli("jobs", "status", end["prompt_id"])
    assert said[-1]["data"]["status"] == "completed"


def test_comfy_cli_converts_a_workflow_of_the_editor_with_what_object_info_says(
    cli: Cli, red: Path, tmp_path: Path
) -> None:
    cli("upload", str(red))

    def editor_node(number: int, name: str, links: tuple[int | None, int | None], values: list[Any]) -> Any:
        taken, given = links
        inputs = [{"name": "images" if name == "SaveImage" else "image", "type": "IMAGE", "link": taken}]
        outputs = [{"name": "IMAGE", "type": "IMAGE", "links": [given]}]
        return {
            "id": number, "type": name, "pos": [0, 0], "size": [200, 100], "flags": {}, "order": number, "mode": 0,
            "inputs": inputs if taken else [], "outputs": outputs if given else [], "properties": {},
            "widgets_values": values,
        }  # fmt: skip

    workflow = {
        "last_node_id": 3, "last_link_id": 2, "version": 0.4, "groups": [], "config": {}, "extra": {},
        "nodes": [
            editor_node(1, "LoadImage", (None, 1), [red.name, "image"]),
            editor_node(2, "RFDevelop", (1, 2), [3, 0.0, ""]),
            editor_node(3, "SaveImage", (2, None), ["editor"]),
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
    }  # fmt: skip
    status, said = cli("run", "--wait", "--json", "--workflow", written(workflow, tmp_path))
    assert status == 0, said
    (sent,) = [one["prompt"] for one in said if one["type"] == "prompt_preview"]
    assert sent["2"]["inputs"] == {"image": ["1", 0], "steps": 3, "pause": 0.0, "spoiled": ""}
    assert said[-1]["data"]["status"] == "completed"


def test_comfy_cli_cancels_a_job(cli: Cli, comfy: Comfy, tmp_path: Path) -> None:
    status, said = cli("run", "--no-watch", "--workflow", written(sleeping(), tmp_path))
    assert status == 0, said
    prompt_id = said[-1]["data"]["prompt_id"]
    until(lambda: comfy.get("/queue")["queue_running"], "the job runs")
    assert cli("jobs", "status", prompt_id)[1][-1]["data"]["status"] == "running"
    status, said = cli("jobs", "cancel", prompt_id)
    assert (status, said[-1]["data"]["found"]) == (0, True)
    until(lambda: comfy.get(f"/history/{prompt_id}"), "the job has ended")
    assert cli("jobs", "status", prompt_id)[1][-1]["data"]["status"] == "cancelled"
    status, said = cli("jobs", "cancel", "00000000-0000-4000-8000-000000000000")
    assert status != 0
    assert said[-1]["error"]["code"] == "prompt_not_found"


@pytest.mark.parametrize("kind", ["raises", "invalid"])
def test_comfy_cli_says_what_went_wrong(cli: Cli, red: Path, tmp_path: Path, kind: str) -> None:
    cli("upload", str(red))
    prompt: Prompt = failing(red.name, "too dark") if kind == "raises" else invalid()
    status, said = cli("run", "--wait", "--json", "--workflow", written(prompt, tmp_path))
    assert status == 1
    error = said[-1]["error"]
    if kind == "raises":
        assert error["code"] == "execution_error"
        assert error["message"] == "RFDevelop (node 2): too dark"
        assert "execution_error" in types(said)
    else:  # it checks the workflow itself, against /object_info
        assert error["details"]["errors"][0]["code"] == "required_input_missing"


def test_comfy_cli_reads_nodes_and_figures(cli: Cli) -> None:
    status, said = cli("nodes", "show", "RFDevelop")
    assert status == 0, said
    assert "spoiled" in json.dumps(said[-1]["data"])
    status, said = cli("system-stats")
    assert status == 0, said
    status, said = cli("free")
    assert status == 0, said
