"""What node instances keep: rows by tenant, extension, node and class, within quotas.

The other side of ``sandbox.NodeStates``. One row holds all attributes of one node instance, so a change is one short
write transaction, and reading them is one row.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database import Database, decode, encode
from engine.tables import node_state_table
from policies import ExtensionName, TenantId, safe_text
from sandbox import MAX_STATE, MAX_STATE_NAMES, QuotaError, StateHolder

JSON = Any
_s = node_state_table.c


@dataclass(frozen=True, slots=True)
class StateLimits:
    """How much may be kept; bytes are those of the JSON."""

    node_bytes: int = MAX_STATE
    node_names: int = MAX_STATE_NAMES
    tenant_bytes: int = 64 * 1024 * 1024
    tenant_nodes: int = 10_000


class NodeStateStore:
    """Node state in the database; see ``sandbox.NodeStates``."""

    def __init__(self, database: Database, limits: StateLimits | None = None) -> None:
        self._database = database
        self._limits = limits or StateLimits()
        self._turn = anyio.Semaphore(
            1
        )  # SQLite has one writer: prompts wait behind one change of these, not hundreds

    async def read(self, holder: StateHolder) -> Mapping[str, JSON]:
        """Everything the node keeps."""
        async with self._database.read() as connection:
            document = (
                await connection.execute(sa.select(_s.document).where(_where(holder)))
            ).scalar_one_or_none()
        return {} if document is None else decode(document)

    async def write(self, holder: StateHolder, values: Mapping[str, JSON]) -> None:
        """Keep values, beside those of other names.

        Raises:
            QuotaError: the node, or its tenant, would keep too much; nothing is changed.
        """
        if not values:
            return
        async with self._turn, self._database.write() as connection:
            before = await _document(connection, holder)
            kept = {**({} if before is None else decode(before)), **values}
            document = encode(kept)
            self._check_node(holder, kept, document)
            await self._check_tenant(connection, holder, len(document), before)
            await _store(connection, holder, document, is_new=before is None)

    async def delete(self, holder: StateHolder, names: Sequence[str]) -> None:
        """Forget names; a node that keeps nothing any more has no row."""
        async with self._turn, self._database.write() as connection:
            before = await _document(connection, holder)
            if before is None:
                return
            kept = {name: value for name, value in decode(before).items() if name not in set(names)}
            if kept:
                await _store(connection, holder, encode(kept), is_new=False)
            else:
                await connection.execute(sa.delete(node_state_table).where(_where(holder)))

    async def forget(self, tenant: TenantId, extension: ExtensionName) -> None:
        """An extension is removed: one that gets its name later must not read what it kept."""
        async with self._database.write() as connection:
            await connection.execute(
                sa.delete(node_state_table).where(_s.tenant == tenant, _s.extension == extension)
            )

    def _check_node(self, holder: StateHolder, kept: Mapping[str, JSON], document: bytes) -> None:
        limits = self._limits
        who = f"node {safe_text(holder.node_id, 80)!r} ({safe_text(holder.class_type, 80)})"
        if len(document) > limits.node_bytes:
            raise QuotaError(
                f"{who} would keep {len(document)} bytes of state, at most {limits.node_bytes} may be",
                "keep large data in a file of the output or user directory",
            )
        if len(kept) > limits.node_names:
            raise QuotaError(
                f"{who} would keep {len(kept)} attributes, at most {limits.node_names} may be",
                "delete some, or keep one dict",
            )

    async def _check_tenant(
        self, connection: AsyncConnection, holder: StateHolder, nbytes: int, before: bytes | None
    ) -> None:
        if before is not None and nbytes <= len(before):
            return  # it may always keep less
        limits = self._limits
        total, nodes = (
            await connection.execute(
                sa.select(sa.func.coalesce(sa.func.sum(_s.nbytes), 0), sa.func.count()).where(
                    _s.tenant == holder.tenant
                )
            )
        ).one()
        after = int(total) + nbytes - len(before or b"")
        hint = "remove extensions that keep state, or delete attributes (del cls.state.name)"
        if after > limits.tenant_bytes:
            raise QuotaError(
                f"tenant '{holder.tenant}' would keep {after} bytes of node state, "
                f"at most {limits.tenant_bytes} may be",
                hint,
            )
        if before is None and nodes >= limits.tenant_nodes:
            raise QuotaError(
                f"tenant '{holder.tenant}' keeps the state of {nodes} nodes, at most {limits.tenant_nodes} may be",
                hint,
            )


async def _document(connection: AsyncConnection, holder: StateHolder) -> bytes | None:
    query = sa.select(_s.document).where(_where(holder)).with_for_update()
    return (await connection.execute(query)).scalar_one_or_none()


async def _store(connection: AsyncConnection, holder: StateHolder, document: bytes, *, is_new: bool) -> None:
    row = {"document": document, "nbytes": len(document), "changed_ms": time.time_ns() // 1_000_000}
    if not is_new:
        await connection.execute(sa.update(node_state_table).where(_where(holder)).values(row))
        return
    await connection.execute(
        sa.insert(node_state_table).values(
            tenant=holder.tenant, extension=holder.extension, node=_key(holder), **row
        )
    )


def _where(holder: StateHolder) -> sa.ColumnElement[bool]:
    return sa.and_(_s.tenant == holder.tenant, _s.extension == holder.extension, _s.node == _key(holder))


def _key(holder: StateHolder) -> str:
    """Node ids and class names come from prompts and packs, of any length and in any script: an index takes neither."""
    parts = f"{holder.extension}:{len(holder.node_id)}:{holder.node_id}{holder.class_type}"
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()
