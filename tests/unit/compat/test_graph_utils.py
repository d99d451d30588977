"""Building expansions, and the prompt as a pack sees it."""

import pytest

from runtime.blocker import ExecutionBlocker
from runtime.compat.comfy_execution import graph, graph_utils, validation
from runtime.sdk import context


def running(list_index=None):
    return context.entered(context.CallContext(call=1, prompt_id="p", node_id="5", list_index=list_index))


def test_default_ids_name_the_node_the_call_and_the_graph():
    with running(2):
        first, second = graph_utils.GraphBuilder(), graph_utils.GraphBuilder()
    assert first.node("A").id == "5.2.0.1"
    assert second.node("A").id == "5.2.1.1"
    with running(2):
        assert graph_utils.GraphBuilder().prefix == "5.2.0."


def test_nodes_link_to_each_other():
    builder = graph_utils.GraphBuilder(prefix="x.")
    one = builder.node("Make", value=3)
    two = builder.node("Use", "named", source=one.out(0))
    two.set_override_display_id("9")
    assert builder.node("Use", "named") is two
    assert builder.lookup_node("named") is two
    assert builder.finalize() == {
        "x.1": {"class_type": "Make", "inputs": {"value": 3}},
        "x.named": {"class_type": "Use", "inputs": {"source": ["x.1", 0]}, "override_display_id": "9"},
    }


def test_outputs_are_replaced_and_inputs_removed():
    builder = graph_utils.GraphBuilder(prefix="")
    one = builder.node("Make")
    two = builder.node("Use", a=one.out(0), b=one.out(1))
    builder.replace_node_output("1", 0, ["7", 0])
    builder.replace_node_output("1", 1, None)
    builder.remove_node("1")
    assert two.inputs == {"a": ["7", 0]}
    assert list(builder.nodes) == ["2"]


def test_links_are_recognised():
    assert graph_utils.is_link(["1", 0])
    assert graph_utils.is_link(["1", 0.0])
    for other in (["1"], ["1", "0"], [1, 0], ("1", 0), "10", ["1", True]):
        assert not graph_utils.is_link(other)


def test_a_finished_graph_gets_a_prefix_as_a_copy():
    made = {
        "1": {"class_type": "A", "inputs": {"x": ["2", 0], "y": 5}},
        "2": {"class_type": "B", "inputs": {}},
    }
    moved, outputs = graph_utils.add_graph_prefix(made, (["1", 0], 3), "p.")
    assert moved["p.1"]["inputs"] == {"x": ["p.2", 0], "y": 5}
    assert outputs == (["p.1", 0], 3)
    assert made["1"]["inputs"]["x"] == ["2", 0]


def test_the_blocker_is_one_class_everywhere():
    assert graph.ExecutionBlocker is graph_utils.ExecutionBlocker is ExecutionBlocker


def test_a_dynamic_prompt_is_built_from_the_wire():
    prompt = graph.DynamicPrompt.from_wire(
        {
            "nodes": {"1": {"class_type": "A"}, "1.0.0.1": {"class_type": "B"}},
            "parents": {"1.0.0.1": "1"},
            "displays": {"1.0.0.1": "1"},
            "original": ["1"],
        }
    )
    assert prompt.get_real_node_id("1.0.0.1") == "1"
    assert prompt.get_original_prompt() == {"1": {"class_type": "A"}}
    with pytest.raises(graph.NodeNotFoundError):
        prompt.get_node("2")


class Trick(str):
    """The any-type trick."""

    __hash__ = str.__hash__

    def __ne__(self, other):
        return False


@pytest.mark.parametrize(
    ("received", "declared", "fits"),
    [
        ("INT", "INT", True),
        ("INT", "FLOAT", False),
        ("INT", "INT,FLOAT", True),
        ("INT, STRING", "FLOAT,STRING", True),
        (Trick("X"), "INT", True),
        ("*", "INT", True),
        ("INT", "*", True),
        (["a"], "COMBO", True),
        ("COMBO", ["a"], False),
        ("COMFY_MATCHTYPE_V3", "INT", True),
    ],
)
def test_types_fit(received, declared, fits):
    assert validation.validate_node_input(received, declared) is fits


def test_strictly_everything_that_may_come_must_be_accepted():
    assert not validation.validate_node_input("INT,STRING", "INT", strict=True)


def test_input_info_is_read_from_the_class():
    class Node:
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"a": ("INT", {"min": 1})}, "optional": {"b": ("IMAGE",)}}

    assert graph.get_input_info(Node, "a") == ("INT", "required", {"min": 1})
    assert graph.get_input_info(Node, "b") == ("IMAGE", "optional", {})
    assert graph.get_input_info(Node, "c") == (None, None, None)


def test_the_exceptions_that_packs_import_are_there():
    from runtime.compat import execution

    for name in ("DependencyCycleError", "NodeInputError", "NodeNotFoundError"):
        assert issubclass(getattr(graph, name), Exception)
        assert getattr(execution, name) is getattr(graph, name)
    assert issubclass(execution.DuplicateNodeError, Exception)
