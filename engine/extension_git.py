"""Cloning a pack's repository without running anything that the repository brings along.

git is started with an argument list and every way by which a clone may execute or fetch more is shut: submodules,
hooks, templates, LFS and other filters, prompts, protocols other than https, ssh and file. Time and size are bounded.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from anyio.abc import Process

from engine.extension_errors import SourceRefusedError
from policies import safe_text
from sandbox import tree_size

_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_SCP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[A-Za-z0-9_~./-]+\Z")
_SCHEMES = ("https", "ssh", "file")
_LINES_KEPT = 12


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository and which of its states."""

    url: str
    ref: str | None = None
    """Branch, tag or full commit; None for the repository's own default branch."""

    @property
    def name(self) -> str:
        """What the repository calls itself: the last part of its URL."""
        return re.split(r"[/:]", self.url.rstrip("/"))[-1].removesuffix(".git")


@dataclass(frozen=True, slots=True)
class GitLimits:
    """How long and how large a clone may be."""

    timeout_s: float = 300.0
    nbytes: int = 3 * 1024**3


def parse_source(text: str) -> Path | GitSource:
    """A directory, a .py file, or a git URL with an optional ``@ref``.

    Raises: SourceRefusedError for a URL of a kind that is not taken.
    """
    if "://" not in text and not _SCP.match(text.rpartition("@")[0] if text.count("@") > 1 else text):
        return Path(text)
    # The `@` of a ref stands behind the last slash; before it is only the user of an ssh URL.
    head, slash, tail = text.rpartition("/")
    tail, at, ref = tail.partition("@")
    if slash == "" or (at and not ref):
        raise SourceRefusedError(
            f"'{safe_text(text)}' is not a git URL", hint="write https://host/owner/repository[@ref]"
        )
    return checked(GitSource(f"{head}{slash}{tail}", ref or None))


def checked(source: GitSource) -> GitSource:
    """Raises: SourceRefusedError for schemes, credentials and refs that are not taken."""
    shown = safe_text(source.url)
    if source.url.startswith("-") or any(char.isspace() or ord(char) < 32 for char in source.url):
        raise SourceRefusedError(f"'{shown}' is not a git URL")
    if not _SCP.match(source.url):
        parts = urlsplit(source.url)
        if parts.scheme not in _SCHEMES:
            raise SourceRefusedError(
                f"'{safe_text(parts.scheme, 40)}' URLs are not taken", hint="use https, ssh or file"
            )
        # It would stand in meta.json, in `extension list` and in the process table.
        if parts.password or (parts.scheme == "https" and parts.username):
            raise SourceRefusedError(
                "the URL holds a user or password", hint="use an ssh key or git's credential helper"
            )
        if (parts.hostname or "").startswith("-"):
            raise SourceRefusedError(f"'{shown}' is not a git URL")
    if source.ref is not None and (not _REF.match(source.ref) or ".." in source.ref):
        raise SourceRefusedError(
            f"'{safe_text(source.ref, 80)}' is not a branch, tag or commit",
            hint="write the full 40 digits of a commit",
        )
    return source


async def clone(source: GitSource, target: Path, limits: GitLimits, progress: Callable[[str], None]) -> str:
    """Fetch one state of a repository into the new directory ``target`` and return its commit.

    Raises: SourceRefusedError with the end of git's output.
    """
    checked(source)
    await anyio.to_thread.run_sync(lambda: target.mkdir(parents=True))
    progress(f"fetching {safe_text(source.url)}")
    with anyio.move_on_after(limits.timeout_s) as scope:
        await _git(["init", "--quiet", "--template=", "."], target, limits)
        wanted = source.ref or "HEAD"
        await _git(
            [
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--no-recurse-submodules",
                "--",
                source.url,
                wanted,
            ],
            target,
            limits,
        )
        await _git(
            ["checkout", "--quiet", "--detach", "--no-recurse-submodules", "FETCH_HEAD"], target, limits
        )
        commit = (await _git(["rev-parse", "HEAD"], target, limits)).strip()
    if scope.cancelled_caught:
        raise SourceRefusedError(
            f"fetching {safe_text(source.url)} took longer than {limits.timeout_s:.0f} s",
            hint="clone it yourself and add the directory",
        )
    if not _COMMIT.match(commit):
        raise SourceRefusedError(f"git named no commit for {safe_text(source.url)}")
    return commit


def _configuration() -> list[str]:
    values = (
        "protocol.allow=never",
        "protocol.https.allow=always",
        "protocol.ssh.allow=always",
        "protocol.file.allow=always",
        f"core.hooksPath={os.devnull}",
        "core.fsmonitor=false",
        "core.protectNTFS=true",
        "submodule.recurse=false",
        "fetch.fsckObjects=true",
        "filter.lfs.smudge=",
        "filter.lfs.process=",
        "filter.lfs.required=false",
        "gc.auto=0",
        "advice.detachedHead=false",
    )
    return [part for value in values for part in ("-c", value)]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for name in ("GIT_SSL_CAINFO", "GIT_SSL_CAPATH"):
        if name in os.environ:
            kept[name] = os.environ[name]
    return {
        **kept,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file",
        "LC_ALL": "C",
    }


async def _git(arguments: list[str], directory: Path, limits: GitLimits) -> str:
    try:
        process = await anyio.open_process(
            ["git", *_configuration(), *arguments],
            cwd=directory,
            env=_environment(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise SourceRefusedError(
            "git is not installed where the host runs", hint="install git, or add the pack as a directory"
        ) from None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch_size, directory, limits.nbytes, process)
            output = await _read(process)
            await process.wait()
            tasks.cancel_scope.cancel()
    finally:
        _kill(process)
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await process.aclose()
    if process.returncode == 0:
        return output
    if await anyio.to_thread.run_sync(tree_size, directory) > limits.nbytes:
        raise SourceRefusedError(
            f"the repository has more than {limits.nbytes // 1024**2} MiB",
            hint="add it as a directory without its data",
        )
    lines = [safe_text(line, 300) for line in output.splitlines() if line.strip()][-_LINES_KEPT:]
    raise SourceRefusedError(f"git could not {arguments[0]}: {' | '.join(lines) or 'no output'}")


async def _read(process: Process) -> str:
    assert process.stdout is not None  # noqa: S101  (asked for above)
    kept = b""
    async for chunk in process.stdout:
        kept = (kept + chunk)[-16_384:]
    return kept.decode("utf-8", "replace")


async def _watch_size(directory: Path, nbytes: int, process: Process) -> None:
    # git has no size limit of its own; a look every half second bounds what lands on the disk.
    while await anyio.to_thread.run_sync(tree_size, directory) <= nbytes:  # noqa: ASYNC110  (nothing to wait on)
        await anyio.sleep(0.5)
    _kill(process)


def _kill(process: Process) -> None:
    if process.returncode is not None:
        return  # reaped: the number may be somebody else's by now
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
