"""What a prompt computes: caching, lazy inputs, lists, expansion, errors (execution-semantics §4 to §11)."""

from __future__ import annotations

import anyio
import pytest

from engine import EngineLimits, PromptLimits, node_calls
from engine.testing import Blocker, FakeNode, Live, Tensor
from policies import LOCAL_TENANT, SandboxId, TenantId
from sandbox.errors import EndedError, NodeInterruptedError, QuotaError
from tests.unit.engine.scene import Stage, prompt

pytestmark = pytest.mark.anyio

MODES = pytest.mark.parametrize("cache", ["classic", "lru:10", "none"])


# -- caching -----------------------------------------------------------------------------------------------------


async def test_a_changed_constant_runs_what_depends_on_it_and_nothing_else():
    async with Stage() as stage:

        def graph(v):
            return prompt(
                a=("Const", {"v": v}), b=("Const", {"v": 5}), c=("Add", {"a": ["a", 0], "b": ["b", 0]}),
                s=("Show", {"x": ["c", 0]}),
            )  # fmt: skip

        assert (await stage.outputs(graph(1)))["s"] == {"x": [6]}
        stage.sessions.calls.clear()
        assert (await stage.outputs(graph(2)))["s"] == {"x": [7]}
        assert stage.sessions.calls == ["a", "c", "s"]


async def test_renumbering_keeps_the_cache():
    async with Stage() as stage:
        await stage.outputs(prompt(a=("Const", {"v": 1}), s=("Show", {"x": ["a", 0]})))
        assert (await stage.outputs(prompt(p=("Const", {"v": 1}), q=("Show", {"x": ["p", 0]})))) == {
            "q": {"x": [1]}
        }
        assert stage.sessions.calls == ["a", "s"]


@pytest.mark.parametrize(("cache", "runs"), [("classic", 3), ("lru:10", 3), ("none", 4)])
async def test_equal_nodes_run_once_where_results_are_kept(cache, runs):
    async with Stage(cache=cache) as stage:
        graph = prompt(
            a=("Const", {"v": 1}),
            b=("Const", {"v": 1}),
            c=("Add", {"a": ["a", 0], "b": ["b", 0]}),
            s=("Show", {"x": ["c", 0]}),
        )
        assert (await stage.outputs(graph))["s"] == {"x": [2]}
        assert len(stage.sessions.calls) == runs


async def test_a_second_equal_output_shows_the_ui_of_the_first():
    async with Stage() as stage:
        graph = prompt(a=("Show", {"x": 1}), b=("Show", {"x": 1}))
        assert (await stage.outputs(graph)) == {"a": {"x": [1]}, "b": {"x": [1]}}
        assert len(stage.sessions.calls) == 1


async def test_nodes_that_are_not_idempotent_run_each_and_are_cached_each():
    count = []
    ticket = FakeNode("Ticket", lambda: (count.append(1) or len(count),), not_idempotent=True)
    async with Stage(ticket) as stage:
        graph = prompt(a=("Ticket",), b=("Ticket",), s=("Show", {"x": ["a", 0]}), t=("Show", {"x": ["b", 0]}))
        first = await stage.outputs(graph)
        assert sorted((first["s"]["x"][0], first["t"]["x"][0])) == [1, 2]
        assert await stage.outputs(graph) == first


async def test_is_changed():
    answer = ["v1"]
    node = FakeNode("Watch", lambda v: (v,), {"v": ["INT", {}]}, fingerprint=lambda v: answer[0])
    async with Stage(node) as stage:
        graph = prompt(w=("Watch", {"v": 1}), s=("Sink", {"x": ["w", 0]}))
        for value, runs in (("v1", 2), ("v1", 2), ("v2", 4), (float("nan"), 6), (float("nan"), 8)):
            answer[0] = value
            await stage.outputs(graph)
            assert len(stage.sessions.calls) == runs, value


async def test_what_can_never_match_again_is_not_kept():
    node = FakeNode("Watch", lambda v: (Tensor(v),), {"v": ["INT", {}]}, fingerprint=lambda v: float("nan"))
    after = FakeNode("After", lambda x: (Tensor(x.data),), {"x": ["*", {}]})
    async with Stage(node, after) as stage:
        await stage.outputs(
            prompt(w=("Watch", {"v": 1}), a=("After", {"x": ["w", 0]}), s=("Sink", {"x": ["a", 0]}))
        )
        assert not stage.sessions.store.references


async def test_is_changed_that_raises_means_always_run_and_the_run_goes_on():
    def fail(v):
        raise RuntimeError("no")

    async with Stage(FakeNode("Watch", lambda v: (v,), {"v": ["INT", {}]}, fingerprint=fail)) as stage:
        graph = prompt(w=("Watch", {"v": 1}), s=("Show", {"x": ["w", 0]}))
        assert await stage.outputs(graph) == await stage.outputs(graph)
        assert stage.sessions.calls == ["w", "s", "w", "s"]


