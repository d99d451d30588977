"""What node instances keep, in a real database: whose it is, how much of it, and when it goes."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from engine.database import Database
from engine.node_state import NodeStateStore, StateLimits
from policies import ExtensionName, TenantId
from sandbox.errors import QuotaError
from sandbox.node_state import StateHolder

pytestmark = pytest.mark.anyio


def node(
    node_id: str = "1", class_type: str = "A", extension: str = "pack", tenant: str = "one"
) -> StateHolder:
    return StateHolder(TenantId(tenant), ExtensionName(extension), node_id, class_type)


@pytest.fixture
def states(database: Database) -> NodeStateStore:
    return NodeStateStore(
        database, StateLimits(node_bytes=100, node_names=3, tenant_bytes=150, tenant_nodes=3)
    )


async def test_values_are_kept_beside_each_other(states: NodeStateStore) -> None:
    await states.write(node(), {"a": 1, "b": [True, None, 2.5]})
    await states.write(node(), {"a": {"deep": "snow \u2603"}})
    assert await states.read(node()) == {"a": {"deep": "snow \u2603"}, "b": [True, None, 2.5]}
    await states.delete(node(), ["b", "never"])
    assert await states.read(node()) == {"a": {"deep": "snow \u2603"}}


async def test_nobody_reads_the_state_of_another(states: NodeStateStore) -> None:
    await states.write(node(), {"a": 1})
    others = [
        node("2"),
        node(class_type="B"),
        node(extension="other"),
        node(tenant="two"),
        node("1A", ""),  # the same letters, cut elsewhere
        node("", "1A"),
    ]
    assert [await states.read(other) for other in others] == [{}] * len(others)


async def test_integers_of_any_size_come_back(states: NodeStateStore) -> None:
    await states.write(node(), {"a": 2**70, "b": -(2**63)})
    assert await states.read(node()) == {"a": 2**70, "b": -(2**63)}


async def test_a_node_over_its_quota_is_refused_and_nothing_changes(states: NodeStateStore) -> None:
    await states.write(node(), {"a": 1})
    with pytest.raises(QuotaError, match=r"node '1' \(A\) would keep 208 bytes of state, at most 100 may be"):
        await states.write(node(), {"a": "x" * 200})
    with pytest.raises(QuotaError, match="would keep 4 attributes, at most 3 may be"):
        await states.write(node(), {"b": 1, "c": 1, "d": 1})
    assert await states.read(node()) == {"a": 1}


async def test_a_tenant_over_its_quota_is_refused_and_may_always_keep_less(states: NodeStateStore) -> None:
    await states.write(node("1"), {"a": "x" * 80})
    with pytest.raises(
        QuotaError, match="tenant 'one' would keep 176 bytes of node state, at most 150 may be"
    ):
        await states.write(node("2"), {"a": "x" * 80})
    await states.write(node("1", tenant="two"), {"a": "x" * 80})
    await states.write(node("1"), {"a": "x"})
    await states.write(node("2"), {"a": "x"})
    await states.write(node("3"), {"a": "x"})
    with pytest.raises(QuotaError, match="keeps the state of 3 nodes, at most 3 may be"):
        await states.write(node("4"), {"a": "x"})
    await states.delete(node("3"), ["a"])
    await states.write(node("4"), {"a": "x"})


async def test_a_removed_extension_leaves_nothing_to_one_that_gets_its_name(states: NodeStateStore) -> None:
    await states.write(node(), {"a": 1})
    await states.write(node(extension="other"), {"a": 2})
    await states.forget(TenantId("one"), ExtensionName("pack"))
    assert await states.read(node()) == {}
    assert await states.read(node(extension="other")) == {"a": 2}


async def test_a_pack_that_writes_without_end_does_not_keep_a_prompt_from_the_database(
    database: Database,
) -> None:
    states = NodeStateStore(database)
    done = 0

    async def write(number: int) -> None:
        nonlocal done
        await states.write(node(str(number)), {"a": number})
        done += 1

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(write, number)
            await anyio.lowlevel.checkpoint()
            async with database.write():
                assert done < 5
    assert done == 60
