"""Why a sandbox ended, told to its callers, and written down for operators."""

from __future__ import annotations

from collections.abc import Sequence

from policies import EffectivePolicy, ExtensionName
from sandbox.audit import AuditEvent, Entry, Outcome
from sandbox.audit.denial import at_limit
from sandbox.errors import EndedError, ProtocolViolationError, SandboxError
from sandbox.launcher import failure
from sandbox.launcher.verbs import Ending, SandboxRequest


def final_error(reason: SandboxError | None, ending: Ending, names: failure.Names) -> SandboxError:
    """The error of an end: the ``reason`` it was begun for, unless the kernel knows better."""
    if reason is None:
        return failure.explain(ending, names)
    if isinstance(reason, ProtocolViolationError):
        if ending.oom_killed:
            return failure.out_of_memory(names)
        return ProtocolViolationError(
            f"{names.who} broke the protocol and was ended: {reason.message}", reason.hint
        )
    return reason


def name_those_at_work(error: SandboxError, at_work: Sequence[tuple[object, ExtensionName]]) -> None:
    """The members of a group share one process: whose node ran is the first thing to look at."""
    running = [f"{what} of extension '{extension}'" for what, extension in at_work[:4]]
    error.message += f"; {', '.join(running)} ran at that time"


def lost(
    request: SandboxRequest,
    policy: EffectivePolicy,
    error: SandboxError,
    *,
    is_deliberate: bool,
    seconds: float,
) -> Entry:
    """The record of a sandbox that lived for so long and ended with ``error``."""
    limit = error.limit if isinstance(error, EndedError) else error.code
    denied = at_limit(limit, error.message, policy, request.names)
    return Entry(
        AuditEvent.SANDBOX_LOST,
        Outcome.DENIED if denied else Outcome.OK if is_deliberate else Outcome.FAILED,
        tenant=request.tenant,
        extensions=request.names,
        sandbox=request.sandbox,
        policy=policy.digest(),
        text=error.message,
        **denied,
        details={
            "limit": limit,
            "figure": error.figure if isinstance(error, EndedError) else "",
            "seconds": round(seconds, 3),
        },
    )


def ended_copy(error: SandboxError, *, call_started: bool) -> SandboxError:
    """The same error for one more caller.

    Exceptions collect tracebacks, so tasks do not share one; and the timeout of one call is to all others only the
    end of their sandbox.
    """
    if isinstance(error, EndedError):
        return EndedError(
            error.message, error.hint, limit=error.limit, figure=error.figure, call_started=call_started
        )
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
