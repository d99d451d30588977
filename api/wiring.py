"""Builds one installation from its settings and takes it down again; called by the application's lifespan alone.

What is built later uses what was built before, so the order below is also the order of taking down, reversed. All of it
together may take ``shutdown_s``; what is not down by then is left to the next start, which sweeps.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio

from api.audit_trail import ENDS, egress_sink, prompt_witness
from api.auth import load_operator_token
from api.launching import (
    audit_limits_of,
    builds_of,
    launcher_of,
    places_of,
    policies_of,
    way_to_the_index,
)
from api.loop_share import STEPS, LoopShare
from api.services import Services
from api.settings import Settings
from api.uploads import pack_limits
from engine import (
    CacheMode,
    Database,
    Engine,
    EngineLimits,
    ExtensionRegistry,
    Maxima,
    Media,
    NodeStateStore,
    QuotaBook,
    SqlStorage,
    TenantRegistry,
    UsageKeeper,
)
from engine.events import Event
from policies import RingfenceError, TenantId
from sandbox import (
    AdvisoryDatabase,
    AuditWriter,
    BegunLauncher,
    EgressLimits,
    EgressOffice,
    Environments,
    ManagerLimits,
    PackEvent,
    Places,
    RefusedPlaces,
    SandboxManager,
    StoreLimits,
    TensorStore,
    UpstreamProxyConnector,
    Vault,
    default_size,
)

log = logging.getLogger(__name__)


class StartupError(RingfenceError):
    """The installation cannot start as it is set up."""

    code = "startup-failed"


@asynccontextmanager
async def wire(settings: Settings, launcher: BegunLauncher | None = None) -> AsyncIterator[Services]:
    """One running installation; ``launcher`` was begun for it already.

    Raises:
        RingfenceError: says what stands in the way and what to do.
    """
    # The scope is outermost because task groups of the stack must end inside it; only stopping has a deadline.
    with anyio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            try:
                yield await _build(settings, stack, launcher)
            finally:
                scope.shield = True
                scope.deadline = anyio.current_time() + settings.shutdown_s
    if scope.cancelled_caught:
        log.error("stopping took longer than %.0f s; the next start sweeps the rest", settings.shutdown_s)


async def _build(settings: Settings, stack: AsyncExitStack, begun: BegunLauncher | None) -> Services:
    await anyio.to_thread.run_sync(_prepare_directories, settings)
    stack.enter_context(_only_one(settings.data_dir))
    operator_token = load_operator_token(
        settings.operator_token.get_secret_value() if settings.operator_token else None,
        settings.operator_token_file,
    )
    places = places_of(settings)
    policies = policies_of(settings)
    audit = await stack.enter_async_context(
        AuditWriter(places.audit("host"), "host", audit_limits_of(settings))
    )
    database = await stack.enter_async_context(Database(settings.database))
    quotas = await stack.enter_async_context(QuotaBook(policies, settings.data_dir, _maxima(settings)).open())
    store = await stack.enter_async_context(
        TensorStore(places, StoreLimits(tenant_bytes=settings.shm_quota_bytes, bytes_of=quotas.shared_memory))
    )
    launcher = await stack.enter_async_context(launcher_of(settings, begun))
    refused = RefusedPlaces()
    environments = Environments(places.environments, launcher, settings=builds_of(settings), refused=refused)
    await environments.sweep()
    await stack.enter_async_context(way_to_the_index(settings, _upstream(settings), refused))
    states = NodeStateStore(database)
    extensions = await stack.enter_async_context(
        ExtensionRegistry(
            places=places,
            core=settings.core_dir,
            policies=policies,
            environments=environments,
            limits=pack_limits(settings),
            on_removed=states.forget,
            advisories=_advisories(settings),
        )
    )
    egress = _egress(settings, places, audit)
    await stack.enter_async_context(UsageKeeper(database, quotas, egress).open())
    engines: list[Engine] = []
    share = LoopShare(settings.max_held_requests)

    def hear_pack(tenant: TenantId, extension: str, event: PackEvent) -> None:
        for engine in engines:  # none before the engine is there, which needs the manager first
            engine.hear_pack(tenant, extension, event)  # type: ignore[arg-type]

    manager = await stack.enter_async_context(
        SandboxManager(
            launcher=launcher,
            policies=policies,
            extensions=extensions.to_run,
            store=store,
            places=places,
            events=hear_pack,
            states=states,
            limits=ManagerLimits(
                max_sandboxes=settings.max_sandboxes,
                spares=default_size() if settings.pool is None else settings.pool,
                share_of=quotas.share,
                metering=quotas,
            ),
            egress=egress,
            audit=audit.note,
        )
    )
    extensions.attach(manager)
    engine = await stack.enter_async_context(
        Engine(
            manager=manager,
            store=store,
            extensions=extensions,
            storage=SqlStorage(
                database, history_limit=settings.history_limit, history_bytes=quotas.history_bytes
            ),
            cache_mode=CacheMode.parse(settings.cache_mode),
            limits=EngineLimits(
                concurrency=settings.concurrency,
                reserve=settings.concurrency,
                tenant_concurrency=settings.tenant_concurrency,
                pending=settings.queue_limit,
                cache_bytes=settings.cache_bytes,
            ),
            quotas=quotas,
            witnesses=_witnesses(share, audit),
            where=policies.place_to_write,
        )
    )
    engines.append(engine)
    return Services(
        settings=settings,
        database=database,
        tenants=TenantRegistry(database),
        policies=policies,
        engine=engine,
        media=Media(manager, store),
        quotas=quotas,
        store=store,
        operator_token=operator_token,
        audit=audit,
        share=share,
    )


def _witnesses(share: LoopShare, audit: AuditWriter) -> dict[type[Event], list[Callable[[Any], None]]]:
    """Who sees which events; each costs a call for every one of its kind."""
    found: dict[type[Event], list[Callable[[Any], None]]] = {kind: [share.see] for kind in STEPS}
    record = prompt_witness(audit)
    for kind in ENDS:
        found.setdefault(kind, []).append(record)
    return found


def _advisories(settings: Settings) -> AdvisoryDatabase:
    """The operator's database of known vulnerabilities; compose says "none" with a device."""
    path = settings.osv_dir
    return AdvisoryDatabase(None if path is None or path.is_char_device() else path)


