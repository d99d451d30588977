"""The environments of extensions: one directory of site-packages per set of dependencies, built once and shared.

What a pack needs (``environment_plan``) is resolved once to a lock, which the extension keeps (``environment_locks``);
an environment is named by its lock and the image, and equal ones share one directory. It is built in a container
(``environment_build``, ``launcher/build.py``), checked, and only then put on the shelf (``environment_shelf``).
Sandboxes mount it read-only. What the builder needs is left in a job's directory, and it puts there what it made
(``launcher/staging.py``).
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from policies import EffectivePolicy, ExtensionName, TenantId, Where, usual_place
from sandbox.build_tools import BuildTools
from sandbox.egress.builds import RefusedPlaces
from sandbox.environment_build import EnvironmentBuild
from sandbox.environment_errors import (
    BuildFailedError,
    BuildLimitError,
    BuildToolsError,
)
from sandbox.environment_locks import (
    KeptLock,
    as_before,
    environment_key,
    not_to_be_had,
)
from sandbox.environment_plan import Plan, keeps_torch, make_plan
from sandbox.environment_shelf import EnvironmentShelf
from sandbox.environment_steps import BuildSteps, EnvironmentLimits, Progress
from sandbox.group_requirements import merge_declared, told_of_group
from sandbox.image_fit import missing_module_hint
from sandbox.inventory import Inventory
from sandbox.launcher import build_verb as verb
from sandbox.manifests import Declared, read_declared
from sandbox.resolver_answers import Lock, prune_lock, unobtainable

IMAGE_FRESH_S: Final = 1.0  # as long as a policy that was read (sandbox/planning.py)

__all__ = ["Environment", "EnvironmentLimits", "Environments"]

_CACHES = ".caches"
_MOST_LEFT_OUT = 8


@dataclass(frozen=True, slots=True)
class Environment:
    """What an extension runs with besides the image."""

    key: str | None
    """None: the image's packages are enough."""
    site: Path | None
    """The directory to mount; None when there is nothing to add to the image's packages."""
    image: str
    """Id of the image it belongs to."""
    packages: Mapping[str, str] = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reused: bool = False
    seconds: float = 0.0
    lock: KeptLock | None = None
    """What to hand in the next time, so that the same packages are installed; None when there are none."""


@dataclass(frozen=True, slots=True)
class _Whose:
    """For whom something is built, and by whose policy."""

    tenant: TenantId
    extension: ExtensionName | None
    group: str | None = None
    kept: KeptLock | None = None
    upgrade: bool = False


