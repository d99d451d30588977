"""The application as the unit tests have it; what is here asks all of its routes, or takes processes of its own."""

from tests.unit.api.conftest import (
    anyio_backend,
    app,
    client,
    engine,
    no_blocking_calls,
    operator,
    prepared_databases,
    settings,
    start,
    studio,
)

__all__ = [
    "anyio_backend",
    "app",
    "client",
    "engine",
    "no_blocking_calls",
    "operator",
    "prepared_databases",
    "settings",
    "start",
    "studio",
]
