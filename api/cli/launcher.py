"""``ringfence launcher``: the one process that may talk to the container engine, in the foreground."""

from __future__ import annotations

import os

from api.cli.loading import loading
from api.cli.serve import settings_from_environment


def launcher() -> None:
    """Run the launcher (compose starts it; 'ringfence serve' starts one of its own)."""
    with loading():
        settings = settings_from_environment({})
        import anyio

        from api.launching import program
        from api.logging import configure

        configure(settings.log_level, settings.log_format)
        wanted = program(settings)
    anyio.run(wanted.run, os.environ)
