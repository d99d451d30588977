"""The application: ``create_app(settings)``. Its lifespan is the one place where objects are built and wired together.

Order matters and is the order of the code: what is built later uses what was built before, and is taken down before it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI

from api import errors, openapi
from api.assets import AssetStore
from api.attempts import Attempts
from api.audit_trail import Trail
from api.catalogue import Catalogues
from api.connections import TenantRequests
from api.frontend import find_frontend
from api.guard import Guard
from api.pack_sockets import PackSockets
from api.pack_web import PackTexts
from api.permissions import Permissions
from api.plain_routes import Application
from api.previews import Previews
from api.routes import include_all, include_files
from api.routes.system import ringfence_version
from api.services import Services, Wiring
from api.settings import Settings
from api.uploads import Uploads, pack_limits
from api.v2.board import Board
from api.v2.jobs import Jobs
from api.websocket_clients import Connections
from engine import Assets, JobList, Submissions

log = logging.getLogger(__name__)


def create_app(settings: Settings, *, wiring: Wiring | None = None) -> FastAPI:
    """The ASGI application; nothing is opened before its lifespan starts.

    Tests hand in a ``wiring`` of their own, which yields services on stand-ins.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Late: the real thing brings the container engine's SDK, which tests and tools do without.
        build = wiring
        if build is None:
            from api.wiring import wire

            build = wire
        async with build(settings) as services:
            await anyio.to_thread.run_sync(app.state.uploads.sweep)
            app.state.services = services
            app.state.previews = Previews(services.media)
            async with Board(services.engine) as board:
                app.state.jobs = _jobs(services, board)
                _say_ready(services)
                yield

    app = Application(
        title="Ringfence",
        version=ringfence_version(),
        summary="ComfyUI's API over sandboxed extensions, and Ringfence's own under /ringfence/v1.",
        openapi_url="/ringfence/v1/openapi.json",
        docs_url=None,  # the page would load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        default_response_class=errors.OrjsonResponse,
    )
    app.state.pack_texts = PackTexts()
    app.state.catalogues = Catalogues()
    app.state.connections = Connections(settings.max_websockets)
    app.state.pack_sockets = PackSockets(app.state.connections)
    app.state.uploads = Uploads(settings.data_dir, pack_limits(settings))
    app.state.frontend = find_frontend(settings.frontend_dir)
    include_all(app)
    include_files(app, app.state.frontend, settings.frontend_origins)
    app.state.attempts = Attempts()
    app.state.trail = Trail()
    most = settings.max_tenant_requests or settings.max_connections // 2
    app.state.under_way = TenantRequests(most, "RINGFENCE_MAX_TENANT_REQUESTS")
    app.state.permissions = Permissions(app)
    errors.install(app)
    openapi.install(app)
    app.add_middleware(Guard)
    app.shorten()
    return app


def _jobs(services: Services, board: Board) -> Jobs:
    settings = services.settings
    assets = AssetStore(Assets(services.database), settings.data_dir, max_bytes=settings.max_asset_bytes)
    submissions = Submissions(services.database, limit=settings.history_limit)
    return Jobs(services.engine, settings, submissions, JobList(services.database), assets, board)


def _say_ready(services: Services) -> None:
    settings = services.settings
    port = settings.public_port or settings.port
    log.info("ringfence %s is ready on http://%s:%d", ringfence_version(), settings.listen, port)