class Environments:
    """Builds, finds and drops environments. Safe to use from many tasks: one key is built once."""

    def __init__(
        self,
        root: Path,
        builder: verb.EnvironmentBuilder,
        *,
        settings: verb.BuildSettings,
        limits: EnvironmentLimits | None = None,
        refused: RefusedPlaces | None = None,
    ) -> None:
        """``refused`` says where builds were not let, where they reach the index only."""
        self._root = root
        self._shelf = EnvironmentShelf(root)
        self._builder = builder
        limits = limits or EnvironmentLimits()
        self._steps = BuildSteps(builder, settings, limits, refused)
        self._locks: dict[str, anyio.Lock] = {}
        self._slots = anyio.CapacityLimiter(limits.builds_at_once)
        self._image: tuple[float, verb.NodeImage] | None = None

    async def image(self) -> verb.NodeImage:
        """The node image, as it was at most ``IMAGE_FRESH_S`` ago: every node call asks, and the engine answers slowly.

        Raises: StartError when there is none.
        """
        if self._image is None or time.monotonic() - self._image[0] >= IMAGE_FRESH_S:
            self._image = (time.monotonic(), await self._builder.image())
        return self._image[1]

    async def ensure(
        self,
        tenant: TenantId,
        pack: Path,
        policy: EffectivePolicy,
        progress: Progress,
        *,
        extension: ExtensionName | None = None,
        kept: KeptLock | None = None,
        upgrade: bool = False,
    ) -> Environment:
        """The environment of the pack in directory ``pack``, built now if it does not exist.

        ``extension`` says whose policy ``policy`` is; the launcher builds for nobody without a name. ``kept`` is the
        lock of the last time, which holds for as long as the pack and the image ask for the same; ``upgrade`` resolves
        anew all the same.

        Raises:
            EnvironmentFailedError: the pack's requirements are refused, or the build failed; nothing is left behind.
            PackageChangedError: the index has other files for a version than the lock.
            StartError: no engine or no image.
        """
        declared: Declared = await anyio.to_thread.run_sync(read_declared, pack)
        whose = _Whose(tenant, extension, kept=None if upgrade else kept, upgrade=upgrade)
        if whose.kept is not None:
            image = await self.image()
            again = as_before(declared, whose.kept)
            if self._plan(image, whose, again, policy, whose.kept.without).key == whose.kept.plan:
                return await self._planned(whose, again, policy, progress, frozenset(whose.kept.without))
        return await self._environment(whose, declared, policy, progress)

    async def ensure_group(
        self,
        tenant: TenantId,
        group: str,
        members: Mapping[ExtensionName, Path],
        policy: EffectivePolicy,
        progress: Progress,
        *,
        where: Where = usual_place,
    ) -> Environment:
        """The one environment of a sandbox group, in which every member finds what it declares.

        ``where`` says in which file a member's policy is written, for errors.

        Raises:
            GroupConflictError: there is none, because members exclude each other; it names them and their versions.
            EnvironmentFailedError, StartError: as ``ensure``.
        """
        declared = {
            name: await anyio.to_thread.run_sync(read_declared, pack) for name, pack in members.items()
        }
        files = {name: where(name, tenant) for name in declared}
        merged = await anyio.to_thread.run_sync(merge_declared, group, declared, files)
        try:
            return await self._environment(_Whose(tenant, None, group), merged, policy, progress)
        except BuildFailedError as error:
            if "unsatisfiable" not in " ".join((error.message, *error.lines)):
                raise
            raise told_of_group(error, group, declared, files) from error

    async def _environment(
        self, whose: _Whose, declared: Declared, policy: EffectivePolicy, progress: Progress
    ) -> Environment:
        without: frozenset[str] = frozenset()
        while True:
            try:
                return await self._planned(whose, declared, policy, progress, without)
            except BuildLimitError:
                raise
            except BuildFailedError as error:
                missing = unobtainable(" ".join((error.message, *error.lines))) - without
                if isinstance(error, BuildToolsError):
                    missing = frozenset()  # those are no packages of the pack's
                if missing and len(without) < _MOST_LEFT_OUT:
                    # As with pip, where one line fails and the pack is tried all the same: often it loads.
                    without |= missing
                    declared = replace(declared, notes=(*declared.notes, not_to_be_had(missing)))
                elif declared.implied:
                    # Nobody asked for these; without them the pack may still do most of what it does.
                    names = ", ".join(str(item.requirement) for item in declared.implied)
                    progress(f"trying again without what was only implied: {names}")
                    declared = replace(declared, implied=())
                else:
                    raise

    async def _planned(
        self,
        whose: _Whose,
        declared: Declared,
        policy: EffectivePolicy,
        progress: Progress,
        without: frozenset[str],
    ) -> Environment:
        image = await self.image()
        plan = self._plan(image, whose, declared, policy, without)
        for note in plan.notes:
            progress(note)
        if not plan.key:
            return Environment(None, None, image.id, asks=declared.asks, notes=plan.notes)
        async with self._locks.setdefault(plan.key, anyio.Lock()):
            text, locked = await anyio.to_thread.run_sync(self._known_lock, plan, whose)
            tools = None
            if policy.build.source_builds:
                # Those of a lock that answers the wish are kept to; of another, their versions are preferred.
                before = "" if whose.kept is None else whose.kept.tools or ""
                tools = BuildTools(locked, kept=locked is not None, before=before)
            job = self._job(whose, plan, policy)
            build = EnvironmentBuild(job, plan, image, tools, self._steps, self._shelf, self._slots, progress)
            async with build:
                is_new = text is None
                if text is None:
                    text = await build.resolve(whose.kept)
                lock = prune_lock(text, image, keep_torch=keeps_torch(plan))
                key = await self._name(build, lock, whose.tenant, locked, is_new, progress)
                async with self._locks.setdefault(key, anyio.Lock()):
                    stored = await anyio.to_thread.run_sync(self._shelf.whole, key, progress)
                    reused = stored is not None
                    if stored is None:
                        stored = await build.put(lock, key)
                    else:
                        progress(f"environment {key[:12]} is there already")
            await anyio.to_thread.run_sync(self._shelf.point, plan, key)
        packages: dict[str, str] = stored["packages"]
        kept = KeptLock(
            plan=plan.key,
            text=lock.text,
            without=tuple(sorted(without)),
            bare=not declared.implied,
            tools=None if tools is None else tools.text,
        )
        return Environment(
            key,
            self.site(key) if packages else None,
            image.id,
            packages,
            declared.asks,
            (*plan.notes, *stored["notes"]),
            reused,
            0.0 if reused else float(stored["seconds"]),
            kept,
        )

    async def _name(
        self,
        build: EnvironmentBuild,
        lock: Lock,
        tenant: TenantId,
        locked: str | None,
        is_new: bool,
        progress: Progress,
    ) -> str:
        """The key of what this lock makes; ``locked`` are the build tools that are known."""
        tools = build.tools
        owner = tenant if tools is not None else None
        key = environment_key(build.image, lock, owner, locked)
        if tools is None or tools.kept:
            return key
        # An environment that is older than locks of build tools serves until it is built anew.
        if not is_new and await anyio.to_thread.run_sync(self._shelf.whole, key, progress) is not None:
            return key
        # What its builds ask for is part of its name, and known when they are done.
        await build.install(lock)
        return environment_key(build.image, lock, owner, tools.text)

    def _plan(
        self,
        image: verb.NodeImage,
        whose: _Whose,
        declared: Declared,
        policy: EffectivePolicy,
        without: Iterable[str],
    ) -> Plan:
        source_builds = policy.build.source_builds
        return make_plan(
            image, declared, tenant=whose.tenant, source_builds=source_builds, without=frozenset(without)
        )

    def _known_lock(self, plan: Plan, whose: _Whose) -> tuple[str | None, str | None]:
        """The lock that answers a plan, and that of its build tools where there is one.

        They are the extension's own, else those of an environment made for the same wish.
        """
        if whose.upgrade:
            return None, None
        if whose.kept is not None and whose.kept.plan == plan.key:
            return whose.kept.text, whose.kept.tools
        return self._shelf.locks_of(plan)

    async def verify(self, key: str) -> None:
        """Read a whole environment. Raises: EnvironmentChangedError unless it is as it was built."""
        await anyio.to_thread.run_sync(self._shelf.check, key)

    def manifest(self, key: str) -> Mapping[str, Any] | None:
        """What was written down of an environment when it was built; blocks on the disk."""
        return self._shelf.manifest(key)

    def site(self, key: str) -> Path | None:
        """The directory of an environment that exists; None when it is gone or adds nothing to the image."""
        return self._shelf.site(key)

    async def inventory(self, key: str | None) -> Inventory:
        """The packages of an environment and of the image. Raises: StartError when there is no image."""
        image = await self.image()
        return await anyio.to_thread.run_sync(self._shelf.inventory, image, key)

    async def hint_for_module(self, module: str) -> str:
        """What to do about a module that a pack imports and nobody installed."""
        return missing_module_hint(module, await self.image())

    async def discard(self, key: str) -> None:
        """Delete an environment that no extension uses any more."""
        async with self._locks.setdefault(key, anyio.Lock()):
            await anyio.to_thread.run_sync(self._shelf.drop, key)

    async def sweep(self) -> None:
        """Remove what builds of an earlier host left behind: their containers and job directories."""
        await self._builder.sweep()
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._root / verb.JOBS, ignore_errors=True))

    def _job(self, whose: _Whose, plan: Plan, policy: EffectivePolicy) -> verb.BuildJob:
        return verb.BuildJob(
            id=f"{plan.key[:12]}-{secrets.token_hex(4)}",
            tenant=whose.tenant,
            directory=self._root / verb.JOBS / f"{plan.key[:12]}-{secrets.token_hex(8)}",
            cache=self._root / _CACHES / whose.tenant,
            network=policy.build.network,
            source_builds=policy.build.source_builds,
            timeout_s=policy.build.timeout_s,
            has_constraints=bool(plan.constraints),
            extension=whose.extension,
            group=whose.group,
        )
