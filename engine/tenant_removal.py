"""Removing a tenant: first nobody can act for it any more, then its work ends, then what it left goes.

In this order nothing of it can begin again meanwhile. Rows go from every table that has a tenant, so that a table that
is added later is not forgotten.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy as sa

from engine.database import Database
from engine.engine import Engine
from engine.tables import metadata
from engine.tenants import TenantRegistry
from policies import ExtensionName, RingfenceError, TenantId, safe_text

log = logging.getLogger(__name__)

_END_S = 30.0  # a node that ignores its interrupt is ended with its sandbox, whose own grace is shorter


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed with a tenant, and what could not be."""

    tenant: TenantId
    prompts: int
    """Prompts that waited or ran."""
    extensions: tuple[str, ...]
    sandboxes: int
    rows: int
    """Rows of the database: history, assets, node state, counters, sessions."""
    files: int
    nbytes: int
    kept: tuple[str, ...]
    """Names of directories that are still there: wanted (``keep_files``), or because they could not be removed."""
    problems: tuple[str, ...]
    """What went wrong, one line each; everything else was done."""


async def remove_tenant(
    engine: Engine,
    database: Database,
    tenants: TenantRegistry,
    directories: Sequence[Path],
    tenant: TenantId,
    *,
    keep_files: bool = False,
    end_s: float = _END_S,
) -> Removal:
    """Remove a tenant and (unless ``keep_files``) the directories of its files.

    Raises:
        TenantUnknownError
    """
    await tenants.remove(tenant)
    problems: list[str] = []
    prompts = await _end_prompts(engine, tenant, end_s, problems)
    await engine.free(tenant, unload_models=True, free_memory=True)
    extensions = [str(info.name) for info in await engine.extensions.list(tenant) if not info.core]
    sandboxes = len(engine.sandboxes.list(tenant))
    for name in extensions:
        try:
            await engine.extensions.remove(tenant, ExtensionName(name))
        except RingfenceError as error:
            problems.append(f"extension {name}: {error.message}")
    engine.sandboxes.forget(tenant)  # a spare would be started for the core nodes, and make directories again
    for info in engine.sandboxes.list(tenant):
        await engine.sandboxes.stop(tenant, info.id)
    await engine.clear_pending(
        tenant
    )  # what came in by a request that was under way when the tenant was removed
    rows = await _delete_rows(database, tenant)
    files, nbytes, kept = await anyio.to_thread.run_sync(_delete_files, directories, keep_files)
    if kept and not keep_files:
        problems.append("some files could not be deleted; the server's log names them")
    log.info("tenant %s was removed", tenant)
    return Removal(
        tenant, prompts, tuple(extensions), sandboxes, rows, files, nbytes, tuple(kept), tuple(problems)
    )


async def _end_prompts(engine: Engine, tenant: TenantId, end_s: float, problems: list[str]) -> int:
    count = await engine.clear_pending(tenant)
    async with engine.subscribe(tenant) as events:
        running = (await engine.queue(tenant)).running
        count += len(running)
        with anyio.move_on_after(end_s):
            for item in running:
                await engine.cancel(tenant, item.prompt_id)
            while running:
                await anext(events)
                running = (await engine.queue(tenant)).running
    if running:
        problems.append(
            f"{len(running)} prompts did not end within {end_s:.0f} s; their sandboxes were ended"
        )
    return count


async def _delete_rows(database: Database, tenant: TenantId) -> int:
    rows = 0
    async with database.write() as connection:
        for table in metadata.sorted_tables:
            if "tenant" in table.c:
                gone = await connection.execute(sa.delete(table).where(table.c.tenant == tenant))
                rows += max(0, gone.rowcount)
    await database.scrub()  # prompts may have held secrets
    return rows


def _delete_files(directories: Sequence[Path], keep: bool) -> tuple[int, int, list[str]]:
    files = nbytes = 0
    kept: list[str] = []
    for directory in directories:
        if not directory.is_dir() or directory.is_symlink():
            continue
        place = f"{directory.parent.name}/{directory.name}"
        if keep:
            kept.append(place)
            continue
        for folder, _, names in os.walk(directory):
            for name in names:
                try:
                    nbytes += Path(folder, name).lstat().st_size
                except OSError:
                    continue
                files += 1
        shutil.rmtree(directory, onerror=_log_failure)
        if directory.exists():
            kept.append(place)
    return files, nbytes, kept


def _log_failure(_what: object, path: str, error: tuple[Any, Any, Any]) -> None:
    if not isinstance(error[1], FileNotFoundError):
        log.error("cannot delete %s: %s", safe_text(path, 500), error[1])
