"""What the engine asks of the place where queue and history survive: the ``Storage`` protocol and its rows.

The SQL implementation stands in ``queue.py`` and ``history.py``; the in-memory one in ``testing.py``. Which prompt
of which tenant runs next is the engine's decision (fair between tenants, one at a time of one client); storage only
knows the order within one tenant: ``(number, prompt_id)`` ascending. Every method is atomic: a prompt is in the queue
or in the history, never in both, never in neither.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from policies import TenantId

JSON = Any


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A validated prompt about to be queued.

    ``number`` None: storage takes the tenant's counter (starts at 0, kept across restarts, incremented on each
    such prompt), negated when ``front``. With a ``number`` the counter does not move. ``secrets`` (log-in tokens)
    are never shown and must be gone from storage when the prompt ends or is removed.
    """

    tenant: TenantId
    prompt_id: str
    prompt: Mapping[str, JSON]  # constants converted, as shown in queue and history; key order is meaningful
    extra_data: Mapping[str, JSON]  # without secrets; has client_id (when given) and create_time (ms)
    outputs: Sequence[str]  # ids of the output nodes to execute
    number: float | None = None
    front: bool = False
    secrets: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def client_id(self) -> str | None:
        """Whose prompt it is."""
        return client_of(self.extra_data)


@dataclass(frozen=True, slots=True)
class QueuedPrompt:
    """A prompt in the queue. ``number`` is an int where it came from the counter."""

    tenant: TenantId
    prompt_id: str
    number: float
    prompt: Mapping[str, JSON]
    extra_data: Mapping[str, JSON]
    outputs: tuple[str, ...]
    secrets: Mapping[str, JSON] = field(default_factory=dict, repr=False)

    @property
    def client_id(self) -> str | None:
        """Whose prompt it is."""
        return client_of(self.extra_data)


def client_of(extra_data: Mapping[str, JSON]) -> str | None:
    """The client that sent a prompt, when it said so."""
    client = extra_data.get("client_id")
    return client if isinstance(client, str) and client else None


class Storage(Protocol):
    """Queue and history, per tenant. No method waits for anything but the storage itself."""

    async def requeue_running(self) -> int:
        """At start: every prompt still marked running (the host was killed) is pending again; returns how many."""

    async def enqueue(self, new: NewPrompt, *, limit: int) -> QueuedPrompt:
        """Store a prompt; returns only when it is durable.

        Raises:
            DuplicatePromptError: the tenant has a pending or running prompt of this id (one in the history is
                no obstacle; its entry is replaced when the new one ends).
            QueueFullError: the tenant already has ``limit`` pending prompts.
        """

    async def pending_count(self, tenant: TenantId) -> int:
        """How many prompts wait."""

    async def waiting_tenants(self) -> Sequence[TenantId]:
        """Tenants that have pending prompts, in any stable order."""

    async def claim_next(self, tenant: TenantId, busy: Collection[str] = ()) -> QueuedPrompt | None:
        """Mark the tenant's first pending prompt running and return it; None when there is none.

        Prompts of the clients in ``busy`` are passed over; those of no client never are.
        """

    async def finish(self, tenant: TenantId, prompt_id: str, entry: Mapping[str, JSON]) -> None:
        """Move a running prompt into the history with ``entry`` (ComfyUI's shape); durable when it returns.

        Old entries beyond the implementation's caps (10,000 a tenant, and its bytes) are dropped, oldest first.
        """

    async def pending(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        """Pending prompts in the order in which they will run (``secrets`` may be left empty)."""

    async def running(self, tenant: TenantId) -> Sequence[QueuedPrompt]:
        """Claimed, not yet finished prompts, in the order in which they were claimed."""

    async def remaining(self, tenant: TenantId) -> int:
        """Pending plus running."""

    async def remove(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> Sequence[str]:
        """Remove pending prompts (None: all of them); running ones are untouched. Returns the removed ids."""

    async def history(
        self, tenant: TenantId, *, max_items: int | None = None, offset: int | None = None
    ) -> dict[str, JSON]:
        """Entries by prompt id, oldest first. ``offset`` None or negative with ``max_items``: the last
        ``max_items``; ``offset`` >= 0: from the offset-th oldest; ``max_items`` 0: empty."""

    async def history_size(self, tenant: TenantId) -> tuple[int, int]:
        """Entries and bytes of the history."""

    async def history_entry(self, tenant: TenantId, prompt_id: str) -> JSON | None:
        """One entry, or None."""

    async def delete_history(self, tenant: TenantId, prompt_ids: Collection[str] | None) -> int:
        """Delete entries (None: all of the tenant's); unknown ids are ignored. Returns how many went."""
