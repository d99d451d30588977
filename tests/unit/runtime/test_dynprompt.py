from __future__ import annotations

import pytest

from runtime.dynprompt import DynamicPrompt, NodeNotFoundError


@pytest.fixture
def prompt() -> DynamicPrompt:
    return DynamicPrompt.from_wire(
        {
            "nodes": {
                name: {"class_type": name.upper(), "inputs": {}} for name in ("a", "b", "b.1", "b.1.1")
            },
            "parents": {"b.1": "b", "b.1.1": "b.1"},
            "displays": {"b.1": "b", "b.1.1": "b.1"},
            "original": ["a", "b"],
        }
    )


def test_submitted_and_added_nodes_are_found(prompt: DynamicPrompt) -> None:
    assert prompt.all_node_ids() == {"a", "b", "b.1", "b.1.1"}
    assert prompt.get_node("b.1")["class_type"] == "B.1"
    assert set(prompt.get_original_prompt()) == {"a", "b"}
    assert prompt.has_node("a")
    assert not prompt.has_node("z")
    with pytest.raises(NodeNotFoundError, match="'z'"):
        prompt.get_node("z")


def test_descent_is_followed_to_the_submitted_node(prompt: DynamicPrompt) -> None:
    assert prompt.get_real_node_id("b.1.1") == "b"
    assert prompt.get_parent_node_id("b.1.1") == "b.1"
    assert prompt.get_parent_node_id("a") is None
    assert prompt.get_display_node_id("b.1.1") == "b"


def test_a_pack_may_add_to_its_own_view_and_a_cycle_ends(prompt: DynamicPrompt) -> None:
    prompt.add_ephemeral_node("x", {"class_type": "X"}, "y", "y")
    prompt.add_ephemeral_node("y", {"class_type": "Y"}, "x", "x")
    assert prompt.get_real_node_id("x") in {"x", "y"}


def test_without_word_on_what_was_submitted_everything_without_a_parent_was() -> None:
    prompt = DynamicPrompt.from_wire({"nodes": {"a": {}, "a.1": {}}, "parents": {"a.1": "a"}})
    assert set(prompt.get_original_prompt()) == {"a"}
