"""``ringfence run``: queue one prompt, follow it, print what it made and where each node ran."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import (
    DEFAULT_URL,
    JsonOption,
    Server,
    TenantOption,
    TokenOption,
    UrlOption,
    failure_of,
    server,
)
from api.cli.failure import Failure, Status
from api.cli.follow import Follower, display
from api.cli.outputs import add_local_paths, download, files_in, texts_in
from api.cli.promptfile import read_prompt
from api.cli.screen import Column, note, print_json, print_line, print_table, show_error

_NODE_COLUMNS = (
    Column("NODE", keep=True),
    Column("CLASS"),
    Column("EXTENSION"),
    Column("SANDBOX"),
    Column("TIME", right=True),
)


def run(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT.json", help="Prompt in the API format; '-' reads stdin.")
    ],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Fetch the files that the prompt makes into this directory."),
    ] = None,
    upload: Annotated[
        list[str] | None,
        typer.Option(
            "--upload",
            help="Upload FILE (or FILE=NAME) as an input first; can be repeated.",
            metavar="FILE[=NAME]",
        ),
    ] = None,
) -> int:
    """Run a prompt. Exit status: 0 success, 1 failed, 2 bad file, 3 no server, 4 refused, 5 token, 130 interrupted."""
    body = read_prompt(prompt)
    target = server(url, token, tenant)
    for item in upload or ():
        _upload(target, item)
    client_id = str(uuid.uuid4())
    body["client_id"] = client_id
    # Our own id: an interrupt may come before the answer that would have told us one.
    body["prompt_id"] = prompt_id = str(body.get("prompt_id") or uuid.uuid4())
    follower = Follower(target, client_id)
    try:
        follower.connect()
        answer = _submit(target, body)
        with display() as bars:
            follower.until_ended(prompt_id, body, bars)
    except KeyboardInterrupt:
        _cancel(target, prompt_id)
        raise
    finally:
        follower.close()
    result = _result(target, prompt_id, answer)
    if output_dir is not None:
        download(result["outputs"], output_dir, target)
    _print(result, as_json=as_json)
    return Status.OK if result["state"] == "completed" else _failed_status(result)


def _upload(target: Server, item: str) -> None:
    name, _, wanted = item.partition("=")
    path = Path(name)
    try:
        with path.open("rb") as stream, target.translated(), target.client(timeout_s=None) as client:
            response = client.post(
                "/upload/image", files={"image": (wanted or path.name, stream)}, data={"overwrite": "true"}
            )
    except OSError as error:
        raise Failure(Status.USAGE, f"{name}: {error.strerror}") from None
    if response.status_code != 200:
        raise failure_of(response.status_code, response.content)


def _submit(target: Server, body: dict[str, Any]) -> dict[str, Any]:
    answer = target.call("POST", "/prompt", body=body, allow=(400,))
    if "prompt_id" in answer:
        for node_id, problems in answer.get("node_errors", {}).items():
            note(f"not everything runs: {_node_error(node_id, problems)}")
        return dict(answer)
    error = answer.get("error", {})
    lines = [f"the prompt was refused: {error.get('message')}"]
    if error.get("details"):
        lines.append(str(error["details"]))
    lines += [_node_error(node_id, problems) for node_id, problems in answer.get("node_errors", {}).items()]
    hint = (
        "is the extension that brings it added? ringfence extension list"
        if error.get("type") in ("missing_node_type", "invalid_prompt")
        else ""
    )
    raise Failure(Status.REJECTED, "\n  ".join(lines), hint)


def _node_error(node_id: str, problems: dict[str, Any]) -> str:
    texts = [f"{error.get('message')}: {error.get('details')}" for error in problems.get("errors", [])]
    return f"node {node_id} ({problems.get('class_type')}): {'; '.join(texts)}"


def _cancel(target: Server, prompt_id: str) -> None:
    """The user gave up on the prompt, so it must not go on behind their back."""
    try:
        target.call("POST", f"/api/jobs/{prompt_id}/cancel")
        note("the prompt was cancelled")
    except Failure as failure:
        show_error(f"the prompt may still run: {failure.message}", failure.hint)


def _result(target: Server, prompt_id: str, answer: dict[str, Any]) -> dict[str, Any]:
    details = target.call("GET", f"/ringfence/v1/prompts/{prompt_id}")
    status = target.call("GET", "/ringfence/v1/status")
    files = files_in(details["outputs"], target)
    add_local_paths(files, status.get("data_dir"), status["tenant"])
    started, ended = details.get("started_ms"), details.get("ended_ms")
    nodes = [
        {**node, "seconds": (node["duration_ms"] or 0) / 1000 if "duration_ms" in node else None}
        for node in details["nodes"]
    ]
    return {
        "prompt_id": prompt_id,
        "state": details["state"],
        "seconds": (ended - started) / 1000 if started and ended else None,
        "outputs": files,
        "texts": texts_in(details["outputs"]),
        "nodes": nodes,
        "error": details["error"],
        "node_errors": answer.get("node_errors", {}),
    }


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        rows = [
            (
                node["node_id"],
                node["title"] or node["class_type"],
                node["extension"],
                node["sandbox"],
                "cached" if node["cached"] else f"{node['seconds'] or 0:.2f} s",
            )
            for node in result["nodes"]
        ]
        if rows:
            print_table(_NODE_COLUMNS, rows, empty="")
        for file in result["outputs"]:
            print_line(f"{file['kind']}: {file.get('path') or file['url']}")
        for text in result["texts"]:
            print_line(f"text of node {text['node_id']}: {text['text']}")
        if result["seconds"] is not None and result["state"] == "completed":
            print_line(f"done in {result['seconds']:.2f} s")
    if result["state"] != "completed":
        _print_error(result)


def _print_error(result: dict[str, Any]) -> None:
    error = result["error"]
    if not error:
        show_error(f"the prompt was {result['state']}")
        return
    message = str(error.get("exception_message", "")).strip()
    show_error(
        f"node {error.get('node_id')} ({error.get('node_type')}) failed: {error.get('exception_type')}: {message}"
    )


def _failed_status(result: dict[str, Any]) -> int:
    return Status.INTERRUPTED if result["state"] == "cancelled" else Status.FAILED
