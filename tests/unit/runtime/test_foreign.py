"""Classes of other sandboxes in ``nodes.NODE_CLASS_MAPPINGS``: what comes out of them is known, nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.foreign import NodeClasses

FACTS: dict[str, Any] = {
    "extension": "theirs",
    "output_node": True,
    "output": ["MODEL", "COMBO"],
    "output_name": ["model", "names"],
    "output_is_list": [False, True],
}


def classes() -> NodeClasses:
    mapping = NodeClasses()
    mapping["Mine"] = int
    mapping.note_others({"Theirs": FACTS, "Mine": FACTS})
    return mapping


def test_a_class_of_the_prompt_tells_what_comes_out_of_it() -> None:
    theirs = classes()["Theirs"]
    assert theirs.OUTPUT_NODE is True
    assert theirs.RETURN_TYPES == ("MODEL", "COMBO")
    assert theirs.RETURN_NAMES == ("model", "names")
    assert theirs.OUTPUT_IS_LIST[1] is True
    assert not hasattr(theirs, "VALIDATE_INPUTS")


def test_own_classes_are_themselves_and_unknown_ones_a_key_error() -> None:
    mapping = classes()
    assert mapping["Mine"] is int
    with pytest.raises(KeyError, match="Nobodys"):
        mapping["Nobodys"]


def test_whether_another_pack_is_installed_is_answered_as_if_it_were_not() -> None:
    mapping = classes()
    assert "Theirs" not in mapping
    assert mapping.get("Theirs") is None
    assert list(mapping) == ["Mine"]


@pytest.mark.parametrize("use", [lambda cls: cls(), lambda cls: cls.FUNCTION, lambda cls: cls.INPUT_TYPES()])
def test_anything_else_says_whose_it_is(use: Any) -> None:
    with pytest.raises(
        NotImplementedError, match="belongs to extension 'theirs', which runs in another sandbox"
    ):
        use(classes()["Theirs"])


def test_what_is_remembered_is_bounded() -> None:
    mapping = classes()
    for number in range(10_000):
        mapping.note_others({f"Theirs{number}": FACTS})
    assert len(mapping._others) <= 4096
    assert mapping["Theirs9999"].OUTPUT_NODE is True
