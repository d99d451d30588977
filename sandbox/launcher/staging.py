"""Builds as the launcher lets a host have them: what goes in is read strictly and copied, what comes out handed over.

The host leaves lists of requirements in a job's directory and asks for a step. Nothing of that directory is mounted:
the lists are read once, line by line, and written anew into a directory that only the launcher can change; the build's
results are made harmless (ours, plain files, nothing setuid) and moved to the host when the container is gone. The
caches are the launcher's too. So a host cannot slip an option of the installer, a path or a link past the look at it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from packaging.requirements import Requirement

from sandbox.environment_errors import DependencyRefusedError
from sandbox.errors import StartError
from sandbox.figures import human_bytes
from sandbox.launcher import build_verb as verb
from sandbox.launcher.bounded_step import run_bounded
from sandbox.places import Places
from sandbox.requirement_lines import parse_requirement

log = logging.getLogger(__name__)

MAX_LIST: Final = 4 * 1024 * 1024
MAX_LINES: Final = 50_000
_RESULTS: Final[dict[verb.Step, str]] = {"resolve": verb.LOCK, "tools": verb.TOOLS, "install": verb.SITE}
_HASH: Final = re.compile(r"(?:^|\s)--hash=sha256:[0-9a-f]{64}(?=\s|$)")
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class StageLimits:
    """What a build may leave on the disk."""

    nbytes: int = 12 * 1024**3


class StagedBuilder:
    """An ``EnvironmentBuilder`` around another, which sees only what was checked."""

    def __init__(
        self,
        places: Places,
        inner: verb.EnvironmentBuilder,
        settings: verb.BuildSettings,
        index: verb.IndexSettings,
        limits: StageLimits | None = None,
    ) -> None:
        self._jobs = places.environments / verb.JOBS
        self._stages = places.launcher_data / "builds"
        self._caches = places.launcher_data / "caches"
        self._inner = inner
        self._settings = settings
        self._index = index
        self._limits = limits or StageLimits()

    async def image(self) -> verb.NodeImage:
        """See ``EnvironmentBuilder.image``."""
        return await self._inner.image()

    async def sweep(self) -> int:
        """See ``EnvironmentBuilder.sweep``."""
        count = await self._inner.sweep()
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._stages, ignore_errors=True))
        return count

    async def run(self, job: verb.BuildJob, step: verb.Step, line: verb.Line) -> verb.BuildOutcome:
        """See ``EnvironmentBuilder.run``.

        Raises:
            StartError: also when a list of requirements holds something else.
        """
        if job.directory.parent != self._jobs:
            raise StartError(f"a build's directory does not lie in {self._jobs}")
        self._refuse_open(job, step)
        staged = replace(
            job,
            directory=self._stages / job.directory.name,
            # Building from source runs the packages' code with write access to the cache, so that step has a cache of
            # its own, which nothing else is ever installed from. Build tools are wheels, and are only looked for.
            cache=self._stages / job.directory.name / "cache"
            if job.source_builds and step != "tools"
            else self._caches / job.tenant / "wheels",
        )
        try:
            await anyio.to_thread.run_sync(self._stage, job, staged, step)
            outcome = await self._watched(staged, step, line, job.timeout_s)
            if outcome.exit_code == 0 and not outcome.limit:
                await anyio.to_thread.run_sync(self._hand_over, job, staged, step)
            return outcome
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(staged.directory, ignore_errors=True))

    def _refuse_open(self, job: verb.BuildJob, step: verb.Step) -> None:
        # Its code would reach whatever the engine's network reaches: other services, metadata addresses, the world.
        if job.source_builds and job.network and step != "tools" and self._settings.open_because:
            raise StartError(
                "builds from source run the packages' own code and reach the package index only, but here builds reach "
                f"all that the engine's network '{self._settings.network_mode}' reaches: {self._settings.open_because}",
                "name the index in UV_DEFAULT_INDEX (and where it keeps its files in RINGFENCE_BUILD_HOSTS); or let "
                f"builds reach that network: RINGFENCE_BUILD_NETWORK={self._settings.network_mode}",
            )

    async def _watched(
        self, staged: verb.BuildJob, step: verb.Step, line: verb.Line, timeout_s: float
    ) -> verb.BuildOutcome:
        outcome, full = await run_bounded(
            self._inner, staged, step, line, nbytes=self._limits.nbytes, seconds=timeout_s
        )
        if full:
            return verb.BuildOutcome(
                -1, (f"more than {human_bytes(self._limits.nbytes)} written",), 0.0, "disk"
            )
        return outcome or verb.BuildOutcome(-1, (), timeout_s, "time")

    # -- in ----------------------------------------------------------------------------------------------------------

    def _stage(self, job: verb.BuildJob, staged: verb.BuildJob, step: verb.Step) -> None:
        shutil.rmtree(staged.directory, ignore_errors=True)
        inputs, outputs = staged.directory / "in", staged.directory / "out"
        for directory in (inputs, outputs, staged.cache / "unpacked", staged.cache / "uv"):
            directory.mkdir(parents=True, exist_ok=True)
        self._stages.chmod(0o711)
        with _opened(job.directory, self._jobs) as here:
            if step == "resolve":
                names = [verb.REQUIREMENTS, verb.OVERRIDES]
                names += [verb.CONSTRAINTS] if job.has_constraints else []
                for name in names:
                    _copy(here, ("in", name), inputs / name, checked_requirements)
                # The image's own versions, which the resolver keeps to where it can.
                _copy(here, ("out", verb.LOCK), outputs / verb.LOCK, checked_requirements)
            elif step == "tools":
                _copy(here, ("in", verb.WANTED_TOOLS), inputs / verb.WANTED_TOOLS, checked_requirements)
                _copy(here, ("out", verb.TOOLS), outputs / verb.TOOLS, checked_requirements)
            else:
                _copy(here, ("in", verb.LOCK), inputs / verb.LOCK, checked_lock)
                if job.source_builds:
                    _copy(here, ("in", verb.TOOLS), inputs / verb.TOOLS, checked_lock)
        if self._index.ca_bundle is not None:
            (inputs / verb.CA_BUNDLE).write_bytes(self._index.ca_bundle)
        inputs.chmod(0o755)
        for file in inputs.iterdir():
            file.chmod(0o644)  # whatever our umask is: the build runs as another uid
        uid, gid = self._settings.user
        if os.geteuid() == 0:
            lists = [outputs / name for name in (verb.LOCK, verb.TOOLS) if (outputs / name).exists()]
            for path in (outputs, *lists, staged.cache, staged.cache / "unpacked", staged.cache / "uv"):
                os.chown(path, uid, gid, follow_symlinks=False)

    # -- out ---------------------------------------------------------------------------------------------------------

    def _hand_over(self, job: verb.BuildJob, staged: verb.BuildJob, step: verb.Step) -> None:
        """Move the result into the job's directory; nobody but us can change it by now."""
        name = _RESULTS[step]
        with _opened(staged.directory, self._stages) as ours, _opened(job.directory, self._jobs) as theirs:
            outputs = os.open("out", _DIRECTORY, dir_fd=ours)
            try:
                os.fchown(outputs, os.geteuid(), os.getegid())
                # A build that installs nothing leaves no directory; what is missing is the caller's to say.
                if name in os.listdir(outputs):  # noqa: PTH208  (a descriptor)
                    _settle(outputs, name)
                    target = os.open("out", _DIRECTORY, dir_fd=theirs)
                    try:
                        _forget(target, name)
                        os.rename(name, name, src_dir_fd=outputs, dst_dir_fd=target)
                    finally:
                        os.close(target)
            finally:
                os.close(outputs)


