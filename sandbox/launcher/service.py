"""The launcher's server: a Unix socket, one host, and nothing that the policies on disk do not allow.

Whoever connects must be the host's uid. A host says ``attach`` first and keeps that connection: it gets events there,
and the sandboxes are its own for as long as it stays (``attendance.py``), or the launcher. Every request
(``answering.py``) has a connection of its own (``line.py``); hanging up takes it back. Whatever a host sends is
bounded: bytes, connections, time to say what it wants, sandboxes and builds at once.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
from anyio.abc import TaskStatus, UNIXSocketStream

from policies import PolicyError, RingfenceError
from runtime.wire import FrameError
from sandbox.audit import AuditWriter
from sandbox.errors import RuntimeRefusedError, StartError
from sandbox.launcher import build_verb as verb
from sandbox.launcher import channel
from sandbox.launcher.answering import Answering
from sandbox.launcher.attendance import Attendance
from sandbox.launcher.complaints import Complaints
from sandbox.launcher.gate import Gate
from sandbox.launcher.line import HUNG_UP, Line
from sandbox.launcher.notes import Notes
from sandbox.launcher.verbs import Launcher

log = logging.getLogger(__name__)


def own_version() -> str:
    """Of the installed distribution."""
    try:
        return metadata.version("ringfence")
    except metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What one host may ask for at once; no request changes these."""

    sandboxes: int = 32
    builds: int = 4
    connections: int = 256
    request_s: float = 10.0
    """From connecting to the end of the request."""
    orphan_s: float = 30.0
    """How long sandboxes outlive the connection of their host."""
    host_uid: int = field(default_factory=os.geteuid)


class LauncherService:
    """Serves one launcher and one builder; ``run`` until cancelled."""

    def __init__(
        self,
        path: Path,
        launcher: Launcher,
        builder: verb.EnvironmentBuilder,
        gate: Gate,
        limits: ServiceLimits | None = None,
        audit: AuditWriter | None = None,
    ) -> None:
        self._path = path
        self._gate = gate
        self._limits = limits or ServiceLimits()
        notes = Notes(audit or AuditWriter(None, "launcher"))
        self._complain = Complaints(notes).say
        self._attendance = Attendance(launcher, builder, notes, orphan_s=self._limits.orphan_s)
        self._answering = Answering(
            launcher,
            builder,
            gate,
            notes,
            self._attendance,
            most_sandboxes=self._limits.sandboxes,
            most_builds=self._limits.builds,
        )
        self._open = 0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. The launcher is entered and left by the caller.

        Raises:
            StartError: the socket cannot be made.
        """
        made = await anyio.to_thread.run_sync(self._listen)
        try:
            listener = await anyio.abc.SocketListener.from_socket(made)
            async with listener, anyio.create_task_group() as group:
                await group.start(self._attendance.follow)
                self._group = group
                task_status.started()
                await listener.serve(self._visit)  # type: ignore[arg-type]  # its streams are of Unix sockets
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: self._path.unlink(missing_ok=True))

    def _listen(self) -> socket.socket:
        """The socket, which nobody but the host's uid can reach from its first moment on. Blocking."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            if self._path.is_socket():
                self._path.unlink()  # of a launcher that was killed
            # The file's mode counts for whoever connects, and nobody can before 'listen'.
            made.bind(str(self._path))
            self._path.chmod(0o600)
            if self._limits.host_uid != os.geteuid():
                os.chown(self._path, self._limits.host_uid, -1)
            made.listen(128)
        except OSError as error:
            made.close()
            raise StartError(
                f"the launcher cannot listen at {self._path}: {error.strerror}",
                "set RINGFENCE_RUN_DIR to a directory that it can write (its path may be 90 characters long)",
            ) from error
        return made

    # -- connections -------------------------------------------------------------------------------------------------

    async def _visit(self, stream: UNIXSocketStream) -> None:
        async with stream:
            if self._open >= self._limits.connections:
                self._complain(f"more than {self._limits.connections} connections at once")
                return
            self._open += 1
            try:
                line = Line(stream, self._complain)
                peer = line.peer
                if peer.uid != self._limits.host_uid:
                    self._complain(f"uid {peer.uid} (process {peer.pid}) connected")
                    return
                await self._hear(line)
            except HUNG_UP:
                pass  # the host, which is its right
            except FrameError as error:
                self._complain(str(error))
            except Exception:  # one request must not end the launcher
                log.exception("a request of the host failed unexpectedly")
            finally:
                self._open -= 1

    async def _hear(self, line: Line) -> None:
        body = b""
        with anyio.move_on_after(self._limits.request_s) as limit:
            body = await line.request()
        if limit.cancelled_caught:
            self._complain(f"a connection said nothing for {self._limits.request_s:g} s")
            return
        try:
            asked = channel.request(body)
            if isinstance(asked, channel.About):
                await self._tell_about(line)
                return
            if isinstance(asked, channel.Attach):
                await self._attendance.attach(line, asked, self._group)
                return
            host = self._attendance.host
            if host is None or host.session != asked.session:
                raise channel.RefusedError(
                    "the launcher does not know this host, or has another by now",
                    "is a second host running on this data directory?",
                )
            if isinstance(asked, channel.Detach):
                await self._attendance.detach(line, host)
                return
            await host.answering(lambda: self._answering.answer(line, host, asked))
        except RingfenceError as error:
            if isinstance(error, channel.RefusedError):
                self._complain(error.message)
            else:
                log.info("a request of the host was refused: %s", error)
            # A wrong policy knows its file and line, which its text says and its message does not.
            text = str(error) if isinstance(error, PolicyError) else error.message
            code = error.code if error.code == RuntimeRefusedError.code else StartError.code
            refusal = channel.Refusal(code=code, message=text, hint=error.hint)  # type: ignore[arg-type]
            await line.send({"error": refusal.model_dump()})

    async def _tell_about(self, line: Line) -> None:
        version, policies = await anyio.to_thread.run_sync(
            lambda: (own_version(), self._gate.policies.fingerprint())
        )
        host = self._attendance.host
        told = channel.Told(
            version=version,
            channel=channel.VERSION,
            has_host=host is not None and not host.gone.is_set(),
            sandboxes=0 if host is None else len(host.live),
            policies=policies,
            build_network=self._gate.build_network,
        )
        await line.send({"result": told.model_dump()})

    # -- the host's standing connection --------------------------------------------------------------------------------

    # -- requests ------------------------------------------------------------------------------------------------------
