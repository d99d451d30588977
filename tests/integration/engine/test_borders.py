"""What crosses the border between two packs' sandboxes, and what is made again when a sandbox is replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from engine import Engine, NodeType, PromptInvalidError, PromptRequest
from engine.testing import MemoryStorage, until_ended
from policies import LOCAL_TENANT, ExtensionName, TenantId
from sandbox.testing import UnconfinedLauncher
from tests.contract.kit import MakeLauncher, World, in_docker, world

pytestmark = pytest.mark.anyio

#: Both packs make the same value from a seed: the one sends it, the other compares what arrives, types and all.
VALUES = """
import random

import numpy as np
import torch


def leaf(rng):
    kinds = [
        lambda: rng.choice([None, True, False]),
        lambda: rng.randint(-(2**70), 2**70),
        lambda: rng.choice([0.5, -0.0, float("inf"), float("nan")]),
        lambda: complex(rng.random(), -1),
        lambda: rng.choice(["", "text", "\\u2603 \\U0001f600", "$tensor", "x" * 100_000]),
        lambda: rng.randbytes(rng.choice([0, 3, 100_000])),
        lambda: bytearray(rng.randbytes(5)),
        lambda: torch.arange(rng.randint(0, 20)).to(rng.choice([torch.float32, torch.bfloat16, torch.bool])),
        lambda: torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(rng.randint(0, 99)))[:, ::2].mT,
        lambda: np.arange(rng.randint(0, 9), dtype=rng.choice(["u1", "<f4", "<f8", "<c8"])).reshape(-1, 1),
        lambda: np.float32(rng.random()),
        lambda: {1, "a"},
    ]
    return rng.choice(kinds)()


def value(rng, depth=4):
    if depth == 0 or rng.random() < 0.3:
        return leaf(rng)
    several = range(rng.randint(0, 4))
    kinds = [
        lambda: [value(rng, depth - 1) for _ in several],
        lambda: tuple(value(rng, depth - 1) for _ in several),
        lambda: {rng.choice(["a", "$b", "", 3, (1, "k"), None]): value(rng, depth - 1) for _ in several},
        lambda: {rng.choice([1, "b", 2.5, (1, 2)]) for _ in several},
    ]
    return rng.choice(kinds)()


def same(a, b):
    if type(a) is not type(b):
        return f"{type(a).__name__} arrived as {type(b).__name__}"
    if isinstance(a, torch.Tensor):
        good = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return None if good else f"{a.dtype} {a.shape} arrived as {b.dtype} {b.shape}"
    if isinstance(a, np.ndarray):
        good = a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
        return None if good else f"{a.dtype} {a.shape} arrived as {b.dtype} {b.shape}"
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return "length"
        return next((found for x, y in zip(a, b) if (found := same(x, y))), None)
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"keys {list(a)} arrived as {list(b)}"
        return next((found for key in a if (found := same(a[key], b[key]))), None)
    if isinstance(a, float) and a != a:
        return None if b != b else "nan"
    if isinstance(a, set):
        return None if a == b else f"{a!r} arrived as {b!r}"
    return None if repr(a) == repr(b) and a == b else f"{a!r} arrived as {b!r}"
"""
BASE = """
class Base:
    FUNCTION = "run"
    OUTPUT_NODE = False
    CATEGORY = "t"
    RETURN_TYPES = ("*",)
"""
SENDER = (
    VALUES
    + BASE
    + """
