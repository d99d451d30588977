"""What a host asks for, done: but first each request is held against the gate and the launcher's limits."""

from __future__ import annotations

import anyio
import anyio.to_thread

from policies import ExtensionName, RingfenceError, SandboxId, TenantId
from sandbox.errors import StartError
from sandbox.launcher import build_verb as verb
from sandbox.launcher import channel, forms
from sandbox.launcher.attached_host import AttachedHost
from sandbox.launcher.attendance import Attendance
from sandbox.launcher.build_lines import BuildLines
from sandbox.launcher.gate import Gate
from sandbox.launcher.line import Line
from sandbox.launcher.notes import Notes
from sandbox.launcher.verbs import LaunchedSandbox, Launcher


class Answering:
    """Of one launcher and one builder."""

    def __init__(
        self,
        launcher: Launcher,
        builder: verb.EnvironmentBuilder,
        gate: Gate,
        notes: Notes,
        attendance: Attendance,
        *,
        most_sandboxes: int,
        most_builds: int,
    ) -> None:
        self._launcher = launcher
        self._builder = builder
        self._gate = gate
        self._notes = notes
        self._attendance = attendance
        self._most_sandboxes = most_sandboxes
        self._most_builds = most_builds

    async def answer(self, line: Line, host: AttachedHost, asked: channel.Request) -> None:
        """Do what ``host`` asks and send it what came of it.

        Raises:
            RingfenceError: it may not have it, or it went wrong; the line is still there to say so.
        """
        launcher, builder = self._launcher, self._builder
        match asked:
            case channel.Ensure():
                await self._ensure(line, host, asked)
            case channel.Stop():
                await self._stop(line, host, asked)
            case channel.Build():
                await self._build(line, host, asked)
            case channel.List():
                found = [forms.launched(item).model_dump() for item in await launcher.list()]
                await line.send({"result": {"sandboxes": found}})
            case channel.Stats():
                usage = await launcher.stats(SandboxId(asked.sandbox))
                await line.send({"result": forms.used(usage).model_dump()})
            case channel.Logs():
                text = await launcher.logs(SandboxId(asked.sandbox), limit=asked.limit)
                await line.send({"result": {"text": text}})
            case channel.Image():
                await line.send({"result": forms.facts(await builder.image()).model_dump()})
            case channel.Sweep():
                count = 0 if host.builds else await builder.sweep()
                await line.send({"result": {"count": count}})
            case channel.Attach() | channel.Detach():  # the coming and going, which is another's matter
                raise channel.RefusedError("a host attaches with its first word")

    async def _ensure(self, line: Line, host: AttachedHost, asked: channel.Ensure) -> None:
        sandbox = SandboxId(asked.sandbox)
        if sandbox not in host.live and len(host.live) >= self._most_sandboxes:
            raise StartError(
                f"{len(host.live)} sandboxes run already, the most that the launcher allows",
                "stop some, or raise RINGFENCE_MAX_SANDBOXES of the launcher",
            )
        if sandbox in host.starting:
            raise StartError(f"sandbox '{sandbox}' is being started already")
        ours = sandbox not in host.live
        host.live.add(sandbox)
        host.starting.add(sandbox)
        delivered = False

        async def start() -> LaunchedSandbox:
            admission = await anyio.to_thread.run_sync(self._gate.admission, asked)
            if ours:
                # No wait between look and entry: two that come together do not both get the last place.
                admission.check_room(host.parts.values())
                host.parts[sandbox] = admission.part
            return await self._launcher.ensure(admission.request)

        try:
            with self._notes.start(asked):
                started = await line.while_wanted(start)
            if started is None:
                return
            self._notes.started(asked, started)
            stdio = started.stdio
            if stdio is not None and stdio.fileno() < 0:
                raise StartError(f"the stream of sandbox '{sandbox}' was handed over already")
            try:
                await line.send({"result": forms.launched(started).model_dump()})
                if stdio is not None:
                    await line.hand_over(stdio.fileno())
                delivered = True
            finally:
                if stdio is not None:
                    stdio.close()  # the host has its own now
        finally:
            host.starting.discard(sandbox)
            if (ours and not delivered) or sandbox in host.unwanted:
                # Refused, taken back, stopped meanwhile, or never heard of: nothing of it stays.
                host.unwanted.discard(sandbox)
                await self._attendance.end(host, sandbox)

    async def _stop(self, line: Line, host: AttachedHost, asked: channel.Stop) -> None:
        sandbox = SandboxId(asked.sandbox)
        with anyio.CancelScope(shield=True):
            ending = await self._launcher.stop(sandbox, grace_s=asked.grace_s)
            self._notes.ended(sandbox, ending)
            if sandbox in host.starting:
                host.unwanted.add(sandbox)  # it may yet come: whoever starts it puts it away
            else:
                host.forget(sandbox)
        await line.send({"result": forms.ended(ending).model_dump()})

    async def _build(self, line: Line, host: AttachedHost, asked: channel.Build) -> None:
        if host.builds >= self._most_builds:
            raise StartError(
                f"{host.builds} builds run already, the most that the launcher allows",
                "wait for one to end",
            )
        if asked.job in host.jobs:
            raise StartError(f"the build '{asked.job}' runs already")
        host.builds += 1
        host.jobs.add(asked.job)

        async def build() -> verb.BuildOutcome:
            policy = await anyio.to_thread.run_sync(self._gate.build_policy, asked)
            job = verb.BuildJob(
                id=asked.id,
                tenant=TenantId(asked.tenant),
                directory=self._gate.places.environments / verb.JOBS / asked.job,
                cache=self._gate.places.launcher_data,  # not used: the builder has its own
                network=asked.network,
                source_builds=asked.source_builds,
                timeout_s=policy.build.timeout_s,
                has_constraints=asked.has_constraints,
                extension=None if asked.extension is None else ExtensionName(asked.extension),
                group=asked.group,
            )
            failed: RingfenceError | None = None
            outcome = verb.BuildOutcome(-1, (), 0.0)
            async with anyio.create_task_group() as group:
                lines = BuildLines(lambda text: line.send({"line": text}))
                group.start_soon(lines.forward)
                try:
                    outcome = await self._builder.run(job, asked.step, lines.take)
                except RingfenceError as error:
                    failed = error
                await lines.close()
            if failed is not None:
                raise failed
            return outcome

        try:
            with self._notes.build(asked):
                outcome = await line.while_wanted(build)
        finally:
            host.builds -= 1
            host.jobs.discard(asked.job)
        if outcome is not None:
            self._notes.built(asked, outcome)
            await line.send({"result": forms.outcome(outcome).model_dump()})
