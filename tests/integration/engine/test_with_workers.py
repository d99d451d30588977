"""The engine over real workers (plain child processes): what the stand-ins promise, real packs keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from engine import CacheMode, Engine, NodeType, PromptInvalidError, PromptRequest
from engine.events import Event, NodeBlocked, NodeStarted, ProgressChanged, PromptEnded
from engine.testing import MemoryStorage, until_ended
from policies import LOCAL_TENANT, ExtensionName, SandboxId, TenantId
from sandbox import FastPath, take_fast_paths
from sandbox.testing import UnconfinedLauncher
from tests.contract.kit import PACKS, World, world

pytestmark = pytest.mark.anyio

OUT = """
class Out:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"x": ("*",)}}
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    def run(self, x):
        return {"ui": {"text": [x if isinstance(x, (int, float, str)) else type(x).__name__]}}
class First(Out):
    def run(self, x):
        return {"ui": {"text": [float(x.reshape(-1)[0]), float(x.reshape(-1)[-1])]}}
class Full:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {}), "value": ("FLOAT", {})}}
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    def run(self, width, value):
        import torch
        return (torch.full((1, 512, width, 3), value),)
NODE_CLASS_MAPPINGS = {"Out": Out, "First": First, "Full": Full}
"""
GRACE = "timeouts: {grace: 200ms}\n"


class Types:
    """Node types of the packs that a test names."""

    def __init__(self, made: World, *packs: str, group: str | None = None) -> None:
        self._made = made
        self._packs = packs
        self._group = group

    async def node_types(self, tenant: TenantId) -> Mapping[str, NodeType]:
        found: dict[str, NodeType] = {}
        for pack in self._packs:
            session = await self._made.manager.acquire(tenant, ExtensionName(pack))
            for node in session.loaded.nodes:
                found[node.class_type] = NodeType(
                    node, ExtensionName(pack), group=self._group, private_areas=frozenset({"output"})
                )
        return found

    async def refresh(self, tenant: TenantId, class_types: Collection[str] | None) -> Mapping[str, NodeType]:
        del class_types
        return await self.node_types(tenant)

    def is_current(self, tenant: TenantId, class_types: Collection[str]) -> bool:
        return True

    async def make_current(self, tenant: TenantId, class_types: Collection[str]) -> None:
        """Nothing of it changes."""


class Stage:
    def __init__(self, made: World, engine: Engine) -> None:
        self.made = made
        self.engine = engine

    async def submit(self, **nodes: tuple[str, dict[str, Any]]) -> str:
        prompt = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
        return (await self.engine.submit(LOCAL_TENANT, PromptRequest(prompt=prompt))).prompt_id

    async def run(self, **nodes: tuple[str, dict[str, Any]]) -> Any:
        return await until_ended(self.engine, LOCAL_TENANT, await self.submit(**nodes), timeout_s=60)

    async def text(self, **nodes: tuple[str, dict[str, Any]]) -> Any:
        """What the node ``out`` showed."""
        entry = await self.run(**nodes)
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
        return entry["outputs"]["out"]["text"]

    async def error(self, **nodes: tuple[str, dict[str, Any]]) -> Any:
        entry = await self.run(**nodes)
        name, data = entry["status"]["messages"][-1]
        assert name == "execution_error", entry
        return data


@asynccontextmanager
async def stage(
    tmp_path: Any, *packs: str, cache: str = "classic", group: str | None = None
) -> AsyncIterator[Stage]:
    policies = dict.fromkeys(packs, GRACE + (f"group: {group}\n" if group else ""))
    async with world(tmp_path, lambda places, _: UnconfinedLauncher(places), policies=policies) as made:
        for pack in packs:
            made.shelf.add(PACKS / pack)
        made.shelf.write("out", OUT)
        if group:
            made.shelf.groups[group] = tuple(map(ExtensionName, (*packs, "out")))
        engine = Engine(
            manager=made.manager,
            store=made.store,
            extensions=cast("Any", Types(made, *packs, "out", group=group)),
            storage=MemoryStorage(),
            cache_mode=CacheMode.parse(cache),
        )
        async with engine:
            yield Stage(made, engine)
        assert made.store.usage(LOCAL_TENANT).objects == 0, "values are still held after the engine closed"


@pytest.mark.parametrize("cache", ["classic", "none"])
async def test_tensors_pass_through_two_extensions(tmp_path, cache):
    async with stage(tmp_path, "friendly_v1", "flow", cache=cache) as scene:
        nodes = {
            "solid": ("RFSolid", {"width": 16, "height": 8, "value": 0.25}),
            "block": ("RFBlock", {"value": ["solid", 0], "block": False}),  # through the other sandbox
            "invert": ("RFInvert", {"image": ["block", 0], "strength": 1}),
            "mean": ("RFInPlace", {"image": ["invert", 0]}),
            "out": ("Out", {"x": ["invert", 1]}),
        }
        assert await scene.text(**nodes) == ["invert"]
        assert await scene.text(**nodes) == ["invert"]


async def test_lists_lazy_inputs_expansion_and_any_names(tmp_path):
    async with stage(tmp_path, "friendly_v1", "flow") as scene:
        text = await scene.text(
            list=("RFMakeList", {"count": 3}),
            sum=("RFSumList", {"values": ["list", 0], "scale": 10}),
            expand=("RFExpand", {"start": ["sum", 0], "count": 3}),
            switch=("RFLazySwitch", {"first": True, "on_true": ["expand", 0], "on_false": ["list", 1]}),
            dynamic=("RFDynamic", {"a": ["switch", 0], "b": "constant"}),
            kwargs=("RFKwargs", {"linked": ["switch", 0], "dropped": 1}),
            raw=("RFRawLink", {"link": ["sum", 0]}),
            p1=("RFPair", {"a": ["dynamic", 0], "b": ["kwargs", 0]}),
            p2=("RFPair", {"a": ["p1", 0], "b": ["raw", 0]}),
            out=("Out", {"x": ["p2", 0]}),
        )
        assert text == ["a=33,b=constant/linked/RFSumList"]


async def test_a_blocker_with_a_message(tmp_path):
    async with (
        stage(tmp_path, "friendly_v1", "flow") as scene,
        scene.engine.subscribe(LOCAL_TENANT) as events,
    ):
        entry = await scene.run(
            add=("RFAdd", {"a": 1, "b": 2}),
            block=("RFBlock", {"value": ["add", 0], "block": True, "message": "no licence"}),
            pair=("RFPair", {"a": ["block", 0], "b": 1}),
            out=("Out", {"x": ["pair", 0]}),
        )
        assert entry["status"]["status_str"] == "success"
        assert entry["outputs"] == {}
        (blocked,) = [event for event in await heard(events) if isinstance(event, NodeBlocked)]
        assert (blocked.node_id, blocked.message) == ("pair", "no licence")


async def heard(events: Any) -> list[Event]:
    """What was said so far, up to the end of a prompt."""
    found = []
    with anyio.fail_after(60):
        async for event in events:
            found.append(event)
            if isinstance(event, PromptEnded):
                return found
    raise AssertionError("the stream ended")


async def test_freeing_memory_leaves_no_page_of_an_output_behind(tmp_path):
    """Neither in the cache, nor among the dead outputs that their makers would fill again."""
    async with stage(tmp_path, "friendly_v1") as scene:
        files = scene.made.places.store
        await scene.text(
            solid=("RFSolid", {"width": 512, "height": 512, "value": 0.25}),
            mean=("RFInPlace", {"image": ["solid", 0]}),
            out=("Out", {"x": ["mean", 0]}),
        )
        assert sum(file.stat().st_size for file in files.iterdir()) == 512 * 512 * 3 * 4
        await scene.engine.free(LOCAL_TENANT, unload_models=False, free_memory=True)
        assert not list(files.iterdir())
        assert all(scene.made.store.sandbox_bytes(info.id) == 0 for info in scene.made.manager.list())


@pytest.mark.usefixtures("every_fast_path")
@pytest.mark.parametrize("path_is_taken", [True, False])
async def test_a_node_that_runs_again_is_offered_the_pages_of_its_last_output(
    tmp_path, monkeypatch, path_is_taken
):
    """It shows the same with and without; with it, only the first of its outputs has to be asked for."""
    if not path_is_taken:
        take_fast_paths({*FastPath} - {FastPath.OFFERED_OUTPUTS})
    asked: list[int] = []
    async with stage(tmp_path) as scene:
        allocate = scene.made.store.allocate

        async def noted(sandbox: SandboxId, nbytes: int) -> str:
            asked.append(nbytes)
            return await allocate(sandbox, nbytes)

        monkeypatch.setattr(scene.made.store, "allocate", noted)
        for width, value in ((512, 0.25), (512, 0.5), (512, 0.75), (256, 1.0)):
            text = await scene.text(
                solid=("Full", {"width": width, "value": value}),
                out=("First", {"x": ["solid", 0]}),
            )
            assert text == [value, value]
    large, small = 512 * 512 * 3 * 4, 512 * 256 * 3 * 4
    assert asked == [*[large] * (1 if path_is_taken else 3), small]


async def test_validators_instances_and_is_changed(tmp_path):
    async with stage(tmp_path, "friendly_v1", "flow") as scene:
        with pytest.raises(PromptInvalidError) as caught:
            await scene.submit(add=("RFAdd", {"a": 13, "b": 1}), out=("Out", {"x": ["add", 0]}))
        errors = caught.value.node_errors["add"]["errors"]
        assert {error["type"] for error in errors} == {"custom_validation_failed"}
        text = "13 is not a number that we add"
        assert [error["details"] for error in errors] == [f"a - {text}", f"input_types - {text}"]
        for number, expected in ((0, "1/0"), (1, "1/1")):  # the second time from the cache
            text = await scene.text(
                count=("RFCounter", {}),
                pair=("RFPair", {"a": ["count", 0], "b": number}),
                out=("Out", {"x": ["pair", 0]}),
            )
            assert text == [expected]


async def test_a_node_that_raises(tmp_path):
    async with stage(tmp_path, "friendly_v1") as scene:
        error = await scene.error(bad=("RFRaises", {"text": "boom"}))
        assert error["exception_message"] == "boom\n"
        assert error["exception_type"] == "ValueError"
        assert error["current_inputs"] == {"text": ["boom"]}
        assert any("raise ValueError" in line for line in error["traceback"])


async def test_live_objects(tmp_path):
    graph = {
        "one": ("RFModel", {"factor": 3.0}),
        "two": ("RFModel", {"factor": 1.0, "model": ["one", 0]}),
        "pair": ("RFPair", {"a": ["two", 1], "b": 0}),
        "out": ("Out", {"x": ["pair", 0]}),
    }
    async with stage(tmp_path, "friendly_v1", "flow") as scene:
        assert await scene.text(**graph) == ["30.0/0"]
        graph["pass"] = ("RFBlock", {"value": ["one", 0], "block": False})
        graph["two"] = ("RFModel", {"factor": 1.0, "model": ["pass", 0]})
        assert await scene.text(**graph) == ["30.0/0"]  # a node of another pack handed it on


async def test_a_group_shares_live_objects(tmp_path):
    async with stage(tmp_path, "friendly_v1", "flow", group="g") as scene:
        text = await scene.text(
            one=("RFModel", {"factor": 3.0}),
            through=("RFBlock", {"value": ["one", 0], "block": False}),
            two=("RFModel", {"factor": 1.0, "model": ["through", 0]}),
            out=("Out", {"x": ["two", 1]}),
        )
        assert text == [30.0]


async def test_objects_of_a_stopped_sandbox_are_made_anew(tmp_path):
    async with stage(tmp_path, "friendly_v1", "flow") as scene:

        def graph(factor: float) -> dict[str, Any]:
            return {
                "one": ("RFModel", {"factor": 3.0}),
                "two": ("RFModel", {"factor": factor, "model": ["one", 0]}),
                "pair": ("RFPair", {"a": ["two", 1], "b": 0}),
                "out": ("Out", {"x": ["pair", 0]}),
            }

        assert await scene.text(**graph(1.0)) == ["30.0/0"]
        (running,) = [
            item for item in scene.made.manager.list(LOCAL_TENANT) if "friendly_v1" in item.extensions
        ]
        await scene.made.manager.stop(LOCAL_TENANT, running.id)
        assert await scene.text(**graph(2.0)) == ["30.0/0"]


async def until(events: Any, node_id: str, *, reports: bool = False) -> None:
    """Wait until a node is about to be called, or says by its progress bar that it is running."""
    with anyio.fail_after(30):
        async for event in events:
            if reports and isinstance(event, ProgressChanged) and event.legacy and event.changed == node_id:
                return
            if not reports and isinstance(event, NodeStarted) and event.node_id == node_id:
                return


async def test_a_node_that_never_returns_is_ended_and_the_next_prompt_works(tmp_path):
    async with stage(tmp_path, "never_returns", "friendly_v1") as scene:
        async with scene.engine.subscribe(LOCAL_TENANT) as events:
            stuck = await scene.submit(n=("RFNeverReturns", {}))
            await until(events, "n")
            other = await scene.submit(
                add=("RFAdd", {"a": 1, "b": 2}),
                out=("Out", {"x": ["add", 0]}),
            )
            assert (await until_ended(scene.engine, LOCAL_TENANT, other))["outputs"]["out"]["text"] == [3]
            with anyio.fail_after(60):
                assert await scene.engine.interrupt(LOCAL_TENANT, stuck)
                entry = await until_ended(scene.engine, LOCAL_TENANT, stuck)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert (await scene.run(a=("RFAnswers", {})))["outputs"]["a"] == {"answer": [42]}


async def test_a_polite_node_is_interrupted_and_its_sandbox_lives(tmp_path):
    async with stage(tmp_path, "slow") as scene, scene.engine.subscribe(LOCAL_TENANT) as events:
        sleeping = await scene.submit(s=("RFSleep", {"seconds": 500}))
        await until(events, "s", reports=True)
        (before,) = [item.id for item in scene.made.manager.list(LOCAL_TENANT) if "slow" in item.extensions]
        with anyio.fail_after(60):
            await scene.engine.interrupt(LOCAL_TENANT)
            entry = await until_ended(scene.engine, LOCAL_TENANT, sleeping)
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"
        assert before in [item.id for item in scene.made.manager.list(LOCAL_TENANT)]


async def test_async_nodes_of_one_worker_overlap(tmp_path):
    async with stage(tmp_path, "gates") as scene:
        entry = await scene.run(w=("RFGateWaitAsync", {"name": "g"}), o=("RFGateOpenAsync", {"name": "g"}))
        assert entry["status"]["status_str"] == "success"


async def test_a_dead_worker_fails_its_node_and_no_other_prompt(tmp_path):
    async with (
        stage(tmp_path, "slow", "friendly_v1") as scene,
        scene.engine.subscribe(LOCAL_TENANT) as events,
    ):
        doomed = await scene.submit(s=("RFSleep", {"seconds": 500}))
        await until(events, "s", reports=True)
        (info,) = [item for item in scene.made.manager.list(LOCAL_TENANT) if "slow" in item.extensions]
        await scene.made.manager.stop(LOCAL_TENANT, info.id)
        entry = await until_ended(scene.engine, LOCAL_TENANT, doomed)
        name, data = entry["status"]["messages"][-1]
        assert name == "execution_error"
        assert data["exception_type"] == "ringfence.EndedError"
        assert "slow" in data["exception_message"]
        assert await scene.text(
            add=("RFAdd", {"a": 1, "b": 2}),
            out=("Out", {"x": ["add", 0]}),
        ) == [3]
