from __future__ import annotations

import json
import math
from collections import deque
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import plain
from tests.properties import tried


class Colour(Enum):
    RED = "red"


class Trick(str):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __str__(self) -> str:
        return "something else"

    __hash__ = str.__hash__


class Bad:
    def __str__(self) -> str:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "tidy"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        ((1, (2,)), [1, [2]]),
        ({1}, [1]),
        ({2: "a", None: 2, True: 3, Colour.RED: 4}, {"2": "a", "null": 2, "true": 3, "red": 4}),
        (Colour.RED, "red"),
        (Trick("IMAGE"), "IMAGE"),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (np.float64("nan"), None),
        (torch.tensor(2), 2),
        (torch.zeros(1000, 1000), "<Tensor of 1000000 items>"),
        (b"abc", "<3 bytes>"),
        (Path("/a/b"), "/a/b"),
        (deque([1]), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        ("\ud800", "?"),
        (2**70, float(2**70)),
        (10**400, "<a number of many digits>"),
        (Bad(), None),
        (range(3), [0, 1, 2]),
    ],
)
def test_everything_becomes_json(value: Any, tidy: Any) -> None:
    result = plain.to_json(value)
    assert result == tidy
    assert type(result) is type(tidy)
    json.dumps(result, allow_nan=False)


def test_what_holds_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "..." in json.dumps(plain.to_json(loop))


ANYTHING = st.recursive(
    st.none() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.floats(), inner),
    max_leaves=15,
)


@settings(max_examples=tried(25, 1000))
@given(ANYTHING)
def test_it_never_fails(value: Any) -> None:
    json.dumps(plain.to_json(value), allow_nan=False).encode()


@given(st.text(max_size=20))
def test_clean_text_is_text_as_it_was_but_for_surrogates(text: str) -> None:
    assert plain.clean(text) == text
    assert not math.isnan(len(plain.clean(text + "\udc80").encode()))
