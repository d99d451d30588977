"""The application on a stand-in engine: real database, real queue, real files; nothing runs until a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from blockbuster import blockbuster_ctx
from fastapi import FastAPI
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from api.app import create_app
from api.launching import audit_limits_of
from api.services import Services
from api.settings import Settings
from engine import Database, QuotaBook, SqlStorage, TenantRegistry
from policies import PolicyStore
from sandbox import AuditWriter
from tests.unit.api.fakes import FakeEngine, FakeMedia
from tests.unit.near_statements import allow_short_statements
from tests.unit.prepared_database import prepared_databases

__all__ = ["prepared_databases"]

OPERATOR_TOKEN = "operator-token-for-tests-0123456789abcdef"
Start = Callable[..., AbstractAsyncContextManager[FastAPI]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call of ours on the event loop fails the test."""
    with blockbuster_ctx(scanned_modules=["api", "engine"]) as guard:
        for function in guard.functions.values():
            function.can_block_in(
                "engine/database.py", ("_migrate", "_upgrade", "_create_engine")
            )  # start-up
            function.can_block_in("api/settings.py", "_default_core_dir")  # before there is a server
            function.can_block_in("api/app.py", "create_app")  # likewise
        allow_short_statements(guard)
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


class Told(Settings):
    """Of what a test says only: to look for each of them in the environment takes longer than all the rest."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def make_settings(tmp_path: Path, **more: Any) -> Settings:
    fields: dict[str, Any] = {
        "data_dir": tmp_path / "data",
        "operator_token": OPERATOR_TOKEN,
        "frontend_dir": "none",
        **more,
    }
    return Told(**fields)


@asynccontextmanager
async def fake_wiring(settings: Settings) -> AsyncIterator[Services]:
    async with Database(settings.database) as database, AsyncExitStack() as closing:
        tenants = TenantRegistry(database)
        engine = FakeEngine(SqlStorage(database), settings)
        token = settings.operator_token
        assert token is not None
        policies = PolicyStore(settings.policies_path)
        writer = AuditWriter(settings.data_dir / "audit-host", "host", audit_limits_of(settings))
        audit = await closing.enter_async_context(writer)
        yield Services(
            settings=settings,
            database=database,
            tenants=tenants,
            policies=policies,
            quotas=QuotaBook(policies, settings.data_dir),
            engine=engine,  # type: ignore[arg-type]
            media=FakeMedia(),  # type: ignore[arg-type]
            operator_token=token.get_secret_value(),
            audit=audit,
        )


@pytest.fixture
def start() -> Start:
    """Start an application with settings of the test's own."""

    @asynccontextmanager
    async def start_app(settings: Settings) -> AsyncIterator[FastAPI]:
        app = create_app(settings, wiring=fake_wiring)
        async with app.router.lifespan_context(app):
            yield app

    return start_app


@pytest.fixture
async def app(settings: Settings, start: Start) -> AsyncIterator[FastAPI]:
    async with start(settings) as app:
        yield app


@pytest.fixture
def engine(app: FastAPI) -> FakeEngine:
    found = app.state.services.engine
    assert isinstance(found, FakeEngine)
    return found


@pytest.fixture
def media(app: FastAPI) -> FakeMedia:
    found = app.state.services.media
    assert isinstance(found, FakeMedia)
    return found


def client_for(app: FastAPI, **more: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8188", **more)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app) as client:
        yield client


@pytest.fixture
async def studio(app: FastAPI) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    """Two tenants, 'a' and 'b', each with a client that holds its token."""
    async with AsyncExitStack() as stack:
        clients = []
        for name in ("a", "b"):
            _, token = await app.state.services.tenants.create(name)
            headers = {"Authorization": f"Bearer {token}"}
            clients.append(await stack.enter_async_context(client_for(app, headers=headers)))
        yield clients[0], clients[1]


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(app, headers={"Authorization": f"Bearer {OPERATOR_TOKEN}"}) as client:
        yield client
