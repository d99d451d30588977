"""``ringfence policy``: check, show, diff, schema. All work without a server, on a directory of policy files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, TenantOption, TokenOption, UrlOption, server
from api.cli.failure import Failure, Status
from api.cli.screen import Column, print_json, print_line, print_table, show_error

if TYPE_CHECKING:
    from policies import EffectivePolicy, PolicyError, PolicyStore

app = typer.Typer(
    name="policy",
    help="Policy files: check, show what holds, compare, schema for editors.",
    no_args_is_help=True,
)

_COLUMNS = (Column("KEY", keep=True), Column("VALUE"), Column("FROM"))
_DIFF_COLUMNS = (
    Column("ASKS", keep=True),
    Column("KEY", keep=True),
    Column("BEFORE"),
    Column("AFTER"),
    Column("FROM"),
)
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
    files: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="default.yaml, <extension>.yaml, or a directory of them."),
    ],
    policies: DirectoryOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check policy files; says file, line and what to write instead. Exit status 4 when one is wrong."""
    results: list[dict[str, Any]] = []
    for file in files:
        if file.is_dir():
            results += _check_directory(file)
        elif file.exists():
            results.append(_check_file(file, policies, tenant))
        else:
            raise Failure(Status.USAGE, f"{file}: there is no such file")
    if as_json:
        print_json({"files": results})
    else:
        for result in results:
            if result["valid"]:
                print_line(f"{result['file']}: good{result['note']}")
            for problem in result["problems"]:
                show_error(f"{_place(problem)}: {problem['message']}", problem["hint"])
    return Status.OK if all(result["valid"] for result in results) else Status.REJECTED


def _check_file(file: Path, policies: Path | None, tenant: str | None) -> dict[str, Any]:
    from policies import PolicyError

    directory, owner = file.absolute().parent, None
    if directory.parent.name == "tenants":  # policies/tenants/<tenant>/<extension>.yaml
        directory, owner = directory.parent.parent, directory.name
    try:
        effective = _store(policies or directory).check(file, _tenant(tenant or owner))
    except PolicyError as error:
        return _result(file, error)
    return _result(file, note=_grants(effective))


def _check_directory(directory: Path) -> list[dict[str, Any]]:
    """Every file of a directory, for the tenants it is for; groups of extensions as well."""
    from policies import LOCAL_TENANT, PolicyError, SandboxGroup

    store = _store(directory)
    results: list[dict[str, Any]] = []
    try:
        tenants = sorted({LOCAL_TENANT, *store.tenants()})
    except PolicyError as error:
        return [_result(directory / "default.yaml", error)]
    defaults = directory / "default.yaml"
    if defaults.exists():
        results.append(_check_file(defaults, directory, None))
    for tenant in tenants:
        folder = directory if tenant == LOCAL_TENANT else directory / "tenants" / tenant
        groups: set[str] = set()
        for name in store.extensions(tenant):
            file = folder / f"{name}.yaml"
            if not file.exists():
                continue  # shipped, or another tenant's
            try:
                effective = store.effective(name, tenant)
                groups.add(effective.group or "")
                results.append(_result(file, note=_grants(effective)))
            except PolicyError as error:
                results.append(_result(file, error))
        for group in sorted(groups - {""}):
            try:
                store.effective_group(SandboxGroup(group), tenant)
            except PolicyError as error:
                results.append(_result(folder, error))
        for file in sorted(folder.glob("*.[yY][mM][lL]")):
            unread = PolicyError(
                "nobody reads this file", hint=f"call it '{file.stem}.yaml', or move it away"
            )
            results.append(_result(file, unread))
    return results


def _result(file: Path, error: PolicyError | None = None, note: str = "") -> dict[str, Any]:
    from policies import PolicySyntaxError

    problems: list[dict[str, Any]] = []
    if isinstance(error, PolicySyntaxError):
        problems = [
            {"file": error.file, "line": p.line, "column": p.column, "message": p.message, "hint": p.hint}
            for p in error.problems
        ]
    elif error is not None:
        problems = [
            {
                "file": error.file or str(file),
                "line": error.line,
                "column": error.column,
                "message": error.message,
                "hint": error.hint,
            }
        ]
    return {"file": str(file), "valid": error is None, "note": note, "problems": problems}


def _place(problem: dict[str, Any]) -> str:
    return f"{problem['file']}:{problem['line']}" if problem["line"] else str(problem["file"])


def _grants(effective: EffectivePolicy) -> str:
    """What is out of the ordinary in a good policy, in a few words: what an operator should have meant."""
    said = []
    if effective.network:
        said.append(f"reaches {', '.join(effective.network.allow)}")
    if effective.secrets:
        said.append(f"uses the secrets {', '.join(secret.name for secret in effective.secrets)}")
    if effective.gpus:
        said.append(f"has {len(effective.gpus)} GPUs" if len(effective.gpus) > 1 else "has a GPU")
    if effective.routes:
        said.append("answers requests")
    if effective.web_files:
        said.append("runs script in the browser")
    if effective.build.source_builds:
        said.append("may build from source")
    return f" ({'; '.join(said)})" if said else ""


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

        with _rejected():
            effective = _store(policies).effective(parse_extension_name(extension), _tenant(tenant))
        answer = {"extension": extension, "tenant": _tenant(tenant), "policy": _rows(effective)}
    if as_json:
        print_json(answer)
        return
    rows = [(row["key"], row["value"], _source(row)) for row in answer["policy"]]
    print_line(f"{answer['extension']}, tenant {answer['tenant']}")
    print_table(_COLUMNS, rows, empty="nothing")


@app.command("diff")
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A policy file.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The one that may replace it.")],
    policies: DirectoryOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what one policy file asks for beyond another, under the same defaults and ceilings."""
    from policies import compare

    for file in (old, new):
        if not file.is_file():
            raise Failure(Status.USAGE, f"{file}: there is no such file")
    store = _store(policies or old.absolute().parent)
    with _rejected():
        changes = compare(store.check(old, _tenant(tenant)), store.check(new, _tenant(tenant)))
    if as_json:
        rows = [
            {"key": c.key, "before": c.before, "after": c.after, "more": c.is_more, "source": str(c.source)}
            for c in changes
        ]
        print_json({"changes": rows})
        return
    table = [("more" if c.is_more else "", c.key, c.before, c.after, str(c.source)) for c in changes]
    print_table(_DIFF_COLUMNS, table, empty="the two allow the same")


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


@contextmanager
def _rejected() -> Iterator[None]:
    """A wrong policy ends the command with its place, message and hint."""
    from policies import PolicyError

    try:
        yield
    except PolicyError as error:
        where = f"{error.where}: " if error.file else ""
        raise Failure(Status.REJECTED, f"{where}{error.message}", error.hint) from None


def _source(row: dict[str, Any]) -> str:
    return f"{row['file']}:{row['line']}" if row["file"] else "built in"


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
