"""All jobs of a tenant by age, wherever they are."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from unittest.mock import patch

import pytest
import sqlalchemy as sa

from engine.database import Database, sqlite_url
from engine.job_list import JobList, JobPlace
from engine.queue import SqlStorage
from engine.submissions import Submissions
from engine.tables import history_table, submissions_table
from policies import TenantId
from tests.unit.storage.test_queue import A, B, entry, new
from tests.unit.storage.test_tokens import _OLD

pytestmark = pytest.mark.anyio


@pytest.fixture
def jobs(database: Database) -> JobList:
    return JobList(database)


async def queued(storage: SqlStorage, job_id: str, at: int, tenant: TenantId = A) -> None:
    with patch("engine.queue.now_ms", return_value=at):
        await storage.enqueue(new(job_id, tenant), limit=100)


async def happened(database: Database, table: sa.Table, which: sa.ColumnElement[bool], at: int) -> None:
    async with database.write() as connection:
        await connection.execute(sa.update(table).where(which).values(created_ms=at))


async def listed(jobs: JobList, tenant: TenantId = A) -> list[str]:
    return [place.job_id for place in await jobs.page(tenant, before=None, limit=100)]


async def test_jobs_of_both_apis_are_listed_by_age_wherever_they_are(
    database: Database, storage: SqlStorage, jobs: JobList
) -> None:
    submissions = Submissions(database)
    for at, job_id in ((20, "v2-ended"), (40, "v2-waits"), (50, "v2-cancelled")):
        await submissions.claim(A, job_id, None)
        await happened(database, submissions_table, submissions_table.c.job_id == job_id, at)
    await queued(storage, "ended", 10)
    await queued(storage, "v2-ended", 21)
    for job_id in ("ended", "v2-ended"):
        assert await storage.claim_next(A) is not None
        await storage.finish(A, job_id, entry(job_id))
    await queued(storage, "runs", 30)
    await storage.claim_next(A)
    await queued(storage, "v2-waits", 41)
    await queued(storage, "waits", 60)
    await queued(storage, "of another tenant", 70, B)
    assert await listed(jobs) == ["waits", "v2-cancelled", "v2-waits", "runs", "v2-ended", "ended"]
    assert await listed(jobs, B) == ["of another tenant"]


async def test_a_job_keeps_its_place_when_it_ends_between_two_pages(
    database: Database, storage: SqlStorage, jobs: JobList
) -> None:
    for at in range(5):
        await queued(storage, f"p{at}", at + 1)
    first = await jobs.page(A, before=None, limit=3)
    for number in range(5):
        await storage.claim_next(A)
        await storage.finish(A, f"p{number}", entry(f"p{number}"))
    second = await jobs.page(A, before=first[-1], limit=3)
    third = await jobs.page(A, before=second[-1], limit=3)
    assert [place.job_id for place in (*first, *second)] == ["p4", "p3", "p2", "p1", "p0"]
    assert third == []


async def test_jobs_of_one_millisecond_are_each_listed_once(
    database: Database, storage: SqlStorage, jobs: JobList
) -> None:
    for number in range(5):
        await queued(storage, f"p{number}", 7)
    found: list[JobPlace] = []
    while page := await jobs.page(A, before=found[-1] if found else None, limit=2):
        found += page
    assert [place.job_id for place in found] == ["p4", "p3", "p2", "p1", "p0"]


async def test_an_id_that_is_used_again_is_one_job(
    database: Database, storage: SqlStorage, jobs: JobList
) -> None:
    await queued(storage, "p", 1)
    await storage.claim_next(A)
    await storage.finish(A, "p", entry("p"))
    await queued(storage, "p", 5)
    assert await jobs.page(A, before=None, limit=9) == [JobPlace(5, 0, "p")]


async def test_what_is_deleted_is_not_listed(database: Database, storage: SqlStorage, jobs: JobList) -> None:
    await queued(storage, "ended", 1)
    await storage.claim_next(A)
    await storage.finish(A, "ended", entry("ended"))
    await queued(storage, "waits", 2)
    await storage.delete_history(A, None)
    assert await listed(jobs) == ["waits"]
    await storage.remove(A, None)
    assert await listed(jobs) == []


async def test_entries_of_before_count_from_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(_OLD)
        connection.executemany(
            "INSERT INTO history VALUES ('a', ?, ?, ?, x'7b7d')", [(1, "p", 30), (2, "q", 20)]
        )
    connection.close()
    columns = history_table.c
    async with Database(sqlite_url(path)) as database, database.read() as connection:
        found = (await connection.execute(sa.select(columns.prompt_id, columns.created_ms))).all()
    assert sorted(map(tuple, found)) == [("p", 30), ("q", 20)]
