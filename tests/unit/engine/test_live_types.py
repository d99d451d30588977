"""Prompts that would carry a live object to another sandbox are refused before they run, where the types tell."""

from __future__ import annotations

from typing import Any

import pytest

from engine import PromptInvalidError, live_types
from engine.testing import FakeNode, Live
from policies import LOCAL_TENANT, ExtensionName, SandboxId, TenantId
from sandbox import Value
from tests.unit.engine.scene import Stage, prompt

pytestmark = pytest.mark.anyio


def maker(kind: str, make: Any = lambda v: (Live(v),), **fields: Any) -> FakeNode:
    fields.setdefault("extension", "maker")
    return FakeNode("Make", make, {"v": ["INT", {}]}, outputs=(kind,), may_expand=False, **fields)


def reader(kind: str, **fields: Any) -> FakeNode:
    fields.setdefault("extension", "reader")
    return FakeNode(
        "Use",
        lambda m: (1 if isinstance(m, str) else m.data // m.data,),
        {"m": [kind, fields.pop("options", {})]},
        outputs=("INT",),
        may_expand=False,
        **fields,
    )


def crossing(v: int = 3) -> dict[str, Any]:
    return prompt(m=("Make", {"v": v}), u=("Use", {"m": ["m", 0]}), s=("Sink", {"x": ["u", 0]}))


@pytest.mark.parametrize("kind", ["MODEL", "CLIP", "VAE", "CONTROL_NET", "SAMPLER", "GUIDER", "NOISE"])
async def test_an_object_type_is_refused_with_both_extensions_and_the_lines_to_write(kind: str) -> None:
    async with Stage(maker(kind), reader(kind)) as stage:
        with pytest.raises(PromptInvalidError) as caught:
            await stage.submit(crossing())
    assert caught.value.error["type"] == "prompt_outputs_failed_validation"
    found = caught.value.node_errors["u"]
    assert found["class_type"] == "Use"
    assert found["dependent_outputs"] == ["s"]
    (error,) = found["errors"]
    assert error["type"] == "live_object_crosses_sandboxes"
    assert error["message"] == "A live object cannot leave its sandbox"
    assert error["details"] == (
        f"m: the {kind} of node 'm' (Make) is a live object of extension 'maker', and extension 'reader' runs in "
        "another sandbox; to let both share one, write 'group: shared' into policies/maker.yaml and "
        "policies/reader.yaml (all else in the policies of a group's members has to be equal)"
    )
    assert error["extra_info"] == {
        "input_name": "m",
        "received_type": kind,
        "linked_node": ["m", 0],
        "extensions": ["maker", "reader"],
    }


async def test_only_the_file_that_lacks_the_group_is_named() -> None:
    async with Stage(maker("MODEL", group="studio"), reader("MODEL")) as stage:
        with pytest.raises(PromptInvalidError) as caught:
            await stage.submit(crossing())
    details = caught.value.node_errors["u"]["errors"][0]["details"]
    assert "write 'group: studio' into policies/reader.yaml (" in details


async def test_the_other_outputs_of_the_prompt_still_run() -> None:
    async with Stage(maker("MODEL"), reader("MODEL")) as stage:
        graph = {**crossing(), **prompt(c=("Const", {"v": 1}), t=("Show", {"x": ["c", 0]}))}
        submitted = await stage.submit(graph)
        assert list(submitted.node_errors) == ["u"]
        assert (await stage.outputs(graph)) == {"t": {"x": [1]}}


@pytest.mark.parametrize(
    ("made", "read"),
    [
        ({"extension": "same"}, {"extension": "same"}),
        ({"group": "g"}, {"group": "g"}),
        ({}, {"options": {"lazy": True}, "lazy": ("m",)}),
    ],
    ids=["same extension", "same group", "perhaps never asked for"],
)
async def test_what_can_work_is_not_refused(made: dict[str, Any], read: dict[str, Any]) -> None:
    async with Stage(maker("MODEL", **made), reader("MODEL", **read)) as stage:
        await stage.submit(crossing())


@pytest.mark.parametrize("kind", ["IMAGE", "LATENT", "CONDITIONING", "*", "MY_TYPE", "STRING"])
async def test_what_may_be_plain_data_is_found_out_at_run_time_with_the_same_words(kind: str) -> None:
    async with Stage(maker(kind), reader(kind)) as stage:
        error = await stage.error(crossing())
        assert error["exception_type"] == "ringfence.HandleNotPortableError"
        assert (
            "'group: shared' into policies/maker.yaml and policies/reader.yaml" in error["exception_message"]
        )


async def test_a_packs_own_type_is_refused_once_it_was_seen_to_be_an_object() -> None:
    async with Stage(maker("MY_TYPE"), reader("MY_TYPE")) as stage:
        await stage.error(crossing(1))
        with pytest.raises(PromptInvalidError) as caught:
            await stage.submit(crossing(2))
        assert caught.value.node_errors["u"]["errors"][0]["type"] == "live_object_crosses_sandboxes"


@pytest.mark.parametrize("kind", ["MY_TYPE", "MODEL"])
async def test_a_type_that_was_plain_data_once_is_not_held_against_a_prompt(kind: str) -> None:
    make = maker(kind, lambda v: (Live(v) if v > 1 else "plain",), extension="reader")
    elsewhere = FakeNode("Other", lambda m: (1,), {"m": [kind, {}]}, outputs=("INT",), extension="other")
    async with Stage(make, reader(kind), elsewhere) as stage:
        await stage.outputs(crossing(1))
        await stage.outputs(crossing(2))
        graph = prompt(m=("Make", {"v": 1}), o=("Other", {"m": ["m", 0]}), s=("Show", {"x": ["o", 0]}))
        assert (await stage.outputs(graph)) == {"s": {"x": [1]}}


@pytest.mark.parametrize("kind", ["CONDITIONING", "*"])
async def test_types_that_are_plain_as_a_rule_are_never_learnt(kind: str) -> None:
    async with Stage(maker(kind), reader(kind)) as stage:
        for v in (1, 2):
            error = await stage.error(crossing(v))
            assert error["exception_type"] == "ringfence.HandleNotPortableError"


def test_what_is_known_of_types_is_bounded_and_what_is_known_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_types, "_MOST_KNOWN", 3)
    live = live_types.LiveTypes()
    data, handle = Value(1), Value({"$handle": [1, "Thing"]}, handles=((SandboxId("s"), 1),))

    def note(kind: str, value: Value) -> Any:
        node_type = maker(kind).describe()
        live.note(LOCAL_TENANT, node_type, [[value]], made_in=SandboxId("s"))
        return live.is_object(LOCAL_TENANT, node_type, 0)

    assert note("FIRST", handle)
    for number in range(100):
        assert not note(f"PLAIN{number}", data)
    assert len(live._was_object) == 3
    assert not note("PLAIN99", handle)  # no room to learn it; found out when it runs
    assert not note("FIRST", data)
    assert not note("MODEL", data)  # a type that counts as an object until it is seen


@pytest.mark.parametrize("kind", ["MODEL", "*"], ids=["before it runs", "when it runs"])
async def test_the_files_named_are_those_that_hold_for_the_tenants_extensions(kind: str) -> None:
    def where(extension: ExtensionName, tenant: TenantId) -> str:
        return f"policies/{tenant}-{extension}.yaml"

    async with Stage(maker(kind), reader(kind), where=where) as stage:
        if kind == "MODEL":
            with pytest.raises(PromptInvalidError) as caught:
                await stage.submit(crossing())
            text = caught.value.node_errors["u"]["errors"][0]["details"]
        else:
            text = (await stage.error(crossing()))["exception_message"]
    assert "write 'group: shared' into policies/local-maker.yaml and policies/local-reader.yaml" in text
