"""The launcher as a program: engine, builder, gate and socket put together, until a signal or its host's end.

A door of its own into the sandbox room, for the command 'ringfence launcher': nothing of the host imports this, and so
nothing of the host loads the engine's SDK.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from policies import PolicyStore, RingfenceError
from sandbox.audit import AuditLimits, AuditWriter
from sandbox.launcher.build import DockerBuilder
from sandbox.launcher.build_verb import BuildSettings, IndexSettings
from sandbox.launcher.child import Tie
from sandbox.launcher.docker import DockerLauncher
from sandbox.launcher.gate import Gate
from sandbox.launcher.holding import Holder
from sandbox.launcher.service import LauncherService, ServiceLimits
from sandbox.launcher.settings import LaunchSettings
from sandbox.launcher.staging import StagedBuilder
from sandbox.places import Places

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LauncherProgram:
    """One launcher; ``run`` it."""

    places: Places
    policies: PolicyStore
    launch: LaunchSettings
    builds: BuildSettings
    index: IndexSettings
    limits: ServiceLimits
    audit: AuditLimits = field(default_factory=AuditLimits)

    async def run(self, environment: Mapping[str, str]) -> None:
        """Serve until SIGTERM, SIGINT, or the end of the host that started it.

        Raises:
            StartError: no engine, or no place to listen.
        """
        tie = Tie(environment)
        try:
            if await tie.told():
                await self._serve(tie)
        except RingfenceError as error:
            tie.failed(error)
            raise
        finally:
            tie.close()

    async def _serve(self, tie: Tie) -> None:
        places = self.places
        await anyio.to_thread.run_sync(make_own_directory, places)
        gate = Gate(places, self.policies, self.launch.trusted_sources, self.builds.network_mode)
        holder = Holder(places, self.launch.holding_uid, self.launch.trusted_sources)
        inner = DockerBuilder(self.builds, self.index, holder=holder)
        builder = StagedBuilder(places, inner, self.builds, self.index)
        async with AuditWriter(places.audit("launcher"), "launcher", self.audit) as audit:
            await self._serve_with(tie, gate, builder, audit)

    async def _serve_with(self, tie: Tie, gate: Gate, builder: StagedBuilder, audit: AuditWriter) -> None:
        places = self.places
        async with (
            DockerLauncher(places, self.policies, self.launch) as launcher,
            anyio.create_task_group() as group,
        ):
            service = LauncherService(places.launcher_socket, launcher, builder, gate, self.limits, audit)
            await group.start(service.run)
            log.info("the launcher listens at %s for uid %d", places.launcher_socket, self.limits.host_uid)
            tie.ready()
            group.start_soon(_until_signal, group.cancel_scope)
            await tie.cut()
            log.info("the host is gone, and so is the launcher")
            group.cancel_scope.cancel()


async def _until_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: sandboxes are ended", number.name)
            scope.cancel()
            return


def make_own_directory(places: Places) -> None:
    """Make what is the launcher's alone; builds pass through it, nobody else looks into it. Blocking."""
    own = places.launcher_data
    own.mkdir(mode=0o711, parents=True, exist_ok=True)
    own.chmod(0o711)
    _take_old_book(places.data / "uids.json", own / "uids.json")


def _take_old_book(old: Path, new: Path) -> None:
    """Before there was a launcher of its own, the book of uids lay beside its directory."""
    if old.is_file() and not old.is_symlink() and not new.exists():
        old.replace(new)
