from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import aliases, schema

aliases.install()


class Trick(str):
    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class OnlyUnequal(str):
    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class EveryName(dict):  # type: ignore[type-arg]
    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        return ("*", {})


class SomeNames(dict):  # type: ignore[type-arg]
    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or str(name).startswith("input_")


class Base:
    RETURN_TYPES: Any = ("INT", "*")
    FUNCTION = "run"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> Any:
        return {
            "required": {"a": ("INT", {"default": float("nan"), "min": 0})},
            "hidden": {"uid": "UNIQUE_ID"},
        }

    def run(self, **kwargs: Any) -> Any:
        return ()


def describe(cls: Any, label: str | None = None) -> dict[str, Any]:
    described = schema.describe("T", cls, label)
    json.dumps(described, allow_nan=False)
    return described


def with_inputs(**sections: Any) -> Any:
    return type("Made", (Base,), {"INPUT_TYPES": classmethod(lambda cls: sections)})


def test_a_v1_node_has_the_shape_that_frontends_expect() -> None:
    described = describe(Base)
    assert described["info"] == {
        "input": {"required": {"a": ["INT", {"default": None, "min": 0}]}, "hidden": {"uid": "UNIQUE_ID"}},
        "input_order": {"required": ["a"], "hidden": ["uid"]},
        "is_input_list": False,
        "output": ["INT", "*"],
        "output_is_list": [False, False],
        "output_name": ["INT", "*"],
        "name": "T",
        "display_name": "T",
        "description": "",
        "category": "test",
        "output_node": False,
        "has_intermediate_output": False,
        "search_aliases": [],
    }
    assert described["hidden"] == {"uid": "UNIQUE_ID"}
    assert described["enable_expand"] is True
    assert described["validator"] is None


def test_optional_attributes_appear_when_they_are_set() -> None:
    class Full(Base):
        RETURN_NAMES = ("one", "two")
        OUTPUT_IS_LIST = (True, False)
        OUTPUT_TOOLTIPS = ("t1", "t2")
        OUTPUT_NODE = True
        INPUT_IS_LIST = True
        DESCRIPTION = "d"
        DEPRECATED = EXPERIMENTAL = DEV_ONLY = API_NODE = True
        SEARCH_ALIASES = ("x",)
        ESSENTIALS_CATEGORY = "e"
        NOT_IDEMPOTENT = True

        async def run(self, **kwargs: Any) -> Any:
            return ()

        def check_lazy_status(self) -> None: ...

        @classmethod
        def IS_CHANGED(cls) -> None: ...

        @classmethod
        def VALIDATE_INPUTS(cls, a: Any, input_types: Any, *, b: Any = 1, **kwargs: Any) -> None: ...

    described = describe(Full, "Label")
    info = described["info"]
    assert info["display_name"] == "Label"
    assert (info["output_name"], info["output_is_list"], info["output_tooltips"]) == (
        ["one", "two"],
        [True, False],
        ["t1", "t2"],
    )
    assert all(
        info[key] is True
        for key in ("deprecated", "experimental", "dev_only", "api_node", "output_node", "is_input_list")
    )
    assert (info["search_aliases"], info["essentials_category"]) == (["x"], "e")
    assert all(
        described[key] is True
        for key in ("output_node", "not_idempotent", "is_async", "has_lazy", "has_fingerprint")
    )
    assert described["validator"] == {
        "args": ["cls", "a", "input_types", "b"],
        "kwargs": True,
        "input_types": True,
    }


@pytest.mark.parametrize("value", [1, "yes", [True]])
def test_only_a_literal_true_makes_an_output_node(value: Any) -> None:
    assert describe(type("Made", (Base,), {"OUTPUT_NODE": value}))["output_node"] is False


@pytest.mark.parametrize(
    ("kind", "is_any"), [(Trick("*"), True), (OnlyUnequal("X"), True), ("*", False), ("IMAGE", False)]
)
def test_the_any_type_trick_is_seen_on_inputs_and_outputs(kind: Any, is_any: bool) -> None:
    cls = with_inputs(required={"plain": ("INT",), "any": (kind, {})}, optional={"other": [kind]})
    cls.RETURN_TYPES = ("INT", kind)
    described = describe(cls)
    assert described["any_inputs"] == (["any", "other"] if is_any else [])
    assert described["any_outputs"] == ([1] if is_any else [])
    assert described["info"]["output"] == ["INT", str.__str__(kind)]


