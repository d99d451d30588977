"""Which host the launcher serves, what it is told meanwhile, and what becomes of its sandboxes when it goes.

They end when another host attaches (the one before is dead), when it detaches, and when nobody has come back for
``orphan_s``. Whoever comes back in time is told what happened meanwhile.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from policies import SandboxId
from sandbox.errors import StartError
from sandbox.launcher import build_verb as verb
from sandbox.launcher import channel
from sandbox.launcher.attached_host import AttachedHost
from sandbox.launcher.line import Line
from sandbox.launcher.notes import Notes
from sandbox.launcher.verbs import Launcher

log = logging.getLogger(__name__)

_EVENTS_KEPT: Final = 10_000
_STOPPED_S: Final = 90.0


class Attendance:
    """One host at a time; ``host`` is the one that attached last, None once what it had has been ended."""

    def __init__(
        self, launcher: Launcher, builder: verb.EnvironmentBuilder, notes: Notes, *, orphan_s: float
    ) -> None:
        self._launcher = launcher
        self._builder = builder
        self._notes = notes
        self._orphan_s = orphan_s
        self._run = secrets.token_hex(16)
        self.host: AttachedHost | None = None
        self._attaching = anyio.Lock()
        self._events: deque[channel.Event] = deque(maxlen=_EVENTS_KEPT)
        self._seq = 0
        self._news = anyio.Event()

    async def attach(self, line: Line, asked: channel.Attach, group: TaskGroup) -> None:
        """Let a host in, or in again, and tell it what happens while it stays; what comes after is ``group``'s."""
        async with self._attaching:
            before = self.host
            if before is None or before.session != asked.session:
                if before is not None:
                    log.info("another host attached: what the one before had is ended")
                    before.gone.set()
                    self.host = None  # from here on it is told that nobody knows it
                    await self._end_all(before)
                host = self.host = AttachedHost(asked.session)
                self._notes.attached()
                await self._builder.sweep()
            else:
                host = before
                host.gone.set()  # its former connection, if there is one
                host.returned.set()
                host.gone, host.returned = anyio.Event(), anyio.Event()
        gone = host.gone
        complete = asked.run == self._run and (
            asked.since == self._seq
            or (bool(self._events) and self._events[0].seq <= asked.since + 1 <= self._seq + 1)
        )
        at = asked.since if complete else self._seq
        answer = channel.Attached(run=self._run, seq=at, complete=complete)
        try:
            await line.send({"result": answer.model_dump()})
            async with anyio.create_task_group() as standing:

                async def until_gone() -> None:
                    await gone.wait()
                    standing.cancel_scope.cancel()

                standing.start_soon(until_gone)
                standing.start_soon(line.until_hung_up, standing.cancel_scope)
                while True:
                    news = self._news
                    for event in [event for event in self._events if event.seq > at]:
                        await line.send({"event": event.model_dump()})
                        at = event.seq
                    if self._news is news:
                        await news.wait()
        finally:
            gone.set()
            if self.host is host and host.gone is gone:
                group.start_soon(self._end_orphans, host, gone)

    async def follow(self, *, task_status: TaskStatus[None]) -> None:
        """Keep what happens to sandboxes for whoever is told, until cancelled."""
        async with self._launcher.events() as events:
            task_status.started()
            async for event in events:
                self._seq += 1
                self._events.append(
                    channel.Event.model_validate(
                        {"seq": self._seq, "sandbox": event.sandbox, "kind": event.kind}
                    )
                )
                self._news.set()
                self._news = anyio.Event()

    async def _end_orphans(self, host: AttachedHost, gone: anyio.Event) -> None:
        """Whoever does not come back within ``orphan_s`` has no sandboxes any more."""
        with anyio.move_on_after(self._orphan_s):
            await host.returned.wait()
            return
        async with self._attaching:
            if self.host is host and host.gone is gone:
                if host.live:
                    log.warning("the host has been gone for %.0f s", self._orphan_s)
                self.host = None
                await self._end_all(host)

    async def detach(self, line: Line, host: AttachedHost) -> None:
        """It leaves for good: what it had ends now."""
        host.gone.set()
        with anyio.CancelScope(shield=True):
            async with self._attaching:
                if self.host is host:
                    self.host = None
                await self._end_all(host)
        await line.send({"result": {"count": 0}})

    async def _end_all(self, host: AttachedHost) -> None:
        # A start that is under way would give the sandbox to nobody once the look at what lives is over.
        with anyio.move_on_after(_STOPPED_S, shield=True):
            await host.take_back()
        async with anyio.create_task_group() as group:
            for sandbox in list(host.live):
                group.start_soon(self.end, host, sandbox)

    async def end(self, host: AttachedHost, sandbox: SandboxId) -> None:
        """End one of its sandboxes, whatever else is going on."""
        try:
            with anyio.fail_after(_STOPPED_S, shield=True):
                self._notes.ended(sandbox, await self._launcher.stop(sandbox))
            host.forget(sandbox)
        except (StartError, TimeoutError) as error:
            log.error("sandbox %s may still run: %s", sandbox, error)  # noqa: TRY400
