"""A live object goes through nodes of other sandboxes that only hand it on, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from engine import PromptInvalidError
from engine.testing import FakeNode, Live, StandIn
from tests.unit.engine.scene import Stage, prompt

pytestmark = pytest.mark.anyio

ANY = ["*", {}]
MAKE = FakeNode(
    "Make",
    lambda v: (Live(v),),
    {"v": ["INT", {}]},
    outputs=("MODEL",),
    extension="maker",
    may_expand=False,
)
USE = FakeNode("Use", lambda m: (m.data,), {"m": ["MODEL", {}]}, outputs=("INT",), extension="maker")
SWITCH = FakeNode(
    "Switch",
    lambda first=None, second=None: (first if first is not None else second,),
    optional={"first": ANY, "second": ANY},
    any_inputs=("first", "second"),
    any_outputs=(0,),
    extension="switch",
)


def through(*hops: str, v: int = 3) -> dict[str, Any]:
    """make -> each hop -> use -> show."""
    nodes: dict[str, Any] = {"m": ("Make", {"v": v})}
    last = "m"
    for number, hop in enumerate(hops):
        nodes[f"h{number}"] = (hop, {"second": [last, 0]})
        last = f"h{number}"
    return prompt(**nodes, u=("Use", {"m": [last, 0]}), s=("Show", {"x": ["u", 0]}))


async def test_a_switch_of_another_pack_hands_it_on_and_it_is_the_same_object_again() -> None:
    async with Stage(MAKE, USE, SWITCH) as stage:
        assert await stage.outputs(through("Switch", "Switch")) == {"s": {"x": [3]}}
        session = await stage.sessions.acquire("local", "maker")
        assert len(session.objects) == 1
        await stage.engine.free("local", unload_models=False, free_memory=True)
        assert not session.objects, "a number that was given away still holds the object"


@pytest.mark.parametrize("cache", ["classic", "lru:10", "none"])
async def test_a_cached_switch_hands_on_what_its_sandbox_never_held(cache: str) -> None:
    async with Stage(MAKE, USE, SWITCH, cache=cache) as stage:
        for v in (1, 2, 1):
            assert await stage.outputs(through("Switch", v=v)) == {"s": {"x": [v]}}


async def test_a_switch_that_declares_the_type_at_its_output_is_no_maker_of_it() -> None:
    typed = FakeNode(
        "Typed",
        lambda second: (second,),
        {"second": ANY},
        outputs=("MODEL",),
        extension="switch",
        may_expand=False,
    )
    async with Stage(MAKE, USE, typed) as stage:
        for v in (1, 2):
            assert await stage.outputs(through("Typed", v=v)) == {"s": {"x": [v]}}


async def test_each_of_a_list_is_handed_on_as_itself() -> None:
    many = FakeNode(
        "Many", lambda: ([Live(1), Live(2)],), outputs=("*",), output_is_list=(True,), extension="maker"
    )
    async with Stage(many, USE, SWITCH) as stage:
        graph = prompt(
            m=("Many",),
            w=("Switch", {"first": ["m", 0]}),
            u=("Use", {"m": ["w", 0]}),
            s=("Show", {"x": ["u", 0]}),
        )
        assert await stage.outputs(graph) == {"s": {"x": [1, 2]}}


async def test_an_expansion_hands_it_to_its_children() -> None:
    grow = FakeNode(
        "Grow",
        lambda second: {
            "result": (["c", 0],),
            "expand": {"c": {"class_type": "Use", "inputs": {"m": second}}},
        },
        {"second": ANY},
        outputs=("INT",),
        extension="switch",
    )
    async with Stage(MAKE, USE, grow) as stage:
        graph = prompt(m=("Make", {"v": 4}), g=("Grow", {"second": ["m", 0]}), s=("Show", {"x": ["g", 0]}))
        assert await stage.outputs(graph) == {"s": {"x": [4]}}


async def test_whoever_uses_it_elsewhere_gets_the_error_of_its_maker_not_of_the_switch() -> None:
    third = FakeNode("Third", lambda m: (m.data,), {"m": ["MODEL", {}]}, outputs=("INT",), extension="third")
    async with Stage(MAKE, SWITCH, third) as stage:
        graph = prompt(
            m=("Make", {"v": 1}),
            w=("Switch", {"first": ["m", 0]}),
            t=("Third", {"m": ["w", 0]}),
            s=("Sink", {"x": ["t", 0]}),
        )
        error = await stage.error(graph)
    assert error["node_id"] == "t"
    assert error["exception_type"] == "ringfence.HandleNotPortableError"
    text = error["exception_message"]
    assert "made by extension 'maker' cannot leave its sandbox, and extension 'third' runs in another" in text
    assert "'group: shared' into policies/maker.yaml and policies/third.yaml" in text


@pytest.mark.parametrize("out", ["IMAGE", "LATENT", "CONDITIONING", "CLIP", "GUIDER", "STRING"])
async def test_an_input_of_its_type_is_refused_when_no_output_could_have_it_in_it(out: str) -> None:
    typed = FakeNode(
        "Typed",
        lambda second: (second,),
        {"second": ["MODEL", {}]},
        outputs=(out,),
        extension="b",
        may_expand=False,
    )
    async with Stage(MAKE, USE, typed) as stage:
        graph = prompt(m=("Make", {"v": 1}), t=("Typed", {"second": ["m", 0]}), s=("Sink", {"x": ["t", 0]}))
        with pytest.raises(PromptInvalidError) as caught:
            await stage.submit(graph)
    assert caught.value.node_errors["t"]["errors"][0]["type"] == "live_object_crosses_sandboxes"


async def test_what_was_given_in_one_prompt_is_worth_nothing_in_the_next() -> None:
    kept: list[StandIn] = []

    def keep(second: Any) -> Any:
        kept.append(second)
        return (kept[0],)

    hoard = FakeNode("Hoard", keep, {"second": ANY}, any_outputs=(0,), extension="switch")
    async with Stage(MAKE, USE, hoard) as stage:
        assert await stage.outputs(through("Hoard", v=1)) == {"s": {"x": [1]}}
        error = await stage.error(through("Hoard", v=2))
    assert error["exception_type"] == "ringfence.HandleNotPortableError"
    assert "was not given in this prompt" in error["exception_message"]
    assert kept[0] != kept[1]


@pytest.mark.parametrize("number", [0, 1, 2, 10_000])
async def test_a_number_that_nobody_gave_to_this_sandbox_is_refused(number: int) -> None:
    forge = FakeNode("Forge", lambda: (StandIn(number),), any_outputs=(0,), extension="forger")
    async with Stage(MAKE, USE, SWITCH, forge) as stage:
        graph = {
            **through("Switch"),
            **prompt(f=("Forge",), v=("Use", {"m": ["f", 0]}), t=("Sink", {"x": ["v", 0]})),
        }
        error = await stage.error(graph)
    assert (error["node_id"], error["exception_type"]) == ("f", "ringfence.HandleNotPortableError")


async def test_an_object_whose_sandbox_was_replaced_is_made_anew_behind_the_switch() -> None:
    again = FakeNode(
        "Again",
        lambda m, n: (m.data + n,),
        {"m": ["MODEL", {}], "n": ["INT", {}]},
        outputs=("INT",),
        extension="maker",
    )
    async with Stage(MAKE, SWITCH, again) as stage:
        for n in (0, 10):
            graph = prompt(
                m=("Make", {"v": 3}),
                w=("Switch", {"first": ["m", 0]}),
                a=("Again", {"m": ["w", 0], "n": n}),
                s=("Show", {"x": ["a", 0]}),
            )
            assert await stage.outputs(graph) == {"s": {"x": [3 + n]}}
            stage.sessions.kill("maker")


async def test_a_node_that_has_nowhere_to_hand_it_on_to_is_not_run() -> None:
    ran: list[Any] = []
    preview = FakeNode(
        "Preview",
        lambda x: ran.append(x) or {},
        {"x": ANY},
        outputs=("STRING",),
        extension="b",
        may_expand=False,
        output_node=True,
        any_inputs=("x",),
    )
    wrap = FakeNode("Wrap", lambda v: ([Live(v)],), {"v": ["INT", {}]}, outputs=("*",), extension="maker")
    async with Stage(MAKE, wrap, preview) as stage:
        with pytest.raises(PromptInvalidError):
            await stage.submit(prompt(m=("Make", {"v": 1}), p=("Preview", {"x": ["m", 0]})))
        error = await stage.error(prompt(m=("Wrap", {"v": 1}), p=("Preview", {"x": ["m", 0]})))
    assert error["exception_type"] == "ringfence.HandleNotPortableError"
    assert "a live Live made by extension 'maker' cannot leave its sandbox" in error["exception_message"]
    assert not ran


async def test_a_pipe_of_another_pack_carries_it_from_typed_socket_to_typed_socket() -> None:
    pack = FakeNode(
        "Pack",
        lambda first, second: ((first, [second]),),
        {"first": ["MODEL", {}], "second": ["CLIP", {}]},
        outputs=("BASIC_PIPE",),
        extension="pipes",
        may_expand=False,
    )
    unpack = FakeNode(
        "Unpack",
        lambda pipe: (pipe[0], pipe[1][0]),
        {"pipe": ["BASIC_PIPE", {}]},
        outputs=("MODEL", "CLIP"),
        extension="pipes",
        may_expand=False,
    )
    clip = FakeNode(
        "MakeClip", lambda: (Live("clip"),), outputs=("CLIP",), extension="maker", may_expand=False
    )
    use = FakeNode(
        "UseBoth",
        lambda m, c: (f"{m.data} {c.data}",),
        {"m": ["MODEL", {}], "c": ["CLIP", {}]},
        outputs=("STRING",),
        extension="maker",
    )
    async with Stage(MAKE, clip, pack, unpack, use) as stage:
        for v in (1, 2, 1):
            graph = prompt(
                m=("Make", {"v": v}),
                c=("MakeClip",),
                p=("Pack", {"first": ["m", 0], "second": ["c", 0]}),
                q=("Unpack", {"pipe": ["p", 0]}),
                u=("UseBoth", {"m": ["q", 0], "c": ["q", 1]}),
                s=("Show", {"x": ["u", 0]}),
            )
            assert await stage.outputs(graph) == {"s": {"x": [f"{v} clip"]}}


async def test_what_a_pack_made_and_carried_itself_is_still_refused_before_it_runs_elsewhere() -> None:
    patch = FakeNode(
        "Patch",
        lambda m: (m,),
        {"m": ["MODEL", {}]},
        outputs=("MODEL",),
        extension="maker",
        may_expand=False,
    )
    third = FakeNode(
        "Third", lambda m: (1,), {"m": ["MODEL", {}]}, outputs=("INT",), extension="third", may_expand=False
    )
    async with Stage(MAKE, patch, third) as stage:
        graph = prompt(
            m=("Make", {"v": 1}),
            p=("Patch", {"m": ["m", 0]}),
            t=("Third", {"m": ["p", 0]}),
            s=("Sink", {"x": ["t", 0]}),
        )
        with pytest.raises(PromptInvalidError) as caught:
            await stage.submit(graph)
    assert caught.value.node_errors["t"]["errors"][0]["extra_info"]["extensions"] == ["maker", "third"]


async def test_a_node_may_ask_whether_it_is_there_though_it_has_nowhere_to_hand_it_on_to() -> None:
    is_none = FakeNode(
        "IsNone",
        lambda x: (int(x is None),),
        {"x": ANY},
        outputs=("BOOLEAN",),
        any_inputs=("x",),
        extension="logic",
        may_expand=False,
    )
    async with Stage(MAKE, is_none) as stage:
        graph = prompt(m=("Make", {"v": 1}), n=("IsNone", {"x": ["m", 0]}), s=("Show", {"x": ["n", 0]}))
        assert await stage.outputs(graph) == {"s": {"x": [0]}}
