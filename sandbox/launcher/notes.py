"""What the launcher records in its own audit log: what it decided, in the words of its decision.

The host may be somebody else's by now; so what stands here is what the launcher itself checked or saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from policies import RingfenceError, SandboxId
from sandbox.audit import AuditEvent, AuditWriter, Entry, Outcome
from sandbox.audit.denial import denial
from sandbox.audit.record import AuditValue
from sandbox.launcher import build_verb as verb
from sandbox.launcher import channel
from sandbox.launcher.verbs import Ending, LaunchedSandbox

_KEPT: Final = 4096


class Notes:
    """One launcher's records."""

    def __init__(self, audit: AuditWriter) -> None:
        self._audit = audit
        self._running: dict[SandboxId, Entry] = {}
        """As each was started, so that its end says whose it was; no end is recorded twice."""

    def attached(self) -> None:
        """A host that is not the one before."""
        self._audit.note(Entry(AuditEvent.HOST_ATTACHED))

    def complaint(self, text: str) -> None:
        """Something on the channel that no sound host sends; the caller sees to it that it is no flood."""
        self._audit.note(Entry(AuditEvent.HOST_REFUSED, Outcome.DENIED, text=text))

    @contextmanager
    def start(self, asked: channel.Ensure) -> Iterator[None]:
        """Around a start: why it was refused.

        Raises: AuditUnavailableError when the log is required and cannot be kept.
        """
        try:
            self._audit.check()
            yield
        except RingfenceError as error:
            self._audit.note(
                Entry(
                    AuditEvent.SANDBOX_REFUSED,
                    Outcome.DENIED,
                    tenant=asked.tenant,
                    extensions=[code.name for code in asked.extensions],
                    sandbox=asked.sandbox,
                    policy=asked.policy_digest,
                    text=error.message,
                    **denial(error),
                    details={"code": error.code},
                )
            )
            raise

    def started(self, asked: channel.Ensure, launched: LaunchedSandbox) -> None:
        """A container runs."""
        if launched.sandbox in self._running:
            return  # the host asked again
        entry = Entry(
            AuditEvent.SANDBOX_STARTED,
            tenant=launched.tenant,
            extensions=launched.extensions,
            sandbox=launched.sandbox,
            policy=asked.policy_digest,
            details={"container": launched.container, "uid": launched.uid, "group": asked.group or ""},
        )
        if len(self._running) < _KEPT:
            self._running[launched.sandbox] = entry
        self._audit.note(entry)

    def ended(self, sandbox: SandboxId, ending: Ending) -> None:
        """It is gone."""
        entry = self._running.pop(sandbox, None)
        if entry is None:
            return
        bad = ending.oom_killed or bool(ending.oom_events) or ending.exit_code not in (0, None)
        self._audit.note(
            Entry(
                AuditEvent.SANDBOX_ENDED,
                Outcome.FAILED if bad and not ending.killed_by_us else Outcome.OK,
                tenant=entry.tenant,
                extensions=entry.extensions,
                sandbox=sandbox,
                policy=entry.policy,
                text=_why(ending),
                details={
                    "exit_code": -1 if ending.exit_code is None else ending.exit_code,
                    "oom_killed": ending.oom_killed,
                    "oom_events": ending.oom_events,
                    "pids_refused": ending.pids_refused,
                    "killed_by_us": ending.killed_by_us,
                    "last_words": ending.last_words[-300:],
                },
            )
        )

    @contextmanager
    def build(self, asked: channel.Build) -> Iterator[None]:
        """Around a build: that it began, and why it was refused."""
        names = [asked.extension] if asked.extension else []
        details: dict[str, AuditValue] = {
            "job": asked.job,
            "step": str(asked.step),
            "network": asked.network,
            "source_builds": asked.source_builds,
            "group": asked.group or "",
        }
        try:
            self._audit.check()
            self._audit.note(
                Entry(AuditEvent.BUILD_STARTED, tenant=asked.tenant, extensions=names, details=details)
            )
            yield
        except RingfenceError as error:
            self._audit.note(
                Entry(
                    AuditEvent.BUILD_REFUSED,
                    Outcome.DENIED,
                    tenant=asked.tenant,
                    extensions=names,
                    text=error.message,
                    **denial(error),
                    details={**details, "code": error.code},
                )
            )
            raise

    def built(self, asked: channel.Build, outcome: verb.BuildOutcome) -> None:
        """A build step ended by itself or by its limit."""
        self._audit.note(
            Entry(
                AuditEvent.BUILD_ENDED,
                Outcome.OK if outcome.exit_code == 0 else Outcome.FAILED,
                tenant=asked.tenant,
                extensions=[asked.extension] if asked.extension else [],
                text=outcome.limit or "",
                details={
                    "job": asked.job,
                    "step": str(asked.step),
                    "exit_code": outcome.exit_code,
                    "seconds": round(outcome.seconds, 3),
                },
            )
        )


def _why(ending: Ending) -> str:
    if ending.oom_killed:
        return "the kernel killed it over its memory cap"
    if ending.killed_by_us:
        return "it was ended"
    if ending.exit_code is None:
        return "it was gone"
    return f"it left with status {ending.exit_code}"
