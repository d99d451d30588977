"""A plain function as a dependency would cost each request a thread, and the wait for two turns of a busy loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute

from api.app import create_app
from tests.unit.api.conftest import make_settings


def _below(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _below(each)


def test_no_route_depends_on_a_plain_function(tmp_path) -> None:
    routes = list(_routes(create_app(make_settings(tmp_path)).routes))
    assert len(routes) > 50
    plain = {
        f"{route.path}: {each.call.__module__}.{each.call.__name__}"
        for route in routes
        for each in _below(route.dependant)
        if not inspect.iscoroutinefunction(each.call)
    }
    assert plain == set()


def _routes(found) -> Iterator[APIRoute | APIWebSocketRoute]:
    for route in found:
        if isinstance(route, APIRoute | APIWebSocketRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from _routes(route.original_router.routes)
