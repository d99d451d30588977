"""``ringfence tenant``: create, list, rotate-token."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, TokenOption, UrlOption, server
from api.cli.screen import Column, ago, note, print_json, print_line, print_table

app = typer.Typer(name="tenant", help="Tenants and their tokens (operator).", no_args_is_help=True)

_COLUMNS = (Column("TENANT", keep=True), Column("CREATED", right=True), Column("TOKEN AGE", right=True))
_QUOTA_COLUMNS = (
    Column("QUOTA", keep=True),
    Column("USED", right=True),
    Column("LIMIT", right=True),
    Column("FROM"),
)
_SIZES = frozenset({"memory", "shared_memory", "disk", "upload", "history"})
_PATH = "/ringfence/v1/tenants"
NameArgument = Annotated[str, typer.Argument(metavar="TENANT", help="a-z, 0-9, '_' and '-', at most 32.")]


@app.command("create")
def create(
    name: NameArgument, url: UrlOption = DEFAULT_URL, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Create a tenant and print its token, which cannot be read again. The first one ends single-user mode."""
    answer = server(url, token).call("POST", _PATH, body={"name": name})
    _print_token(answer, as_json=as_json)


@app.command("list")
def list_tenants(
    url: UrlOption = DEFAULT_URL, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List tenants."""
    answer = server(url, token).call("GET", _PATH)
    if as_json:
        print_json(answer)
        return
    rows = [(item["name"], ago(item["created_ms"]), ago(item["rotated_ms"])) for item in answer["tenants"]]
    print_table(_COLUMNS, rows, empty="no tenants: single-user mode")


@app.command("show")
def show(
    name: NameArgument, url: UrlOption = DEFAULT_URL, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Show a tenant's quotas: what holds, where that is written, and how much is used."""
    from urllib.parse import quote

    answer = server(url, token).call("GET", f"{_PATH}/{quote(name, safe='')}/usage")
    if as_json:
        print_json(answer)
        return
    rows = [
        (key, _figure(key, item["used"]), _figure(key, item["limit"]), item["source"])
        for key, item in answer["quotas"].items()
    ]
    print_table(_QUOTA_COLUMNS, rows, empty="no quotas")


def _figure(quota: str, value: float | None) -> str:
    if value is None:
        return "-"
    if quota in _SIZES:
        return _size(int(value))
    return f"{value:g}" if quota != "window" else f"{value:g} s"


def _size(count: float) -> str:
    units = ["B", "KiB", "MiB", "GiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.4g} {units[0]}"


@app.command("rotate-token")
def rotate_token(
    name: NameArgument, url: UrlOption = DEFAULT_URL, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Replace a tenant's token and print the new one; the old one is refused at once."""
    from urllib.parse import quote

    answer = server(url, token).call("POST", f"{_PATH}/{quote(name, safe='')}/rotate-token")
    _print_token(answer, as_json=as_json)


def _print_token(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print_line(f"tenant {answer['tenant']['name']}: {answer['token']}")
    if "operator_token" in answer:
        print_line(f"operator: {answer['operator_token']}")
        note("single-user mode has ended: every request needs a token from now on; keep both of these")
