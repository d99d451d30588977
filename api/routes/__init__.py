"""ComfyUI's routes, one file per area, and our own under /ringfence/v1; ``include_all`` says what stands where."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, FastAPI

from api import websocket
from api.errors import OrjsonResponse
from api.frontend import Frontend
from api.routes import (
    assets,
    audit,
    extensions,
    files,
    frontend,
    health,
    history,
    internal,
    jobs,
    models,
    objects,
    pack_routes,
    policies,
    prompt,
    sandboxes,
    session,
    supply,
    system,
    tenants,
    userdata,
    users,
    v2_assets,
    v2_jobs,
    web,
)
from api.routes import ringfence as ringfence_routes

# ComfyUI answers these at the root and under /api, same handler.
_TWICE: tuple[APIRouter, ...] = (
    prompt.router,
    history.router,
    objects.router,
    files.router,
    users.router,
    userdata.router,
    models.router,
    system.router,
    web.router,
)


def include_all(app: FastAPI) -> None:
    """Mount every route."""
    app.router.routes.extend(_every_route().routes)
    pack_routes.install(app)


@cache
def _every_route() -> APIRouter:
    """Made once in a process: FastAPI reads every handler's signature at the first request (35 ms of 250 handlers),
    and no handler belongs to one application more than to another."""
    app = APIRouter(default_response_class=OrjsonResponse)
    for router in _TWICE:
        app.include_router(router, tags=["ComfyUI"])
        app.include_router(router, prefix="/api", include_in_schema=False)
    app.include_router(jobs.router, prefix="/api", tags=["ComfyUI"])
    app.include_router(assets.router, prefix="/api")
    app.include_router(internal.router, prefix="/internal", tags=["ComfyUI"])
    for router in (v2_jobs.router, v2_assets.router):
        app.include_router(router, prefix="/api/v2", tags=["Comfy API v2"])
    for router in (
        ringfence_routes.router,
        extensions.router,
        supply.router,
        pack_routes.router,
        sandboxes.router,
        policies.router,
        tenants.router,
        session.router,
        audit.router,
        frontend.router,
    ):
        app.include_router(router, prefix="/ringfence/v1", tags=["Ringfence"])
    app.include_router(session.pages, prefix="/ringfence")
    app.include_router(health.router, tags=["Ringfence"])
    app.include_router(websocket.router)
    return app


def include_files(app: FastAPI, files: Frontend, origins: tuple[str, ...]) -> None:
    """Mount what is served from disk, after every route of the API: the web frontend's files, then those of packs."""
    app.router.routes.append(frontend.FrontendRoute(files, origins))
    app.include_router(web.files_router, tags=["ComfyUI"])
