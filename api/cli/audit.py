"""``ringfence audit``: read and follow the audit log of a server, and verify its files."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import DEFAULT_URL, JsonOption, Server, TokenOption, UrlOption, failure_of, server
from api.cli.failure import Failure, Status
from api.cli.screen import Column, note, print_json, print_line, print_table, shown

app = typer.Typer(help="Who did what, what was denied and by which line.", invoke_without_command=True)

_COLUMNS = (
    Column("TIME", keep=True),
    Column("EVENT", keep=True),
    Column("TENANT"),
    Column("BY"),
    Column("WHAT"),
)
_SPAN = re.compile(r"([0-9]{1,6})([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RETRY_S = 1.0

_Directory = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The data directory; default: the one of this machine's settings."),
]


@app.callback()
def audit(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records come.")] = False,
    tenant: Annotated[str, typer.Option("--tenant", help="Of this tenant only.")] = "",
    extension: Annotated[str, typer.Option("--extension", help="About this extension only.")] = "",
    event: Annotated[
        list[str] | None, typer.Option("--event", help="Only such events; may be repeated.")
    ] = None,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was denied.")] = False,
    since: Annotated[str, typer.Option("--since", help="How far back, as 30m, 1h or 7d.")] = "24h",
    last: Annotated[
        int, typer.Option("--last", min=1, max=100_000, help="At most so many, the newest.")
    ] = 1000,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print the audit log."""
    if context.invoked_subcommand is not None:
        return
    wanted: dict[str, Any] = {
        "tenant": tenant,
        "extension": extension,
        "denied": denied,
        "event": event or [],
    }
    target = server(url, token)
    records: deque[dict[str, Any]] = deque(maxlen=last)
    cursor, more, start = "", True, time.time() - _span(since)
    while more:
        place = {"after": cursor, "limit": 1000, "since": start}
        answer = target.call("GET", "/ringfence/v1/audit", params={**wanted, **place})
        records.extend(answer["records"])
        cursor, more = answer["next"], answer["more"]
        if answer.get("failure"):
            note(f"the audit log cannot be written now: {answer['failure']}")
    if as_json or follow:
        for record in records:
            _print(record, as_json=as_json)
    else:
        print_table(_COLUMNS, [_row(record) for record in records], empty="nothing was recorded")
    if follow:
        for record in _following(target, wanted, cursor):
            _print(record, as_json=as_json)


@app.command("verify")
def verify(
    data_dir: _Directory = None,
    head: Annotated[
        str, typer.Option("--head", help="A hash that was printed earlier: is it still there?")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check each record of the log's files: its bytes, and that it follows on the one before."""
    from api.cli.serve import settings_from_environment
    from sandbox import AuditReader

    directory = data_dir or settings_from_environment({}).data_dir
    if not (directory / "audit-host").is_dir():
        raise Failure(Status.USAGE, f"there is no audit log in {directory}", "name another with --data-dir")
    verdicts = AuditReader(directory).verify(head)
    broken = [place for verdict in verdicts for place in verdict.broken]
    if as_json:
        print_json(
            {
                verdict.writer: {
                    "records": verdict.records,
                    "first": verdict.first,
                    "last": verdict.last,
                    "head": verdict.head,
                    "broken": [
                        {"file": place.file, "line": place.line, "why": place.why} for place in verdict.broken
                    ],
                }
                for verdict in verdicts
            }
        )
    else:
        for verdict in verdicts:
            span = (
                f"{verdict.first} to {verdict.last}, head {verdict.head}"
                if verdict.records
                else "nothing yet"
            )
            print_line(f"{verdict.writer}: {verdict.records} records, {span}")
    if broken:
        first = broken[0]
        others = f" (and {len(broken) - 1} more places)" if len(broken) > 1 else ""
        raise Failure(
            Status.FAILED,
            f"{first.file}:{first.line}: {first.why}{others}",
            "the log was changed after it was written, or its disk failed; compare it with a copy",
        )
    if head and not any(verdict.has_head for verdict in verdicts):
        raise Failure(
            Status.FAILED,
            f"no record has the hash {shown(head, 80)}",
            "the log was made anew since, or the record is gone by age (RINGFENCE_AUDIT_FILES)",
        )


def _following(target: Server, wanted: dict[str, Any], cursor: str) -> Iterator[dict[str, Any]]:
    with target.translated(), target.client(timeout_s=60.0) as client:
        while True:
            params = {**wanted, "after": cursor}
            with client.stream("GET", "/ringfence/v1/audit/events", params=params) as response:
                if response.status_code >= 400:
                    raise failure_of(response.status_code, response.read())
                for line in response.iter_lines():
                    if not line.strip():
                        continue
                    record = json.loads(line)
                    cursor = record.pop("next")
                    yield record
            time.sleep(_RETRY_S)  # the server ended it; it may be stopping


def _span(text: str) -> int:
    found = _SPAN.match(text)
    if found is None:
        raise Failure(Status.USAGE, f"'{shown(text, 40)}' is no span of time", "write e.g. 30m, 1h or 7d")
    return int(found[1]) * _SECONDS[found[2]]


def _print(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(record), flush=True)
        return
    print("  ".join(shown(cell, 600) for cell in _row(record)), flush=True)


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    about = [
        ", ".join(record.get("extensions", ())),
        record.get("prompt", ""),
        record.get("text", ""),
        f"denied by {record['denied_by']}" if record.get("denied_by") else "",
        f"to allow it: {record['would_allow']}" if record.get("would_allow") else "",
    ]
    outcome = "" if record["outcome"] == "ok" else f" ({record['outcome']})"
    time_shown = str(record["at"])[:19].replace("T", " ")
    return (
        time_shown,
        f"{record['event']}{outcome}",
        record.get("tenant", ""),
        record.get("by", ""),
        "; ".join(filter(None, about)),
    )
