"""What a policy says of one call's results, and of sizes and variables, holds in a real container."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox import QuotaError
from tests.contract.kit import TENANT, World, call, ignore, in_docker, world

pytestmark = pytest.mark.anyio

CODE = """
import os
import torch
from comfy_execution.graph_utils import GraphBuilder

class Many:
    @classmethod
    def INPUT_TYPES(cls): return {"required": {"count": ("INT", {})}}
    RETURN_TYPES, OUTPUT_IS_LIST, FUNCTION, CATEGORY = ("INT",), (True,), "run", "t"
    def run(self, count): return (list(range(count)),)

class Large:
    @classmethod
    def INPUT_TYPES(cls): return {"required": {"count": ("INT", {})}}
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "t"
    def run(self, count): return (torch.zeros(count, dtype=torch.uint8),)

class Grow:
    @classmethod
    def INPUT_TYPES(cls): return {"required": {"count": ("INT", {})}}
    RETURN_TYPES, FUNCTION, CATEGORY = ("INT",), "run", "t"
    def run(self, count):
        graph = GraphBuilder()
        for _ in range(count):
            last = graph.node("Grow", count=1)
        return {"result": (last.out(0),), "expand": graph.finalize()}

class Print:
    @classmethod
    def INPUT_TYPES(cls): return {"required": {"count": ("INT", {})}}
    RETURN_TYPES, FUNCTION, CATEGORY = ("INT",), "run", "t"
    def run(self, count):
        for number in range(count):
            print("line", number, flush=True)
        return (count,)

class Surroundings:
    @classmethod
    def INPUT_TYPES(cls): return {}
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "t"
    def run(self):
        sizes = [os.statvfs(path) for path in ("/tmp", "/app")]
        return (" ".join([os.environ["MODE"], *(str(s.f_blocks * s.f_frsize) for s in sizes)]),)

NODE_CLASS_MAPPINGS = {"Surroundings": Surroundings, "Many": Many, "Large": Large, "Grow": Grow, "Print": Print}
"""
POLICY = """
memory: 1GiB
tmp: 8MiB
scratch: 16MiB
environment: {MODE: fast}
limits:
  outputs: 5
  output_bytes: 64KiB
  expansion_nodes: 3
  expansion_depth: 2
  log_rate: 10
"""


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, in_docker, policies={"pack": POLICY}) as made:
        made.shelf.write("pack", CODE)
        yield made


async def test_each_object_limit_fails_the_node_alone_with_its_figure_and_line(at: World) -> None:
    await at.run("pack", "Many", count=5)
    with pytest.raises(QuotaError, match=r"returned 6 values, the policy allows 5; raise 'limits.outputs'"):
        await at.run("pack", "Many", count=6)
    await at.run("pack", "Large", count=64 * 1024)
    with pytest.raises(QuotaError, match=r"limits\.output_bytes"):
        await at.run("pack", "Large", count=64 * 1024 + 1)
    await at.run("pack", "Grow", count=3)
    with pytest.raises(QuotaError, match=r"expands into 4 nodes, the policy allows 3"):
        await at.run("pack", "Grow", count=4)
    assert len(at.manager.list(TENANT)) == 1  # the same sandbox served all of them


async def test_expansions_lie_inside_each_other_only_as_deep_as_the_policy_says(at: World) -> None:
    session = await at.session("pack")
    await session.execute(call("Grow", {"count": 1}, depth=1), ignore)
    with pytest.raises(
        QuotaError,
        match=r"extension 'pack': node '1' \(Grow\) expands inside 2 other expansions, the policy allows "
        r"2 \(policies/pack.yaml:10\); raise 'limits.expansion_depth'",
    ):
        await session.execute(call("Grow", {"count": 1}, depth=2), ignore)
    await session.execute(
        call("Many", {"count": 1}, depth=2), ignore
    )  # what does not expand may lie anywhere


async def test_lines_over_the_rate_are_dropped_and_counted(at: World) -> None:
    session = await at.session("pack")
    await at.run("pack", "Print", count=2_000)
    await at.run("pack", "Many", count=1)
    lines = [line.text for line in await at.manager.logs(TENANT, session.sandbox)]
    assert any("lines were dropped: over limits.log_rate" in line for line in lines)
    assert sum(line.startswith("line ") for line in lines) < 1_000


async def test_the_sandbox_has_the_variables_and_the_sizes_that_its_policy_names(at: World) -> None:
    found = await at.run("pack", "Surroundings")
    assert found.slots is not None
    assert found.slots[0][0].tree == f"fast {8 << 20} {16 << 20}"
