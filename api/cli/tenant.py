"""``ringfence tenant``: create, list, rotate-token, remove; ``ringfence token``: create, list, revoke."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, TenantOption, TokenOption, UrlOption, server
from api.cli.failure import Failure, Status
from api.cli.screen import Column, ago, note, print_json, print_line, print_table

app = typer.Typer(name="tenant", help="Tenants (operator).", no_args_is_help=True)
tokens = typer.Typer(
    name="token", help="A tenant's tokens (its admin, or the operator).", no_args_is_help=True
)

_COLUMNS = (Column("TENANT", keep=True), Column("CREATED", right=True), Column("NEWEST TOKEN", right=True))
_TOKEN_COLUMNS = (
    Column("TOKEN", keep=True),
    Column("SCOPES", keep=True),
    Column("MADE", right=True),
    Column("USED", right=True),
    Column("EXPIRES", right=True),
)
_QUOTA_COLUMNS = (
    Column("QUOTA", keep=True),
    Column("USED", right=True),
    Column("LIMIT", right=True),
    Column("FROM"),
)
_SIZES = frozenset({"memory", "shared_memory", "disk", "upload", "history"})
_PATH = "/ringfence/v1/tenants"
_TOKENS = "/ringfence/v1/tokens"
_LIFE = re.compile(r"([1-9][0-9]{0,5})([hd])")
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
    name: NameArgument,
    which: Annotated[str, typer.Option("--name", metavar="NAME", help="Which of its tokens.")] = "main",
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace a tenant's token and print the new one; the old one, and log-ins made with it, are refused at once."""
    answer = server(url, token).call("POST", f"{_PATH}/{_quoted(name)}/rotate-token", params={"token": which})
    _print_token(answer, as_json=as_json)


@app.command("remove")
def remove(
    name: NameArgument,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Leave its inputs, outputs and user data on disk.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """End all that a tenant runs, and remove it with its tokens, extensions, history and files."""
    if not yes:
        what = "its history, extensions and tokens" + ("" if keep_files else ", and all its files")
        typer.confirm(f"Remove tenant {name} with {what}?", abort=True, err=True)
    answer = server(url, token).call(
        "DELETE", f"{_PATH}/{_quoted(name)}", params={"keep_files": "true" if keep_files else "false"}
    )
    if as_json:
        print_json(answer)
        return
    gone = answer["removed"]
    print_line(
        f"tenant {gone['tenant']} is removed: {gone['prompts']} prompts ended, {gone['sandboxes']} sandboxes ended, "
        f"{len(gone['extensions'])} extensions, {gone['rows']} records, {gone['files']} files "
        f"({gone['nbytes']} bytes)"
    )
    for place in gone["kept"]:
        note(f"kept: {place}")
    for problem in gone["problems"]:
        note(f"problem: {problem}")


@tokens.command("create")
def create_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, '_' and '-', at most 32.")],
    scope: Annotated[list[str], typer.Option("--scope", help="run, upload or admin; give it once for each.")],
    expires: Annotated[
        str | None, typer.Option("--expires", help="How long it is valid: 12h, 30d. Default: until revoked.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it; it cannot be read again."""
    body: dict[str, Any] = {"name": name, "scopes": scope}
    if expires is not None:
        body["expires_s"] = _seconds(expires)
    answer = server(url, token, tenant).call("POST", _TOKENS, body=body)
    if as_json:
        print_json(answer)
    else:
        print_line(f"token {answer['token']['name']}: {answer['secret']}")


@tokens.command("list")
def list_tokens(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a tenant's tokens."""
    answer = server(url, token, tenant).call("GET", _TOKENS)
    if as_json:
        print_json(answer)
        return
    rows = [
        (
            item["name"],
            " ".join(item["scopes"]),
            ago(item["issued_ms"]),
            "never" if item["used_ms"] is None else ago(item["used_ms"]),
            _until(item["expires_ms"]),
        )
        for item in answer["tokens"]
    ]
    print_table(_TOKEN_COLUMNS, rows, empty="no tokens")


@tokens.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse a token, and log-ins made with it, at once."""
    answer = server(url, token, tenant).call("DELETE", f"{_TOKENS}/{_quoted(name)}")
    if as_json:
        print_json(answer)
    else:
        print_line(f"revoked {answer['revoked']}")


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _seconds(text: str) -> int:
    match = _LIFE.fullmatch(text)
    if match is None:
        raise Failure(Status.USAGE, f"'{text}' is no length of time", "write e.g. 12h or 30d")
    return int(match[1]) * (3600 if match[2] == "h" else 24 * 3600)


def _until(expires_ms: int | None) -> str:
    if expires_ms is None:
        return "never"
    left_h = (expires_ms / 1000 - time.time()) / 3600
    if left_h <= 0:
        return "expired"
    return f"in {left_h / 24:.0f}d" if left_h >= 48 else f"in {left_h:.0f}h"


def _print_token(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print_line(f"tenant {answer['tenant']['name']}: {answer['token']}")
    if "operator_token" in answer:
        print_line(f"operator: {answer['operator_token']}")
        note("single-user mode has ended: every request needs a token from now on; keep both of these")
