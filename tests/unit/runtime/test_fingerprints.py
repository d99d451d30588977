from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from runtime import fingerprints
from runtime.blocker import ExecutionBlocker
from runtime.calling import Blocked

NEVER = fingerprints.NEVER_SAME


@pytest.mark.parametrize(
    ("returned", "compared"),
    [
        (True, True),
        (None, None),
        (3, 3),
        ("text", "text"),
        (float("nan"), NEVER),
        (float("inf"), {"$float": "inf"}),
        ((1, [2, "x"]), [1, [2, "x"]]),
        ({"a": (1,)}, {"a": [1]}),
        (2**300, hex(2**300)),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (torch.tensor(2.0), 2.0),
        (np.arange(3), NEVER),
        (object(), NEVER),
        ({1: 2}, NEVER),
        ({1, 2}, NEVER),
        (ExecutionBlocker("x"), None),
        (Blocked(None), None),
    ],
)
def test_what_has_a_stable_form_is_compared_and_the_rest_never_matches(returned: Any, compared: Any) -> None:
    assert fingerprints.fingerprint([returned]) == [compared]


def test_bytes_are_compared_by_content() -> None:
    first, second, other = fingerprints.fingerprint([b"abc", b"abc", b"abd"])
    assert first == second != other


@pytest.mark.parametrize(
    ("returned", "verdict"),
    [
        (True, True),
        (False, False),
        (None, None),
        ("no good", "no good"),
        ("", ""),
        (1, "1"),
        (np.bool_(True), "True"),
        (ExecutionBlocker(None), True),
        (Blocked("x"), True),
    ],
)
def test_only_a_literal_true_or_a_blocker_is_valid(returned: Any, verdict: Any) -> None:
    assert fingerprints.verdicts([returned]) == [verdict]
