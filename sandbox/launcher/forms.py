"""The launcher's values as the channel says them, one function for each."""

from __future__ import annotations

from sandbox.launcher import build_verb as verb
from sandbox.launcher import channel
from sandbox.launcher.verbs import Ending, LaunchedSandbox, Usage


def launched(item: LaunchedSandbox) -> channel.Launched:
    """A sandbox that was started, or is listed."""
    return channel.Launched(
        sandbox=item.sandbox,
        tenant=item.tenant,
        extensions=list(item.extensions),
        container=item.container,
        uid=item.uid,
        running=item.running,
        stdio=item.stdio is not None,
        multiplexed=item.multiplexed,
        code_root=item.code_root,
        seconds=dict(item.seconds),
    )


def facts(image: verb.NodeImage) -> channel.ImageFacts:
    """What a node image is."""
    return channel.ImageFacts(
        id=image.id,
        variant=image.variant,
        python=image.python,
        machine=image.machine,
        packages=dict(image.packages),
        absent=dict(image.absent),
        licences=dict(image.licences),
    )


def used(usage: Usage) -> channel.Used:
    """What a sandbox uses."""
    return channel.Used(
        memory=usage.memory, pids=usage.pids,
        oom_kills=usage.oom_kills, pids_refused=usage.pids_refused, cpu_s=usage.cpu_s,
        memory_peak=usage.memory_peak, file_cache=usage.file_cache, pids_peak=usage.pids_peak,
    )  # fmt: skip


def ended(ending: Ending) -> channel.Ended:
    """How a sandbox ended."""
    return channel.Ended(
        exit_code=ending.exit_code,
        oom_killed=ending.oom_killed,
        oom_events=ending.oom_events,
        pids_refused=ending.pids_refused,
        killed_by_us=ending.killed_by_us,
        last_words=ending.last_words,
    )


def outcome(built: verb.BuildOutcome) -> channel.Outcome:
    """What came of a step of a build."""
    return channel.Outcome(
        exit_code=built.exit_code, lines=list(built.lines), seconds=built.seconds, limit=built.limit
    )
