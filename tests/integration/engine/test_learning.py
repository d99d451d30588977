"""Learning a policy over real workers: prompts go through the engine, errors are seen as well, nothing is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from engine import Engine, Learner, Lesson, PromptRequest, Trial
from engine.testing import MemoryStorage
from policies import LOCAL_TENANT, ExtensionName, TenantId, compare
from sandbox.testing import UnconfinedLauncher
from tests.contract.kit import PACKS, World, world
from tests.integration.engine.test_with_workers import OUT, Types

pytestmark = pytest.mark.anyio

PACK = """
import os
INPUTS = {"value": ("INT", {"default": 7}), "path": ("STRING", {"default": ""})}
class Number:
    INPUT_TYPES = classmethod(lambda cls: {"required": INPUTS})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "t"
    OUTPUT_NODE = True
    def run(self, value, path):
        os.environ.get("PACK_HOME")
        if path:
            open(path)
        return (value,)
class NeedsModel:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("RF_MODEL",)}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "t"
    def run(self, model):
        return (1,)
NODE_CLASS_MAPPINGS = {"Number": Number, "NeedsModel": NeedsModel}
"""


class Extensions(Types):
    async def get(self, tenant: TenantId, extension: ExtensionName) -> Any:
        del tenant
        return SimpleNamespace(name=extension, state="ready")


class Scene:
    def __init__(self, made: World, engine: Engine) -> None:
        self.made, self.engine = made, engine
        self.said: list[str] = []

    async def learn(
        self, extension: str, *graphs: dict[str, Any], nodes: bool = False, limit_s: float = 60
    ) -> Lesson:
        trials = [Trial(f"prompt {at}", PromptRequest(prompt=graph)) for at, graph in enumerate(graphs, 1)]
        return await Learner(self.engine, self.made.policies.store).learn(
            LOCAL_TENANT,
            ExtensionName(extension),
            trials,
            with_nodes=nodes,
            limit_s=limit_s,
            submit=lambda request: self.engine.submit(LOCAL_TENANT, request),
            progress=self.said.append,
        )

    def assert_nothing_is_left(self) -> None:
        assert not self.made.manager._watches
        assert not any(info.extensions == ("pack",) for info in self.made.manager.list())


@asynccontextmanager
async def stage(tmp_path: Path, *packs: str, code: str = PACK) -> AsyncIterator[Scene]:
    async with world(tmp_path, lambda places, _: UnconfinedLauncher(places)) as made:
        made.shelf.write("pack", code)
        made.shelf.write("out", OUT)
        for pack in packs:
            made.shelf.add(PACKS / pack)
        engine = Engine(
            manager=made.manager,
            store=made.store,
            extensions=cast("Any", Extensions(made, "pack", "out", *packs)),
            storage=MemoryStorage(),
        )
        async with engine:
            yield Scene(made, engine)


def number(**inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": "Number", "inputs": {"value": 1, "path": "", **inputs}}}


def states(lesson: Lesson) -> Sequence[tuple[str, str]]:
    return [(outcome.name, outcome.state) for outcome in lesson.outcomes]


async def test_prompts_run_as_everybodys_and_what_fails_is_said(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        await scene.learn("pack", number())
        lesson = await scene.learn(
            "pack", number(), number(path="/models/x.bin"), {"1": {"class_type": "Nobody"}}
        )
        assert states(lesson) == [("prompt 1", "ok"), ("prompt 2", "failed"), ("prompt 3", "refused")]
        assert lesson.is_whole
        assert lesson.has_run
        assert "2 nodes" not in lesson.policy.text
        assert "PACK_HOME" in lesson.policy.text, "what was cached before is run all the same"
        assert '# - {host: "/models/x.bin"' in lesson.policy.text
        assert len(await scene.engine.history(LOCAL_TENANT)) == 3
        scene.assert_nothing_is_left()


async def test_each_node_is_run_with_made_up_values_and_leaves_no_entry_in_the_history(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as scene:
        lesson = await scene.learn("pack", nodes=True)
        assert states(lesson) == [("node NeedsModel", "skipped"), ("node Number", "ok")]
        assert await scene.engine.history(LOCAL_TENANT) == {}


async def test_a_live_object_that_would_have_to_leave_is_a_note_about_a_group(tmp_path: Path) -> None:
    async with stage(tmp_path, "friendly_v1") as scene:
        graph = {
            "a": {"class_type": "RFModel", "inputs": {"factor": 2.0}},
            "b": {"class_type": "NeedsModel", "inputs": {"model": ["a", 0]}},
            "c": {"class_type": "Out", "inputs": {"x": ["b", 0]}},
        }
        lesson = await scene.learn("pack", graph)
        (note,) = [note for note in lesson.policy.notes if "sandbox group is needed" in note]
        assert "friendly_v1" in note
        assert "live" in note


async def test_a_pack_that_cannot_be_imported_is_said_and_nothing_is_taken_away(tmp_path: Path) -> None:
    async with stage(tmp_path, code="raise OSError('no')") as scene:
        scene.engine.extensions._packs = ("out",)  # type: ignore[attr-defined]
        lesson = await scene.learn("pack", number())
        assert states(lesson) == [("its import", "failed")]
        assert not lesson.has_run
        assert (
            compare(scene.made.policies.store.effective(ExtensionName("pack")), lesson.policy.effective) == ()
        )
        scene.assert_nothing_is_left()


SLOW = PACK.replace("        return (value,)", "        import time; time.sleep(3600)")


async def test_when_the_time_is_up_the_prompt_is_cancelled_and_what_was_seen_is_told(tmp_path: Path) -> None:
    async with stage(tmp_path, code=SLOW) as scene:
        lesson = await scene.learn("pack", number(), number(value=2), limit_s=1.5)
        assert not lesson.is_whole
        assert lesson.outcomes == ()
        queue = await scene.engine.queue(LOCAL_TENANT)
        assert queue.remaining == 0
        scene.assert_nothing_is_left()


async def test_whoever_gives_up_leaves_no_prompt_no_watch_and_no_sandbox(tmp_path: Path) -> None:
    async with stage(tmp_path, code=SLOW) as scene:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.learn, "pack", number())
            with anyio.fail_after(30):
                while not (await scene.engine.queue(LOCAL_TENANT)).running:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert (await scene.engine.queue(LOCAL_TENANT)).remaining == 0
        scene.assert_nothing_is_left()
