"""What a tenant's packs print, as ComfyUI's log routes and messages show it. The server's own log is not in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine import Engine
from policies import TenantId
from sandbox import LogLine

SHOWN_LINES = 300
NEW_LINES = 500  # in one message
INTERVAL_S = 1.0
SIZE = {"cols": 80, "rows": 24}


@dataclass(frozen=True, slots=True)
class PackLine:
    """A line and whose it is."""

    extension: str
    line: LogLine

    @property
    def entry(self) -> dict[str, str]:
        """ComfyUI's form."""
        return {"t": self.line.at.isoformat(), "m": f"[{self.extension}] {self.line.text}\n"}


async def lines_of(engine: Engine, tenant: TenantId, limit: int = SHOWN_LINES) -> list[PackLine]:
    """The newest lines of the tenant's running sandboxes, oldest first."""
    found: list[PackLine] = []
    for info in engine.sandboxes.list(tenant):
        name = "+".join(info.extensions)
        found += [PackLine(name, line) for line in await engine.sandboxes.logs(tenant, info.id, limit)]
    return sorted(found, key=lambda line: line.line.at)[-limit:]


def entries_message(lines: Sequence[PackLine]) -> dict[str, Any]:
    """The data of a ``logs`` message."""
    return {"entries": [line.entry for line in lines], "size": None}


class NewLines:
    """Lines that were printed since the last look."""

    def __init__(self, engine: Engine, tenant: TenantId) -> None:
        self._engine = engine
        self._tenant = tenant
        self._seen = datetime.now(UTC)

    async def take(self) -> list[PackLine]:
        """The new ones."""
        lines = await lines_of(self._engine, self._tenant, NEW_LINES)
        new = [line for line in lines if line.line.at > self._seen]
        if new:
            self._seen = new[-1].line.at
        return new
