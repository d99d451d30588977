"""Documents that are small are put into words at once, all others in a thread; the bytes are the same."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import anyio.to_thread
import pytest

from engine import documents
from engine.database import encode

pytestmark = pytest.mark.anyio

SMALL = {
    "prompt": [1.5, "id", {"1": {"class_type": "A", "inputs": {"x": ["2", 0], "y": None}}}],
    "done": True,
}


@pytest.mark.parametrize(
    ("value", "is_small"),
    [
        (SMALL, True),
        ([], True),
        ("x" * 16_000, True),
        (["a"] * 400, True),
        ("x" * 17_000, False),
        ([1, ["x" * 17_000]], False),
        ({"x" * 17_000: 1}, False),
        (["a"] * 600, False),
        ({str(number): {"inputs": {"value": number}} for number in range(200)}, False),
        ({1: "a key that is no text"}, False),
    ],
)
async def test_a_thread_is_asked_for_what_is_not_small(
    value: Any, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    in_a_thread = anyio.to_thread.run_sync

    async def run_sync(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        return await in_a_thread(*arguments, **options)

    monkeypatch.setattr(anyio.to_thread, "run_sync", run_sync)
    assert await documents.encoded(value) == encode(value)
    assert bool(asked) is not is_small


def test_other_mappings_are_looked_into() -> None:
    assert not documents._is_small([MappingProxyType({"a": "x" * 17_000})])
