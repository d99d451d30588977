"""What no sound host does, said in the launcher's log and in its audit, but never as a flood."""

from __future__ import annotations

import logging

from policies import safe_text
from sandbox.launcher.notes import Notes
from sandbox.rates import Allowance

log = logging.getLogger(__name__)


class Complaints:
    """Those of one launcher."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._allowed = Allowance(rate=2.0, burst=20.0)
        self._unsaid = 0

    def say(self, text: str) -> None:
        """Once more; what is left out is counted."""
        if self._allowed.take():
            more = f" ({self._unsaid} more such lines were left out)" if self._unsaid else ""
            self._unsaid = 0
            log.warning("launcher channel: %s%s", safe_text(text, 300), more)
            self._notes.complaint(text + more)
        else:
            self._unsaid += 1
