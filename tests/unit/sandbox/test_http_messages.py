"""What a worker says of HTTP: heads, pieces and replacements are read strictly, all else ends it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import wire
from sandbox import NodeReplacement, ProtocolViolationError, messages
from sandbox.testing import LOADED

HEAD = {"status": 200, "headers": [["Content-Type", "text/plain"]], "data": "aGk=", "more": False}


def test_a_head_is_read_with_names_in_lower_case() -> None:
    head = messages.http_head(HEAD, 10)
    assert (head.status, head.headers) == (200, (("content-type", "text/plain"),))
    assert head.first == messages.HttpPiece(b"hi", more=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 101},
        {"status": 199},
        {"status": 600},
        {"status": "200"},
        {"headers": [["a"]]},
        {"headers": [["a", "b", "c"]]},
        {"headers": [["a b", "c"]]},
        {"headers": [["a:", "c"]]},
        {"headers": [["", "c"]]},
        {"headers": [["a\n", "c"]]},
        {"headers": [["a", "b\r\nSet-Cookie: x"]]},
        {"headers": [["a", "b\n"]]},
        {"headers": [["a", "\x7f"]]},
        {"headers": [["a", "\u0085"]]},
        {"headers": [["a", "\u2028"]]},
        {"headers": [["a", "b" * 9000]]},
        {"headers": [[f"a{n}", "b" * 2000] for n in range(10)]},
        {"headers": [["a", "b"]] * (wire.HTTP_HEADERS + 1)},
        {"headers": {"a": "b"}},
        {"data": "a"},
        {"data": "aGk=\n"},
        {"data": "ää"},
        {"data": None},
        {"data": base64.b64encode(b"x" * 11).decode()},
        {"data": "", "more": True},
        {"more": 1},
        {"trailer": {}},
    ],
)
def test_any_other_head_breaks_the_protocol(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolationError, match="HTTP response"):
        messages.http_head({**HEAD, **wrong}, 10)


@pytest.mark.parametrize("key", sorted(HEAD))
def test_every_part_of_a_head_is_needed(key: str) -> None:
    with pytest.raises(ProtocolViolationError):
        messages.http_head({name: value for name, value in HEAD.items() if name != key}, 10)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_but_a_violation_comes_of_anything_else(tree: Any) -> None:
    for read in (
        lambda: messages.http_head(tree, 10),
        lambda: messages.http_piece(tree, 10),
        lambda: messages.hooked(tree),
        lambda: messages.http_head({**HEAD, "headers": tree}, 10),
    ):
        try:
            read()
        except ProtocolViolationError:
            continue


def test_replacements_are_read() -> None:
    said = {
        "new_node_id": "New",
        "old_node_id": "Old",
        "old_widget_ids": ["w"],
        "input_mapping": [{"new_id": "a", "old_id": "b"}, {"new_id": "c", "set_value": None}],
        "output_mapping": [{"new_idx": 0, "old_idx": 1}],
    }
    read = messages.loaded({**LOADED, "prompt_handlers": 2, "node_replacements": [said]})
    assert read.prompt_handlers == 2
    assert read.node_replacements == (
        NodeReplacement(
            "New",
            "Old",
            ("w",),
            ({"new_id": "a", "old_id": "b"}, {"new_id": "c", "set_value": None}),
            ({"new_idx": 0, "old_idx": 1},),
        ),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_handlers": -1},
        {"prompt_handlers": 10_000},
        {"node_replacements": [{}]},
        {"node_replacements": [{"new_node_id": "N", "old_node_id": "O", "input_mapping": [{"x": 1}]}]},
    ],
)
def test_a_description_with_wrong_handlers_or_replacements_breaks_the_protocol(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolationError, match="extension description"):
        messages.loaded({**LOADED, **wrong})
