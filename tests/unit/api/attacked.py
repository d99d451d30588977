"""The application behind a real server in a thread of its own, and callers of every kind, for tests that are no
coroutines (as those of schemathesis are)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio.from_thread import BlockingPortal, start_blocking_portal

from api.app import create_app
from api.settings import Settings
from engine import Scope
from policies import TenantId
from tests.unit.api.conftest import OPERATOR_TOKEN, fake_wiring, make_settings
from tests.unit.api.live import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fastapi import FastAPI

#: Who asks, by name: a tenant's token of each scope, a token of all, the operator, and nobody.
WHO = ("anonymous", *(f"scope {scope}" for scope in Scope), "every scope", "operator")


@dataclass(frozen=True)
class Attacked:
    """Where the server is, its application, and the headers of each of ``WHO``."""

    url: str
    app: FastAPI
    data: Path
    headers: Mapping[str, Mapping[str, str]]


@contextmanager
def attacked(directory: Path) -> Iterator[Attacked]:
    """As ``attacked_from``, for who asks over the network only."""
    with attacked_from(directory) as (made, _):
        yield made


@contextmanager
def attacked_from(directory: Path) -> Iterator[tuple[Attacked, BlockingPortal]]:
    """One server with one tenant, and a way into its loop; requests are not counted, for this is a flood."""
    settings = make_settings(directory, request_head_s=5, slow_client_s=5)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_served(settings)) as made:
        yield made, portal


@asynccontextmanager
async def _served(settings: Settings) -> AsyncIterator[Attacked]:
    async def unlimited(*_: object) -> None:
        """The quota of requests is another test's matter."""

    app = create_app(settings, wiring=fake_wiring)
    async with app.router.lifespan_context(app):
        services = app.state.services
        services.quotas.take_request = unlimited
        await services.tenants.create("t")
        headers = {"anonymous": {}, "operator": {"Authorization": f"Bearer {OPERATOR_TOKEN}"}}
        kinds = {f"scope {scope}": frozenset((scope,)) for scope in Scope} | {"every scope": frozenset(Scope)}
        for number, (who, scopes) in enumerate(kinds.items()):
            _, secret = await services.tenants.create_token(TenantId("t"), f"kept-{number}", scopes)
            headers[who] = {"Authorization": f"Bearer {secret}"}
        async with serving(app, settings) as url:
            yield Attacked(url, app, settings.data_dir, headers)
