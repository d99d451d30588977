"""The history is bounded in bytes, and asking for all of it is, too."""

from __future__ import annotations

import pytest

from engine import Database, NewPrompt, SqlStorage, history
from policies import TenantId

pytestmark = pytest.mark.anyio

A, B = TenantId("a"), TenantId("b")


async def ended(storage: SqlStorage, tenant: TenantId, prompt_id: str, nbytes: int) -> None:
    await storage.enqueue(NewPrompt(tenant, prompt_id, {}, {}, []), limit=10)
    await storage.claim_next(tenant)
    await storage.finish(tenant, prompt_id, {"x": "y" * nbytes})


async def test_the_oldest_entries_go_when_the_bytes_are_too_many_and_the_newest_always_stays(
    database: Database,
) -> None:
    storage = SqlStorage(database, history_bytes=lambda tenant: 10_000 if tenant == A else None)
    for number in range(5):
        await ended(storage, A, f"p{number}", 3000)
        await ended(storage, B, f"p{number}", 3000)
    assert list(await storage.history(A)) == ["p2", "p3", "p4"]
    assert list(await storage.history(B)) == [f"p{number}" for number in range(5)]
    await ended(storage, A, "large", 50_000)
    assert list(await storage.history(A)) == ["large"]
    entries, nbytes = await storage.history_size(A)
    assert entries == 1
    assert 50_000 < nbytes < 51_000


async def test_asking_for_everything_gives_the_newest_that_fit_into_one_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SqlStorage(database)
    monkeypatch.setattr(history, "READ_BYTES", 10_000)
    for number in range(5):
        await ended(storage, A, f"p{number}", 3000)
    assert list(await storage.history(A)) == ["p2", "p3", "p4"]
    assert list(await storage.history(A, offset=0, max_items=5)) == ["p0", "p1", "p2"]
    assert list(await storage.history(A, max_items=2)) == ["p3", "p4"]
