"""Build containers through the container engine. What a build may ask for and its flags stand in ``build_verb.py``.

The SDK blocks, so every call runs in a thread under a limiter. Whatever happens to a step, its container is removed;
what a killed host left behind, ``sweep`` finds by its labels.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Ulimit
from packaging.utils import canonicalize_name

from policies import safe_text
from sandbox.errors import StartError
from sandbox.inventory import licence_in
from sandbox.launcher.build_verb import (
    FACTS,
    BuildJob,
    BuildOutcome,
    BuildSettings,
    IndexSettings,
    Line,
    NodeImage,
    Step,
    container_options,
    through_proxy,
)
from sandbox.launcher.holding import Holder

logger = logging.getLogger(__name__)

MAX_LINE = 1_000  # one line names all that a build from source asks for
LINES_KEPT = 60
LINES_HANDED_ON = 5_000

T = TypeVar("T")


class DockerBuilder:
    """An ``EnvironmentBuilder`` on a container engine."""

    def __init__(
        self,
        settings: BuildSettings,
        index: IndexSettings,
        connect: Callable[[], docker.DockerClient] = docker.from_env,
        *,
        holder: Holder | None = None,
    ) -> None:
        """``holder`` keeps the one directory of the host's that a build may mount, that of its proxy's socket."""
        self._settings = settings
        self._index = index
        self._connect = connect
        self._holder = holder
        self._engine: docker.DockerClient | None = None
        self._threads = anyio.CapacityLimiter(8)
        self._images: dict[str, NodeImage] = {}

    async def image(self) -> NodeImage:
        """The node image as the engine has it now. Raises: StartError."""
        return await self._call(self._read_image)

    async def run(self, job: BuildJob, step: Step, line: Line) -> BuildOutcome:
        """Run one step. Raises: StartError when the container cannot be started."""
        started = time.monotonic()
        container = await self._call(self._create_started, job, step)
        kept: deque[str] = deque(maxlen=LINES_KEPT)
        listening = True
        handed_on = 0

        def take(text: str) -> None:
            nonlocal handed_on
            kept.append(text)
            handed_on += 1
            if listening and handed_on <= LINES_HANDED_ON:
                line(text)

        def follow() -> None:
            # uv tells people what it does on stderr; its stdout repeats the lock file.
            for text in _lines(container.logs(stdout=False, stream=True, follow=True)):
                anyio.from_thread.run_sync(take, text)

        try:
            await anyio.to_thread.run_sync(follow, limiter=self._threads, abandon_on_cancel=True)
            status = await self._call(container.wait)
            await self._call(container.reload)
        finally:
            listening = False
            with anyio.CancelScope(shield=True), anyio.move_on_after(30):
                await self._call(_remove, container)
        exit_code = int(status["StatusCode"])
        # The kernel may have killed a child and left uv to report it.
        memory = bool(container.attrs["State"].get("OOMKilled")) or exit_code == 137
        return BuildOutcome(exit_code, tuple(kept), time.monotonic() - started, "memory" if memory else "")

    async def sweep(self) -> int:
        """Remove build containers of this instance; returns how many there were."""
        return await self._call(self._sweep)

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await anyio.to_thread.run_sync(function, *arguments, limiter=self._threads)
        except ImageNotFound:
            raise StartError(
                f"the image '{self._settings.image}' is not there", hint="build it: make images"
            ) from None
        except APIError as error:
            reason = safe_text(str(error.explanation or error), 400)
            raise StartError(
                f"the container engine refused a build: {reason}", hint="ringfence doctor"
            ) from error
        except (DockerException, OSError) as error:
            reason = safe_text(str(error), 200)
            raise StartError(
                f"the container engine does not answer: {reason}", hint="ringfence doctor"
            ) from error

    def _client(self) -> docker.DockerClient:
        if self._engine is None:
            self._engine = self._connect()
        return self._engine

    def _create_started(self, job: BuildJob, step: Step) -> Container:
        proxy = [self._settings.proxy] if self._settings.proxy and through_proxy(self._settings, job) else []
        with self._holder.held(proxy) if self._holder else nullcontext():
            container = self._create(job, step)
            try:
                container.start()
            except BaseException:
                _remove(container)
                raise
            return container

    def _create(self, job: BuildJob, step: Step) -> Container:
        options = container_options(job, step, self._settings, self._index)
        return self._client().containers.create(
            **options,
            ulimits=[
                Ulimit(name="nofile", soft=self._settings.nofile, hard=self._settings.nofile),
                Ulimit(name="fsize", soft=self._settings.file_size, hard=self._settings.file_size),
                Ulimit(name="core", soft=0, hard=0),
            ],
            log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "4m", "max-file": "1"}),
        )

    def _read_image(self) -> NodeImage:
        client = self._client()
        image_id = str(client.images.get(self._settings.image).id)
        if image_id not in self._images:
            container = client.containers.create(
                image_id,
                command=["-"],
                network_mode="none",
                labels={"ringfence.instance": self._settings.instance, "ringfence.purpose": "build"},
            )
            try:
                chunks, _ = container.get_archive(FACTS)
                self._images[image_id] = _facts(image_id, b"".join(chunks))
            except NotFound:
                raise StartError(
                    f"the image '{self._settings.image}' has no {FACTS}, so it is no node image",
                    hint="build it: make images",
                ) from None
            finally:
                _remove(container)
        return self._images[image_id]

    def _sweep(self) -> int:
        labels = [f"ringfence.instance={self._settings.instance}", "ringfence.purpose=build"]
        left = self._client().containers.list(all=True, filters={"label": labels})
        for container in left:
            logger.info("removing build container %s of an earlier run", container.name)
            _remove(container)
        return len(left)


def _remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except NotFound:
        pass


def _facts(image_id: str, archive: bytes) -> NodeImage:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        data: Any = json.load(member) if member else {}
    return NodeImage(
        id=image_id,
        variant=str(data["variant"]),
        python=str(data["python"]),
        machine=str(data["machine"]),
        packages={canonicalize_name(name): str(version) for name, version in data["packages"].items()},
        absent={canonicalize_name(name): str(reason) for name, reason in data.get("absent", {}).items()},
        licences={
            canonicalize_name(name): licence
            for name, lines in data.get("licences", {}).items()
            if (licence := licence_in(str(lines)))
        },
    )


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Safe, bounded lines from the pieces an engine streams."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[: 4 * MAX_LINE]
        for raw in whole:
            if text := safe_text(raw[: 4 * MAX_LINE].decode("utf-8", "replace").rstrip(), MAX_LINE):
                yield text
    if text := safe_text(rest.decode("utf-8", "replace").rstrip(), MAX_LINE):
        yield text
