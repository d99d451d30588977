"""Every attempt to leave a sandbox, as one record that goes through one function.

A record is made of hostile text (the name that was asked for), so it is made safe here, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from policies import ExtensionName, SandboxId, TenantId

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What became of it."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    """By policy, or because of where the name leads."""
    FAILED = "failed"
    """Allowed, and did not work, or was ended by a limit."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection that a sandbox asked for."""

    tenant: TenantId
    extensions: tuple[ExtensionName, ...]
    sandbox: SandboxId
    target: str
    """``host:port`` as asked for, made safe; empty when the request could not be read."""
    verdict: Verdict
    reason: str
    """The policy's line that allowed it, or why it was refused and what would allow it."""
    address: str = ""
    """Where it was connected to."""
    method: str = ""
    """``CONNECT``, or the method of a request that the proxy saw."""
    secret: str = ""
    """Name of the secret that was filled in."""
    up: int = 0
    down: int = 0
    seconds: float = 0.0
    unrecorded: int = 0
    """Attempts since the last record that came faster than allowed and have none of their own."""


AttemptSink = Callable[[Attempt], None]


def unwatched(_attempt: Attempt) -> None:
    """For a sandbox that nobody watches."""


def log_attempt(attempt: Attempt) -> None:
    """The record as a log line: what was not allowed is a warning."""
    level = logging.INFO if attempt.verdict is Verdict.ALLOWED else logging.WARNING
    log.log(
        level,
        "egress %s: sandbox %s of tenant %s (%s) to %s%s: %s; %d bytes up, %d down, %.2f s%s%s",
        attempt.verdict.value,
        attempt.sandbox,
        attempt.tenant,
        ", ".join(attempt.extensions),
        attempt.target or "(unreadable)",
        f" [{attempt.address}]" if attempt.address else "",
        attempt.reason,
        attempt.up,
        attempt.down,
        attempt.seconds,
        f"; secret {attempt.secret}" if attempt.secret else "",
        f"; {attempt.unrecorded} more were refused unread" if attempt.unrecorded else "",
    )
