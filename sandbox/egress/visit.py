"""What happened on one connection of a sandbox to its proxy so far; becomes its record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sandbox.egress.attempts import Verdict
from sandbox.egress.decision import FailedError, RefusedError
from sandbox.egress.streams import CountedStream


@dataclass(slots=True)
class Visit:
    """Filled in as the connection goes on."""

    began: float = field(default_factory=time.monotonic)
    target: str = ""
    method: str = ""
    address: str = ""
    secret: str = ""
    verdict: Verdict = Verdict.ALLOWED
    reason: str = ""
    up: int = 0
    down: int = 0
    outside: CountedStream | None = None
    """The stream to its target, once there is one."""

    def refused(self, error: RefusedError) -> None:
        """It came to nothing, or not to its end, because of this."""
        if self.verdict is not Verdict.ALLOWED:
            return  # the first reason counts
        self.verdict = Verdict.FAILED if isinstance(error, FailedError) else Verdict.REFUSED
        self.reason = error.why

    @property
    def way_out(self) -> CountedStream:
        """The stream to its target, which it has reached."""
        if self.outside is None:
            raise RuntimeError("nothing is connected")
        return self.outside
