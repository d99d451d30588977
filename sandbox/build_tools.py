"""Build tools: what a package that is built from source may install in order to be built, locked with hashes.

Only a source itself knows what its build asks for, and parts of that only its own code says. So the installer is never
let to install a build tool that is not locked; what it was refused for a new lock is resolved (ready-made wheels only),
locked, and the step is tried again. With a lock that was kept, what is not in it is an error. Nothing that a build says
is believed beyond that: it can add names to the lock of its own environment, as versions and hashes of the index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio.to_thread
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from policies import safe_text
from sandbox.environment_errors import (
    BuildFailedError,
    BuildLimitError,
    BuildToolsError,
    DependencyRefusedError,
    PackageChangedError,
)
from sandbox.environment_locks import locked_hashes, pinned, refuse_changed
from sandbox.environment_plan import Plan
from sandbox.environment_steps import LOOK_ABOVE, BuildSteps, Progress
from sandbox.launcher import build_verb as verb
from sandbox.requirement_lines import parse_requirement

_MOST_ROUNDS: Final = 32
_MOST_TOOLS: Final = 500
MAX_TEXT: Final = 1024 * 1024

_PACKAGE: Final = re.compile(
    r"Failed to (?:download and )?build `([A-Za-z0-9][A-Za-z0-9._-]*(?:==[A-Za-z0-9.!+_-]+)?)`"
)
_OF_A_BUILD: Final = re.compile(r"Failed to (resolve|install) requirements from `")
_ASKED: Final = re.compile(r"No solution found when resolving: (`.*)")
_QUOTED: Final = re.compile(r"`([^`]+)`")
_NOT_LOCKED: Final = re.compile(r"no trusted hash was provided for: `([A-Za-z0-9][A-Za-z0-9._-]*)`")


@dataclass(slots=True)
class BuildTools:
    """The build tools of one environment, as far as they are known."""

    text: str | None = None
    """The lock; None while it is not known what the builds ask for."""
    kept: bool = False
    """An extension keeps it: what is not in it is refused."""
    before: str = ""
    """An earlier lock, whose versions are preferred."""
    wanted: dict[str, None] = field(default_factory=dict)
    """What builds asked for, in their order."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an installer was refused: for which package, and what that asks for."""

    package: str
    requirements: tuple[str, ...]
    name: str | None
    """The one that is in no lock; None when the versions do not fit."""


async def install(
    steps: BuildSteps,
    job: verb.BuildJob,
    plan: Plan,
    tools: BuildTools | None,
    deadline: float,
    progress: Progress,
) -> None:
    """Install what is locked; with ``tools`` until their lock holds what builds ask for. None: nothing is built.

    Raises:
        BuildToolsError: a build asks for what is not in a lock that was kept, or for what cannot be had.
        BuildFailedError, StartError: as ``BuildSteps.run``.
    """
    if tools is None:
        await steps.run(job, "install", plan, deadline, progress)
        return
    for _ in range(_MOST_ROUNDS):
        await anyio.to_thread.run_sync(_hand_in, job, tools)
        try:
            await steps.run(job, "install", plan, deadline, progress)
        except (BuildLimitError, PackageChangedError):
            raise
        except BuildFailedError as error:
            asked = _asked(error.lines)
            if asked is None:
                raise
            if tools.kept and asked.name is not None:
                raise _not_in_lock(asked, asked.name, tools, error) from error
            if tools.kept or not _adds(asked, tools):
                raise _not_to_be_had(asked, tools, error) from error
            await _resolve(steps, job, plan, tools, asked, deadline, progress)
        else:
            tools.text = tools.text or ""
            return
    raise BuildToolsError(f"builds from source ask for ever more build tools ({_MOST_ROUNDS} rounds)")


def versions(text: str | None) -> Mapping[str, str]:
    """Canonical names of locked build tools and their versions."""
    pairs = (pin.partition("==")[::2] for pin in pinned(text or ""))
    return {canonicalize_name(name.partition("[")[0]): version for name, version in pairs}


def _hand_in(job: verb.BuildJob, tools: BuildTools) -> None:
    (job.directory / "in" / verb.TOOLS).write_text(tools.text or "", encoding="utf-8")


