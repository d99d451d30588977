"""``ringfence extension verify|sbom|audit``: what extensions are made of, and whether that is still so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, Server, TenantOption, TokenOption, UrlOption, server
from api.cli.failure import Failure, Status
from api.cli.screen import Column, print_json, print_line, print_table

_PATH = "/ringfence/v1/extensions"
_COLUMNS = (
    Column("EXTENSION", keep=True),
    Column("PACKAGE"),
    Column("VERSION"),
    Column("LEVEL"),
    Column("ID", keep=True),
    Column("FIXED IN"),
    Column("FROM"),
)

_NameArgument = Annotated[
    str | None, typer.Argument(help="Its name; default: all of them.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Make these commands of ``ringfence extension``."""
    app.command("verify")(verify)
    app.command("sbom")(bill_of_materials)
    app.command("audit")(audit)


def verify(
    name: _NameArgument = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> int:
    """Read extensions and their environments in full: are they what was pinned and built? Exit status 1 if not."""
    target = server(url, token, tenant)
    found = [
        target.call("POST", f"{_PATH}/{_segment(each)}/verify", body={}) for each in _names(target, name)
    ]
    if as_json:
        print_json({"ok": all(each["ok"] for each in found), "extensions": found})
    else:
        for each in found:
            print_line(
                f"{each['name']}: {'as pinned' if each['ok'] else 'CHANGED'}, sha256:{each['content_hash']}"
            )
            for problem in each["problems"]:
                print_line(f"  {problem}")
    return Status.OK if all(each["ok"] for each in found) else Status.FAILED


def bill_of_materials(
    name: Annotated[str, typer.Argument(help="Its name, as 'list' shows it.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file; default: print.")] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
) -> None:
    """The bill of materials of an extension, CycloneDX JSON: the pack and every package that it can import."""
    bill = server(url, token, tenant).call("GET", f"{_PATH}/{_segment(name)}/sbom")
    if out is None:
        print_json(bill)
        return
    import json

    try:
        # As the server wrote it, so that two copies of one bill are the same file.
        out.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise Failure(Status.USAGE, f"{out}: {error.strerror}") from None
    print_line(f"wrote {out}: {len(bill.get('components', ()))} packages")


def audit(
    name: _NameArgument = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> int:
    """Known vulnerabilities of what extensions can import, from the server's database. Exit status 1 if any."""
    target = server(url, token, tenant)
    found = [target.call("GET", f"{_PATH}/{_segment(each)}/audit") for each in _names(target, name)]
    count = sum(len(each["findings"]) for each in found)
    if as_json:
        print_json({"extensions": found})
    else:
        rows = [
            (
                each["name"],
                finding["package"],
                finding["version"],
                finding["level"],
                finding["id"],
                finding["fixed_in"] or "-",
                finding["comes_from"],
            )
            for each in found
            for finding in each["findings"]
        ]
        print_table(_COLUMNS, rows, empty="no known vulnerability")
        for line in _about(found):
            print_line(line)
    return Status.FAILED if count else Status.OK


def _about(found: list[dict[str, Any]]) -> list[str]:
    if not found:
        return []
    database = found[0]["database"]
    packages = sum(each["packages"] for each in found)
    line = (
        f"{packages} packages of {len(found)} extension(s) against {database['entries']} entries, "
        f"the newest of {database['newest'] or 'unknown date'}"
    )
    if database["refused"]:
        line += f"; {database['refused']} entries could not be read"
    return [line]


def _names(target: Server, name: str | None) -> list[str]:
    if name is not None:
        return [name]
    return [str(item["name"]) for item in target.call("GET", _PATH)["extensions"]]


def _segment(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")
