"""One step of a build, bounded in time and in what it leaves on the disk, whoever runs it."""

from __future__ import annotations

import anyio
import anyio.to_thread

from policies import RingfenceError
from sandbox.launcher import build_verb as verb
from sandbox.trees import tree_size


async def run_bounded(
    builder: verb.EnvironmentBuilder,
    job: verb.BuildJob,
    step: verb.Step,
    line: verb.Line,
    *,
    nbytes: int,
    seconds: float,
) -> tuple[verb.BuildOutcome | None, bool]:
    """What came of it, None when it was cut short; and whether that was because its directory grew over ``nbytes``."""
    outcome: verb.BuildOutcome | None = None
    failed: RingfenceError | None = None
    full = False

    async def watch_size() -> None:
        # A bind mount has no size limit; a look every second bounds what a build leaves on the disk.
        nonlocal full
        while not full:
            await anyio.sleep(1)
            full = await anyio.to_thread.run_sync(tree_size, job.directory) > nbytes
        tasks.cancel_scope.cancel()

    with anyio.move_on_after(max(0.0, seconds)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_size)
            try:
                outcome = await builder.run(job, step, line)
            except RingfenceError as error:
                failed = error  # not raised in here: a task group would wrap it
            tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return outcome, full
