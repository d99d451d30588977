"""``MemoryStorage``: a ``Storage`` that forgets when the process ends; for tests, through ``engine.testing``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.database import encode
from engine.errors import DuplicatePromptError, QueueFullError
from engine.storage import NewPrompt, QueuedPrompt
from policies import TenantId

JSON = Any


class MemoryStorage:
    """``Storage`` that forgets when the process ends."""

    def __init__(self) -> None:
        self._pending: dict[tuple[TenantId, str], QueuedPrompt] = {}
        self._running: dict[tuple[TenantId, str], QueuedPrompt] = {}
        self._history: dict[TenantId, dict[str, JSON]] = {}
        self._counters: Counter[TenantId] = Counter()

    async def requeue_running(self) -> int:
        count = len(self._running)
        self._pending.update(self._running)
        self._running.clear()
        return count

    async def enqueue(self, new: NewPrompt, *, limit: int) -> QueuedPrompt:
        key = (new.tenant, new.prompt_id)
        if key in self._pending or key in self._running:
            raise DuplicatePromptError(new.prompt_id)
        if len(await self.pending(new.tenant)) >= limit:
            raise QueueFullError(limit)
        number = new.number
        if number is None:
            number = -self._counters[new.tenant] if new.front else self._counters[new.tenant]
            self._counters[new.tenant] += 1
        row = QueuedPrompt(
            new.tenant, new.prompt_id, number, new.prompt, new.extra_data, tuple(new.outputs), new.secrets
        )
        self._pending[key] = row
        return row

    async def pending_count(self, tenant: TenantId) -> int:
        return len(await self.pending(tenant))

    async def waiting_tenants(self) -> Sequence[TenantId]:
        return list(dict.fromkeys(tenant for tenant, _ in self._pending))

    async def claim_next(self, tenant: TenantId, busy: Collection[str] = ()) -> QueuedPrompt | None:
        for row in await self.pending(tenant):
            if row.client_id not in busy:
                self._running[tenant, row.prompt_id] = self._pending.pop((tenant, row.prompt_id))
                return row
        return None

    async def finish(self, tenant: TenantId, prompt_id: str, entry: Mapping[str, JSON]) -> None:
        self._running.pop((tenant, prompt_id), None)
        self._history.setdefault(tenant, {}).pop(prompt_id, None)
        self._history[tenant][prompt_id] = entry

    async def pending(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        rows = [row for (owner, _), row in self._pending.items() if owner == tenant]
        return sorted(rows, key=lambda row: (row.number, row.prompt_id))

    async def running(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        return [row for (owner, _), row in self._running.items() if owner == tenant]

    async def remaining(self, tenant: TenantId) -> int:
        return len(await self.pending(tenant)) + len(await self.running(tenant))

    async def remove(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> Sequence[str]:
        rows = [
            row.prompt_id
            for row in await self.pending(tenant)
            if prompt_ids is None or row.prompt_id in prompt_ids
        ]
        for prompt_id in rows:
            del self._pending[tenant, prompt_id]
        return rows

    async def history(
        self, tenant: TenantId, *, max_items: int | None = None, offset: int | None = None
    ) -> dict[str, JSON]:
        items = list(self._history.get(tenant, {}).items())
        if offset is not None and offset >= 0:
            items = items[offset:]
            return dict(items if max_items is None else items[:max_items])
        return dict(items if max_items is None else items[len(items) - min(max_items, len(items)) :])

    async def history_size(self, tenant: TenantId) -> tuple[int, int]:
        entries = self._history.get(tenant, {})
        return len(entries), sum(len(encode(entry)) for entry in entries.values())

    async def history_entry(self, tenant: TenantId, prompt_id: str) -> JSON | None:
        return self._history.get(tenant, {}).get(prompt_id)

    async def delete_history(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
        entries = self._history.get(tenant, {})
        gone = list(entries) if prompt_ids is None else [key for key in prompt_ids if key in entries]
        for key in gone:
            del entries[key]
        return len(gone)