async def _resolve(
    steps: BuildSteps,
    job: verb.BuildJob,
    plan: Plan,
    tools: BuildTools,
    asked: _Asked,
    deadline: float,
    progress: Progress,
) -> None:
    progress(f"locking the build tools of {asked.package}: {', '.join(tools.wanted)}")
    # Written into the result before the step: the resolver keeps to those versions where it can.
    had = "".join(f"{pin}\n" for pin in pinned(tools.text or tools.before))

    def prepare() -> None:
        (job.directory / "in" / verb.WANTED_TOOLS).write_text(
            "".join(f"{line}\n" for line in tools.wanted), encoding="utf-8"
        )
        (job.directory / "out" / verb.TOOLS).write_text(had, encoding="utf-8")

    await anyio.to_thread.run_sync(prepare)
    try:
        await steps.run(job, "tools", plan, deadline, progress)
    except (BuildLimitError, PackageChangedError):
        raise
    except BuildFailedError as error:
        raise _not_to_be_had(asked, tools, error) from error
    text = await anyio.to_thread.run_sync(steps.lock_text, job, verb.TOOLS)
    tools.text = _checked(text)
    refuse_changed(locked_hashes(tools.before), tools.before, tools.text)


def _asked(lines: tuple[str, ...]) -> _Asked | None:
    """What a failed step says of build tools that it was refused; None when it failed of something else."""
    text = "\n".join(lines)
    if _OF_A_BUILD.search(text) is None:
        return None
    package = _PACKAGE.search(text)
    line = _ASKED.search(text)
    name = _NOT_LOCKED.search(text)
    if line is None and name is None:
        return None  # they could be chosen, and were not to be had
    return _Asked(
        package[1] if package else "a package",
        tuple(_QUOTED.findall(line[1])) if line else (),
        canonicalize_name(name[1]) if name else None,
    )


def _adds(asked: _Asked, tools: BuildTools) -> bool:
    """Take up what was asked for. Raises: BuildToolsError when it is no package of the index."""
    before = len(tools.wanted)
    for text in asked.requirements:
        tools.wanted.setdefault(_requirement(asked.package, text))
    if len(tools.wanted) == before and asked.name is not None and asked.name not in versions(tools.text):
        tools.wanted.setdefault(asked.name)  # the line that names them all was too long to be shown whole
    if len(tools.wanted) > _MOST_TOOLS:
        raise BuildToolsError(f"{asked.package} asks for more than {_MOST_TOOLS} build tools")
    return len(tools.wanted) > before


def _requirement(package: str, text: str) -> str:
    try:
        if not text.isprintable():
            raise DependencyRefusedError("control characters in a requirement", place=package)
        return str(parse_requirement(text, f"build requirements of {package}"))
    except DependencyRefusedError as error:
        raise BuildToolsError(
            error.message,
            hint=f"build tools are packages of the index, locked by version and hash; ask for a version of {package} "
            "that has a wheel, or whose build asks for packages only",
        ) from None


def _checked(text: str) -> str:
    entries = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and line[0] != "#"]
    hashes = locked_hashes(text)
    if len(text) > MAX_TEXT or len(hashes) != len(entries) or not all(hashes.values()):
        raise BuildFailedError("the resolver gave build tools without one version and its hashes")
    return text


def _not_in_lock(asked: _Asked, name: str, tools: BuildTools, error: BuildFailedError) -> BuildToolsError:
    missing = [text for text in asked.requirements if _name(text) == name] or [name]
    return BuildToolsError(
        f"the build of {asked.package} asks for {_shown(missing)}, and the extension's lock of build tools has "
        f"{_locked(tools)}",
        hint="the same files asked for less when they were locked: find out why. To lock anew what they ask for now: "
        "ringfence extension reload NAME --upgrade",
        lines=error.lines,
    )


def _not_to_be_had(asked: _Asked, tools: BuildTools, error: BuildFailedError) -> BuildToolsError:
    locked = f" (locked: {_locked(tools)})" if tools.text else ""
    return BuildToolsError(
        f"the build of {asked.package} asks for {_shown(asked.requirements or (asked.name or '',))}, which cannot be "
        f"had{locked}: {error.message}",
        hint="build tools are ready-made wheels of the package index, one version of each for all packages of an "
        "extension; ask for a version of the package that has a wheel, or whose build needs other tools. To lock "
        "tools anew: ringfence extension reload NAME --upgrade"
        if error.hint == LOOK_ABOVE
        else error.hint,
        lines=error.lines,
    )


def _locked(tools: BuildTools) -> str:
    return _shown(f"{name} {version}" for name, version in versions(tools.text).items()) or "none"


def _shown(texts: Iterable[str]) -> str:
    return safe_text(", ".join(f"'{text}'" for text in texts), 300)


def _name(text: str) -> str | None:
    try:
        return canonicalize_name(Requirement(text).name)
    except InvalidRequirement:
        return None
