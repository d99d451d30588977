"""What the launcher of sandboxes asks of the container engine, and the only place where it does.

Every call of the SDK blocks, so each runs in a thread under a limiter of our own (``ask``); the engine's errors become
ours here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from policies import safe_text
from sandbox.errors import StartError
from sandbox.launcher.spec import ContainerSpec

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS: Final = 16
DOCTOR: Final = "run 'ringfence doctor'"


def remove_container(api: Any, container: str) -> None:
    """Remove a container, whatever it does; also when it is not there, or is being removed. Blocking.

    Raises:
        APIError: the engine refuses.
    """
    try:
        api.remove_container(container, v=True, force=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != HTTPStatus.CONFLICT:  # somebody is removing it already
            raise


class ContainerEngine:
    """The engine at ``url``, or where the environment says. Nothing but ``connect`` blocks."""

    api: Any
    """The SDK's own, once ``open`` has returned."""
    info: Mapping[str, Any]
    """What the engine said of itself."""

    def __init__(self, url: str | None, image: str, filters: Mapping[str, list[str]]) -> None:
        """``image`` is what an error names; ``filters`` tell our containers from all others."""
        self._url = url
        self._image = image
        self._filters = dict(filters)
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def open(self) -> None:
        """Reach it.

        Raises:
            StartError: it does not answer.
        """
        self._client = await self.ask("reach it", self.connect)
        self.api = self._client.api
        self.info = await self.ask("ask it what it is", self.api.info)

    async def close(self) -> None:
        """Let go of it."""
        await self.in_thread(self._client.close)

    def connect(self) -> docker.DockerClient:
        """One more client of it. Blocking."""
        url = self._url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        if url.startswith("unix://"):
            # The SDK's own error for this is a chain of four, and it leaves its socket open.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(url.removeprefix("unix://"))
        if self._url:
            return docker.DockerClient(base_url=url, version="auto")
        return docker.from_env(version="auto")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do what blocks, in one of its threads."""
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    async def ask(self, doing: str, work: Callable[[], T]) -> T:
        """Do what asks the engine.

        Raises:
            StartError: it refuses, or does not answer; ``doing`` says to what.
        """
        try:
            return await self.in_thread(work)
        except (DockerException, requests.RequestException, OSError) as error:
            raise translated(error, doing, self._image) from error

    async def containers(self) -> Sequence[dict[str, Any]]:
        """Ours, those that do not run any more among them."""
        return await self.ask("list sandboxes", lambda: self.api.containers(all=True, filters=self._filters))

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container, which does not run yet; its id."""
        return await self.ask("create a sandbox", lambda: self._create(spec))

    async def attach(self, container: str, *, stdin: bool) -> socket.socket:
        """A plain socket to its standard streams."""
        return await self.ask("attach to a sandbox", lambda: self._attach(container, stdin=stdin))

    async def start(self, container: str) -> None:
        """Run it."""
        await self.ask("start a sandbox", lambda: self.api.start(container))

    async def kill(self, container: str) -> bool:
        """End it now; True if it still ran."""
        return await self.ask("end a sandbox", lambda: self._kill(container))

    async def inspect(self, container: str) -> dict[str, Any]:
        """How it is; empty when there is none."""
        return await self.ask("inspect a sandbox", lambda: self._state(container))

    async def remove(self, container: str) -> None:
        """Remove a container, whatever it does; also when it is not there."""

        await self.ask("remove a sandbox", lambda: remove_container(self.api, container))

    def _create(self, spec: ContainerSpec) -> str:
        made = self.api.create_container_from_config(dict(spec.config), name=spec.name)
        for warning in made.get("Warnings") or ():
            # A cap that this kernel cannot enforce: the self-test decides whether that is fatal, but say it.
            log.warning("container engine: %s", warning)
        return str(made["Id"])

    def _attach(self, container: str, *, stdin: bool) -> socket.socket:
        params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
        attached = self.api.attach_socket(container, params=params)
        # The SDK's wrapper reads ahead and lives as long as its response; a duplicate is a plain socket.
        plain = socket.socket(fileno=os.dup(attached.fileno()))
        underlying, response = attached._sock, attached._response  # noqa: SLF001  (nothing public closes them)
        response.close()
        underlying.close()
        plain.setblocking(False)
        return plain

    def _kill(self, container: str) -> bool:
        try:
            self.api.kill(container)
        except NotFound:
            return False
        except APIError as error:
            if error.status_code == 409:  # not running
                return False
            raise
        return True

    def _state(self, container: str) -> dict[str, Any]:
        try:
            state: dict[str, Any] = self.api.inspect_container(container)["State"]
        except NotFound:
            return {}
        return state


def translated(error: Exception, doing: str, image: str) -> StartError:
    """The engine's error as ours: what is missing on this machine, and what to do."""
    if isinstance(error, ImageNotFound):
        return StartError(f"image '{image}' not found", f"build it with 'make up', or {DOCTOR}")
    if isinstance(error, APIError):
        said = safe_text(str(error.explanation or error), 500)
        low = said.lower()
        if "no such image" in low:
            return StartError(f"image '{image}' not found", f"build it with 'make up', or {DOCTOR}")
        if "could not select device driver" in low or "nvidia" in low or "cdi" in low:
            return StartError(
                f"the policy asks for GPUs, and this container engine refuses: {said}",
                "install the NVIDIA container toolkit, or remove 'gpus' from the policy",
            )
        if "unknown or invalid runtime" in low or "unknown runtime" in low:
            return StartError(
                f"the policy's isolation needs a runtime that this container engine lacks: {said}",
                "install runsc and name it in daemon.json, or write 'isolation: runc'",
            )
        if "bind source path does not exist" in low:
            return StartError(f"a directory cannot be mounted: {said}", DOCTOR)
        return StartError(f"the container engine cannot {doing}: {said}", DOCTOR)
    return StartError(
        f"the container engine does not answer (to {doing}): {safe_text(str(error), 300)}",
        f"start it, or {DOCTOR}",
    )
