"""From the settings to the launcher: the program itself, and the host's way to it.

Host and launcher read the same settings, each in its own process. The host finds a launcher at its socket when one is
said to be there (compose); without, it starts one as a child, and talks to it in just the same way.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from api.package_index import Reach, reach_of, with_pip_settings
from api.settings import Settings
from policies import PolicyStore, SandboxId, parse_destination
from sandbox import (
    BUILDS,
    INDEX_ONLY,
    AuditLimits,
    BegunLauncher,
    BuildSettings,
    IndexSettings,
    LauncherClient,
    Places,
    RefusedPlaces,
    UpstreamProxyConnector,
    launcher_child,
    serve_builds,
)

if TYPE_CHECKING:
    from sandbox.launcher.process import LauncherProgram

log = logging.getLogger(__name__)

_CA_IN_IMAGE = Path("/etc/ringfence/ca.pem")


def places_of(settings: Settings) -> Places:
    """Where the files of this installation are."""
    return Places(settings.instance, settings.data_dir, settings.shm_dir, settings.run_dir)


def policies_of(settings: Settings) -> PolicyStore:
    """The policies as both read them: the operator's, and below them those that were adopted through the API."""
    return PolicyStore(
        settings.policies_path,
        adopted=settings.adopted_path,
        protected=(settings.data_dir, settings.run_dir),
    )


def builds_of(settings: Settings) -> BuildSettings:
    """The caps of builds, and their network, which is the launcher's to say."""
    reach = build_reach(settings)
    return BuildSettings(
        image=settings.node_image,
        instance=settings.instance,
        network_mode=reach.network,
        open_because=reach.because,
        proxy=places_of(settings).egress_directory(SandboxId(BUILDS)),
    )


def build_reach(settings: Settings) -> Reach:
    """The network of builds, and why it is no narrower one. Host and launcher come to the same."""
    return reach_of(settings.build_network, with_pip_settings(os.environ))


@asynccontextmanager
async def way_to_the_index(
    settings: Settings, connector: UpstreamProxyConnector | None, refused: RefusedPlaces
) -> AsyncIterator[None]:
    """The proxy of builds, where they reach the package index only; ``refused`` hears of what else they asked for."""
    reach = build_reach(settings)
    if reach.because:
        log.warning(
            "builds of environments reach all that the engine's network '%s' reaches, so none from source: %s",
            reach.network,
            reach.because,
        )
    if reach.network != INDEX_ONLY:
        yield
        return
    more = [parse_destination(host) for host in settings.build_hosts]
    async with serve_builds(
        places_of(settings),
        builds_of(settings),
        _index(settings, os.environ),
        more=more,
        connector=connector,
        refused=refused,
    ) as rules:
        log.info("builds reach %s and nothing else", ", ".join(str(entry) for entry in rules.allowed))
        yield


def audit_limits_of(settings: Settings) -> AuditLimits:
    """How much of the audit log is kept, by host and launcher alike."""
    return AuditLimits(settings.audit_file_bytes, settings.audit_files, required=settings.audit == "required")


def program(settings: Settings) -> LauncherProgram:
    """The launcher of this installation."""
    # Late: the engine's SDK, which the host never loads.
    from sandbox.launcher.process import LauncherProgram
    from sandbox.launcher.service import ServiceLimits
    from sandbox.launcher.settings import LaunchSettings

    return LauncherProgram(
        places=places_of(settings),
        policies=policies_of(settings),
        launch=LaunchSettings(
            image=settings.node_image,
            trusted_sources=(settings.core_dir,),
            self_test_at_start=True,
            tenant_cgroups=settings.tenant_cgroups,
        ),
        builds=builds_of(settings),
        index=_index(settings, os.environ),
        limits=ServiceLimits(sandboxes=settings.max_sandboxes),
        audit=audit_limits_of(settings),
    )


def begin_launcher(settings: Settings) -> BegunLauncher | None:
    """The launcher's process where it is a child of ours, told nothing yet. Close it, if nothing comes of it."""
    if settings.launcher == "service":
        return None
    command = [sys.executable, "-c", "from api.cli import main; main()", "launcher"]
    return BegunLauncher(command, _for_child(settings, os.environ))


@asynccontextmanager
async def launcher_of(
    settings: Settings, begun: BegunLauncher | None = None
) -> AsyncIterator[LauncherClient]:
    """The host's launcher, reached; the one that was ``begun``, if one was.

    Raises:
        StartError: it does not answer, or cannot start.
    """
    socket = places_of(settings).launcher_socket
    begun = begun or await anyio.to_thread.run_sync(begin_launcher, settings)
    async with AsyncExitStack() as stack:
        if begun is not None:
            await stack.enter_async_context(launcher_child(begun))
        yield await stack.enter_async_context(LauncherClient(socket))


def _for_child(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: it reads the settings that hold here, however this process was told them."""
    said = {
        "RINGFENCE_DATA_DIR": settings.data_dir,
        "RINGFENCE_POLICIES_DIR": settings.policies_path,
        "RINGFENCE_SHM_DIR": settings.shm_dir,
        "RINGFENCE_RUN_DIR": settings.run_dir,
        "RINGFENCE_CORE_DIR": settings.core_dir,
        "RINGFENCE_INSTANCE": settings.instance,
        "RINGFENCE_NODE_IMAGE": settings.node_image,
        "RINGFENCE_BUILD_NETWORK": build_reach(settings).network,
        "RINGFENCE_MAX_SANDBOXES": settings.max_sandboxes,
        "RINGFENCE_TENANT_CGROUPS": settings.tenant_cgroups,
        "RINGFENCE_AUDIT": settings.audit,
        "RINGFENCE_AUDIT_FILE_BYTES": settings.audit_file_bytes,
        "RINGFENCE_AUDIT_FILES": settings.audit_files,
        "RINGFENCE_LOG_LEVEL": settings.log_level,
        "RINGFENCE_LOG_FORMAT": settings.log_format,
    }
    if settings.ca_bundle is not None:
        said["RINGFENCE_CA_BUNDLE"] = settings.ca_bundle
    # No secret of the host is the launcher's to know.
    kept = {
        name: value
        for name, value in environment.items()
        if name not in ("RINGFENCE_OPERATOR_TOKEN", "RINGFENCE_TOKEN", "RINGFENCE_DATABASE_URL")
    }
    return {**kept, **{name: str(value) for name, value in said.items()}}


def _index(settings: Settings, environment: Mapping[str, str]) -> IndexSettings:
    """How environment builds reach the package index: the usual variables, and the private CA if there is one."""
    found = with_pip_settings(environment)
    for bundle in (settings.ca_bundle, _CA_IN_IMAGE):
        if bundle is not None and bundle.is_file() and bundle.stat().st_size > 0:
            found["SSL_CERT_FILE"] = str(bundle)
            break
    return IndexSettings.from_environment(found)
