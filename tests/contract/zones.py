"""The launcher's zone as tests use it: the real service over the real engine, and the host's client to it.

Service and client talk over a real socket; that they are one process here lets a test look behind the service.
"""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from policies import PolicyStore
from sandbox import BuildSettings, IndexSettings, LauncherClient, Places
from sandbox.launcher.build import DockerBuilder
from sandbox.launcher.docker import DockerLauncher
from sandbox.launcher.gate import Gate
from sandbox.launcher.process import make_own_directory
from sandbox.launcher.service import LauncherService, ServiceLimits
from sandbox.launcher.settings import LaunchSettings, TestOverride
from sandbox.launcher.staging import StagedBuilder


class LauncherZone(LauncherClient):
    """A client with its own service behind it; ``docker`` is what stands behind that."""

    def __init__(
        self,
        places: Places,
        policies: PolicyStore,
        settings: LaunchSettings | None = None,
        *,
        builds: BuildSettings | None = None,
        index: IndexSettings | None = None,
        limits: ServiceLimits | None = None,
        engine_url: str | None = None,
        override: TestOverride | None = None,
        launcher: Any = None,
        builder: Any = None,
    ) -> None:
        super().__init__(places.launcher_socket, patience_s=5.0)
        self.places = places
        settings = settings or LaunchSettings()
        self.docker: Any = launcher or DockerLauncher(
            places, policies, settings, engine_url=engine_url, override=override
        )
        made = builds or BuildSettings(image=settings.image, instance=places.instance)
        self.builder = builder or StagedBuilder(
            places, DockerBuilder(made, index or IndexSettings()), made, index or IndexSettings()
        )
        gate = Gate(places, policies, settings.trusted_sources)
        self._make = lambda: LauncherService(places.launcher_socket, self.docker, self.builder, gate, limits)
        self._zone = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await anyio.to_thread.run_sync(make_own_directory, self.places)
            await self._zone.enter_async_context(self.docker)
            self._services = await self._zone.enter_async_context(anyio.create_task_group())
            self._zone.callback(self._services.cancel_scope.cancel)
            await self._services.start(self._serve)
            return await super().__aenter__()
        except BaseException:
            await self._zone.aclose()
            raise

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        self.service = self._make()
        with anyio.CancelScope() as self.service_scope:
            await self.service.run(task_status=task_status)

    def kill_service(self) -> None:
        """The launcher's own end, as far as its host can tell."""
        self.service_scope.cancel()

    async def restart_service(self) -> None:
        """Another launcher in its place."""
        await self._services.start(self._serve)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, value, trace)
        await self._zone.aclose()
        await anyio.to_thread.run_sync(
            lambda: shutil.rmtree(self.places.launcher_socket.parent, ignore_errors=True)
        )
