"""Validation: ComfyUI's order, error types and fields (execution-semantics §2, http-api §3)."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import PromptInvalidError, PromptLimits
from engine.prompt import is_deeper, parse_prompt
from engine.testing import FakeNode
from engine.validation import Walk, select_outputs
from tests.unit.engine.scene import BASICS, Stage, prompt

pytestmark = pytest.mark.anyio

WIDGETS = FakeNode(
    "Widgets",
    lambda **_: (),
    optional={
        "i": ["INT", {"min": 0, "max": 10}],
        "f": ["FLOAT", {}],
        "s": ["STRING", {}],
        "b": ["BOOLEAN", {}],
        "u": ["INT,FLOAT", {"min": 0}],
        "c": [["a", "b", 1], {}],
        "n": ["COMBO", {"options": ["x", "y"]}],
        "m": ["COMBO", {"options": ["x", "y"], "multiselect": True}],
        "empty": ["COMBO", {}],
        "remote": ["COMBO", {"remote_combo": {"route": "/x"}}],
        "long": [[str(number) for number in range(30)], {}],
    },
    outputs=(),
    output_node=True,
)
NEEDS = FakeNode("Needs", lambda image: (image,), {"image": ["IMAGE", {}]}, outputs=("IMAGE",))
TYPES = {node.class_type: node.describe() for node in (*BASICS, WIDGETS, NEEDS)}


def check(graph, targets=None):
    """The report of a prompt without validators, and the prompt as validation left it."""
    parsed = parse_prompt(graph, PromptLimits())
    walk = Walk(parsed, TYPES, select_outputs(parsed, TYPES, targets))
    return walk.report({}), parsed


def widget_error(**inputs):
    report, _ = check(prompt(w=("Widgets", inputs)))
    (error,) = report.node_errors["w"]["errors"]
    return error


def refused(graph, **kwargs):
    with pytest.raises(PromptInvalidError) as caught:
        check(graph, **kwargs)[0].raise_if_none()
    return caught.value


# -- the whole prompt --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "graph",
    [
        [],
        "x",
        7,
        {"1": None},
        {"1": []},
        {"1": {"class_type": "Sink", "inputs": []}},
        {"": {}},
        {"a\x00": {}},
    ],
)
async def test_what_is_no_graph_is_refused(graph):
    assert refused(graph).error["type"] == "invalid_prompt"


async def test_no_prompt():
    assert refused(None).error["type"] == "no_prompt"


@pytest.mark.parametrize("class_type", ["Nope", None, 7, ["Show"], {}])
async def test_a_node_of_no_known_class_refuses_everything(class_type):
    graph = {
        "9": {"class_type": class_type, "inputs": {}, "_meta": {"title": "T"}},
        **prompt(s=("Sink", {"x": 1})),
    }
    error = refused(graph).error
    assert error["type"] == "missing_node_type"
    assert error["details"] == "Node ID '#9'"
    assert error["extra_info"]["node_id"] == "9"
    assert error["extra_info"]["node_title"] == "T"
    assert error["extra_info"]["class_type"] == (class_type if isinstance(class_type, str) else None)


@pytest.mark.parametrize("targets", [(), ("a",), ("nowhere",)])
async def test_targets_that_are_no_outputs_leave_nothing_to_run(targets):
    error = refused(prompt(a=("Const", {"v": 1}), s=("Sink", {"x": ["a", 0]})), targets=targets)
    assert error.error["type"] == "prompt_no_outputs"
    assert error.node_errors == {}


async def test_only_outputs_that_are_targets_are_looked_at():
    report, _ = check(prompt(good=("Sink", {"x": 1}), bad=("Sink",)), targets=("good",))
    assert report.outputs == ("good",)
    assert report.node_errors == {}


async def test_one_good_output_is_enough_and_errors_of_the_others_are_told():
    report, _ = check(prompt(bad=("Sink",), good=("Sink", {"x": 1})))
    assert report.outputs == ("good",)
    (error,) = report.node_errors["bad"]["errors"]
    assert error == {
        "type": "required_input_missing",
        "message": "Required input is missing",
        "details": "x",
        "extra_info": {"input_name": "x"},
    }
    assert report.node_errors["bad"]["dependent_outputs"] == ["bad"]
    assert report.node_errors["bad"]["class_type"] == "Sink"


async def test_an_invalid_ancestor_is_named_and_its_readers_are_not():
    error = refused(prompt(n=("Needs",), m=("Needs", {"image": ["n", 0]}), s=("Sink", {"x": ["m", 0]})))
    assert error.error["type"] == "prompt_outputs_failed_validation"
    assert error.error["details"] == ""
    assert set(error.node_errors) == {"n"}
    assert error.node_errors["n"]["dependent_outputs"] == ["s"]


async def test_later_failing_outputs_are_noted_with_every_invalid_node():
    error = refused(prompt(n=("Needs",), s=("Sink", {"x": ["n", 0]}), t=("Sink",)))
    assert error.node_errors["n"]["dependent_outputs"] == ["s", "t"]
    assert error.node_errors["t"]["dependent_outputs"] == ["t"]
    assert error.error["details"] == "Required input is missing: x"


async def test_nodes_that_no_output_needs_are_not_validated():
    report, _ = check(prompt(n=("Needs",), s=("Sink", {"x": 1})))
    assert report.outputs == ("s",)


# -- constants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("i", "3", 3),
        ("i", 2.9, 2),
        ("i", True, 1),
        ("f", "1.5", 1.5),
        ("s", 7, "7"),
        ("s", None, "None"),
        ("b", "false", True),
        ("b", "", False),
        ("u", 3, 3),
        ("s", {"__value__": ["a", "b"]}, "['a', 'b']"),
        ("m", {"__value__": ["x"]}, ["x"]),
        ("n", "y", "y"),
        ("c", True, True),
        ("remote", "whatever", "whatever"),
    ],
)
async def test_constants_are_converted_and_written_back(name, value, stored):
    report, parsed = check(prompt(w=("Widgets", {name: value})))
    assert report.outputs == ("w",), report.node_errors
    assert parsed["w"]["inputs"][name] == stored
    assert type(parsed["w"]["inputs"][name]) is type(stored)


@pytest.mark.parametrize("value", ["three", None, {}, float("inf"), float("nan"), "9" * 5000])
async def test_what_is_no_int_is_refused(value):
    error = widget_error(i=value)
    assert error["type"] == "invalid_input_type"
    assert error["details"].startswith("i, ")
    assert set(error["extra_info"]) == {"input_name", "input_config", "received_value", "exception_message"}


async def test_a_value_that_cannot_be_converted_is_told_as_it_was_written():
    assert widget_error(i="three")["details"] == ("i, three, invalid literal for int() with base 10: 'three'")
    assert len(widget_error(i="9" * 5000)["details"]) < 600


async def test_ranges():
    small, big = widget_error(i=-1), widget_error(i=11)
    assert (small["type"], big["type"]) == ("value_smaller_than_min", "value_bigger_than_max")
    assert big["details"] == "i"
    assert big["extra_info"] == {
        "input_name": "i",
        "input_config": ["INT", {"min": 0, "max": 10}],
        "received_value": 11,
    }


@pytest.mark.parametrize(
    ("name", "value"), [("c", "z"), ("n", "z"), ("n", ["x"]), ("empty", "x"), ("c", {}), ("m", "z")]
)
async def test_choices(name, value):
    error = widget_error(**{name: {"__value__": value}})
    assert error["type"] == "value_not_in_list"


async def test_one_wrong_item_of_a_multiple_choice_is_named():
    error = widget_error(m={"__value__": ["x", "nope"]})
    assert error["details"] == "m: 'nope' not in ['x', 'y']"


async def test_a_long_list_is_not_repeated():
    error = widget_error(long="zz")
    assert error["details"] == "long: 'zz' not in (list of length 30)"
    assert error["extra_info"]["input_config"] is None


async def test_a_range_that_cannot_be_compared_is_an_exception_of_the_output():
    error = widget_error(u="text")
    assert error["type"] == "exception_during_validation"
    assert error["extra_info"]["exception_type"] == "TypeError"


# -- links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [[], ["a"], ["a", 0, 1], [[]]])
async def test_a_list_that_is_no_link(value):
    error = refused(prompt(s=("Sink", {"x": value}))).node_errors["s"]["errors"][0]
    assert error["type"] == "bad_linked_input"
    assert error["extra_info"]["received_value"] == value


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        (["nowhere", 0], "KeyError"),
        ([1, 0], "KeyError"),
        ([["a"], 0], "KeyError"),
        (["a", 5], "IndexError"),
        (["a", -1], "IndexError"),
        (["a", 0.5], "TypeError"),
        (["a", "0"], "TypeError"),
        (["a", None], "TypeError"),
    ],
)
async def test_a_link_into_nowhere_is_an_exception(link, kind):
    error = refused(prompt(a=("Const", {"v": 1}), s=("Sink", {"x": link}))).node_errors["s"]["errors"][0]
    assert error["type"] == "exception_during_validation"
    assert error["extra_info"]["exception_type"] == kind


async def test_deeper_down_it_is_recorded_on_the_node_itself():
    graph = prompt(n=("Needs", {"image": ["nowhere", 0]}), s=("Sink", {"x": ["n", 0]}))
    errors = refused(graph).node_errors
    (error,) = errors["n"]["errors"]
    assert error["type"] == "exception_during_inner_validation"
    assert error["extra_info"]["input_name"] == "x"
    assert error["extra_info"]["linked_node"] == ["n", 0]
    assert set(errors) == {"n"}


async def test_types_that_do_not_fit():
    graph = prompt(a=("Const", {"v": 1}), n=("Needs", {"image": ["a", 0]}), s=("Sink", {"x": ["n", 0]}))
    (error,) = refused(graph).node_errors["n"]["errors"]
    assert error["type"] == "return_type_mismatch"
    assert error["details"] == "image, received_type(INT) mismatch input_type(IMAGE)"
    assert error["extra_info"] == {
        "input_name": "image",
        "input_config": ["IMAGE", {}],
        "received_type": "INT",
        "linked_node": ["a", 0],
    }


async def test_an_undeclared_link_into_nowhere_is_found_before_the_run():
    error = refused(prompt(s=("Sink", {"x": 1, "extra": ["nowhere", 0]}))).node_errors["s"]["errors"][0]
    assert error["type"] == "exception_during_validation"


async def test_a_cycle_names_every_node_of_it_and_no_other():
    graph = prompt(
        a=("Add", {"a": ["b", 0], "b": 1}), b=("Add", {"a": ["c", 0], "b": 1}), c=("Add", {"a": ["a", 0], "b": 1}),
        d=("Add", {"a": ["a", 0], "b": 1}), s=("Sink", {"x": ["d", 0]}),
    )  # fmt: skip
    errors = refused(graph).node_errors
    assert set(errors) == {"a", "b", "c"}
    (error,) = errors["b"]["errors"]
    assert error["type"] == "dependency_cycle"
    assert error["extra_info"] == {"node_id": "b", "cycle_nodes": ["a", "b", "c"]}
    assert error["details"] == "a (Add) -> b (Add) -> c (Add) -> a (Add)"


# -- validators --------------------------------------------------------------------------------------------------


def checked(validate, **fields):
    optional = {"x": ["INT", {"max": 10}], "y": ["INT", {}]}
    return FakeNode(
        "Checked",
        lambda **_: (),
        optional=optional,
        outputs=(),
        output_node=True,
        validate=validate,
        **fields,
    )


async def errors_of(node, inputs, **more):
    async with Stage(node) as stage:
        graph = prompt(a=("Const", {"v": 1}), c=("Checked", inputs), **more)
        try:
            submitted = await stage.submit(graph)
        except PromptInvalidError as error:
            return error.node_errors["c"]["errors"], stage
        assert submitted.node_errors == {}
        return [], stage


async def test_a_validator_sees_constants_and_none_for_links():
    seen = {}

    def validate(x, y):
        seen.update(x=x, y=y)
        return True

    assert (await errors_of(checked(validate), {"x": 3, "y": ["a", 0]}))[0] == []
    assert seen == {"x": 3, "y": None}


@pytest.mark.parametrize(
    ("result", "details"),
    [(False, "x"), ("too bad", "x - too bad"), (None, "x - None"), (1, "x - 1"), ("", "x - ")],
)
async def test_anything_but_true_is_an_error_for_each_argument(result, details):
    errors, _ = await errors_of(checked(lambda x: result), {"x": 3, "y": 4})
    assert [(error["type"], error["details"]) for error in errors] == [("custom_validation_failed", details)]


async def test_a_validator_that_names_an_input_replaces_the_range_check():
    assert (await errors_of(checked(lambda x: True), {"x": 99}))[0] == []
    assert (await errors_of(checked(lambda **kwargs: True), {"x": 99}))[0] == []
    errors, _ = await errors_of(checked(lambda y: True), {"x": 99, "y": 1})
    assert errors[0]["type"] == "value_bigger_than_max"


async def test_a_validator_that_takes_types_replaces_the_type_check():
    seen = {}

    def validate(input_types):
        seen.update(input_types)
        return True

    node = dataclasses.replace(checked(validate), optional={"x": ["IMAGE", {}]})
    assert (await errors_of(node, {"x": ["a", 0]}))[0] == []
    assert seen == {"x": "INT"}


async def test_a_validator_that_raises_is_an_exception_of_its_node():
    def validate(x):
        raise ValueError(f"boom {x}")

    ((error,), _) = await errors_of(checked(validate), {"x": 3})
    assert error["type"] == "exception_during_validation"
    assert error["details"] == "boom 3"
    assert error["extra_info"]["exception_type"] == "ValueError"


async def test_only_nodes_with_a_validator_cost_a_call():
    _, stage = await errors_of(checked(lambda x: True), {"x": 1}, s=("Sink", {"x": ["a", 0]}))
    assert stage.sessions.asked["validate"] == 1
    assert stage.sessions.asked["refresh"] == 0


async def test_a_refused_choice_has_the_class_described_anew():
    async with Stage(FakeNode("Load", lambda f: (f,), {"f": [["old.png"], {}]}, output_node=True)) as stage:
        real = stage.sessions.refresh

        async def refresh(tenant, class_types):
            assert class_types == {"Load"}
            node = FakeNode("Load", lambda f: (f,), {"f": [["old.png", "new.png"], {}]}, output_node=True)
            stage.sessions.nodes["Load"] = node
            return await real(tenant, class_types)

        stage.sessions.refresh = refresh
        assert (await stage.submit(prompt(a=("Load", {"f": "new.png"})))).node_errors == {}
        with pytest.raises(PromptInvalidError):
            await stage.submit(prompt(a=("Load", {"f": "never.png"})))


# -- hostile -----------------------------------------------------------------------------------------------------


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_measured_without_recursion():
    assert not is_deeper(nested(5), 5)
    assert is_deeper(nested(6), 5)
    assert is_deeper(nested(100_000), 5)


async def test_deep_constants_are_refused():
    assert refused(prompt(s=("Sink", {"x": {"a": nested(10_000)}}))).error["type"] == "invalid_prompt"


async def test_too_many_nodes_are_refused():
    graph = {str(number): {"class_type": "Const", "inputs": {"v": 1}} for number in range(11)}
    with pytest.raises(PromptInvalidError, match="11 nodes; the limit is 10"):
        parse_prompt(graph, PromptLimits(nodes=10))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "b", "Show"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "class_type", "__value__", "$x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
links = st.tuples(st.sampled_from(["a", "b", "c", "z"]), st.sampled_from([0, 1, -1, 0.0])).map(list)
nodes = st.fixed_dictionaries(
    {"class_type": st.sampled_from(sorted(TYPES))},
    optional={
        "inputs": st.dictionaries(
            st.sampled_from(["x", "v", "a", "b", "i", "c", "m", "u", "image"]),
            links | json_values,
            max_size=4,
        )
    },
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), nodes | json_values, max_size=3) | json_values)
def test_whatever_is_sent_ends_in_a_report_or_a_refusal(graph):
    error = outcome(graph)
    assert error is None or set(error.error) == {"type", "message", "details", "extra_info"}


def outcome(graph):
    try:
        check(graph)[0].raise_if_none()
    except PromptInvalidError as error:
        return error
    return None
