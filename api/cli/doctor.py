"""``ringfence doctor``: what this machine lacks. Works without a server and without an engine."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.client import JsonOption
from api.cli.failure import Failure, Status
from api.cli.screen import print_json, print_line

CostOption = Annotated[
    bool, typer.Option("--cost", help="Measure what each runtime costs here, too; takes some seconds.")
]


def doctor(as_json: JsonOption = False, cost: CostOption = False) -> int:
    """Say what is missing on this machine, and what to do. Exit status 1 when something is."""
    from pydantic import ValidationError

    from api import doctor as checks
    from api import doctor_running as running
    from api.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise Failure(Status.USAGE, f"RINGFENCE_{name}: {first['msg']}", "see docs/operating.md") from None
    found = [*checks.examine(settings), *running.examine(settings)]
    if cost:
        found += running.costs(settings.node_image, running.usable_runtimes(found))
    report = checks.report(found)
    if as_json:
        print_json(report)
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            print_line(f"{check.verdict:7}  {check.name:{width}}  {check.found}")
            if check.advice:
                print_line(f"{'':7}  {'':{width}}  -> {check.advice}")
    return Status.OK if report["ok"] else Status.FAILED
