"""The environments of extensions: one directory of site-packages per set of dependencies, built once and shared.

An environment is named by a key (``environment_plan``) that covers the interpreter, the platform, the image's
packages and what the pack needs; equal keys share one directory. It is built in a container (``launcher/build.py``),
checked, and only then moved to its place, so a directory under its key is always whole. Sandboxes mount it read-only.
What the builder needs is left in a job's directory, and it puts there what it made (``launcher/staging.py``).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from policies import EffectivePolicy, ExtensionName, RingfenceError, TenantId, safe_text
from sandbox.environment_errors import BuildFailedError, BuildLimitError
from sandbox.environment_plan import (
    Lock,
    Plan,
    keeps_torch,
    make_plan,
    missing_module_hint,
    prune_lock,
    unobtainable,
)
from sandbox.group_requirements import merge_declared, told_of_group
from sandbox.launcher import build_verb as verb
from sandbox.manifests import Declared, read_declared

IMAGE_FRESH_S: Final = 1.0  # as long as a policy that was read (sandbox/manager.py)

logger = logging.getLogger(__name__)

MANIFEST = "environment.json"
_CACHES = ".caches"
_LINES_SHOWN = 8
_MOST_LEFT_OUT = 8

Progress = Callable[[str], None]


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


@dataclass(frozen=True, slots=True)
class EnvironmentLimits:
    """How large an environment may be, and how many are built at once."""

    nbytes: int = 12 * 1024**3
    entries: int = 400_000
    builds_at_once: int = 2


@dataclass(frozen=True, slots=True)
class _Whose:
    """For whom something is built, and by whose policy."""

    tenant: TenantId
    extension: ExtensionName | None
    group: str | None = None


class Environments:
    """Builds, finds and drops environments. Safe to use from many tasks: one key is built once."""

    def __init__(
        self,
        root: Path,
        builder: verb.EnvironmentBuilder,
        *,
        settings: verb.BuildSettings,
        limits: EnvironmentLimits | None = None,
    ) -> None:
        self._root = root
        self._builder = builder
        self._settings = settings
        self._limits = limits or EnvironmentLimits()
        self._locks: dict[str, anyio.Lock] = {}
        self._slots = anyio.CapacityLimiter(self._limits.builds_at_once)
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
    ) -> Environment:
        """The environment of the pack in directory ``pack``, built now if it does not exist.

        ``extension`` says whose policy ``policy`` is; the launcher builds for nobody without a name.

        Raises:
            EnvironmentFailedError: the pack's requirements are refused, or the build failed; nothing is left behind.
            StartError: no engine or no image.
        """
        declared: Declared = await anyio.to_thread.run_sync(read_declared, pack)
        return await self._environment(_Whose(tenant, extension), declared, policy, progress)

    async def ensure_group(
        self,
        tenant: TenantId,
        group: str,
        members: Mapping[ExtensionName, Path],
        policy: EffectivePolicy,
        progress: Progress,
    ) -> Environment:
        """The one environment of a sandbox group, in which every member finds what it declares.

        Raises:
            GroupConflictError: there is none, because members exclude each other; it names them and their versions.
            EnvironmentFailedError, StartError: as ``ensure``.
        """
        declared = {
            name: await anyio.to_thread.run_sync(read_declared, pack) for name, pack in members.items()
        }
        merged = await anyio.to_thread.run_sync(merge_declared, group, declared)
        try:
            return await self._environment(_Whose(tenant, None, group), merged, policy, progress)
        except BuildFailedError as error:
            if "unsatisfiable" not in " ".join((error.message, *error.lines)):
                raise
            raise told_of_group(error, group, declared) from error

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
                if missing and len(without) < _MOST_LEFT_OUT:
                    # As with pip, where one line fails and the pack is tried all the same: often it loads.
                    without |= missing
                    note = (
                        f"left out: {', '.join(sorted(missing))} (not in the package index, or without a ready-made "
                        "wheel for this Python); an import of it fails. If the pack needs it: another version, or "
                        "'build: {source_builds: true}' in its policy"
                    )
                    declared = replace(declared, notes=(*declared.notes, note))
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
        source_builds = policy.build.source_builds
        plan = make_plan(image, declared, tenant=whose.tenant, source_builds=source_builds, without=without)
        for note in plan.notes:
            progress(note)
        if not plan.key:
            return Environment(None, None, image.id, asks=declared.asks, notes=plan.notes)
        async with self._locks.setdefault(plan.key, anyio.Lock()):
            stored = await anyio.to_thread.run_sync(_read_manifest, self._root / plan.key)
            reused = stored is not None
            if stored is None:
                async with self._slots:
                    stored = await self._build(whose, plan, image, policy, progress)
            else:
                progress(f"environment {plan.key[:12]} is there already")
        packages: dict[str, str] = stored["packages"]
        return Environment(
            plan.key,
            self.site(plan.key) if packages else None,
            image.id,
            packages,
            declared.asks,
            (*plan.notes, *stored["notes"]),
            reused,
            0.0 if reused else float(stored["seconds"]),
        )

    def site(self, key: str) -> Path | None:
        """The directory of an environment that exists; None when it is gone or adds nothing to the image."""
        site = self._root / key / verb.SITE
        return site if site.is_dir() else None

    async def hint_for_module(self, module: str) -> str:
        """What to do about a module that a pack imports and nobody installed."""
        return missing_module_hint(module, await self.image())

    async def discard(self, key: str) -> None:
        """Delete an environment that no extension uses any more."""
        async with self._locks.setdefault(key, anyio.Lock()):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._root / key, ignore_errors=True))

    async def sweep(self) -> None:
        """Remove what builds of an earlier host left behind: their containers and job directories."""
        await self._builder.sweep()
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._root / verb.JOBS, ignore_errors=True))

    async def _build(
        self, whose: _Whose, plan: Plan, image: verb.NodeImage, policy: EffectivePolicy, progress: Progress
    ) -> Mapping[str, Any]:
        started = time.monotonic()
        job = verb.BuildJob(
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
        try:
            await anyio.to_thread.run_sync(self._prepare, job, plan)
            deadline = started + policy.build.timeout_s
            progress(f"resolving {len(plan.requirements)} requirement(s) for Python {image.python}")
            await self._step(job, "resolve", plan, deadline, progress)
            lock = await anyio.to_thread.run_sync(self._lock, job, plan, image)
            for note in lock.notes:
                progress(note)
            if lock.packages:
                progress(
                    "installing " + ", ".join(f"{name} {version}" for name, version in lock.packages.items())
                )
                await self._step(job, "install", plan, deadline, progress)
            manifest = {
                "key": plan.key,
                "image": image.id,
                "python": image.python,
                "requirements": plan.requirements,
                "packages": dict(lock.packages),
                "notes": lock.notes,
                "seconds": round(time.monotonic() - started, 3),
            }
            await anyio.to_thread.run_sync(self._finish, job, plan.key, manifest)
            progress(f"environment {plan.key[:12]} built in {manifest['seconds']} s")
            return manifest
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(job.directory, ignore_errors=True))

    def _prepare(self, job: verb.BuildJob, plan: Plan) -> None:
        inputs, outputs = job.directory / "in", job.directory / "out"
        for directory in (inputs, outputs):
            directory.mkdir(parents=True, exist_ok=True)
        (inputs / verb.REQUIREMENTS).write_text(_text(plan.requirements))
        (inputs / verb.CONSTRAINTS).write_text(_text(plan.constraints))
        (inputs / verb.OVERRIDES).write_text(_text(plan.overrides))
        (outputs / verb.LOCK).write_text(_text(plan.preferences))

    async def _step(
        self, job: verb.BuildJob, step: verb.Step, plan: Plan, deadline: float, progress: Progress
    ) -> None:
        outcome: verb.BuildOutcome | None = None
        failed: RingfenceError | None = None
        full = False

        async def watch_size() -> None:
            # A bind mount has no size limit; a look every second bounds what a build leaves on the disk.
            nonlocal full
            while not full:
                await anyio.sleep(1)
                full = await anyio.to_thread.run_sync(_size, job.directory) > self._limits.nbytes
            tasks.cancel_scope.cancel()

        with anyio.move_on_at(anyio.current_time() + max(0.0, deadline - time.monotonic())):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch_size)
                try:
                    outcome = await self._builder.run(job, step, progress)
                except RingfenceError as error:
                    failed = error  # not raised in here: a task group would wrap it
                tasks.cancel_scope.cancel()
        if failed is not None:
            raise failed
        if full:
            raise _over("disk", f"{self._limits.nbytes // 1024**2} MiB", step, plan, outcome)
        if outcome is None or outcome.limit == "time":
            raise _over("time", f"{job.timeout_s:g} s", step, plan, outcome)
        if outcome.limit == "disk":
            raise _over("disk", f"{self._limits.nbytes // 1024**2} MiB", step, plan, outcome)
        if outcome.limit == "memory":
            raise _over("memory", f"{self._settings.memory // 1024**2} MiB", step, plan, outcome)
        if outcome.exit_code != 0:
            raise _failed(step, outcome, job)

    def _lock(self, job: verb.BuildJob, plan: Plan, image: verb.NodeImage) -> Lock:
        # The file was in a hostile container's hands: opened without following a link, and read to a bound.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with os.fdopen(os.open(job.directory / "out" / verb.LOCK, flags), "rb") as stream:
                text = stream.read(16 * 1024**2).decode("utf-8", "replace")
        except OSError as error:
            raise BuildFailedError("the resolver left no readable result") from error
        lock = prune_lock(text, image, keep_torch=keeps_torch(plan))
        (job.directory / "in" / verb.LOCK).write_text(lock.text)
        return lock

    def _finish(self, job: verb.BuildJob, key: str, manifest: Mapping[str, Any]) -> None:
        built = job.directory / "whole"
        built.mkdir(mode=0o755)
        site = job.directory / "out" / verb.SITE
        if manifest["packages"]:
            _settle(site, self._limits)
            site.replace(built / verb.SITE)
        (job.directory / "in" / verb.LOCK).replace(built / verb.LOCK)
        (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        target = self._root / key
        shutil.rmtree(
            target, ignore_errors=True
        )  # a damaged one: _read_manifest would have taken a whole one
        built.replace(target)


def _text(lines: tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _read_manifest(directory: Path) -> Mapping[str, Any] | None:
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(manifest, dict) or (manifest["packages"] and not (directory / verb.SITE).is_dir()):
        return None
    return manifest


def _settle(site: Path, limits: EnvironmentLimits) -> None:
    """Make a built tree harmless to whoever looks at it: regular files and directories, ours, nothing setuid."""
    if site.is_symlink() or not site.is_dir():
        raise BuildFailedError("the installer left no directory of packages")
    nbytes = entries = 0
    for root, directories, files in os.walk(site):
        for name in (*directories, *files):
            path = f"{root}/{name}"
            status = os.lstat(path)
            entries += 1
            nbytes += status.st_size
            if entries > limits.entries or nbytes > limits.nbytes:
                raise BuildLimitError(
                    f"the environment has more than {limits.entries} files or {limits.nbytes // 1024**2} MiB",
                    limit="disk",
                    figure=f"{limits.nbytes // 1024**2} MiB",
                    hint="ask for fewer or smaller packages",
                )
            if stat.S_ISLNK(status.st_mode):
                # Inside a sandbox it would resolve in the sandbox; but nothing that reads here may follow it out.
                if not Path(path).resolve().is_relative_to(site.resolve()):
                    Path(path).unlink()
                continue
            if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
                Path(path).unlink()
                continue
            executable = stat.S_ISDIR(status.st_mode) or status.st_mode & 0o111
            Path(path).chmod(0o755 if executable else 0o644)
    site.chmod(0o755)


def _size(directory: Path) -> int:
    total = 0
    for root, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(f"{root}/{name}").st_size
            except OSError:
                continue
    return total


_WORDS = {"resolve": "find a set of packages", "install": "install the packages"}


def _failed(step: verb.Step, outcome: verb.BuildOutcome, job: verb.BuildJob) -> BuildFailedError:
    lines = outcome.lines[-_LINES_SHOWN:]
    text = " ".join(lines)
    hint = "look at the lines above, then change the pack's requirements and run: ringfence extension reload"
    if not job.network:
        hint = "the policy says 'build.network: false', so only what the cache holds can be installed"
    elif not job.source_builds and (
        "no usable wheels" in text or "building from source is disabled" in text.lower()
    ):
        hint = (
            "a package has no ready-made wheel for this Python; ask for a version that has one, or allow "
            "'build.source_builds: true' in the extension's policy (it runs the package's own code while building)"
        )
    elif "dns error" in text or "connect" in text.lower() or "Failed to fetch" in text:
        hint = "check that builds reach the package index (index, proxy and CA settings: docs/writing-extensions.md)"
    shown = safe_text(" | ".join(line.strip() for line in lines if line.strip()), 1_200)
    return BuildFailedError(
        f"uv could not {_WORDS[step]} (exit {outcome.exit_code}): {shown}", hint=hint, lines=outcome.lines
    )


def _over(
    limit: str, figure: str, step: verb.Step, plan: Plan, outcome: verb.BuildOutcome | None
) -> BuildLimitError:
    keys = {"time": "raise 'build.timeout' in the policy", "memory": "raise the host's build memory"}
    return BuildLimitError(
        f"building the environment (step {step}, {len(plan.requirements)} requirements) ended: {limit} cap {figure}",
        limit=limit,
        figure=figure,
        hint=f"{keys.get(limit, 'ask for smaller packages')} or ask for less in the pack's requirements",
        lines=outcome.lines if outcome else (),
    )
