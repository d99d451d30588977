"""``ringfence serve``: the server, in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.failure import Failure, Status
from api.cli.loading import loading

if TYPE_CHECKING:
    from api.settings import Settings


def serve(
    listen: Annotated[str | None, typer.Option(help="Address to listen on [RINGFENCE_LISTEN].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [RINGFENCE_PORT].")] = None,
) -> None:
    """Run the server (all settings: docs/operating.md)."""
    given: dict[str, Any] = {"listen": listen, "port": port}
    with loading():
        settings = settings_from_environment(
            {key: value for key, value in given.items() if value is not None}
        )
        from api.launching import begin_launcher
        from api.logging import configure
        from api.open_files import raise_open_files

    configure(settings.log_level, settings.log_format)
    raise_open_files()
    launcher = begin_launcher(settings)
    try:
        # Late: these imports take about as long as the launcher's, which goes about its own meanwhile.
        with loading():
            from api.server import run_server

        run_server(settings, launcher)
    finally:
        if launcher is not None:
            launcher.close()


def settings_from_environment(given: dict[str, Any]) -> Settings:
    """The settings. Raises: Failure naming the variable that is wrong."""
    from pydantic import ValidationError

    from api.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise Failure(
            Status.USAGE, f"RINGFENCE_{name}: {first['msg']}", "see docs/operating.md, 'Settings'"
        ) from None
