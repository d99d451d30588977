"""The steps of one build, with their caps: what goes into a job's directory, what comes out, and what went wrong.

The container is the launcher's; here it is asked for, watched, and its result made harmless before anybody uses it.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies import safe_text
from sandbox.egress.builds import RefusedPlaces
from sandbox.environment_errors import BuildFailedError, BuildLimitError, PackageChangedError
from sandbox.environment_locks import changed_package
from sandbox.environment_plan import Plan
from sandbox.launcher import build_verb as verb
from sandbox.launcher.bounded_step import run_bounded

Progress = Callable[[str], None]

_LINES_SHOWN: Final = 8
LOOK_ABOVE: Final = (
    "look at the lines above, then change the pack's requirements and run: ringfence extension reload"
)
"""The hint where nothing better is known."""


@dataclass(frozen=True, slots=True)
class EnvironmentLimits:
    """How large an environment may be, and how many are built at once."""

    nbytes: int = 12 * 1024**3
    entries: int = 400_000
    builds_at_once: int = 2


class BuildSteps:
    """Runs the steps of builds through a builder."""

    def __init__(
        self,
        builder: verb.EnvironmentBuilder,
        settings: verb.BuildSettings,
        limits: EnvironmentLimits,
        refused: RefusedPlaces | None = None,
    ) -> None:
        self._refused = refused
        self._builder = builder
        self._settings = settings
        self._limits = limits

    def prepare(self, job: verb.BuildJob, plan: Plan, preferences: tuple[str, ...]) -> None:
        """Write down what a step is to work on; ``preferences`` are versions that a resolver keeps to."""
        inputs, outputs = job.directory / "in", job.directory / "out"
        for directory in (inputs, outputs):
            directory.mkdir(parents=True, exist_ok=True)
        (inputs / verb.REQUIREMENTS).write_text(_text(plan.requirements))
        (inputs / verb.CONSTRAINTS).write_text(_text(plan.constraints))
        (inputs / verb.OVERRIDES).write_text(_text(plan.overrides))
        if preferences:
            (outputs / verb.LOCK).write_text(_text(preferences))

    async def run(
        self, job: verb.BuildJob, step: verb.Step, plan: Plan, deadline: float, progress: Progress
    ) -> None:
        """Run one step until ``deadline``. Raises: BuildFailedError, StartError."""
        began = time.monotonic()
        outcome, full = await run_bounded(
            self._builder, job, step, progress, nbytes=self._limits.nbytes, seconds=deadline - began
        )
        if full:
            raise _over("disk", f"{self._limits.nbytes // 1024**2} MiB", step, plan, outcome)
        if outcome is None or outcome.limit == "time":
            raise _over("time", f"{job.timeout_s:g} s", step, plan, outcome)
        if outcome.limit == "disk":
            raise _over("disk", f"{self._limits.nbytes // 1024**2} MiB", step, plan, outcome)
        if outcome.limit == "memory":
            raise _over("memory", f"{self._settings.memory // 1024**2} MiB", step, plan, outcome)
        if outcome.exit_code != 0:
            raise _failed(step, outcome, job, () if self._refused is None else self._refused.since(began))

    def lock_text(self, job: verb.BuildJob, name: str = verb.LOCK) -> str:
        """What the resolver left. Raises: BuildFailedError."""
        # The file was in a hostile container's hands: opened without following a link, and read to a bound.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with os.fdopen(os.open(job.directory / "out" / name, flags), "rb") as stream:
                return stream.read(4 * 1024**2).decode("utf-8", "replace")
        except OSError as error:
            raise BuildFailedError("the resolver left no readable result") from error

    def settle(self, site: Path) -> None:
        """Make a built tree harmless. Raises: BuildFailedError, BuildLimitError."""
        _settle(site, self._limits)


def _text(lines: tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


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


_WORDS: Final[dict[verb.Step, str]] = {
    "resolve": "find a set of packages",
    "tools": "find the build tools",
    "install": "install the packages",
}


def _failed(
    step: verb.Step, outcome: verb.BuildOutcome, job: verb.BuildJob, refused: tuple[str, ...]
) -> BuildFailedError:
    changed = changed_package(outcome.lines)
    if changed is not None:
        return PackageChangedError(*changed, lines=outcome.lines)
    lines = outcome.lines[-_LINES_SHOWN:]
    text = " ".join(lines)
    hint = LOOK_ABOVE
    if "'--require-build-hashes'" in text:
        hint = "the node image's uv is older than this server: make images"
    elif not job.network:
        hint = "the policy says 'build.network: false', so only what the cache holds can be installed"
    elif refused:
        places = json.dumps(refused[:4])
        hint = (
            f"builds reach the package index only, and asked for {', '.join(refused[:4])}, too: if the index keeps its "
            f"files there, whoever runs this server sets RINGFENCE_BUILD_HOSTS to '{places}'"
        )
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