@pytest.mark.parametrize(("optional", "claims"), [({}, False), (EveryName(), True), (SomeNames(), False)])
def test_a_section_that_claims_every_name_is_seen(optional: Any, claims: bool) -> None:
    described = describe(with_inputs(required={}, optional=optional))
    assert described["accepts_any_name"] is claims
    sections = {"optional": optional}
    assert schema.declares(sections, "input_5") is (claims or isinstance(optional, SomeNames))


def test_options_with_a_meaning_for_the_engine_are_listed() -> None:
    described = describe(
        with_inputs(required={"a": ("*", {"lazy": True}), "b": ("*", {"rawLink": True, "lazy": 1})})
    )
    assert (described["lazy"], described["raw_link"]) == (["a"], ["b"])


def test_combos_are_shown_as_they_are() -> None:
    described = describe(with_inputs(required={"c": (["x", "y"],), "d": ("COMBO", {"options": ("x", 1)})}))
    assert described["info"]["input"]["required"] == {
        "c": [["x", "y"]],
        "d": ["COMBO", {"options": ["x", 1]}],
    }


def test_hidden_entries_that_are_no_tokens_are_left_to_the_pack() -> None:
    hidden = {"uid": "UNIQUE_ID", "mine": "SOMETHING", "odd": ("PROMPT", "x"), "list": "EXECUTION_LIST"}
    assert describe(with_inputs(hidden=hidden))["hidden"] == {"uid": "UNIQUE_ID"}


@pytest.mark.parametrize("sections", [None, 5, "x"])
def test_a_declaration_that_is_none_raises(sections: Any) -> None:
    cls = type("Made", (Base,), {"INPUT_TYPES": classmethod(lambda cls: sections)})
    with pytest.raises(TypeError, match="INPUT_TYPES"):
        schema.describe("T", cls, None)


@pytest.mark.parametrize("name", ["", "x" * 300])
def test_names_that_the_host_would_refuse_are_refused_here(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 256"):
        schema.describe(name, Base, None)


def test_a_v3_node_is_described_through_its_schema() -> None:
    from comfy_api.latest import io  # type: ignore[import-not-found]

    class Node(io.ComfyNode):  # type: ignore[misc]
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(
                node_id="T",
                category="test",
                inputs=[io.Image.Input("image", lazy=True), io.Int.Input("n", optional=True, default=1)],
                outputs=[io.Image.Output("out")],
                hidden=[io.Hidden.unique_id],
                is_output_node=True,
                enable_expand=True,
            )

        @classmethod
        async def execute(cls, **kwargs: Any) -> None: ...

        @classmethod
        def validate_inputs(cls, n: int) -> bool:
            return True

    described = describe(Node)
    assert described["api"] == "v3"
    assert described["hidden"] == {
        "unique_id": "UNIQUE_ID",
        "prompt": "PROMPT",
        "extra_pnginfo": "EXTRA_PNGINFO",
    }
    assert (described["lazy"], described["is_async"], described["output_node"]) == (["image"], True, True)
    assert (described["has_lazy"], described["has_fingerprint"], described["enable_expand"]) == (
        False,
        False,
        True,
    )
    assert described["validator"] == {"args": ["cls", "n"], "kwargs": False, "input_types": False}
    assert described["info"]["input"]["hidden"]["unique_id"] == ["UNIQUE_ID"]
    assert described["info"]["display_name"] is None
    assert "python_module" not in described["info"]
    assert described["any_inputs"] == []


def test_a_mixin_counts_as_an_override_of_a_v3_method() -> None:
    from comfy_api.latest import io

    class Mixin:
        @classmethod
        def fingerprint_inputs(cls, **kwargs: Any) -> int:
            return 1

        @classmethod
        def check_lazy_status(cls, **kwargs: Any) -> list[str]:
            return []

    class Node(Mixin, io.ComfyNode):  # type: ignore[misc]
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(node_id="T", inputs=[], outputs=[])

        @classmethod
        def execute(cls) -> None: ...

    described = describe(Node)
    assert described["has_fingerprint"]
    assert described["has_lazy"]
