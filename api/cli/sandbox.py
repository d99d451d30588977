"""``ringfence sandbox``: list, logs, stop."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import DEFAULT_URL, JsonOption, TenantOption, TokenOption, UrlOption, server
from api.cli.screen import Column, ago, print_json, print_line, print_table

app = typer.Typer(name="sandbox", help="The sandboxes that run now.", no_args_is_help=True)

_COLUMNS = (
    Column("SANDBOX", keep=True),
    Column("EXTENSIONS"),
    Column("TENANT"),
    Column("STATE"),
    Column("AGE", right=True),
    Column("MEMORY", right=True),
    Column("PIDS", right=True),
)
_PATH = "/ringfence/v1/sandboxes"
IdArgument = Annotated[str, typer.Argument(metavar="SANDBOX", help="Its id, as 'list' shows it.")]


@app.command("list")
def list_sandboxes(
    all_tenants: Annotated[bool, typer.Option("--all", help="Of every tenant (operator).")] = False,
    spares: Annotated[bool, typer.Option("--spares", help="And those that wait in the pool.")] = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """List sandboxes with what they use and may use."""
    params = {"all_tenants": str(all_tenants).lower(), "spares": str(spares).lower()}
    answer = server(url, token, tenant).call("GET", _PATH, params=params)
    if as_json:
        print_json(answer)
        return
    rows = [
        (
            item["id"],
            (f"{item['group']}: " if item.get("group") else "") + ", ".join(item["extensions"]),
            item["tenant"],
            item["state"],
            ago(item["started"]),
            f"{_mib(item['memory_used'])}/{_mib(item['memory_limit'])} MiB",
            f"{item['pids_used'] if item['pids_used'] is not None else '?'}/{item['pids_limit']}",
        )
        for item in answer["sandboxes"]
    ]
    print_table(_COLUMNS, rows, empty="no sandbox runs; the next prompt starts those it needs")


@app.command("logs")
def logs(
    sandbox: IdArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Lines, the newest.", min=1, max=10_000)] = 200,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the pack in a sandbox printed."""
    answer = server(url, token, tenant).call(
        "GET", f"{_PATH}/{_segment(sandbox)}/logs", params={"limit": limit}
    )
    if as_json:
        print_json(answer)
        return
    for line in answer["lines"]:
        print_line(f"{line['at']} {line['stream']}: {line['text']}")


@app.command("stop")
def stop(
    sandbox: IdArgument,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a sandbox; the node that runs in it fails, the next call starts another."""
    answer = server(url, token, tenant).call("DELETE", f"{_PATH}/{_segment(sandbox)}")
    if as_json:
        print_json(answer)
    else:
        print_line(
            f"stopped {answer['sandbox']}" if answer["stopped"] else f"{answer['sandbox']} had ended already"
        )


def _mib(value: int | None) -> str:
    return "?" if value is None else str(value // 2**20)


def _segment(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")
