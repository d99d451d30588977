"""``ringfence policy``: check, show, schema. All work without a server, on a directory of policy files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, TenantOption, TokenOption, UrlOption, server
from api.cli.failure import Failure, Status
from api.cli.screen import Column, print_json, print_line, print_table, show_error

if TYPE_CHECKING:
    from policies import EffectivePolicy, PolicyStore

app = typer.Typer(
    name="policy", help="Policy files: check, show what holds, schema for editors.", no_args_is_help=True
)

_COLUMNS = (Column("KEY", keep=True), Column("VALUE"), Column("FROM"))
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--policies",
        envvar="RINGFENCE_POLICIES_DIR",
        help="Directory of policy files; default: beside the file, else the server's.",
    ),
]


@app.command("check")
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="default.yaml or <extension>.yaml.")],
    policies: DirectoryOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check policy files; says file, line and what to write instead. Exit status 4 when one is wrong."""
    from policies import PolicyError, PolicySyntaxError

    results: list[dict[str, Any]] = []
    for file in files:
        try:
            _store(policies or file.absolute().parent).check(file, _tenant(tenant))
            results.append({"file": str(file), "valid": True, "problems": []})
        except FileNotFoundError:
            raise Failure(Status.USAGE, f"{file}: there is no such file") from None
        except PolicySyntaxError as error:
            problems = [
                {"line": p.line, "column": p.column, "message": p.message, "hint": p.hint}
                for p in error.problems
            ]
            results.append({"file": str(file), "valid": False, "problems": problems})
        except PolicyError as error:
            problem = {
                "line": error.line,
                "column": error.column,
                "message": error.message,
                "hint": error.hint,
            }
            results.append({"file": error.file or str(file), "valid": False, "problems": [problem]})
    if as_json:
        print_json({"files": results})
    else:
        for result in results:
            if result["valid"]:
                print_line(f"{result['file']}: good")
            for problem in result["problems"]:
                show_error(f"{result['file']}:{problem['line']}: {problem['message']}", problem["hint"])
    return Status.OK if all(result["valid"] for result in results) else Status.REJECTED


@app.command("show")
def show(
    extension: Annotated[str, typer.Argument(help="An extension's name.")],
    policies: DirectoryOption = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the effective policy of an extension, with the source of each value."""
    if policies is None:
        from urllib.parse import quote

        answer = server(url, token, tenant).call("GET", f"/ringfence/v1/policies/{quote(extension, safe='')}")
    else:
        from policies import parse_extension_name

        effective = _store(policies).effective(parse_extension_name(extension), _tenant(tenant))
        answer = {"extension": extension, "tenant": _tenant(tenant), "policy": _rows(effective)}
    if as_json:
        print_json(answer)
        return
    rows = [
        (row["key"], row["value"], f"{row['file']}:{row['line']}" if row["file"] else "built in")
        for row in answer["policy"]
    ]
    print_table(_COLUMNS, rows, empty="nothing")


@app.command("schema")
def schema(
    kind: Annotated[
        str, typer.Argument(metavar="[extension|default]", help="Which file's schema.")
    ] = "extension",
) -> None:
    """Print the JSON Schema of <extension>.yaml, or of default.yaml."""
    from policies import PolicyStore

    schemas = PolicyStore.schema()
    if kind not in schemas:
        raise Failure(Status.USAGE, f"there is no schema '{kind}'", f"use one of: {', '.join(schemas)}")
    print_json(schemas[kind])


def _store(directory: Path) -> PolicyStore:
    from policies import PolicyStore

    return PolicyStore(directory)


def _tenant(name: str | None) -> Any:
    from policies import LOCAL_TENANT, parse_tenant_id

    return parse_tenant_id(name) if name else LOCAL_TENANT


def _rows(effective: EffectivePolicy) -> list[dict[str, Any]]:
    from policies import explain

    return [
        {"key": row.key, "value": row.value, "file": row.source.file, "line": row.source.line}
        for row in explain(effective)
    ]
