"""``ringfence serve``: the server, in the foreground."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.failure import Failure, Status


def serve(
    listen: Annotated[str | None, typer.Option(help="Address to listen on [RINGFENCE_LISTEN].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [RINGFENCE_PORT].")] = None,
) -> None:
    """Run the server (all settings: docs/operating.md)."""
    from pydantic import ValidationError

    from api.settings import Settings

    try:
        given: dict[str, Any] = {"listen": listen, "port": port}
        settings = Settings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise Failure(
            Status.USAGE, f"RINGFENCE_{name}: {first['msg']}", "see docs/operating.md, 'Settings'"
        ) from None
    from api.server import run_server

    run_server(settings)
