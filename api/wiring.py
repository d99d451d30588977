"""Builds one installation from its settings and takes it down again; called by the application's lifespan alone.

What is built later uses what was built before, so the order below is also the order of taking down, reversed. All of it
together may take ``shutdown_s``; what is not down by then is left to the next start, which sweeps.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from api.auth import load_operator_token
from api.services import Services
from api.settings import Settings
from engine import (
    CacheMode,
    Database,
    Engine,
    EngineLimits,
    ExtensionRegistry,
    Media,
    NodeStateStore,
    SqlStorage,
    TenantRegistry,
)
from policies import PolicyStore, RingfenceError, TenantId
from sandbox import (
    BuildSettings,
    DockerBuilder,
    DockerLauncher,
    Environments,
    IndexSettings,
    LaunchSettings,
    ManagerLimits,
    PackEvent,
    Places,
    SandboxManager,
    StoreLimits,
    TensorStore,
)

log = logging.getLogger(__name__)

_CA_IN_IMAGE = Path("/etc/ringfence/ca.pem")


class StartupError(RingfenceError):
    """The installation cannot start as it is set up."""

    code = "startup-failed"


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Services]:
    """One running installation.

    Raises:
        RingfenceError: says what stands in the way and what to do.
    """
    # The scope is outermost because task groups of the stack must end inside it; only stopping has a deadline.
    with anyio.CancelScope() as scope:
        async with AsyncExitStack() as stack:
            try:
                yield await _build(settings, stack)
            finally:
                scope.shield = True
                scope.deadline = anyio.current_time() + settings.shutdown_s
    if scope.cancelled_caught:
        log.error("stopping took longer than %.0f s; the next start sweeps the rest", settings.shutdown_s)


async def _build(settings: Settings, stack: AsyncExitStack) -> Services:
    await anyio.to_thread.run_sync(_prepare_directories, settings)
    stack.enter_context(_only_one(settings.data_dir))
    operator_token = load_operator_token(
        settings.operator_token.get_secret_value() if settings.operator_token else None,
        settings.operator_token_file,
    )
    places = Places(settings.instance, settings.data_dir, settings.shm_dir, settings.run_dir)
    policies = PolicyStore(settings.policies_path, protected=(settings.data_dir, settings.run_dir))
    database = await stack.enter_async_context(Database(settings.database))
    store = await stack.enter_async_context(
        TensorStore(places, StoreLimits(tenant_bytes=settings.shm_quota_bytes))
    )
    launcher = await stack.enter_async_context(
        DockerLauncher(
            places,
            policies,
            LaunchSettings(
                image=settings.node_image, trusted_sources=(settings.core_dir,), self_test_at_start=True
            ),
        )
    )
    builds = BuildSettings(
        image=settings.node_image, instance=settings.instance, network_mode=settings.build_network
    )
    index = _index(settings)
    builder = DockerBuilder(builds, index)
    environments = Environments(places.environments, builder, settings=builds, index=index)
    await environments.sweep()
    states = NodeStateStore(database)
    extensions = await stack.enter_async_context(
        ExtensionRegistry(
            places=places,
            core=settings.core_dir,
            policies=policies,
            environments=environments,
            on_removed=states.forget,
        )
    )
    engines: list[Engine] = []

    def hear_pack(tenant: TenantId, extension: str, event: PackEvent) -> None:
        for engine in engines:  # none before the engine is there, which needs the manager first
            engine.hear_pack(tenant, extension, event)  # type: ignore[arg-type]

    manager = await stack.enter_async_context(
        SandboxManager(
            launcher=launcher,
            policies=policies,
            extensions=extensions,
            store=store,
            places=places,
            events=hear_pack,
            states=states,
            limits=ManagerLimits(max_sandboxes=settings.max_sandboxes),
        )
    )
    extensions.attach(manager)
    engine = await stack.enter_async_context(
        Engine(
            manager=manager,
            store=store,
            extensions=extensions,
            storage=SqlStorage(database, history_limit=settings.history_limit),
            cache_mode=CacheMode.parse(settings.cache_mode),
            limits=EngineLimits(
                concurrency=settings.concurrency,
                tenant_concurrency=settings.tenant_concurrency,
                pending=settings.queue_limit,
                cache_bytes=settings.cache_bytes,
            ),
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
        operator_token=operator_token,
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


def _index(settings: Settings) -> IndexSettings:
    """How environment builds reach the package index: the usual variables, and the private CA if there is one."""
    environment = dict(os.environ)
    for bundle in (settings.ca_bundle, _CA_IN_IMAGE):
        if bundle is not None and bundle.is_file() and bundle.stat().st_size > 0:
            environment["SSL_CERT_FILE"] = str(bundle)
            break
    return IndexSettings.from_environment(environment)