def checked_requirements(text: str, shown: str) -> str:
    """The list again, line by line, when each is a requirement by name. Raises: StartError naming the line."""
    kept = []
    for number, line in _lines(text, shown):
        _requirement(line, f"{shown}:{number}")
        kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def checked_lock(text: str, shown: str) -> str:
    """The lock again, when each entry is one version of one package with its hashes. Raises: StartError."""
    kept = []
    for number, line in _lines(text.replace("\\\n", " "), shown):
        place = f"{shown}:{number}"
        hashes = _HASH.findall(line)
        pinned = _requirement(_HASH.sub("", line).strip(), place)
        versions = list(pinned.specifier)
        if not hashes or len(versions) != 1 or versions[0].operator != "==" or "*" in versions[0].version:
            raise StartError(f"{place}: an entry of a lock needs one version and its hashes")
        kept.append(" ".join([str(pinned), *(item.strip() for item in hashes)]))
    return "".join(f"{line}\n" for line in kept)


def _lines(text: str, shown: str) -> Iterator[tuple[int, str]]:
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise StartError(f"{shown} has more than {MAX_LINES} lines")
    for number, raw in enumerate(lines, 1):
        line = raw.partition(" #")[0].strip() if not raw.lstrip().startswith("#") else ""
        if line:
            yield number, line


def _requirement(line: str, place: str) -> Requirement:
    try:
        if not line.isprintable():
            raise DependencyRefusedError("the line holds control characters", place=place)
        return parse_requirement(line, place)
    except DependencyRefusedError as error:
        raise StartError(f"a build was refused: {error.message}", error.hint) from None


def _copy(here: int, source: tuple[str, str], target: Path, check: Callable[[str, str], str]) -> None:
    directory, name = source
    shown = f"{directory}/{name}"
    try:
        between = os.open(directory, _DIRECTORY, dir_fd=here)
        try:
            file = os.open(name, _OPEN, dir_fd=between)
        finally:
            os.close(between)
        with os.fdopen(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise StartError(f"a build's {shown} is not a plain file")
            raw = stream.read(MAX_LIST + 1)
    except OSError as error:
        raise StartError(f"a build's {shown} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_LIST:
        raise StartError(f"a build's {shown} has more than {human_bytes(MAX_LIST)}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise StartError(f"a build's {shown} is not UTF-8 text") from None
    target.write_text(check(text, shown), encoding="utf-8")


@contextmanager
def _opened(directory: Path, parent: Path) -> Iterator[int]:
    """A descriptor of ``directory``, which is no link; ``parent`` is the operator's or ours."""
    above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            here = os.open(directory.name, _DIRECTORY, dir_fd=above)
        except OSError as error:
            raise StartError(f"a build's directory cannot be opened: {error.strerror}") from None
    finally:
        os.close(above)
    try:
        yield here
    finally:
        os.close(here)


def _settle(directory: int, name: str) -> None:
    """Make ``name`` and all below it ours, plain and readable. The container is gone, so nothing moves under us."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        for _, directories, files, here in os.fwalk(name, dir_fd=directory, follow_symlinks=False):
            for entry in (*directories, *files):
                os.chown(entry, os.geteuid(), os.getegid(), dir_fd=here, follow_symlinks=False)
        os.chown(name, os.geteuid(), os.getegid(), dir_fd=directory, follow_symlinks=False)
        return
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise StartError("the build left something else than a plain file")
    os.chown(name, os.geteuid(), os.getegid(), dir_fd=directory, follow_symlinks=False)


def _forget(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=directory)
