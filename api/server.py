"""Runs the application in uvicorn, with the limits that belong below ASGI."""

from __future__ import annotations

import logging
import sys

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.logging import configure
from api.settings import Settings
from policies import RingfenceError

log = logging.getLogger(__name__)

_WEBSOCKET_MESSAGE = 64 * 1024  # a client's feature flags are small, and nothing else is expected of it


def run_server(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        RingfenceError: the installation cannot start; says what to do.
    """
    configure(settings.log_level, settings.log_format)
    app = create_app(settings)
    server = uvicorn.Server(server_config(app, settings))
    server.run()
    failure: RingfenceError | None = getattr(app.state, "start_failure", None)
    if failure is not None:
        raise failure
    if not server.started:
        sys.exit(1)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        host=settings.listen,
        port=settings.port,
        loop="uvloop",
        http="h11",
        ws="websockets-sansio",
        ws_max_size=_WEBSOCKET_MESSAGE,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=settings.max_header_bytes + settings.max_url_bytes + 4096,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_s / 4)),
        log_config=None,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )
