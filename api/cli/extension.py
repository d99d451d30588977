"""``ringfence extension``: add, list, update, remove, reload; what an extension is made of stands in ``supply.py``."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, Server, TenantOption, TokenOption, UrlOption, server
from api.cli.failure import Failure, Status
from api.cli.pack import packed
from api.cli.screen import Column, note, print_json, print_line, print_table

app = typer.Typer(
    name="extension",
    help="Node packs: add, list, update, remove, reload, verify, sbom, audit.",
    no_args_is_help=True,
)
PinOption = Annotated[
    str | None,
    typer.Option("--pin", metavar="sha256:HASH", help="Refuse it unless its content has this hash."),
]

_GIT_URL = re.compile(r"([a-z+]+://|[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:)")
_COLUMNS = (
    Column("NAME", keep=True),
    Column("STATE"),
    Column("SANDBOX"),
    Column("API"),
    Column("NODES", right=True),
    Column("SOURCE"),
)
_PATH = "/ringfence/v1/extensions"
_QUESTIONS = 5
"""Two may come of one version: of its files, and of what it registers."""


class AsksMoreError(Failure):
    """A new version asks for more than the one that is there."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(Status.REJECTED, str(error["message"]), str(error.get("hint", "")))
        self.more = [str(line) for line in error.get("more", ())]
        self.key = str(error.get("consent", ""))


@app.command("add")
def add(
    source: Annotated[
        str, typer.Argument(metavar="DIR|GIT_URL", help="A directory, a .py file, or a git URL[@ref].")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Call it this instead of after its directory.")
    ] = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="Policy file to adopt for it.")] = None,
    pin: PinOption = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an extension: copy it, build its environment, and read its nodes in a sandbox."""
    target = server(url, token, tenant)
    data = {"name": name} if name else {}
    if pin:
        data["pin"] = pin
    files: dict[str, Any] = {}
    if policy is not None:
        files["policy"] = (policy.name, _read(policy))
    if _GIT_URL.match(source):
        info = _long(target, _PATH, {**data, "git": source}, files)
    else:
        directory = Path(source).absolute()
        with packed(directory) as archive:
            called = directory.resolve().name.removesuffix(".py")
            files["archive"] = (f"{called}.tar.gz", archive)
            info = _long(target, _PATH, {**data, "origin": _origin(directory)}, files)
    _print_one(info, "added", as_json=as_json)


@app.command("list")
def list_extensions(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """List extensions and how they are."""
    answer = server(url, token, tenant).call("GET", _PATH)
    if as_json:
        print_json(answer)
        return
    rows = [
        (
            item["name"],
            item["state"],
            item["sandbox"],
            item["api"],
            item["node_count"],
            "built in" if item["core"] else _place(item["source"]["location"]),
        )
        for item in answer["extensions"]
    ]
    print_table(_COLUMNS, rows, empty="no extensions; add one: ringfence extension add DIR")
    for item in answer["extensions"]:
        if item["error"]:
            print_line(f"{item['name']}: {item['error']['message']}")
        if item["outdated"]:
            print_line(f"{item['name']}: {item['outdated']}")
        if item.get("vulnerabilities"):
            counts = ", ".join(f"{count} {level}" for level, count in item["vulnerabilities"].items())
            print_line(
                f"{item['name']}: known vulnerabilities: {counts}; ringfence extension audit {item['name']}"
            )


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Its name, as 'list' shows it.")],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove an extension with its sandboxes, its environment and its policy."""
    answer = server(url, token, tenant).call("DELETE", f"{_PATH}/{_segment(name)}")
    if as_json:
        print_json(answer)
    else:
        print_line(f"removed {answer['removed']}")


@app.command("reload")
def reload(
    name: Annotated[str, typer.Argument(help="Its name, as 'list' shows it.")],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Take it from here; default: where it was added from."),
    ] = None,
    pin: PinOption = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Resolve its packages anew; else they stay as they are locked.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read an extension's source again, build what changed, and replace its sandbox."""
    target = server(url, token, tenant)
    path = f"{_PATH}/{_segment(name)}/reload"
    directory = source.absolute() if source else _added_from(target, name)
    data = {"pin": pin} if pin else {}
    if upgrade:
        data["upgrade"] = "true"
    if directory is None:
        info = _long(target, path, data, {})
    else:
        with packed(directory) as archive:
            files = {"archive": ("extension.tar.gz", archive)}
            info = _long(target, path, {**data, "origin": _origin(directory)}, files)
    _print_one(info, "reloaded", as_json=as_json)


