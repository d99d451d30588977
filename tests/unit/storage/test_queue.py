"""The queue and the history in SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.database import Database, sqlite_url
from engine.errors import DuplicatePromptError, QueueFullError
from engine.queue import SqlStorage
from engine.storage import NewPrompt
from policies import TenantId

pytestmark = pytest.mark.anyio

A, B = TenantId("a"), TenantId("b")
SECRET = "sk-very-secret-0123456789"


def new(prompt_id: str, tenant: TenantId = A, **more: Any) -> NewPrompt:
    fields: dict[str, Any] = {
        "prompt": {
            "2": {"class_type": "X", "inputs": {}},
            "1": {"class_type": "Y", "inputs": {"a": ["2", 0]}},
        },
        "extra_data": {"client_id": "c", "create_time": 1},
        "outputs": ["1"],
        **more,
    }
    return NewPrompt(tenant=tenant, prompt_id=prompt_id, **fields)


def entry(prompt_id: str) -> dict[str, Any]:
    return {
        "prompt": [0, prompt_id, {}, {}, []],
        "outputs": {},
        "status": {"status_str": "success"},
        "meta": {},
    }


async def test_a_prompt_comes_back_as_it_was_stored_with_its_key_order(storage: SqlStorage) -> None:
    await storage.enqueue(new("p", secrets={"api_key_comfy_org": SECRET}), limit=10)
    claimed = await storage.claim_next(A)
    assert claimed is not None
    assert list(claimed.prompt) == ["2", "1"]
    assert claimed.outputs == ("1",)
    assert claimed.extra_data == {"client_id": "c", "create_time": 1}
    assert claimed.secrets == {"api_key_comfy_org": SECRET}


async def test_numbers_count_from_zero_and_front_negates_without_a_number_of_its_own(
    storage: SqlStorage,
) -> None:
    first = await storage.enqueue(new("p0", front=True), limit=10)
    second = await storage.enqueue(new("p1"), limit=10)
    given = await storage.enqueue(new("p2", number=0.5), limit=10)
    third = await storage.enqueue(new("p3", front=True), limit=10)
    assert [first.number, second.number, given.number, third.number] == [0, 1, 0.5, -2]
    assert isinstance(second.number, int)
    assert [item.prompt_id for item in await storage.pending(A)] == ["p3", "p0", "p2", "p1"]
    assert [type(item.number) for item in await storage.pending(A)] == [int, int, float, int]


async def test_the_counter_is_a_tenants_own(storage: SqlStorage) -> None:
    await storage.enqueue(new("p"), limit=10)
    assert (await storage.enqueue(new("p", B), limit=10)).number == 0


async def test_equal_numbers_run_in_order_of_their_ids(storage: SqlStorage) -> None:
    for prompt_id in ("b", "a", "c"):
        await storage.enqueue(new(prompt_id, number=1.0), limit=10)
    claimed = [await storage.claim_next(A) for _ in range(3)]
    assert [item.prompt_id for item in claimed if item] == ["a", "b", "c"]
    assert [item.prompt_id for item in await storage.running(A)] == ["a", "b", "c"]
    assert await storage.claim_next(A) is None


async def test_a_second_prompt_of_the_same_id_is_refused_while_the_first_lives(storage: SqlStorage) -> None:
    await storage.enqueue(new("p"), limit=10)
    with pytest.raises(DuplicatePromptError):
        await storage.enqueue(new("p"), limit=10)
    await storage.claim_next(A)
    with pytest.raises(DuplicatePromptError):
        await storage.enqueue(new("p"), limit=10)
    await storage.enqueue(new("p", B), limit=10)
    await storage.finish(A, "p", entry("p"))
    assert (await storage.enqueue(new("p"), limit=10)).prompt_id == "p"


async def test_a_full_queue_refuses_and_running_prompts_do_not_count(storage: SqlStorage) -> None:
    await storage.enqueue(new("p0"), limit=1)
    with pytest.raises(QueueFullError, match="1 pending"):
        await storage.enqueue(new("p1"), limit=1)
    await storage.claim_next(A)
    await storage.enqueue(new("p1"), limit=1)
    assert await storage.remaining(A) == 2


async def test_a_refused_prompt_does_not_move_the_counter(storage: SqlStorage) -> None:
    await storage.enqueue(new("p0"), limit=10)
    with pytest.raises(DuplicatePromptError):
        await storage.enqueue(new("p0"), limit=10)
    assert (await storage.enqueue(new("p1"), limit=10)).number == 1


async def test_running_prompts_are_pending_again_after_a_restart(
    database: Database, storage: SqlStorage, url: str
) -> None:
    await storage.enqueue(new("p0", secrets={"k": SECRET}), limit=10)
    await storage.enqueue(new("p1"), limit=10)
    await storage.claim_next(A)
    await storage.note_running()  # as the storage does by itself of what runs for a while
    async with Database(url) as again:
        after = SqlStorage(again)
        assert await after.requeue_running() == 1
        claimed = await after.claim_next(A)
        assert claimed is not None
        assert (claimed.prompt_id, claimed.secrets) == ("p0", {"k": SECRET})


async def test_removing_touches_pending_prompts_only(storage: SqlStorage) -> None:
    for number in range(4):
        await storage.enqueue(new(f"p{number}"), limit=10)
    await storage.claim_next(A)
    assert await storage.remove(A, ["p0", "p2", "unknown"]) == ["p2"]
    assert await storage.remove(B, None) == []
    assert await storage.remove(A, None) == ["p1", "p3"]
    assert [item.prompt_id for item in await storage.running(A)] == ["p0"]


async def test_tenants_that_wait_are_named(storage: SqlStorage) -> None:
    assert await storage.waiting_tenants() == []
    await storage.enqueue(new("p", B), limit=10)
    await storage.enqueue(new("p", A), limit=10)
    assert await storage.waiting_tenants() == [A, B]
    await storage.claim_next(A)
    assert await storage.waiting_tenants() == [B]


async def test_history_pages_as_comfyui_does(storage: SqlStorage) -> None:
    for number in range(4):
        await storage.finish(A, f"p{number}", entry(f"p{number}"))
    assert list(await storage.history(A)) == ["p0", "p1", "p2", "p3"]
    assert list(await storage.history(A, max_items=2)) == ["p2", "p3"]
    assert list(await storage.history(A, max_items=2, offset=-1)) == ["p2", "p3"]
    assert list(await storage.history(A, max_items=2, offset=1)) == ["p1", "p2"]
    assert list(await storage.history(A, offset=3)) == ["p3"]
    assert list(await storage.history(A, offset=0)) == ["p0", "p1", "p2", "p3"]
    assert await storage.history(A, max_items=0) == {}
    assert await storage.history(B) == {}


async def test_history_drops_the_oldest_beyond_its_limit_per_tenant(storage: SqlStorage) -> None:
    await storage.finish(B, "other", entry("other"))
    for number in range(7):
        await storage.finish(A, f"p{number}", entry(f"p{number}"))
    assert list(await storage.history(A)) == ["p2", "p3", "p4", "p5", "p6"]
    assert list(await storage.history(B)) == ["other"]


async def test_a_repeated_id_replaces_its_history_entry_and_is_the_newest(storage: SqlStorage) -> None:
    for prompt_id in ("p0", "p1", "p0"):
        await storage.finish(A, prompt_id, entry(prompt_id))
    assert list(await storage.history(A)) == ["p1", "p0"]


async def test_deleting_history_is_scoped_to_the_tenant(storage: SqlStorage) -> None:
    for tenant in (A, B):
        for prompt_id in ("p0", "p1"):
            await storage.finish(tenant, prompt_id, entry(prompt_id))
    assert await storage.delete_history(A, ["p0", "unknown"]) == 1
    assert await storage.history_entry(A, "p0") is None
    assert await storage.history_entry(B, "p0") == entry("p0")
    assert await storage.delete_history(A, None) == 1
    assert len(await storage.history(B)) == 2


async def test_secrets_are_shown_nowhere_and_leave_the_file_when_the_prompt_ends(
    storage: SqlStorage, tmp_path: Path
) -> None:
    await storage.enqueue(new("p0", secrets={"k": SECRET}), limit=10)
    await storage.enqueue(new("p1", secrets={"k": SECRET}), limit=10)
    assert all(not item.secrets for item in await storage.pending(A))
    await storage.claim_next(A)
    assert all(not item.secrets for item in await storage.running(A))
    await storage.finish(A, "p0", entry("p0"))
    await storage.remove(A, None)
    assert SECRET not in str(await storage.history(A))
    for path in (tmp_path / "data").iterdir():
        assert SECRET.encode() not in path.read_bytes(), path.name


async def test_values_that_orjson_cannot_write_survive(storage: SqlStorage) -> None:
    odd = {"big": 2**80, "surrogate": "\ud800"}
    await storage.finish(A, "p", {**entry("p"), "outputs": odd})
    stored = await storage.history_entry(A, "p")
    assert stored is not None
    assert stored["outputs"] == odd


async def test_many_tasks_writing_at_once_lose_nothing(storage: SqlStorage) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(lambda n=number: storage.enqueue(new(f"p{n:02}"), limit=100))
    assert sorted(item.number for item in await storage.pending(A)) == list(range(20))


async def test_a_cancelled_caller_leaves_the_storage_usable(storage: SqlStorage) -> None:
    with anyio.move_on_after(0):
        await storage.enqueue(new("p0"), limit=10)
    await storage.enqueue(new("p1"), limit=10)
    assert "p1" in [item.prompt_id for item in await storage.pending(A)]


async def test_the_database_file_is_private(database: Database, tmp_path: Path) -> None:
    assert (tmp_path / "data" / "ringfence.db").stat().st_mode & 0o077 == 0


async def test_a_prompt_with_thousands_of_nodes_survives(storage: SqlStorage) -> None:
    prompt = {str(n): {"class_type": "X", "inputs": {"a": [str(n - 1), 0]}} for n in range(5000)}
    await storage.enqueue(new("p", prompt=prompt), limit=10)
    claimed = await storage.claim_next(A)
    assert claimed is not None
    assert claimed.prompt == prompt


async def test_sqlite_url_is_taken_without_naming_the_driver(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/x.db") as database:
        await database.check()
    assert sqlite_url(tmp_path / "x.db").startswith("sqlite+aiosqlite:///")


async def test_the_pending_prompts_of_one_tenant_are_bounded_in_bytes_too(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.queue.PENDING_BYTES", 5000)
    large = {"1": {"class_type": "X", "inputs": {"a": "x" * 2000}}}
    for number in range(2):
        await storage.enqueue(new(f"p{number}", prompt=large), limit=10)
    with pytest.raises(
        QueueFullError, match=r"holds 2 pending prompts, and with this one more than 4\.9 ?KiB|5000"
    ):
        await storage.enqueue(new("p2", prompt=large), limit=10)
    await storage.enqueue(new("p2"), limit=10)
    await storage.enqueue(new("p2", B, prompt={"1": {"class_type": "X" * 9000, "inputs": {}}}), limit=10)
    await storage.claim_next(A)
    await storage.enqueue(new("p3", prompt=large), limit=10)