class Send(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": ("INT", {"default": 0})}})
    def run(self, seed):
        return ([value(random.Random(seed + n)) for n in range(20)],)

NODE_CLASS_MAPPINGS = {"Send": Send}
"""
)
RECEIVER = (
    VALUES
    + BASE
    + """
class Receive(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",), "seed": ("INT", {"default": 0})}})
    OUTPUT_NODE = True
    def run(self, value, seed):
        made = [globals()["value"](random.Random(seed + n)) for n in range(20)]
        return {"ui": {"text": [same(made, value) or "the same"]}, "result": (None,)}

NODE_CLASS_MAPPINGS = {"Receive": Receive}
"""
)
MAKER = (
    BASE
    + """
from dataclasses import dataclass

@dataclass
class Record:
    number: int

HOW = {"required": {"how": ("STRING", {})}}

class MakeRecord(Base):
    INPUT_TYPES = classmethod(lambda cls: HOW)
    def run(self, how):
        record = Record(7)
        return ({"bare": record, "list": [1, record], "dict": {"deep": ({"er": record},)}}[how],)

class ExpandRecord(Base):
    INPUT_TYPES = classmethod(lambda cls: HOW)
    def run(self, how):
        child = {"class_type": "MakeRecord", "inputs": {"how": how}}
        return {"result": ([f"inner {how}", 0],), "expand": {f"inner {how}": child}}

class UseRecord(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",), "other": ("*",)}})
    OUTPUT_NODE = True
    def run(self, value, other):
        found = []
        for item in (value, other):
            while not isinstance(item, Record):
                item = item[-1] if isinstance(item, (list, tuple)) else next(iter(item.values()))
            found.append(item)
        return {"ui": {"text": [f"record {found[0].number} {found[0] is found[1]}"]}, "result": (None,)}

NODE_CLASS_MAPPINGS = {"MakeRecord": MakeRecord, "ExpandRecord": ExpandRecord, "UseRecord": UseRecord}
"""
)
TAKER = (
    BASE
    + """
class Take(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",), "again": ("INT", {"default": 0})}})
    OUTPUT_NODE = True
    def run(self, value, again):
        while not hasattr(value, "number"):
            value = value[-1] if isinstance(value, (list, tuple)) else next(iter(value.values()))
        return {"ui": {"text": [f"record {value.number}"]}, "result": (None,)}

class Hand(Base):
    # What switches and reroutes do with what they are given.
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*", {"lazy": True})}, "optional": {"no": ("*",)}})
    def check_lazy_status(self, value=None, no=None):
        return [] if value is not None else ["value"]
    def run(self, value, no=None):
        import copy
        kept = {id(value): value} | ({value: 1} if not isinstance(value, (list, dict)) else {})
        assert value and value is not None and value != no and value == value and value in [no, value]
        assert not isinstance(value, (str, int)) and type(value) is not tuple
        assert isinstance(value, (list, dict)) or not any(hasattr(value, n) for n in ("__len__", "__getitem__"))
        print(f"handing on {value} {value!r}", kept)
        return (copy.deepcopy(value),)

class Use(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",), "how": ("STRING", {})}})
    OUTPUT_NODE = True
    def run(self, value, how):
        return {"ui": {"text": [str(eval(how, {"x": value}))]}, "result": (None,)}

class Forge(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"number": ("INT", {})}})
    def run(self, number):
        import sys
        passing = next(m for name, m in sys.modules.items() if name.endswith(".passing"))
        return (passing.LiveObject(number, "Record", ""),)

NODE_CLASS_MAPPINGS = {"Take": Take, "Hand": Hand, "Use": Use, "Forge": Forge}
"""
)

LOOPER = (
    TAKER
    + """
class Loop(Base):
    # What loops do before they copy what lies between their two ends.
    INPUT_TYPES = classmethod(lambda cls: {
        "required": {"value": ("*",), "left": ("INT", {})}, "hidden": {"graph": "DYNPROMPT", "me": "UNIQUE_ID"}
    })
    def run(self, value, left, graph, me):
        from nodes import NODE_CLASS_MAPPINGS
        kinds = [node["class_type"] for node in graph.get_original_prompt().values()]
        shown = [kind for kind in kinds if NODE_CLASS_MAPPINGS[kind].OUTPUT_NODE]
        assert shown == ["UseRecord"], shown
        assert NODE_CLASS_MAPPINGS["MakeRecord"].RETURN_TYPES == ("*",)
        assert "MakeRecord" not in NODE_CLASS_MAPPINGS
        if not left:
            return (value,)
        more = {"class_type": "Loop", "inputs": {"value": value, "left": left - 1}}
        return {"result": ([f"{me}.more", 0],), "expand": {f"{me}.more": more}}

NODE_CLASS_MAPPINGS["Loop"] = Loop
"""
)


class Types:
    """The node types of both packs."""

    def __init__(self, made: World, group: str | None) -> None:
        self._made = made
        self._group = group

    async def node_types(self, tenant: TenantId) -> Mapping[str, NodeType]:
        found = {}
        for pack in map(ExtensionName, ("sender", "receiver")):
            for node in (await self._made.manager.acquire(tenant, pack)).loaded.nodes:
                found[node.class_type] = NodeType(node, pack, group=self._group)
        return found

    async def refresh(self, tenant: TenantId, class_types: Collection[str] | None) -> Mapping[str, NodeType]:
        del class_types
        return await self.node_types(tenant)

    def is_current(self, tenant: TenantId, class_types: Collection[str]) -> bool:
        return True

    async def make_current(self, tenant: TenantId, class_types: Collection[str]) -> None:
        """Nothing of it changes."""


class Stage:
    """An engine over both packs."""

    def __init__(self, made: World, engine: Engine) -> None:
        self.made = made
        self.engine = engine

    async def run(self, **nodes: tuple[str, dict[str, Any]]) -> Any:
        prompt = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
        submitted = await self.engine.submit(LOCAL_TENANT, PromptRequest(prompt=prompt))
        return await until_ended(self.engine, LOCAL_TENANT, submitted.prompt_id, timeout_s=60)

    async def texts(self, **nodes: tuple[str, dict[str, Any]]) -> dict[str, str]:
        """What each output node shows."""
        entry = await self.run(**nodes)
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
        return {node: shown["text"][0] for node, shown in entry["outputs"].items()}


@asynccontextmanager
async def stage(
    tmp_path: Path, make: MakeLauncher, sender: str, receiver: str, group: str | None = None
) -> AsyncIterator[Stage]:
    text = "memory: 1GiB\ntimeouts: {grace: 1s}\n" + (f"group: {group}\n" if group else "")
    async with world(tmp_path, make, policies={"sender": text, "receiver": text}) as made:
        names = (made.shelf.write("sender", sender), made.shelf.write("receiver", receiver))
        if group:
            made.shelf.groups[group] = names
        engine = Engine(
            manager=made.manager,
            store=made.store,
            extensions=cast("Any", Types(made, group)),
            storage=MemoryStorage(),
        )
        async with engine:
            yield Stage(made, engine)
        assert made.store.usage(LOCAL_TENANT).objects == 0, "values are still held after the engine closed"


KINDS = [
    pytest.param(lambda places, _: UnconfinedLauncher(places), id="plain"),
    pytest.param(in_docker, id="docker", marks=pytest.mark.docker),
]


@pytest.mark.parametrize("make", KINDS)
async def test_plain_data_and_tensors_however_nested_cross_unchanged(
    tmp_path: Path, make: MakeLauncher
) -> None:
    async with stage(tmp_path, make, SENDER, RECEIVER) as scene:
        for seed in range(0, 200, 20):
            nodes = {
                "send": ("Send", {"seed": seed}),
                "out": ("Receive", {"value": ["send", 0], "seed": seed}),
            }
            assert await scene.texts(**nodes) == {"out": "the same"}, f"seed {seed}"


@pytest.mark.parametrize("make", KINDS)
async def test_an_object_anywhere_in_a_value_stops_at_the_border_with_the_lines_to_write(
    tmp_path: Path, make: MakeLauncher
) -> None:
    async with stage(tmp_path, make, MAKER, TAKER) as scene:
        for how in ("bare", "list", "dict"):
            nodes = {
                "make": ("MakeRecord", {"how": how}),
                "out": ("Take", {"value": ["make", 0], "again": 0}),
            }
            entry = await scene.run(**nodes)
            name, error = entry["status"]["messages"][-1]
            assert (name, error["node_id"]) == ("execution_error", "out")
            assert error["exception_type"] == "ringfence.HandleNotPortableError"
            for part in (
                "Record",
                "'sender'",
                "'receiver'",
                "policies/sender.yaml and policies/receiver.yaml",
            ):
                assert part in error["exception_message"]


@pytest.mark.parametrize("make", KINDS)
async def test_an_object_goes_through_another_packs_switch_and_is_itself_again(
    tmp_path: Path, make: MakeLauncher
) -> None:
    async with stage(tmp_path, make, MAKER, TAKER) as scene:
        nodes: dict[str, tuple[str, dict[str, Any]]] = {}
        for how in ("bare", "list", "dict"):
            for maker in ("MakeRecord", "ExpandRecord"):
                name = f"{maker}-{how}"
                nodes[name] = (maker, {"how": how})
                nodes[f"a-{name}"] = ("Hand", {"value": [name, 0]})
                nodes[f"b-{name}"] = ("Hand", {"value": [f"a-{name}", 0]})
                nodes[f"out-{name}"] = ("UseRecord", {"value": [f"b-{name}", 0], "other": [name, 0]})
        for _ in range(2):
            texts = await scene.texts(**nodes)
            assert set(texts.values()) == {"record 7 True"}
            assert len(texts) == 6


@pytest.mark.parametrize("make", KINDS)
async def test_a_loop_knows_the_classes_of_other_packs_in_its_prompt_and_carries_their_objects(
    tmp_path: Path, make: MakeLauncher
) -> None:
    async with stage(tmp_path, make, MAKER, LOOPER) as scene:
        texts = await scene.texts(
            make=("MakeRecord", {"how": "bare"}),
            loop=("Loop", {"value": ["make", 0], "left": 3}),
            out=("UseRecord", {"value": ["loop", 0], "other": ["make", 0]}),
        )
        assert texts == {"out": "record 7 True"}


@pytest.mark.parametrize(
    "how",
    [
        "x.number",
        "x[0]",
        "x()",
        "len(x)",
        "list(x)",
        "x + 1",
        "int(x)",
        "hasattr(x, 'number')",
        "x.__len__",
        "vars(x)",
        "x < x",
        "[*x]",
        "setattr(x, 'number', 1)",
        "__import__('pickle').dumps(x)",
        "__import__('numpy').asarray(x) + 0",
        "dir(x)",
    ],
)
async def test_any_other_use_of_it_says_where_it_lives_and_what_would_help(tmp_path: Path, how: str) -> None:
    async with stage(tmp_path, lambda places, _: UnconfinedLauncher(places), MAKER, TAKER) as scene:
        entry = await scene.run(
            make=("MakeRecord", {"how": "bare"}),
            hand=("Hand", {"value": ["make", 0]}),
            out=("Use", {"value": ["hand", 0], "how": how}),
        )
        name, error = entry["status"]["messages"][-1]
        assert (name, error["node_id"]) == ("execution_error", "out")
        assert error["exception_type"] == "ringfence.HandleNotPortableError"
        for part in ("Record made by extension 'sender' cannot", "'receiver'", "policies/sender.yaml and"):
            assert part in error["exception_message"]
        assert error["current_inputs"]["value"][0].startswith("<live ")


@pytest.mark.parametrize("number", [0, 1, 2, 3])
async def test_a_number_that_a_pack_makes_up_is_nobodys_object(tmp_path: Path, number: int) -> None:
    async with stage(tmp_path, lambda places, _: UnconfinedLauncher(places), MAKER, TAKER) as scene:
        entry = await scene.run(
            make=("MakeRecord", {"how": "bare"}),
            forge=("Forge", {"number": number}),
            out=("UseRecord", {"value": ["forge", 0], "other": ["make", 0]}),
        )
        name, error = entry["status"]["messages"][-1]
        assert (name, error["node_id"]) == ("execution_error", "forge")
        assert "was not given in this prompt" in error["exception_message"]


@pytest.mark.parametrize("make", KINDS)
async def test_objects_of_a_groups_replaced_sandbox_are_made_again_wherever_they_are(
    tmp_path: Path, make: MakeLauncher
) -> None:
    async with stage(tmp_path, make, MAKER, TAKER, group="g") as scene:
        for again in (0, 1):
            nodes: dict[str, tuple[str, dict[str, Any]]] = {}
            for maker in ("MakeRecord", "ExpandRecord"):
                for how in ("bare", "list", "dict"):
                    nodes[f"{maker}-{how}"] = (maker, {"how": how})
                    nodes[f"out-{maker}-{how}"] = (
                        "Take",
                        {"value": [f"{maker}-{how}", 0], "again": again},
                    )
            texts = await scene.texts(**nodes)
            assert len(texts) == 6
            assert set(texts.values()) == {"record 7"}
            for info in scene.made.manager.list():
                await scene.made.manager.stop(LOCAL_TENANT, info.id)


async def test_a_pack_type_is_refused_before_it_runs_once_it_was_seen(tmp_path: Path) -> None:
    maker = MAKER.replace('RETURN_TYPES = ("*",)', 'RETURN_TYPES = ("RECORD",)')
    taker = TAKER.replace('("*",), "again"', '("RECORD",), "again"').replace(
        'RETURN_TYPES = ("*",)', 'RETURN_TYPES = ("STRING",)'
    )
    async with stage(tmp_path, lambda places, _: UnconfinedLauncher(places), maker, taker) as scene:
        nodes: dict[str, tuple[str, dict[str, Any]]] = {
            "make": ("MakeRecord", {"how": "bare"}),
            "out": ("Take", {"value": ["make", 0], "again": 0}),
        }
        assert (await scene.run(**nodes))["status"]["status_str"] == "error"
        with pytest.raises(PromptInvalidError) as caught:
            await scene.run(**nodes)
        assert caught.value.node_errors["out"]["errors"][0]["type"] == "live_object_crosses_sandboxes"