@app.command("update")
def update(
    name: Annotated[str, typer.Argument(help="Its name, as 'list' shows it.")],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Take it from here; default: where it was added from."),
    ] = None,
    pin: PinOption = None,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Resolve its packages anew; else they stay as they are locked.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Take the new version whatever it asks for beyond the old one."),
    ] = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a new version of an extension, and say what it asks for beyond the old one.

    When that is more, it asks first: on a terminal with a question, anywhere else it refuses (exit status 4) without
    --yes. The old version goes on until then. What a version asks for is never granted by this.
    """
    target = server(url, token, tenant)
    directory = source.absolute() if source else _added_from(target, name)
    consent = ["anything"] if yes else []
    for _ in range(_QUESTIONS):
        try:
            info = _send_update(target, name, directory, pin, consent, upgrade=upgrade)
        except AsksMoreError as refusal:
            consent.append(_agree(refusal, may_ask=not as_json and sys.stdin.isatty()))
            continue
        _print_one(info, "updated", as_json=as_json)
        return
    raise Failure(Status.REJECTED, f"{name}: each time that it is asked for, it asks for something else")


def _send_update(
    target: Server,
    name: str,
    directory: Path | None,
    pin: str | None,
    consent: list[str],
    *,
    upgrade: bool,
) -> dict[str, Any]:
    path = f"{_PATH}/{_segment(name)}/update"
    data = {"consent": ",".join(consent)} if consent else {}
    if pin:
        data["pin"] = pin
    if upgrade:
        data["upgrade"] = "true"
    if directory is None:
        return _long(target, path, data, {})
    with packed(directory) as archive:
        files = {"archive": ("extension.tar.gz", archive)}
        return _long(target, path, {**data, "origin": _origin(directory)}, files)


def _agree(refusal: AsksMoreError, *, may_ask: bool) -> str:
    """Ask whoever sits there, and return the key of what was agreed to."""
    if not may_ask:
        raise Failure(Status.REJECTED, refusal.message, refusal.hint)
    note("the new version asks for more than the one that is there:")
    for line in refusal.more:
        note(f"  {line}")
    if not typer.confirm("take it all the same?", err=True):
        raise Failure(Status.REJECTED, "the old version goes on", refusal.hint)
    return refusal.key


def _long(target: Server, path: str, data: dict[str, str], files: dict[str, Any]) -> dict[str, Any]:
    """Ask for long work and note its progress; returns the result."""
    for line in target.stream("POST", path, data=data, files=files):
        if "progress" in line:
            note(str(line["progress"]))
        elif "result" in line:
            return dict(line["result"])
        elif "error" in line:
            error = line["error"]
            if error.get("code") == "update-asks-more":
                raise AsksMoreError(error)
            where = f"{error['file']}:{error.get('line', 0)}: " if error.get("file") else ""
            raise Failure(Status.FAILED, f"{where}{error['message']}", str(error.get("hint", "")))
    raise Failure(Status.FAILED, "the server stopped in the middle of it", "see its log")


def _print_one(info: dict[str, Any], what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    print_line(f"{what} {info['name']}: {info['node_count']} nodes ({info['api'] or '?'})")
    print_line(f"content: sha256:{info['content_hash']}")
    for asked in info["asks"]:
        print_line(f"it asks for this, which was not granted: {asked}")
    for text in info["notes"]:
        print_line(f"note: {text}")


def _origin(directory: Path) -> str:
    return f"{socket.gethostname()}:{directory}"


def _place(location: str) -> str:
    machine, _, path = location.partition(":")
    return path if machine == socket.gethostname() else location


def _added_from(target: Server, name: str) -> Path | None:
    """The directory of this machine that the extension was sent from, if it is still there."""
    for item in target.call("GET", _PATH)["extensions"]:
        if item["name"] == name and item["source"]["kind"] == "upload":
            machine, _, path = item["source"]["location"].partition(":")
            if machine == socket.gethostname() and path.startswith("/") and Path(path).exists():
                note(f"from {path}")
                return Path(path)
    return None


def _segment(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(Status.USAGE, f"{path}: {error.strerror}") from None