async def test_is_changed_is_seen_in_the_hidden_prompt_and_not_in_the_history():
    seen = []
    node = FakeNode(
        "Watch",
        lambda v, p: (seen.append(p) or v,),
        {"v": ["INT", {}]},
        hidden={"p": "PROMPT"},
        fingerprint=lambda v: "f",
    )
    async with Stage(node) as stage:
        entry = await stage.run(prompt(w=("Watch", {"v": 1}), s=("Sink", {"x": ["w", 0]})))
        assert seen[0]["w"]["is_changed"] == ["f"]
        assert "is_changed" not in entry["prompt"][2]["w"]


async def test_a_submitted_is_changed_is_used_instead():
    node = FakeNode("Watch", lambda v: (v,), {"v": ["INT", {}]}, fingerprint=lambda v: "f")
    async with Stage(node) as stage:
        graph = prompt(w=("Watch", {"v": 1}), s=("Sink", {"x": ["w", 0]}))
        graph["w"]["is_changed"] = ["mine"]
        await stage.outputs(graph)
        assert stage.sessions.asked["fingerprint"] == 0


async def test_tenants_share_nothing():
    async with Stage() as stage:
        graph = prompt(a=("Image", {"v": 1}), s=("Sink", {"x": ["a", 0]}))
        await stage.run(graph, TenantId("one"))
        await stage.run(graph, TenantId("two"))
        assert stage.sessions.calls == ["a", "s", "a", "s"]
        assert await stage.engine.history(TenantId("three")) == {}


@MODES
async def test_values_are_given_back(cache):
    join = FakeNode(
        "Join", lambda a, b: (Tensor((a, b)),), {"a": ["IMAGE", {}], "b": ["IMAGE", {}]}, outputs=("IMAGE",)
    )
    async with Stage(join, cache=cache) as stage:
        for v in (1, 2, 1):
            await stage.outputs(
                prompt(
                    a=("Image", {"v": v}),
                    b=("Image", {"v": 9}),
                    j=("Join", {"a": ["a", 0], "b": ["b", 0]}),
                    s=("Sink", {"x": ["j", 0]}),
                )
            )
        kept = {"classic": 3, "lru:10": 5, "none": 0}[cache]
        assert len(stage.sessions.store.references) == kept
        await stage.engine.free(TenantId("local"), unload_models=False, free_memory=True)
        assert not stage.sessions.store.references


# -- calling nodes -----------------------------------------------------------------------------------------------


async def test_undeclared_links_arrive_and_hidden_values_do():
    seen = {}

    def take(**given):
        seen.update(given)
        return ()

    node = FakeNode(
        "Take", take, {"x": ["*", {}]}, outputs=(), output_node=True,
        hidden={"id": "UNIQUE_ID", "png": "EXTRA_PNGINFO", "token": "AUTH_TOKEN_COMFY_ORG"},
    )  # fmt: skip
    async with Stage(node) as stage:
        graph = prompt(a=("Const", {"v": 4}), t=("Take", {"x": 1, "more": ["a", 0]}))
        entry = await stage.run(
            graph, extra_data={"extra_pnginfo": {"workflow": 1}, "auth_token_comfy_org": "secret"}
        )
        assert seen == {"x": 1, "more": 4, "id": "t", "png": {"workflow": 1}, "token": "secret"}
        assert "secret" not in str(entry)


async def test_a_raw_link_arrives_as_a_link_after_its_source_has_run():
    node = FakeNode(
        "Raw",
        lambda x: {"ui": {"x": [x]}},
        {"x": ["*", {"rawLink": True}]},
        outputs=(),
        output_node=True,
        raw_link=("x",),
    )
    async with Stage(node) as stage:
        assert await stage.outputs(prompt(a=("Const", {"v": 4}), r=("Raw", {"x": ["a", 0]}))) == {
            "r": {"x": [["a", 0]]}
        }
        assert stage.sessions.calls == ["a", "r"]


async def test_a_node_with_a_raw_link_is_not_cached_when_what_it_links_to_changes():
    def repeat(flow):
        return {
            "result": (["copy", 0],),
            "expand": {"copy": {"class_type": "Add", "inputs": {"a": flow, "b": 0}}},
        }

    node = FakeNode(
        "Repeat", repeat, {"flow": ["INT", {"rawLink": True}]}, raw_link=("flow",), outputs=("INT",)
    )
    async with Stage(node) as stage:
        for value in (4, 5):
            graph = prompt(
                a=("Const", {"v": value}), r=("Repeat", {"flow": ["a", 0]}), s=("Show", {"x": ["r", 0]})
            )
            assert (await stage.outputs(graph))["s"] == {"x": [value]}


async def test_a_missing_slot_arrives_as_none():
    short = FakeNode("Short", lambda: (), outputs=("INT", "INT"))
    async with Stage(short) as stage:
        assert (await stage.outputs(prompt(a=("Short",), s=("Show", {"x": ["a", 1]}))))["s"] == {"x": [None]}


