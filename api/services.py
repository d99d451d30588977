"""What the routes work with, and how a route gets it: the objects that app.py wired, and who is asking."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from api.auth import Identity
from api.loop_share import LoopShare
from api.settings import Settings
from engine import Database, Engine, Media, QuotaBook, SessionStore, TenantRegistry, hash_secret
from policies import PolicyStore, TenantId
from sandbox import AuditWriter, StoreUsage


class ShmUsage(Protocol):
    """The store of tensors, as far as figures go."""

    def usage(self, tenant: TenantId | None = None) -> StoreUsage:
        """What a tenant holds."""


@dataclass(slots=True)
class Services:
    """One running installation."""

    settings: Settings
    database: Database
    tenants: TenantRegistry
    policies: PolicyStore
    engine: Engine
    media: Media
    operator_token: str = field(repr=False)
    sessions: SessionStore = field(init=False)
    prepared: set[TenantId] = field(default_factory=set)
    """Tenants whose directories are known to be there."""

    quotas: QuotaBook = field(default_factory=QuotaBook)
    store: ShmUsage | None = None
    """Who holds how much of /dev/shm; None where nobody does."""

    share: LoopShare = field(default_factory=LoopShare)
    """Who has used how much of the event loop."""

    audit: AuditWriter = field(default_factory=lambda: AuditWriter(None, "host"))

    def __post_init__(self) -> None:
        self.sessions = SessionStore(
            self.database,
            self.tenants,
            operator_sha256=hash_secret(self.operator_token),
            idle_s=self.settings.session_idle_s,
            max_s=self.settings.session_max_s,
        )


Wiring = Callable[[Settings], AbstractAsyncContextManager[Services]]
"""Builds the services and takes them down again; tests pass their own."""


def services_of(connection: HTTPConnection) -> Services:
    """The services of the application that got this request."""
    return cast("Services", connection.app.state.services)


def identity_of(connection: HTTPConnection) -> Identity:
    """Who is asking; the guard put it there before any route was chosen."""
    return cast("Identity", connection.scope["ringfence_identity"])


# Coroutines, though they wait for nothing: FastAPI gives a plain function a thread, and each a turn of the event loop.
async def _services(request: Request) -> Services:
    return services_of(request)


async def _identity(request: Request) -> Identity:
    return identity_of(request)


async def _tenant(request: Request) -> TenantId:
    return identity_of(request).tenant


async def _operator(request: Request) -> Identity:
    identity = identity_of(request)
    identity.require_operator()
    return identity


Have = Annotated[Services, Depends(_services)]
Caller = Annotated[Identity, Depends(_identity)]
ForTenant = Annotated[TenantId, Depends(_tenant)]
Operator = Annotated[Identity, Depends(_operator)]
