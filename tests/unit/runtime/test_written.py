"""Plain results are written at once; what comes out is what the encoder would have made."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime import calling, wire
from runtime.peer import Reply
from runtime.written import MAX_TEXT, MAX_VALUES, Written, plain_result
from tests.unit.runtime.memoryfiles import Trip


class Text(str):
    __slots__ = ()


class Node:
    RETURN_TYPES = ("A", "B", "C")


class Lists(Node):
    OUTPUT_IS_LIST = (False, True, False)


def in_full(folder: Path, values: Sequence[Any]) -> Any:
    return calling.execute_result(Node, [values], Trip(folder).encoder())


PLAIN: list[Sequence[Any]] = [
    (),
    (1,),
    [1, 2],
    (1, 2, 3),
    (True, False, None),
    (0, -1, 2**62),
    (-(2**62), 0.0, -0.0),
    (0.1, 1e300, 5e-324),
    ("", "text", 'quotes " and \\ and / and \x00\x1f\x7f\n'),
    ("$tensor", '{"$tensor": 1}', "x" * MAX_TEXT),
]
NOT_PLAIN: list[Any] = [
    None,
    {"result": (1,)},
    {"ui": {"a": [1]}},
    (2**63,),
    (-(2**200),),
    (math.nan,),
    (math.inf,),
    (1j,),
    ("x" * (MAX_TEXT + 1),),
    ("\u00e9",),
    ("\ud800",),
    (Text("a"),),
    (b"a",),
    ([1],),
    ({},),
    ((),),
    (object(),),
    (1, 2, 3, 4),
    "abc",
    tuple(range(MAX_VALUES + 1)),
]


@pytest.mark.parametrize("values", PLAIN, ids=repr)
def test_what_is_written_at_once_is_what_the_encoder_says(values: Sequence[Any], tmp_path: Path) -> None:
    written = plain_result(Node, [values], 3)
    assert written is not None
    assert repr(json.loads(written)) == repr(in_full(tmp_path, values))  # to Python, 1 and True are the same


@pytest.mark.parametrize("outcome", NOT_PLAIN, ids=lambda outcome: repr(outcome)[:40].partition(" at 0x")[0])
def test_all_else_is_left_to_the_encoder(outcome: Any) -> None:
    assert plain_result(Node, [outcome], 3) is None


def test_lists_of_outputs_and_calls_are_left_to_it_too() -> None:
    assert plain_result(Lists, [(1, [2], 3)], 3) is None
    assert plain_result(Node, [(1,), (2,)], 3) is None
    assert plain_result(Node, [calling.Blocked(None)], 3) is None


def test_an_answer_of_written_text_is_the_answer_of_the_tree() -> None:
    sent: list[Any] = []
    for identity in (7, 'an "id"'):
        assert Reply(sent.append, identity).result(Written('{"slots":[[1]]}'))
        assert Reply(sent.append, identity).result({"slots": [[1]]})
    for written, tree in zip(sent[::2], sent[1::2], strict=True):
        assert written.encode() == wire.encode_frame(tree)[wire.HEADER.size :]


def test_an_answer_that_did_not_fit_is_still_owed() -> None:
    sent: list[Any] = []

    def send(message: Any) -> None:
        if "result" in message:
            raise wire.FrameTooLargeError("no")
        sent.append(message)

    reply = Reply(send, 1)
    with pytest.raises(wire.FrameTooLargeError):
        reply.result({})
    assert reply.error(-1, "too large")
    assert not reply.error(-1, "again")
    assert len(sent) == 1