async def test_lists_go_item_by_item():
    many = FakeNode("Many", lambda: ([1, 2, 3],), output_is_list=(True,), outputs=("INT",))
    async with Stage(many) as stage:
        graph = prompt(m=("Many",), a=("Add", {"a": ["m", 0], "b": 10}), s=("Show", {"x": ["a", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [11, 12, 13]}


async def test_large_constants_travel_as_objects_and_are_given_back():
    text = "x" * 100_000
    size = FakeNode(
        "Size",
        lambda s, j: {"ui": {"n": [len(s), len(j)]}},
        {"s": ["STRING", {}], "j": ["*", {}]},
        outputs=(),
        output_node=True,
    )
    async with Stage(size) as stage:
        graph = prompt(z=("Size", {"s": text, "j": {"k": text}}))
        assert (await stage.outputs(graph))["z"]["n"][0] == 100_000


async def test_async_nodes_of_one_extension_overlap():
    met = anyio.Event()
    arrived = []

    async def meet(v):
        arrived.append(v)
        if len(arrived) == 2:
            met.set()
        with anyio.fail_after(60):
            await met.wait()
        return (v,)

    async with Stage(FakeNode("Meet", meet, {"v": ["INT", {}]}, outputs=("INT",))) as stage:
        graph = prompt(
            a=("Meet", {"v": 1}),
            b=("Meet", {"v": 2}),
            c=("Add", {"a": ["a", 0], "b": ["b", 0]}),
            s=("Show", {"x": ["c", 0]}),
        )
        assert (await stage.outputs(graph))["s"] == {"x": [3]}


async def test_output_nodes_and_their_targets():
    async with Stage() as stage:
        graph = prompt(a=("Show", {"x": 1}), b=("Show", {"x": 2}))
        assert await stage.outputs(graph, targets=("b",)) == {"b": {"x": [2]}}


async def test_output_files_of_an_extension_with_a_folder_of_its_own():
    items = [
        {"filename": "a.png", "subfolder": "x/../..//y", "type": "output"},
        {"filename": "b.png", "subfolder": "", "type": "temp"},
    ]
    save = FakeNode(
        "Save",
        lambda: {"ui": {"images": items}},
        outputs=(),
        output_node=True,
        extension="blur",
        private_areas=("output",),
    )
    async with Stage(save) as stage:
        images = (await stage.outputs(prompt(s=("Save",))))["s"]["images"]
        assert [item["subfolder"] for item in images] == ["blur/x/y", ""]


async def test_output_files_of_a_sandbox_group_and_of_a_folder_in_the_outputs():
    items = [
        {"filename": "a.png", "subfolder": "", "type": "output"},
        {"filename": "b.png", "subfolder": "daily/x", "type": "temp"},
    ]
    save = FakeNode(
        "Save",
        lambda: {"ui": {"images": items}},
        outputs=(),
        output_node=True,
        extension="blur",
        group="studio",
        private_areas=("output", "temp/daily"),
    )
    async with Stage(save) as stage:
        images = (await stage.outputs(prompt(s=("Save",))))["s"]["images"]
        assert [item["subfolder"] for item in images] == ["_studio", "daily/_studio/x"]


# -- lazy --------------------------------------------------------------------------------------------------------


async def test_asking_for_an_input_that_is_not_there_is_an_error():
    node = FakeNode("Ask", lambda: (1,), {"a": ["*", {"lazy": True}]}, lazy=("a",), check_lazy=lambda: ["b"])
    async with Stage(node) as stage:
        error = await stage.error(
            prompt(c=("Const", {"v": 1}), a=("Ask", {"a": ["c", 0]}), s=("Sink", {"x": ["a", 0]}))
        )
        assert error["exception_type"] == "comfy_execution.graph.NodeInputError"
        assert error["node_id"] == "a"


async def test_a_lazy_input_that_nobody_asks_for_stays_none():
    node = FakeNode(
        "Never", lambda a: (a,), {"a": ["*", {"lazy": True}]}, lazy=("a",), check_lazy=lambda a: []
    )
    async with Stage(node) as stage:
        graph = prompt(c=("Const", {"v": 1}), n=("Never", {"a": ["c", 0]}), s=("Show", {"x": ["n", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [None]}
        assert "c" not in stage.sessions.calls


# -- expansion ---------------------------------------------------------------------------------------------------


def repeat(n, x, context):
    """Counts down by expanding into itself."""
    if n == 0:
        return {"result": (x,)}
    prefix = f"{context.call.node_id}."
    graph = {
        prefix + "add": {"class_type": "Add", "inputs": {"a": x, "b": 1}},
        prefix + "next": {"class_type": "Repeat", "inputs": {"n": n - 1, "x": [prefix + "add", 0]}},
    }
    return {"result": ([prefix + "next", 0],), "expand": graph}


REPEAT = FakeNode("Repeat", repeat, {"n": ["INT", {}], "x": ["INT", {}]}, outputs=("INT",))


@MODES
async def test_a_loop_of_expansions(cache):
    async with Stage(REPEAT, cache=cache) as stage:
        graph = prompt(r=("Repeat", {"n": 20, "x": 0}), s=("Show", {"x": ["r", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [20]}
        runs = len(stage.sessions.calls)
        assert (await stage.outputs(graph))["s"] == {"x": [20]}
        assert len(stage.sessions.calls) == (2 * runs if cache == "none" else runs)


async def test_a_loop_may_turn_so_often_that_the_ids_of_its_nodes_get_long():
    async with Stage(REPEAT) as stage:
        graph = prompt(r=("Repeat", {"n": 300, "x": 0}), s=("Show", {"x": ["r", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [300]}


@pytest.mark.parametrize("cache", ["classic", "lru:1000"])
async def test_children_are_reused_when_their_parent_expands_anew(cache):
    def expand(v, w):
        return {"result": (["p.a", 0],), "expand": {"p.a": {"class_type": "Const", "inputs": {"v": v}}}}

    node = FakeNode("Expand", expand, {"v": ["INT", {}], "w": ["INT", {}]}, outputs=("INT",))
    async with Stage(node, cache=cache) as stage:
        await stage.outputs(prompt(p=("Expand", {"v": 5, "w": 1}), s=("Show", {"x": ["p", 0]})))
        await stage.outputs(prompt(p=("Expand", {"v": 5, "w": 2}), s=("Show", {"x": ["p", 0]})))
        assert stage.sessions.calls.count("p.a") == 1
        assert stage.sessions.calls.count("p") == 2


async def test_live_values_and_tensors_travel_into_children_and_are_given_back():
    def expand():
        graph = {"c": {"class_type": "Read", "inputs": {"t": Tensor("t"), "o": Live("o")}}}
        return {"result": (["c", 0], Tensor("kept")), "expand": graph}

    read = FakeNode("Read", lambda t, o: (t.data + o.data,), outputs=("STRING",))
    async with Stage(FakeNode("Expand", expand, outputs=("STRING", "IMAGE")), read) as stage:
        assert (await stage.outputs(prompt(e=("Expand",), s=("Show", {"x": ["e", 0]}))))["s"] == {"x": ["to"]}
        assert {
            value.data
            for name, value in stage.sessions.store.data.items()
            if name in stage.sessions.store.references
        } == {"kept"}


async def test_results_of_children_are_spliced_and_calls_merged():
    def expand(v):
        if v == 2:
            return {"result": (v, "plain")}
        return {
            "result": ([f"{v}.c", 0], "x"),
            "expand": {f"{v}.c": {"class_type": "Const", "inputs": {"v": v * 100}}},
        }

    many = FakeNode("Many", lambda: ([1, 2, 3],), output_is_list=(True,), outputs=("INT",))
    async with Stage(
        FakeNode("Expand", expand, {"v": ["INT", {}]}, outputs=("INT", "STRING")), many
    ) as stage:
        graph = prompt(
            m=("Many",),
            e=("Expand", {"v": ["m", 0]}),
            s=("Show", {"x": ["e", 0]}),
            t=("Show", {"x": ["e", 1]}),
        )
        assert await stage.outputs(graph) == {"s": {"x": [100, 2, 300]}, "t": {"x": ["x", "plain", "x"]}}


async def test_a_list_output_of_an_expanding_node():
    def expand():
        return {
            "result": ([Tensor("a"), Tensor("b")], ["c", 0]),
            "expand": {"c": {"class_type": "Const", "inputs": {"v": 1}}},
        }

    node = FakeNode("Expand", expand, outputs=("IMAGE", "INT"), output_is_list=(True, False))
    name = FakeNode("Name", lambda t: (t.data,), {"t": ["IMAGE", {}]}, outputs=("STRING",))
    async with Stage(node, name) as stage:
        graph = prompt(e=("Expand",), n=("Name", {"t": ["e", 0]}), s=("Show", {"x": ["n", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": ["a", "b"]}


@pytest.mark.parametrize(
    ("result", "graph", "kind", "text"),
    [
        ((["z", 0],), {"c": ("Const", {"v": 1})}, "comfy_execution.graph.NodeNotFoundError", "no known node"),
        ((["c", 0],), {"c": ("Nope", {})}, "KeyError", "needs the node class 'Nope'"),
        ((["s", 0],), {"s": ("Const", {"v": 1})}, "execution.DuplicateNodeError", "twice"),
        (
            (["c", 0],),
            {"c": ("Const", {"v": ["z", 0]})},
            "comfy_execution.graph.NodeNotFoundError",
            "no known node",
        ),
        ((["c", 0],), {"c\n": ("Const", {"v": 1})}, "ringfence.ExpansionError", "bad node id"),
        (
            (["0", 0],),
            {str(number): ("Const", {"v": Tensor(1)}) for number in range(11)},
            "ringfence.ExpansionError",
            "the limit is 10",
        ),
        (
            (["c", 4],),
            {"c": ("Const", {"v": 1})},
            "IndexError",
            "links to output 4 of node 'c', which returned 1",
        ),
    ],
)
async def test_an_expansion_that_cannot_be_added(result, graph, kind, text):
    def expand():
        nodes = {key: {"class_type": name, "inputs": inputs} for key, (name, inputs) in graph.items()}
        return {"result": (*result, Tensor("given back")), "expand": nodes}

    limits = EngineLimits(prompt=PromptLimits(expansion_nodes=10))
    async with Stage(FakeNode("Expand", expand, outputs=("*", "*")), limits=limits) as stage:
        error = await stage.error(prompt(e=("Expand",), s=("Sink", {"x": ["e", 0]})))
        assert error["exception_type"] == kind
        assert text in error["exception_message"]
        assert error["node_id"] == "e"


async def test_a_cycle_that_an_expansion_makes():
    def expand():
        graph = {
            "c": {"class_type": "Add", "inputs": {"a": ["d", 0], "b": 1}},
            "d": {"class_type": "Add", "inputs": {"a": ["c", 0], "b": 1}},
        }
        return {"result": (["c", 0],), "expand": graph}

    async with Stage(FakeNode("Expand", expand)) as stage:
        error = await stage.error(prompt(e=("Expand",), s=("Sink", {"x": ["e", 0]})))
        assert error["exception_type"] == "graph.DependencyCycleError"
        assert (error["node_id"], error["current_inputs"], error["traceback"]) == ("e", [], [])


async def test_ids_of_nested_children():
    def expand(depth):
        if depth == 0:
            return {"result": ("x",), "ui": {"deep": [1]}}
        child = {"class_type": "Nest", "inputs": {"depth": depth - 1}}
        return {"result": ([f"n{depth}", 0],), "expand": {f"n{depth}": child}}

    async with Stage(FakeNode("Nest", expand, {"depth": ["INT", {}]})) as stage:
        entry = await stage.run(prompt(top=("Nest", {"depth": 2}), s=("Sink", {"x": ["top", 0]})))
        assert entry["outputs"] == {"n1": {"deep": [1]}}
        assert entry["meta"] == {
            "n1": {"node_id": "n1", "display_node": "top", "parent_node": "n2", "real_node_id": "top"}
        }
        # What the policy of the extension counts.
        assert stage.sessions.depths == {"top": 0, "n2": 1, "n1": 2, "s": 0}


# -- errors ------------------------------------------------------------------------------------------------------


async def test_the_error_object():
    def boom(a, t):
        raise ValueError("boom")

    node = FakeNode("Boom", boom, {"a": ["INT", {}], "t": ["IMAGE", {}]})
    async with Stage(node) as stage:
        entry = await stage.run(
            prompt(i=("Image", {"v": 1}), b=("Boom", {"a": 3, "t": ["i", 0]}), s=("Sink", {"x": ["b", 0]}))
        )
        name, error = entry["status"]["messages"][-1]
        assert name == "execution_error"
        assert [name for name, _ in entry["status"]["messages"]] == [
            "execution_start",
            "execution_cached",
            "execution_error",
        ]
        assert error.pop("prompt_id") == entry["prompt"][1]
        assert error.pop("timestamp") == 0
        assert error == {
            "node_id": "b",
            "node_type": "Boom",
            "executed": ["i"],
            "exception_message": "boom\n",
            "exception_type": "ValueError",
            "traceback": [],
            "current_inputs": {"a": [3], "t": ["tensor None None"]},
            "current_outputs": ["i", "b", "s"],
        }


async def test_results_before_a_failure_stay_cached():
    fail = [True]

    def maybe(x):
        if fail[0]:
            raise ValueError("boom")
        return (x,)

    async with Stage(FakeNode("Maybe", maybe, {"x": ["INT", {}]})) as stage:
        graph = prompt(a=("Const", {"v": 1}), m=("Maybe", {"x": ["a", 0]}), s=("Show", {"x": ["m", 0]}))
        await stage.error(graph)
        fail[0] = False
        assert (await stage.outputs(graph))["s"] == {"x": [1]}
        assert stage.sessions.calls == ["a", "m", "m", "s"]


async def test_a_failing_child_is_reported_for_its_submitted_ancestor():
    def boom():
        raise ValueError("boom")

    def expand():
        return {"result": (["e.c", 0],), "expand": {"e.c": {"class_type": "Boom", "inputs": {}}}}

    async with Stage(FakeNode("Boom", boom), FakeNode("Expand", expand)) as stage:
        error = await stage.error(prompt(e=("Expand",), s=("Sink", {"x": ["e", 0]})))
        assert (error["node_id"], error["node_type"]) == ("e", "Expand")


async def test_a_dead_sandbox_fails_its_node_and_the_next_prompt_works():
    async with Stage() as stage:

        def die(context):
            stage.sessions.kill("hungry")
            return (1,)

        stage.sessions.nodes["Die"] = FakeNode("Die", die, extension="hungry")
        graph = prompt(d=("Die",), s=("Sink", {"x": ["d", 0]}))
        error = await stage.error(graph)
        assert error["exception_type"] == "ringfence.EndedError"
        assert error["exception_message"] == "extension 'hungry' ended: memory cap 512 MiB\n"
        stage.sessions.nodes["Die"] = FakeNode("Die", lambda: (1,), extension="hungry")
        await stage.outputs(graph)


async def test_a_quota_error_of_a_node_is_its_error():
    def fill():
        raise QuotaError("extension 'fake': 2 GiB in /dev/shm; the cap is 1 GiB")

    async with Stage(FakeNode("Fill", fill)) as stage:
        error = await stage.error(prompt(f=("Fill",), s=("Sink", {"x": ["f", 0]})))
        assert error["exception_type"] == "ringfence.QuotaError"
        assert "the cap is 1 GiB" in error["exception_message"]


async def test_a_node_may_interrupt_its_own_prompt():
    def stop():
        raise NodeInterruptedError("stopped", exception_type="InterruptProcessingException")

    async with Stage(FakeNode("Stop", stop)) as stage:
        entry = await stage.run(prompt(p=("Stop",), s=("Sink", {"x": ["p", 0]})))
        name, data = entry["status"]["messages"][-1]
        assert name == "execution_interrupted"
        assert (data["node_id"], data["node_type"], data["executed"]) == ("p", "Stop", [])
        assert entry["status"]["status_str"] == "error"


async def test_a_defect_of_ours_ends_one_prompt_with_a_message():
    def defect():
        raise AssertionError("ours")

    async with Stage(FakeNode("Defect", defect)) as stage:
        error = await stage.error(prompt(p=("Defect",), s=("Sink", {"x": ["p", 0]})))
        assert error["exception_type"] == "ringfence.EngineError"
        assert "ours" not in error["exception_message"]


# -- handles -----------------------------------------------------------------------------------------------------

MODEL = FakeNode("Model", lambda v: (Live(v),), {"v": ["INT", {}]}, outputs=("MODEL",), extension="maker")
USE = {"required": {"m": ["MODEL", {}]}, "outputs": ("INT",)}


async def test_a_live_object_stays_in_its_sandbox_and_is_let_go():
    async with Stage(MODEL, FakeNode("Use", lambda m: (m.data,), **USE, extension="maker")) as stage:
        graph = prompt(m=("Model", {"v": 3}), u=("Use", {"m": ["m", 0]}), s=("Show", {"x": ["u", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [3]}
        session = await stage.sessions.acquire("local", "maker")
        assert len(session.objects) == 1
        await stage.engine.free("local", unload_models=False, free_memory=True)
        assert not session.objects


async def test_a_live_object_that_would_leave_names_both_extensions_and_the_way_out():
    async with Stage(MODEL, FakeNode("Use", lambda m: (m.data,), **USE, extension="reader")) as stage:
        error = await stage.error(
            prompt(m=("Model", {"v": 3}), u=("Use", {"m": ["m", 0]}), s=("Sink", {"x": ["u", 0]}))
        )
        assert error["exception_type"] == "ringfence.HandleNotPortableError"
        assert error["node_id"] == "u"
        for part in (
            "'maker'",
            "'reader'",
            "'group: shared' into policies/maker.yaml and policies/reader.yaml",
        ):
            assert part in error["exception_message"]


async def test_a_group_shares_live_objects():
    maker = FakeNode("Model", lambda: (Live(3),), outputs=("MODEL",), extension="maker", group="g")
    async with Stage(
        maker, FakeNode("Use", lambda m: (m.data,), **USE, extension="reader", group="g")
    ) as stage:
        assert (
            await stage.outputs(prompt(m=("Model",), u=("Use", {"m": ["m", 0]}), s=("Show", {"x": ["u", 0]})))
        )["s"] == {"x": [3]}


async def test_cached_objects_of_a_sandbox_that_is_gone_are_made_anew():
    async with Stage(
        MODEL,
        FakeNode(
            "Use",
            lambda m, n: (m.data + n,),
            {**USE["required"], "n": ["INT", {}]},
            outputs=("INT",),
            extension="maker",
        ),
    ) as stage:

        def graph(n):
            return prompt(
                m=("Model", {"v": 3}), u=("Use", {"m": ["m", 0], "n": n}), s=("Show", {"x": ["u", 0]})
            )

        await stage.outputs(graph(1))
        stage.sessions.kill("maker")
        assert (await stage.outputs(graph(2)))["s"] == {"x": [5]}
        assert stage.sessions.calls.count("m") == 2


async def test_objects_lost_during_the_run_are_made_anew():
    async with Stage(
        MODEL,
        FakeNode(
            "Use",
            lambda m, n: (m.data + n,),
            {**USE["required"], "n": ["INT", {}]},
            outputs=("INT",),
            extension="maker",
        ),
    ) as stage:

        def kill(v):
            if not killed:
                killed.append(v)
                stage.sessions.kill("maker")
            return (v,)

        killed = []
        stage.sessions.nodes["Kill"] = FakeNode("Kill", kill, {"v": ["*", {}]}, outputs=("INT",))
        probe = FakeNode("Probe", lambda m: (1,), **USE, extension="maker")
        stage.sessions.nodes["Probe"] = probe
        graph = prompt(
            m=("Model", {"v": 3}), p=("Probe", {"m": ["m", 0]}), k=("Kill", {"v": ["p", 0]}),
            u=("Use", {"m": ["m", 0], "n": ["k", 0]}), s=("Show", {"x": ["u", 0]}),
        )  # fmt: skip
        assert (await stage.outputs(graph))["s"] == {"x": [4]}
        assert stage.sessions.calls.count("m") == 2


async def test_a_lost_result_of_an_expansion_is_made_anew_by_expanding_again():
    def expand():
        children = {
            "e.m": {"class_type": "Model", "inputs": {"v": 3}},
            "e.t": {"class_type": "Image", "inputs": {"v": Tensor(1)}},
        }
        return {"result": (["e.m", 0], ["e.t", 0]), "expand": children}

    killed = []
    use = FakeNode(
        "Use",
        lambda m, n: (m.data + n,),
        {**USE["required"], "n": ["INT", {}]},
        outputs=("INT",),
        extension="maker",
    )
    async with Stage(MODEL, use, FakeNode("Expand", expand, outputs=("MODEL", "IMAGE"))) as stage:

        def kill(v):
            if not killed:
                killed.append(v)
                stage.sessions.kill("maker")
            return (1,)

        stage.sessions.nodes["Kill"] = FakeNode("Kill", kill, {"v": ["*", {}]}, outputs=("INT",))
        graph = prompt(
            e=("Expand",),
            k=("Kill", {"v": ["e", 1]}),
            u=("Use", {"m": ["e", 0], "n": ["k", 0]}),
            s=("Show", {"x": ["u", 0]}),
        )
        assert (await stage.outputs(graph))["s"] == {"x": [4]}
        assert stage.sessions.calls.count("e") == 2


async def test_a_result_that_is_lost_again_and_again_ends_the_prompt(monkeypatch):
    monkeypatch.setattr(node_calls, "SAME_SESSION_S", 0)  # it dies whenever a session is asked for
    async with Stage(MODEL) as stage:

        def die(m):
            raise AssertionError("never reached")

        stage.sessions.nodes["Use"] = FakeNode("Use", die, **USE, extension="maker")
        real = stage.sessions.acquire

        async def acquire(tenant, extension):
            if extension == "maker" and stage.sessions.calls[-1:] == ["m"]:
                stage.sessions.kill("maker")
            return await real(tenant, extension)

        stage.sessions.acquire = acquire
        error = await stage.error(
            prompt(m=("Model", {"v": 3}), u=("Use", {"m": ["m", 0]}), s=("Sink", {"x": ["u", 0]}))
        )
        assert error["exception_type"] == "ringfence.EndedError"
        assert "was lost 4 times" in error["exception_message"]


@pytest.mark.parametrize(("same_s", "asks_again"), [(60, False), (0, True)])
async def test_a_run_asks_for_its_session_again_once_policy_or_pack_may_have_changed(
    monkeypatch, every_fast_path, same_s, asks_again
):
    monkeypatch.setattr(node_calls, "SAME_SESSION_S", same_s)
    async with Stage(MODEL, FakeNode("Use", lambda m: (m.data,), **USE, extension="maker")) as stage:
        asked = []
        real = stage.sessions.acquire

        async def acquire(tenant, extension):
            asked.append(extension)
            return await real(tenant, extension)

        stage.sessions.acquire = acquire
        graph = prompt(m=("Model", {"v": 3}), u=("Use", {"m": ["m", 0]}), s=("Show", {"x": ["u", 0]}))
        assert (await stage.outputs(graph))["s"] == {"x": [3]}
        assert (asked.count("maker") > 1) is asks_again


async def test_a_session_that_has_ended_is_not_asked_again_however_young(monkeypatch, every_fast_path):
    monkeypatch.setattr(node_calls, "SAME_SESSION_S", 60)
    async with Stage(MODEL, FakeNode("Use", lambda m: (m.data,), **USE, extension="maker")) as stage:

        def kill(v):
            stage.sessions.kill("maker")
            return (1,)

        stage.sessions.nodes["Kill"] = FakeNode("Kill", kill, {"v": ["*", {}]}, outputs=("INT",))
        graph = prompt(
            m=("Model", {"v": 3}),
            u=("Use", {"m": ["m", 0]}),
            k=("Kill", {"v": ["u", 0]}),
            n=("Model", {"v": ["k", 0]}),
            w=("Use", {"m": ["n", 0]}),
            s=("Show", {"x": ["w", 0]}),
        )
        assert (await stage.outputs(graph))["s"] == {"x": [1]}


async def test_many_readers_of_a_lost_result_count_it_once():
    async with Stage(
        MODEL,
        *(FakeNode(f"Use{i}", lambda m: (m.data,), **USE, extension="maker", group=None) for i in range(6)),
    ) as stage:
        killed = []

        def kill(v):
            if not killed:
                killed.append(v)
                stage.sessions.kill("maker")
            return (1,)

        stage.sessions.nodes["Kill"] = FakeNode("Kill", kill, {"v": ["*", {}]}, outputs=("INT",))
        graph = prompt(m=("Model", {"v": 3}), p=("Use5", {"m": ["m", 0]}), k=("Kill", {"v": ["p", 0]}))
        for i in range(5):
            graph |= {
                f"u{i}": {"class_type": f"Use{i}", "inputs": {"m": ["m", 0], "after": ["k", 0]}},
                f"s{i}": {"class_type": "Show", "inputs": {"x": [f"u{i}", 0]}},
            }
        outputs = await stage.outputs(graph)
        assert outputs == {f"s{i}": {"x": [3]} for i in range(5)}
        assert stage.sessions.calls.count("m") == 2


async def test_objects_that_are_gone_are_made_anew():
    name = FakeNode(
        "Name", lambda i, n: (i.data + n,), {"i": ["IMAGE", {}], "n": ["INT", {}]}, outputs=("INT",)
    )
    async with Stage(name) as stage:

        def graph(n):
            return prompt(
                i=("Image", {"v": 3}), n=("Name", {"i": ["i", 0], "n": n}), s=("Show", {"x": ["n", 0]})
            )

        await stage.outputs(graph(1))
        stage.sessions.store.lost |= set(stage.sessions.store.references)  # between two prompts
        assert (await stage.outputs(graph(2)))["s"] == {"x": [5]}

        def lose(v):
            if not stage.sessions.store.lost - before:
                stage.sessions.store.lost |= set(stage.sessions.store.references)  # within one
            return (v,)

        before = set(stage.sessions.store.lost)
        stage.sessions.nodes["Lose"] = FakeNode("Lose", lose, {"v": ["*", {}]}, outputs=("INT",))
        nodes = graph(3) | prompt(l=("Lose", {"v": ["p", 0]}), p=("Name", {"i": ["i", 0], "n": 9}))
        nodes["n"]["inputs"]["n"] = ["l", 0]
        assert (await stage.outputs(nodes))["s"] == {"x": [15]}
        assert stage.sessions.calls.count("i") == 3


# -- instances ---------------------------------------------------------------------------------------------------


async def test_node_objects_are_dropped_when_the_next_prompt_does_not_name_them():
    async with Stage() as stage:
        await stage.outputs(prompt(a=("Const", {"v": 1}), s=("Sink", {"x": ["a", 0]})))
        session = await stage.sessions.acquire("local", "fake")
        await stage.outputs(prompt(a=("Const", {"v": 2}), t=("Sink", {"x": ["a", 0]})))
        assert session.dropped == ["s"]
        await stage.outputs(prompt(a=("Image", {"v": 2}), t=("Sink", {"x": ["a", 0]})))
        assert session.dropped == ["s", "a"]


def test_blockers_are_values():
    assert Blocker("x").message == "x"


@pytest.mark.parametrize(("times", "is_success"), [(2, True), (3, False)])
async def test_a_call_that_never_reached_its_worker_is_made_again_but_not_for_ever(times, is_success):
    async with Stage() as stage:
        left = [times]

        def unlucky(v):
            if left[0]:
                left[0] -= 1
                raise EndedError("extension 'fake' ended: stopped", limit="stopped", call_started=False)
            return (v,)

        stage.sessions.nodes["Unlucky"] = FakeNode("Unlucky", unlucky, {"v": ["*", {}]})
        entry = await stage.run(prompt(u=("Unlucky", {"v": 7}), s=("Sink", {"x": ["u", 0]})))
        assert (entry["status"]["status_str"] == "success") is is_success


async def test_the_history_says_where_each_node_ran():
    async with Stage() as stage:
        graph = prompt(a=("Add", {"a": 1, "b": 2}), s=("Show", {"x": ["a", 0]}))
        nodes = (await stage.run(graph))["ringfence"]["nodes"]
        assert {node_id: about["class_type"] for node_id, about in nodes.items()} == {"a": "Add", "s": "Show"}
        assert all(
            about["sandbox"] and about["extension"] and not about["cached"] for about in nodes.values()
        )
        again = (await stage.run(graph))["ringfence"]["nodes"]
        assert all(about["cached"] and about["sandbox"] is None for about in again.values())


async def test_the_cache_gives_way_when_memory_is_short():
    async with Stage() as stage:
        await stage.run(prompt(a=("Add", {"a": 1, "b": 2}), s=("Sink", {"x": ["a", 0]})))
        stage.sessions.store.on_pressure(LOCAL_TENANT, SandboxId("fake-1"), 1)
        again = await stage.run(prompt(a=("Add", {"a": 1, "b": 2}), s=("Sink", {"x": ["a", 0]})))
        assert not again["ringfence"]["nodes"]["a"]["cached"]
