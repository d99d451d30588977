"""What ComfyUI was seen to make of some three hundred prompts, Ringfence makes of them too, in one sandbox and in two.

The prompts, the notes and the differences that are meant: ``tests/compat/semantics.py``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import anyio
import pytest

from engine import Engine, NodeType, PromptInvalidError, PromptRequest
from engine import events as ev
from engine.testing import MemoryStorage, until_ended
from policies import LOCAL_TENANT, ExtensionName, TenantId
from sandbox.testing import UnconfinedLauncher
from tests.compat.semantics import CASES, DIFFERENCES, EITHER, nodes
from tests.compat.semantics_notes import NOTES, ended, plain, refused
from tests.contract.kit import PACKS, World, in_docker, world

pytestmark = pytest.mark.anyio

JSON = Any
CLIENT = "client"
GROUPS = sorted({name.split("-")[0] for name in CASES})
CROSSING = ("async", "blk", "ex", "lazy", "lz", "map", "raw", "val", "v3")
OBSERVED = json.loads(NOTES.read_text(encoding="utf-8"))


class Types:
    """The classes of one pack that was added under several names: each class belongs to one of them, by turns."""

    def __init__(self, made: World, packs: tuple[str, ...]) -> None:
        self._made = made
        self._packs = packs

    async def node_types(self, tenant: TenantId) -> Mapping[str, NodeType]:
        found: dict[str, NodeType] = {}
        for turn, pack in enumerate(self._packs):
            session = await self._made.manager.acquire(tenant, ExtensionName(pack))
            for position, node in enumerate(session.loaded.nodes):
                if position % len(self._packs) == turn:
                    found[node.class_type] = NodeType(node, ExtensionName(pack))
        return found

    async def refresh(self, tenant: TenantId, class_types: Collection[str] | None) -> Mapping[str, NodeType]:
        del class_types
        return await self.node_types(tenant)

    def is_current(self, tenant: TenantId, class_types: Collection[str]) -> bool:
        return True

    async def make_current(self, tenant: TenantId, class_types: Collection[str]) -> None:
        """Nothing of it changes."""


async def run(engine: Engine, prompt: JSON, fields: Mapping[str, JSON]) -> JSON:
    """What became of a prompt, in the form of the notes."""
    targets = fields.get("partial_execution_targets")
    request = PromptRequest(
        prompt=json.loads(json.dumps(prompt)),
        client_id=CLIENT,
        extra_data=fields.get("extra_data", {}),
        targets=None if targets is None else tuple(targets),
    )
    async with engine.subscribe(LOCAL_TENANT) as events:
        try:
            submitted = await engine.submit(LOCAL_TENANT, request)
        except PromptInvalidError as error:
            return refused(error.error, error.node_errors)
        said: list[tuple[str, Mapping[str, JSON]]] = []
        with anyio.fail_after(60):
            async for event in events:
                said += messages(event)
                if isinstance(event, ev.PromptEnded):
                    break
        entry = await until_ended(engine, LOCAL_TENANT, submitted.prompt_id)
    return ended(submitted.node_errors, said, entry)


def messages(event: ev.Event) -> Iterator[tuple[str, Mapping[str, JSON]]]:
    match event:
        case ev.NodesCached():
            yield "execution_cached", {"nodes": list(event.nodes)}
        case ev.NodeStarted():
            yield "executing", {"node": event.node_id, "display_node": event.display_id}
        case ev.NodeExecuted():
            output = None if event.output is None else dict(event.output)
            yield "executed", {"node": event.node_id, "display_node": event.display_id, "output": output}
        case ev.NodeBlocked():
            kind = "ExecutionBlocked"
            yield (
                "execution_error",
                {"node_id": event.node_id, "node_type": event.class_type, "exception_type": kind},
            )
        case _:
            pass


async def check(made: World, packs: tuple[str, ...], names: Collection[str]) -> None:
    """Run these cases and compare them with the notes; all that is wrong is told at once."""
    for pack in packs:
        made.shelf.add(PACKS / "semantics", pack)
    async with Engine(
        manager=made.manager,
        store=made.store,
        extensions=Types(made, packs),  # type: ignore[arg-type]
        storage=MemoryStorage(),
    ) as engine:
        wrong = {}
        for name in names:
            await run(engine, nodes(reset=("Out", {"x": f"before {name}"})), {})
            found = [plain(await run(engine, prompt, fields)) for prompt, fields in CASES[name]]
            if name in EITHER:
                right = found[-1]["outputs"] == OBSERVED[name][-1]["outputs"]
            else:
                right = (found == OBSERVED[name]) != (name in DIFFERENCES)
            if not right:
                wrong[name] = f"\n  noted {json.dumps(OBSERVED[name])}\n  found {json.dumps(found)}"
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())
    assert made.store.usage(LOCAL_TENANT).objects == 0, "values are still held after the engine closed"


@pytest.mark.parametrize("packs", [("semantics",), ("semantics_a", "semantics_b")], ids=["one", "two"])
@pytest.mark.parametrize("group", GROUPS)
async def test_prompts_have_the_results_that_comfyui_was_seen_to_give(tmp_path, group, packs):
    async with world(tmp_path, lambda places, _: UnconfinedLauncher(places)) as made:
        await check(made, packs, [name for name in CASES if name.split("-")[0] == group])


@pytest.mark.docker
async def test_prompts_across_two_containers_have_them_too(tmp_path):
    """Nodes of one prompt stand in both: types, links, blockers, lazy questions and expansions cross the wall."""
    async with world(tmp_path, in_docker) as made:
        await check(made, ("semantics_a", "semantics_b"), [n for n in CASES if n.split("-")[0] in CROSSING])