def _maxima(settings: Settings) -> Maxima:
    """What no tenant gets more of: the installation's settings, by the names that errors show."""
    names = {
        "prompts": "tenant_concurrency",
        "queued": "queue_limit",
        "sandboxes": "max_sandboxes",
        "shared_memory": "shm_quota_bytes",
        "upload": "max_upload_bytes",
        "websockets": "max_websockets",
    }
    return Maxima(
        **{key: getattr(settings, name) for key, name in names.items()},
        sources={key: f"RINGFENCE_{name.upper()}" for key, name in names.items()},
    )


def _prepare_directories(settings: Settings) -> None:
    for directory in (settings.data_dir, settings.data_dir / "tenants", settings.data_dir / "environments"):
        try:
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(
                f"cannot make the directory {directory}: {error.strerror}",
                hint="make it writable, or set RINGFENCE_DATA_DIR to another",
            ) from error


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Two hosts on one data directory would run each other's prompts twice."""
    descriptor = os.open(data_dir / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"another Ringfence uses the data directory {data_dir}",
                hint="stop it (make down), or set RINGFENCE_DATA_DIR to another",
            ) from None
        yield
    finally:
        os.close(descriptor)


def _egress(settings: Settings, places: Places, audit: AuditWriter) -> EgressOffice:
    """How sandboxes whose policy allows it reach the internet."""
    return EgressOffice(
        places,
        vault=Vault(settings.secrets_path),
        limits=EgressLimits(tenant_up=settings.egress_up_bytes, tenant_down=settings.egress_down_bytes),
        connector=_upstream(settings),
        sink=egress_sink(audit),
    )


def _upstream(settings: Settings) -> UpstreamProxyConnector | None:
    proxy = settings.egress_proxy
    return UpstreamProxyConnector(proxy.get_secret_value()) if proxy else None
