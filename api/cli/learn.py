"""``ringfence policy learn``: run an extension under watch and print the smallest policy that it needed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, Server, TenantOption, TokenOption, UrlOption, server
from api.cli.failure import Failure, Status
from api.cli.promptfile import read_prompt
from api.cli.screen import note, print_json, shown

_KEPT = ".before-learning"


def learn(
    extension: Annotated[str, typer.Argument(help="An extension's name, as 'extension list' shows it.")],
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="FILE", help="Run this prompt (API format); can be repeated."),
    ] = None,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Run each of its nodes too, with default and made-up values.")
    ] = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="Make it the extension's policy file; an older one is kept beside it."),
    ] = False,
    policies: Annotated[
        Path | None,
        typer.Option(
            "--policies",
            envvar="RINGFENCE_POLICIES_DIR",
            help="With --write: the directory of policy files; default: the server's, on this machine.",
        ),
    ] = None,
    limit_s: Annotated[
        float,
        typer.Option("--limit", metavar="SECONDS", help="How long it may take in all.", min=1, max=21600),
    ] = 1800.0,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> int:
    """Run an extension in a watched sandbox and print the smallest policy that its run needed.

    Its walls stay as they are meanwhile, and what is printed never allows more than its policy of today: what it met or
    asked for beyond that is printed as comments. Exit status 1 when
    its import failed, the time was up before everything had run, or nothing could be written.
    """
    wanted = [{"name": Path(name).name, "body": read_prompt(name)} for name in prompts or ()]
    target = server(url, token, tenant)
    directory = _directory(target, policies) if write else None
    answer = _ask(target, extension, {"prompts": wanted, "nodes": nodes, "limit_s": limit_s})
    group = next((value["value"] for value in answer["values"] if value["key"] == "group"), None)
    if directory is not None and answer["has_run"] and group is None:
        answer["file"] = str(_write(directory, answer))
    elif directory is not None and group is not None:
        note(
            f"not written: the members of sandbox group '{group}' need equal policies; write it for each of them"
        )
    if as_json:
        print_json(answer)
    else:
        print(shown(answer["policy"], 256 * 1024, newlines=True), end="")
        _say(answer)
    is_written = directory is None or "file" in answer
    return Status.OK if answer["is_whole"] and answer["has_run"] and is_written else Status.FAILED


def _ask(target: Server, extension: str, body: dict[str, Any]) -> dict[str, Any]:
    from urllib.parse import quote

    path = f"/ringfence/v1/policies/{quote(extension, safe='')}/learn"
    for line in target.stream("POST", path, body=body):
        if "progress" in line:
            note(str(line["progress"]))
        elif "result" in line:
            return dict(line["result"])
        elif "error" in line:
            error = line["error"]
            where = f"{error['file']}:{error.get('line', 0)}: " if error.get("file") else ""
            raise Failure(Status.FAILED, f"{where}{error['message']}", str(error.get("hint", "")))
    raise Failure(Status.FAILED, "the server stopped in the middle of it", "see its log")


def _say(answer: dict[str, Any]) -> None:
    """What is no part of the file, for whoever reads it."""
    runs = answer["runs"]
    counts = {
        state: sum(run["state"] == state for run in runs)
        for state in ("ok", "failed", "refused", "slow", "skipped")
    }
    note(
        f"learned of {', '.join(f'{count} {state}' for state, count in counts.items() if count) or 'its import alone'}"
    )
    if not answer["has_run"]:
        note("its import failed, so that nothing was learned; nothing is written")
    if not answer["is_whole"]:
        note("the time was up before everything had run: more of it may be needed (--limit)")
    if "file" in answer:
        note(f"written to {answer['file']}; it holds from the next start of the sandbox on")


def _directory(target: Server, given: Path | None) -> Path:
    """Where policy files are written; asked before anything runs."""
    if given is None:
        said = target.call("GET", "/ringfence/v1/status").get("policies_dir")
        given = Path(said) if said else None
    if given is None or not given.is_dir() or not os.access(given, os.W_OK):
        where = given if given is not None else "the server's directory of policies"
        raise Failure(
            Status.USAGE,
            f"{where} is no directory of this machine that can be written to",
            "name one with --policies DIR, or redirect the output: ringfence policy learn ... > FILE",
        )
    return given


def _write(directory: Path, answer: dict[str, Any]) -> Path:
    """Replace the extension's own file as a whole, after it was checked here; what was there is kept."""
    from policies import LOCAL_TENANT, PolicyError, PolicyStore, parse_extension_name, parse_tenant_id

    name, tenant = parse_extension_name(answer["extension"]), parse_tenant_id(answer["tenant"])
    folder = directory if tenant == LOCAL_TENANT else directory / "tenants" / tenant
    file = folder / f"{name}.yaml"
    try:
        PolicyStore(directory).check_text(answer["policy"], file.name, tenant)
    except PolicyError as error:
        raise Failure(Status.REJECTED, f"{error.where}: {error.message}", error.hint) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.exists():
            kept = file.with_name(file.name + _KEPT)
            kept.write_bytes(file.read_bytes())
            note(f"the policy that was there is kept as {kept}")
        handle, new = tempfile.mkstemp(prefix=".learned-", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(answer["policy"])
            os.fchmod(stream.fileno(), 0o644)  # the launcher may run as another user
        Path(new).replace(file)
    except OSError as error:
        raise Failure(
            Status.FAILED, f"{file}: {error.strerror}", "write it yourself: leave out --write"
        ) from None
    return file
